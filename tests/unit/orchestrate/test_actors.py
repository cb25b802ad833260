"""What a trainer's process is told before torch is there. No Ray runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
from pathlib import Path
from opd_runtime.orchestrate.actors import TrainerActor
TrainerActor(0, 1, sys.argv[1], Path(sys.argv[2]))
assert "torch" not in sys.modules
print(repr(os.environ.get("CUDA_VISIBLE_DEVICES")), flush=True)
"""


@pytest.mark.parametrize(("device", "want"), [("cpu", "''"), ("cuda", "'5'")])
def test_a_trainer_of_a_cpu_job_sees_no_gpu(tmp_path: Path, device: str, want: str) -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "5"}
    subprocess.run([sys.executable, "-c", SCRIPT, device, str(tmp_path)], env=environment, check=True)
    assert (tmp_path / "trainer-0.log").read_text() == f"{want}\n"
