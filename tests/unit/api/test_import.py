"""What importing the contract costs: the operator, the CLI and every Ray worker pay it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import opd_api

SCRIPT = """
import json, sys, time
start = time.process_time()
import opd_api.columns, opd_api.conditions, opd_api.crd, opd_api.load, opd_api.names
engines = {"torch", "ray", "kubernetes", "sglang", "transformers", "numpy", "aiohttp", "httpx"}
print(json.dumps([time.process_time() - start, sorted(engines & set(sys.modules))]))
"""


def test_opd_api_imports_without_any_engine(record_property: Callable[[str, object], None]):
    """Its seconds (half a one at most, on a quiet machine) are told, not asserted: other work would decide."""
    environment = os.environ | {"PYTHONPATH": str(Path(opd_api.__file__).parents[1])}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    seconds, engines = json.loads(done.stdout)
    assert engines == []
    record_property("seconds to import opd_api", seconds)
