"""A process that is one rank. Megatron on CPU needs patches of torch that hold for a whole process: not pytest's own.

Runs functions of test files: each request is (environment, file, function name, configuration or None, arguments).
With a configuration the function's first argument is a Trainer built from it.
"""

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_modules: dict[str, Any] = {}


def main() -> None:
    requests = Connection(int(sys.argv[1]))
    from opd_runtime.megatron.trainer import Trainer

    while True:
        try:
            environment, file, name, cfg, arguments = requests.recv()
        except EOFError:
            return
        os.environ.update(environment)
        try:
            function = _function(file, name)
            if cfg is None:
                answer = function(*arguments)
            else:
                trainer = Trainer(cfg)
                answer = function(trainer, *arguments)
                trainer.close()
        except Exception as error:
            _leave_groups()
            error.add_note(f"in rank {environment['RANK']}:\n{''.join(traceback.format_tb(error.__traceback__))}")
            requests.send((False, error))
        else:
            requests.send((True, answer))


def _function(file: str, name: str) -> Callable[..., Any]:
    if file not in _modules:
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        _modules[file] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(_modules[file])
    return getattr(_modules[file], name)


def _leave_groups() -> None:
    import torch.distributed as dist
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
