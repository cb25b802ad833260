"""Weights of a trainer on GPU 0 to another process on GPU 1, in buckets over NCCL. Needs two GPUs: NCCL refuses one."""

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from opd_runtime.orchestrate.weight_transports import DistributedTransport, Engines, buckets

pytestmark = pytest.mark.gpu


@pytest.fixture
def receiver():
    """URL of a process that answers as an SGLang server does."""
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices: NCCL joins no two ranks on one")
    program = Path(__file__).with_name("weight_receiver.py")
    process = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("bucket_bytes", [2**20, 128 * 2**20], ids=["a tensor a bucket", "buckets as in a run"])
def test_every_tensor_arrives_whole(bucket_bytes, receiver, large_model, start_trainer, record_property):
    import torch

    trainer = start_trainer(large_model)
    want = {
        name: int(tensor.reshape(-1).view(torch.uint8).sum(dtype=torch.int64))
        for name, tensor in trainer.named_weights()
    }
    sent = sum(tensor.nbytes for _, tensor in trainer.named_weights())
    transport = DistributedTransport(Engines([receiver], deadline_seconds=120), tensor_parallel=1, cuda=True)
    transport.connect()
    started = time.perf_counter()
    transport.publish(buckets(trainer.named_weights(), bucket_bytes), "1")
    seconds = time.perf_counter() - started
    transport.close()
    transport.engines.close()
    record_property("GB/s", sent / seconds / 1e9)
    assert httpx.get(f"{receiver}/received", timeout=60, trust_env=False).json() == want
