"""What the proof rests on, without an engine: hashes, buckets, and a payload SGLang is willing to read."""

import base64
import hashlib
import os
import pickletools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from opd_runtime.orchestrate import weight_checksum
from opd_runtime.orchestrate.weight_checksum import ExpectedChecksums, checksum
from opd_runtime.orchestrate.weight_transports import Bucket, _pickled, buckets


def test_checksum_is_the_start_of_sha256_over_all_parts():
    parts = [torch.arange(6.0).reshape(2, 3), torch.arange(3.0).bfloat16()]
    want = hashlib.sha256(parts[0].numpy().tobytes() + parts[1].view(torch.int16).numpy().tobytes())
    assert checksum(parts) == want.hexdigest()[:16]


def test_a_slice_is_hashed_like_its_copy():
    whole = torch.randn(4, 6)
    assert checksum([whole.chunk(2, dim=1)[1]]) == checksum([whole[:, 3:].clone()])


WORDS = [0, 1, 5, 256, 8191, 8192, 8193, 40_000]
INTERPRETED = """
import os, sys
os.environ["TRITON_INTERPRET"] = "1"
import runpy, torch, triton
code = runpy.run_path(sys.argv[1])
words = torch.load(sys.argv[2])
for u32 in words:
    n = u32.numel()
    if not n:
        print(0)
        continue
    seed, tiles = 0x243F6A88, triton.cdiv(n, 8192)
    partials = torch.empty(tiles, dtype=torch.uint64)
    code["hash_tiles32_kernel_blocked"][(tiles,)](
        u32, partials, n, seed1=seed, seed2=((seed * 0x9E3779B1) ^ 0xDEADBEEF) & 0xFFFFFFFF,
        FM_C1=code["FMIX32_C1"], FM_C2=code["FMIX32_C2"], POS_A=code["POS_C1"], POS_B=code["POS_C2"],
        TILE=8192, BLOCK=256, USE_CG=False)
    print(code["_final_splitmix64"](sum(partials.tolist()) & (2**64 - 1)))
"""


def test_word_hash_is_that_of_sglangs_gpu_kernel(tmp_path):
    """SGLang's own Triton kernel, interpreted on the CPU. Not shown: that the compiled one does the same."""
    sglang = pytest.importorskip("sglang")
    kernel = Path(sglang.__file__).parent / "kernels/ops/memory/gpu_tensor_hash.py"
    words = [torch.randint(-(2**31), 2**31 - 1, (n,), dtype=torch.int64).to(torch.int32) for n in WORDS]
    torch.save([word.view(torch.uint32) for word in words], tmp_path / "words.pt")
    command = [sys.executable, "-c", INTERPRETED, str(kernel), str(tmp_path / "words.pt")]
    output = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert output.returncode == 0, output.stderr
    assert [int(line) for line in output.stdout.split()] == [
        weight_checksum._word_hash(word.view(torch.uint8)) for word in words
    ]


def test_word_hash_does_not_depend_on_the_chunks_it_is_computed_in(monkeypatch):
    raw = torch.randint(0, 256, (100_003,), dtype=torch.uint8)
    whole = weight_checksum._word_hash(raw)
    monkeypatch.setattr(weight_checksum, "_CHUNK_TILES", 1)
    assert weight_checksum._word_hash(raw) == whole


def ranks(sums: list[dict[str, str]]) -> list[dict]:
    return [{"parallelism_info": [{"tp_rank": rank}], "checksums": each} for rank, each in enumerate(sums)]


def test_q_k_v_may_arrive_in_any_order():
    q, k, v = torch.randn(8, 4), torch.randn(4, 4), torch.randn(4, 4)
    expected = ExpectedChecksums(tensor_parallel=1, kv_heads=2)
    for name, tensor in (("v", v), ("q", q), ("k", k)):
        expected.add(f"a.{name}_proj.weight", tensor)
    assert not list(expected.differences(ranks([{"a.qkv_proj.weight": checksum([q, k, v])}])))


@pytest.mark.parametrize(
    ("vocabulary", "size", "want_rows"),
    [
        pytest.param(128, 2, [64, 64], id="no padding"),
        pytest.param(100, 2, [64, 64], id="the last rank is padded"),
        pytest.param(64, 2, [32, 32], id="a multiple of 64 that two ranks can share"),
        pytest.param(100, 3, [64, 64, 64], id="more padding, because 128 rows do not split in three"),
    ],
)
def test_vocabulary_rows_are_split_with_zeros_at_the_end(vocabulary, size, want_rows):
    table = torch.randn(vocabulary, 3)
    shards = [weight_checksum._vocabulary_shard(table, rank, size) for rank in range(size)]
    assert [shard.shape[0] for shard in shards] == want_rows
    assert torch.equal(torch.cat(shards)[:vocabulary], table)
    assert not torch.cat(shards)[vocabulary:].any()


def test_an_engine_with_fewer_ranks_than_it_said_is_found():
    expected = ExpectedChecksums(tensor_parallel=2, kv_heads=2)
    assert list(expected.differences(ranks([{}]))) == ["1 ranks answered, 2 expected"]


def test_a_tied_output_layer_is_the_embedding():
    table = torch.randn(64, 4)
    expected = ExpectedChecksums(tensor_parallel=1, kv_heads=2)
    expected.add("model.embed_tokens.weight", table)
    both = {"model.embed_tokens.weight": checksum([table]), "lm_head.weight": checksum([table])}
    assert not list(expected.differences(ranks([both])))
    other = both | {"lm_head.weight": checksum([table + 1])}
    assert [line.split(":")[0] for line in expected.differences(ranks([other]))] == ["lm_head.weight"]


def named(*sizes: int, dtype: torch.dtype = torch.float32) -> list[tuple[str, torch.Tensor]]:
    return [(f"t{index}", torch.randn(size).to(dtype)) for index, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("weights", "want_names"),
    [
        pytest.param(named(5, 5, 5), [["t0", "t1"], ["t2"]], id="full after two"),
        pytest.param(named(50, 1), [["t0"], ["t1"]], id="a tensor above the limit travels alone"),
        pytest.param(named(1) + named(1, dtype=torch.bfloat16), [["t0"], ["t0"]], id="one dtype a bucket"),
        pytest.param([], [], id="nothing"),
    ],
)
def test_buckets(weights, want_names):
    cut = list(buckets(iter(weights), limit_bytes=40))
    assert [[name for name, _ in each.named] for each in cut] == want_names
    assert [each.last for each in cut] == [False] * (len(cut) - 1) + [True] * bool(cut)


def test_payload_names_torchs_function_even_after_megatron_replaced_it():
    pytest.importorskip("megatron.core")
    assert torch.storage._load_from_bytes.__module__ == "megatron.core.safe_globals", "the trap is gone: simplify"
    raw = base64.b64decode(_pickled(Bucket(tuple(named(3, 4)), last=True)))
    strings = [argument for opcode, argument, _ in pickletools.genops(raw) if isinstance(argument, str)]
    assert "_load_from_bytes" in strings
    assert not [string for string in strings if "megatron" in string or "opd_runtime" in string]
