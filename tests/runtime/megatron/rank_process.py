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
    # What every child needs; transformers imports an architecture when it is named.
    from transformers import AutoConfig

    import opd_runtime.megatron.trainer  # noqa: F401

    for family in ("llama", "qwen3"):
        AutoConfig.for_model(family)

    while True:
        try:
            environment, file, name, cfg, arguments = requests.recv()
        except EOFError:
            return
        function = _function(file, name)
        # Every trainer's process groups keep their threads until the process ends: one child for each.
        if (child := os.fork()) == 0:
            requests.send(_answer(environment, function, cfg, arguments))
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            return


def _answer(environment: dict[str, str], function: Callable[..., Any], cfg: Any, arguments: tuple[Any, ...]) -> Any:
    """(True, what the function returns), or (False, what it raised)."""
    from opd_runtime.megatron.trainer import Trainer

    os.environ.update(environment)
    try:
        if cfg is None:
            return True, function(*arguments)
        trainer = Trainer(cfg)
        result = function(trainer, *arguments)
        trainer.close()
        return True, result
    except Exception as error:
        error.add_note(f"in rank {environment['RANK']}:\n{''.join(traceback.format_tb(error.__traceback__))}")
        return False, error


def _function(file: str, name: str) -> Callable[..., Any]:
    if file not in _modules:
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        _modules[file] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(_modules[file])
    return getattr(_modules[file], name)


if __name__ == "__main__":
    main()
