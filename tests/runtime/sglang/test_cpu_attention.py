"""Our batched attention for CPU servers against the one SGLang ships, on ragged batches in many small parts.

In a process of its own: importing SGLang for a CPU needs the stand-in for `sgl_kernel`, which tests must not see.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from opd_runtime.rollout import server

SCRIPT = """
import torch
import opd_cpu_attention as ours
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend as Theirs

torch.manual_seed(0)
B, H, G, D = 13, 4, 2, 16
ours.PADDED_NUMBERS = 100 * G * D  # one to a few sequences a part
prefix = torch.randint(0, 40, (B,))
new = torch.randint(1, 50, (B,))
lens = prefix + new
cache_k, cache_v = torch.randn(2000, G, D), torch.randn(2000, G, D)
req_to_token = torch.randperm(1999)[: 20 * 99].reshape(20, 99) + 1
rows = torch.randperm(20)[:B]
options = dict(scaling=0.3, enable_gqa=True, is_cross_attn=False, sliding_window_size=None)
backends = [object.__new__(ours.BatchedTorchAttention), object.__new__(Theirs)]
backends[0]._parts = None

query = torch.randn(int(new.sum()), H, D)
cached = (cache_k, cache_v, req_to_token, rows, lens)
out = [b._run_sdpa_forward_extend(query, torch.zeros_like(query), *cached, prefix, new, causal=True, **options)
       for b in backends]
print("extend", float((out[0] - out[1]).abs().max()))
query = torch.randn(B, H, D)
backends[0]._parts = None  # as before each pass
out = [b._run_sdpa_forward_decode(query, torch.zeros_like(query), *cached, causal=False, **options)
       for b in backends]
print("decode", float((out[0] - out[1]).abs().max()))
print("parts", len(backends[0]._parts))
"""


@pytest.mark.full
def test_batched_attention_gives_the_numbers_of_sglangs_own():
    stubs = Path(server.__file__).parent / "cpu_stubs"
    environment = os.environ | {"PYTHONPATH": str(stubs), "SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = dict(line.split() for line in done.stdout.splitlines() if line.split()[0] in ("extend", "decode", "parts"))
    assert float(said["extend"]) < 1e-5 and float(said["decode"]) < 1e-5
    assert int(said["parts"]) > 1
