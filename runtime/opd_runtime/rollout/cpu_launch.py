"""Starts an SGLang server on a CPU: a script, run by path, never imported and never used where CUDA is.

Four things differ from `python -m sglang.launch_server`. The stand-in for `sgl_kernel` is importable. Attention takes
many sequences a call (`opd_cpu_attention.py`). Imports cost less: no collector looks for garbage among them (a sixth of
a start), and Megatron is none of them (SGLang's dumper would take it along). And SGLang's child processes are forked
instead of spawned: importing SGLang is most of a start (15 s of CPU), and this way it happens once and not three times.
Forking is safe here because no thread runs yet and no CUDA context exists; both are checked.
"""

import gc
import multiprocessing
import sys
import threading
import warnings
from pathlib import Path


def _fork_instead_of_spawn() -> None:
    """SGLang sets the start method itself, just before it makes its processes."""
    set_start_method = multiprocessing.set_start_method

    def forked(method: str | None, force: bool = False) -> None:
        single = threading.active_count() == 1
        set_start_method("fork" if single else method, force=force)

    multiprocessing.set_start_method = forked


def main() -> None:
    sys.path[0] = str(Path(__file__).parent / "cpu_stubs")
    warnings.filterwarnings("ignore", category=FutureWarning)
    _fork_instead_of_spawn()
    gc.disable()
    sys.modules["megatron"] = None  # type: ignore[assignment]
    import torch
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    if torch.cuda.is_available():
        sys.exit("cpu_launch.py is for machines without CUDA")
    import opd_cpu_attention  # noqa: F401  registers itself

    load_plugins()
    gc.freeze()
    gc.enable()
    run_server(prepare_server_args(sys.argv[1:]))


if __name__ == "__main__":
    main()
