"""What importing the contract costs: the operator, the CLI and every Ray worker pay it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import opd_api

SCRIPT = """
import json, sys, time
start = time.process_time()
import opd_api.columns, opd_api.conditions, opd_api.crd, opd_api.load, opd_api.names
engines = {"torch", "ray", "kubernetes", "sglang", "transformers", "numpy", "aiohttp", "httpx"}
print(json.dumps([time.process_time() - start, sorted(engines & set(sys.modules))]))
"""


def test_opd_api_imports_in_half_a_second_and_without_any_engine():
    """Processor time, the best of three fresh interpreters: other work on the machine must not decide."""
    environment = os.environ | {"PYTHONPATH": str(Path(opd_api.__file__).parents[1])}
    runs = [
        subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
        for _ in range(3)
    ]
    seconds, engines = zip(*(json.loads(run.stdout) for run in runs), strict=True)
    assert engines == ([], [], [])
    assert min(seconds) < 0.5
