"""Weights of the trainer in real SGLang engines on CPU: every transport, and every fault the proof is there for.

Not shown here: NCCL and key heads shared by ranks (SGLang's CPU engine pads heads instead), engines on another machine,
models of a realistic size.
"""

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import httpx
import pytest
import torch
from transformers import PreTrainedModel

from opd_runtime.errors import EngineUnavailable, WeightSyncFailed
from opd_runtime.orchestrate.weight_sync import WeightSender

TRANSPORTS = ("Tensor", "Distributed", "Disk")
ENGINES = [
    pytest.param(("qwen3", True, 2, 1), id="Qwen3 with tied embeddings"),
    pytest.param(("qwen3", False, 2, 1), id="Qwen3 with its own output layer", marks=pytest.mark.full),
    pytest.param(("llama", False, 2, 1), id="Llama", marks=pytest.mark.full),
    pytest.param(("qwen3", False, 2, 2), id="Qwen3 over two ranks", marks=pytest.mark.full),
    pytest.param(("llama", True, 2, 2), id="tied Llama over two ranks", marks=pytest.mark.full),
]


@pytest.fixture(scope="module", params=ENGINES[:1])
def engine(request, make_model, serve):
    family, tied, kv_heads, ranks = request.param
    return serve(make_model(family, tied=tied, kv_heads=kv_heads), request.param, tensor_parallel=ranks)


@pytest.fixture
def student(make_model) -> PreTrainedModel:
    """The engine's first weights."""
    return make_model("qwen3", tied=True)


@pytest.fixture
def sender(engine, tmp_path):
    made = []

    def connect(transport: str, **options) -> WeightSender:
        options = {"scratch_dir": tmp_path, "kv_heads": 2, "deadline_seconds": 60} | options
        made.append(WeightSender(transport, [engine.url], **options))
        made[-1].connect()
        return made[-1]

    yield connect
    for each in made:
        each.close()


def trained(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """As after a few steps: every tensor differs a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def exported(model: PreTrainedModel):
    """What the trainer's `named_weights` yields: a tied output layer is not exported twice."""
    return ((name, parameter.data) for name, parameter in model.named_parameters())


def ask(url: str, ids: list[int], new_tokens: int = 0) -> dict:
    body = {
        "input_ids": ids,
        "return_logprob": True,
        "logprob_start_len": 0,
        "sampling_params": {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True},
    }
    return httpx.post(url + "/generate", json=body, timeout=120).raise_for_status().json()["meta_info"]


def engine_logprobs(url: str, ids: list[int]) -> torch.Tensor:
    return torch.tensor([row[0] for row in ask(url, ids)["input_token_logprobs"][1:]])


@torch.no_grad()
def own_logprobs(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    tokens = torch.tensor([ids])
    return model(tokens).logits[0, :-1].log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0]


IDS = [5, 7, 11, 2, 40, 33, 9, 9, 21, 3, 17, 30]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_engine_computes_with_the_weights_it_was_sent(engine, request, make_model, sender, transport, tmp_path):
    family, tied, kv_heads, _ = request.node.callspec.params["engine"]
    connected = sender(transport, kv_heads=kv_heads)
    for version in (3, 4):
        model = trained(make_model(family, tied=tied, kv_heads=kv_heads), seed=version)
        report = connected.send(exported(model), version)
        assert (engine_logprobs(engine.url, IDS) - own_logprobs(model, IDS)).abs().max() < 1e-4
        assert ask(engine.url, IDS, 1)["weight_version"] == str(version)
        assert report.tensors == len(dict(model.named_parameters()))
        assert report.bytes == sum(parameter.nbytes for parameter in model.parameters())
    assert not list(tmp_path.iterdir()), "scratch files stayed"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_weights_cut_into_many_buckets_arrive_whole(sender, student, transport):
    report = sender(transport, bucket_bytes=4096).send(exported(trained(student, 1)), 1)
    assert report.tensors == 24


def without_a_tensor(named):
    return [pair for pair in named if pair[0] != "model.layers.1.self_attn.k_norm.weight"]


def two_layers_swapped(named):
    swap = {"model.layers.0.": "model.layers.1.", "model.layers.1.": "model.layers.0."}
    return [(name.replace(name[:15], swap.get(name[:15], name[:15])), tensor) for name, tensor in named]


def one_name_misspelt(named):
    return [
        (name.replace("norm.weight", "nrom.weight") if name == "model.norm.weight" else name, t) for name, t in named
    ]


def one_value_flipped(named):
    (name, tensor), *rest = named
    changed = tensor.clone()
    changed.view(-1)[7] += 1e-6
    return [(name, changed), *rest]


@pytest.mark.parametrize(
    ("fault", "want_named"),
    [
        pytest.param(without_a_tensor, "model.layers.1.self_attn.k_norm.weight", id="a tensor is missing"),
        pytest.param(two_layers_swapped, "model.layers.0.self_attn.qkv_proj.weight", id="two layers are swapped"),
        pytest.param(one_name_misspelt, "model.norm.weight", id="SGLang does not know a name, and says nothing"),
        pytest.param(one_value_flipped, "model.embed_tokens.weight", id="one number differs in its last bits"),
    ],
)
def test_a_fault_on_the_way_is_found_and_named(sender, student, fault, want_named):
    connected = sender("Tensor")
    deliver = connected.transport.publish

    def publish(parts, version):
        deliver((dataclasses.replace(part, named=tuple(fault(part.named))) for part in parts), version)

    connected.transport.publish = publish
    with pytest.raises(WeightSyncFailed, match=f"{want_named}: trainer [0-9a-f]{{16}}, engine [0-9a-f]{{16}}"):
        connected.send(exported(trained(student, 2)), 1)
    connected.transport.publish = deliver
    connected.send(exported(trained(student, 2)), 2)


def test_an_export_that_lacks_a_tensor_is_found(sender, student):
    short = [pair for pair in exported(student) if not pair[0].endswith("layers.0.mlp.up_proj.weight")]
    with pytest.raises(
        WeightSyncFailed, match=r"layers\.0\.mlp\.gate_up_proj\.weight: the engine has it, the trainer did"
    ):
        sender("Tensor").send(iter(short), 1)


def test_an_export_with_a_tensor_too_many_is_found(sender, student):
    more = [*exported(student), ("model.layers.7.mlp.router.weight", torch.ones(4))]
    with pytest.raises(
        WeightSyncFailed, match=r"model\.layers\.7\.mlp\.router\.weight: sent, but the engine has no such"
    ):
        sender("Tensor").send(iter(more), 1)


def test_an_engine_that_loaded_the_folder_is_verified_without_sending(sender, student, make_model):
    connected = sender("Tensor")
    connected.send(exported(student), 8)
    report = connected.verify(exported(student), 0)
    assert report.version == 0
    assert ask(connected.engines.urls[0], IDS, 1)["weight_version"] == "0"
    teacher = make_model("qwen3", tied=True, seed=9)
    with pytest.raises(WeightSyncFailed, match="does not hold the trainer's weights"):
        connected.verify(exported(teacher), 0)


def test_a_stale_engine_is_found(sender, student):
    connected = sender("Tensor")
    connected.send(exported(student), 1)
    connected.transport.publish = lambda parts, version: [None for _ in parts]
    with pytest.raises(WeightSyncFailed, match="and 10 more"):
        connected.send(exported(trained(student, 3)), 2)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_export_is_iterated_to_its_end_even_if_the_sync_fails(tmp_path, student, transport):
    """Under tensor parallelism the other ranks export in step: they would wait for ever."""
    weights = exported(student)
    with pytest.raises(EngineUnavailable):
        WeightSender(transport, ["http://127.0.0.1:9"], scratch_dir=tmp_path, kv_heads=2).send(weights, 1)
    assert next(weights, None) is None


def test_an_engine_that_refuses_a_broadcast_is_named_at_once(sender, student):
    connected = sender("Distributed", bucket_bytes=4096)
    start = connected.engines.start

    def another_group(path, body=None):
        wrong = path == "/update_weights_from_distributed"
        return start(path, body | {"group_name": "somebody-else"} if wrong else body)

    connected.engines.start = another_group
    started = time.monotonic()
    weights = exported(student)
    with pytest.raises(WeightSyncFailed, match=r"refused with 400: .*somebody-else not in"):
        connected.send(weights, 1)
    assert next(weights, None) is None, "other ranks still wait in the export"
    assert time.monotonic() - started < 20, "waited for the broadcast's own deadline"
    sender("Distributed").send(exported(student), 2)


def test_a_session_that_a_dead_sender_left_open_is_taken_over(engine, sender, student):
    httpx.post(engine.url + "/begin_weight_update", json={}).raise_for_status()
    sender("Tensor").send(exported(student), 1)


def test_a_wrong_shape_is_refused_by_name_and_the_next_sync_works(sender, student):
    wrong = [(name, t[:, :-1] if name.endswith("o_proj.weight") else t) for name, t in exported(student)]
    for transport in ("Disk", "Distributed"):
        with pytest.raises((WeightSyncFailed, EngineUnavailable)):
            sender(transport).send(iter(wrong), 1)
        sender(transport).send(exported(student), 2)


def test_a_running_generation_ends_before_the_weights_change(engine, sender, student):
    connected = sender("Tensor")
    connected.send(exported(student), 1)
    body = {"input_ids": IDS, "stream": True, "sampling_params": {"max_new_tokens": 200, "ignore_eos": True}}
    with httpx.stream("POST", engine.url + "/generate", json=body, timeout=120) as response:
        events = response.iter_lines()
        assert next(events).startswith("data: {"), "the first token"
        connected.send(exported(trained(student, 4)), 2)
        *_, last = (event for event in events if event.startswith("data: {"))
    answer = json.loads(last.removeprefix("data: "))["meta_info"]
    assert (answer["weight_version"], answer["completion_tokens"]) == ("1", 200)
    assert ask(engine.url, IDS, 1)["weight_version"] == "2"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_engine_that_hangs_is_given_up_at_the_deadline(engine, tmp_path, student, transport):
    hanging = WeightSender(transport, [engine.url], scratch_dir=tmp_path, kv_heads=2, deadline_seconds=3)
    hanging.connect()
    stopped = process_group(engine.pid)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(EngineUnavailable):
            hanging.send(exported(student), 1)
        assert time.monotonic() - started < 30
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        hanging.close()


def test_engines_that_are_not_there_are_named(tmp_path):
    sender = WeightSender("Tensor", ["http://127.0.0.1:9"], scratch_dir=tmp_path, kv_heads=2, deadline_seconds=5)
    with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:9"):
        sender.connect()
    sender.close()


@pytest.mark.full
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_several_engines_take_the_weights_together(make_model, serve, tmp_path, transport):
    urls = [
        serve(make_model("qwen3", tied=True), ("qwen3", True, 2, 1)).url,
        serve(make_model("qwen3", tied=True), "second").url,
    ]
    sender = WeightSender(transport, urls, scratch_dir=tmp_path, kv_heads=2, deadline_seconds=60)
    sender.connect()
    report = sender.send(exported(trained(make_model("qwen3", tied=True), 5)), 7)
    sender.close()
    assert set(report.checksums) == set(urls)
    assert len(set(report.checksums.values())) == 1
    assert [ask(url, IDS, 1)["weight_version"] for url in urls] == ["7", "7"]


@pytest.mark.full
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_engine_that_was_killed_is_named_at_once(make_model, serve, tmp_path, transport):
    server, student = serve(make_model("qwen3", tied=True), f"killed {transport}"), make_model("qwen3", tied=True)
    sender = WeightSender(transport, [server.url], scratch_dir=tmp_path, kv_heads=2, deadline_seconds=60)
    sender.connect()
    for pid in process_group(server.pid):
        os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(EngineUnavailable, match=f"{server.port}"):
        sender.send(exported(student), 1)
    sender.close()
    assert time.monotonic() - started < 30


@pytest.mark.full
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_of_two_engines_dies_and_the_other_goes_on(make_model, serve, tmp_path, transport):
    student = make_model("qwen3", tied=True)
    alive, dying = serve(student, ("qwen3", True, 2, 1)), serve(student, f"one of two, {transport}")
    both = WeightSender(transport, [alive.url, dying.url], scratch_dir=tmp_path, kv_heads=2, deadline_seconds=60)
    both.send(exported(student), 1)
    for pid in process_group(dying.pid):
        os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(EngineUnavailable):
        both.send(exported(trained(student, 1)), 2)
    both.close()
    rest = WeightSender(transport, [alive.url], scratch_dir=tmp_path, kv_heads=2, deadline_seconds=60)
    rest.send(exported(student), 2)
    rest.close()
    assert time.monotonic() - started < 40


def process_group(pid: int) -> list[int]:
    """The server and its children."""
    children = [
        int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
    ]
    return [pid, *(each for child in children for each in process_group(child))]
