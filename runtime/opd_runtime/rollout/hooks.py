"""A user's own functions by dotted path: finds them, and refuses a signature that does not fit before anything starts.

Every hook has one contract here: the field that names it, how it is called, what it returns.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class HookContract:
    """How one kind of hook is called."""

    field: str
    """The OPDJob field that names it."""
    signature: str
    """What the function must look like, for the message."""
    positional: int
    """Arguments it is called with by position; keywords may be added later, hence `**kw`."""
    must_be_async: bool = False


REWARD = HookContract(
    field="spec.reward.function", signature="async def reward(args, sample, **kw) -> float", positional=2
)
POST_PROCESS = HookContract(
    field="spec.reward.postProcess",
    signature="def post_process(args, samples, **kw) -> tuple[list[float], list[float]]  # raw, processed",
    positional=2,
)
GENERATE = HookContract(
    field="spec.rollout.function",
    signature="async def generate(args, prompt, engine, **kw) -> Sample",
    positional=3,
    must_be_async=True,
)
FILTER = HookContract(
    field="spec.rollout.filter", signature="def keep(args, samples_of_a_group, **kw) -> bool", positional=2
)


def load_hook(dotted: str, contract: HookContract) -> Callable[..., Any]:
    """`package.module.function` or `path/to/file.py:function`. Raises UserError with the signature that is wanted."""
    module_name, separator, name = dotted.partition(":") if ".py:" in dotted else dotted.rpartition(".")
    if not separator or not name:
        raise UserError(
            f"{dotted!r} names no function",
            path=contract.field,
            hint="package.module.function or path/to/file.py:function",
        )
    module = _load_module(module_name, dotted, contract)
    function = getattr(module, name, None)
    if function is None:
        raise UserError(
            f"{dotted!r}: {module_name} has no {name}", path=contract.field, hint=f"define {contract.signature}"
        )
    _check(function, dotted, contract)
    return function


def _load_module(name: str, dotted: str, contract: HookContract) -> ModuleType:
    try:
        return _load_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except Exception as error:  # the user's module may raise anything while it is imported
        raise UserError(
            f"{dotted!r} cannot be imported ({type(error).__name__}: {error})",
            path=contract.field,
            hint="it must be importable where `opd` runs (PYTHONPATH), or be given as path/to/file.py:function",
        ) from error


def _load_file(path: Path) -> ModuleType:
    """Each file once per process, under a name of its own: hooks that live in one file share its state."""
    path = path.resolve()
    name = f"opd_hook_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _check(function: Any, dotted: str, contract: HookContract) -> None:
    hint = f"it must be: {contract.signature}"
    if not callable(function):
        raise UserError(f"{dotted!r} is {type(function).__name__}, not a function", path=contract.field, hint=hint)
    try:
        signature = inspect.signature(function)
        signature.bind(*[None] * contract.positional)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{dotted!r} cannot be called as it will be: {error}", path=contract.field, hint=hint
        ) from error
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        raise UserError(f"{dotted!r} takes no further keywords: {signature}", path=contract.field, hint=hint)
    if contract.must_be_async and not is_async(function):
        raise UserError(f"{dotted!r} is not async", path=contract.field, hint=hint)


def is_async(function: Callable[..., Any]) -> bool:
    """True for an `async def`, also one behind `__call__` of an object."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
