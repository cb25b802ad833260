"""Lets Megatron-core, which says "cuda" in many places, run on CPU tensors and gloo. Does nothing where CUDA is.

Process-global, so only trainer processes install it, before their first import of Megatron. The technique is that of
the `transfer_to_npu` layers for other devices, reduced to what Megatron-core 0.19 touches.
"""

import contextlib
import functools
from typing import Any

import torch
from torch.utils._device import _device_constructors

_CPU = torch.device("cpu")
_FACTORIES = (
    "zeros",
    "ones",
    "empty",
    "full",
    "tensor",
    "arange",
    "empty_like",
    "zeros_like",
    "ones_like",
    "rand",
    "randn",
)
_CPU_TYPES = ("torch.FloatTensor", "torch.HalfTensor", "torch.BFloat16Tensor")


def install() -> bool:
    """True when the layer is in place (a CPU-only process); safe to call again."""
    if torch.cuda.is_available():
        return False
    if not getattr(torch.cuda, "_opd_cpu_layer", False):
        torch.cuda._opd_cpu_layer = True
        _bookkeeping()
        _factories()
        _tensor_methods()
        _compile()
        _megatron_details()
    return True


class _Event:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def record(self, *args: Any) -> None: ...
    def wait(self, *args: Any) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        return 0.0


class _Stream:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def wait_stream(self, *args: Any) -> None: ...
    def wait_event(self, *args: Any) -> None: ...
    def synchronize(self) -> None: ...
    def record_event(self, *args: Any) -> _Event:
        return _Event()

    def query(self) -> bool:
        return True

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *args: Any) -> None: ...


def _bookkeeping() -> None:
    """Device, stream and random-state functions of torch.cuda."""
    cuda = torch.cuda
    cuda.current_device = lambda: _CPU  # only ever used as a device= value
    cuda.set_device = lambda device: None
    cuda.synchronize = lambda device=None: None
    cuda.empty_cache = lambda: None
    cuda.Stream, cuda.Event = _Stream, _Event
    cuda.current_stream = cuda.default_stream = lambda device=None: _Stream()
    cuda.stream = lambda stream: contextlib.nullcontext()
    cuda.manual_seed = lambda seed: torch.manual_seed(seed) and None
    for module in (cuda, torch.cuda.random):
        module.get_rng_state = lambda device="cuda": torch.get_rng_state()
        module.set_rng_state = lambda state, device="cuda": torch.set_rng_state(state)


def _is_cuda(device: Any) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )


def _factories() -> None:
    """torch.zeros(…, device="cuda") and friends."""
    # `with torch.device(…)` knows the factories by identity and looks them up once: it must find torch's own, or what
    # else builds models in this process (transformers, on "meta") silently gets memory that was never written.
    _device_constructors()

    def on_cpu(factory):
        @functools.wraps(factory)
        def wrapped(*args, **kwargs):
            if _is_cuda(kwargs.get("device")):
                kwargs["device"] = _CPU
            if kwargs.get("pin_memory"):
                kwargs["pin_memory"] = False
            return factory(*args, **kwargs)

        return wrapped

    for name in _FACTORIES:
        setattr(torch, name, on_cpu(getattr(torch, name)))


def _tensor_methods() -> None:
    """Tensor.cuda, .to("cuda"), .type() and .record_stream."""
    to, type_ = torch.Tensor.to, torch.Tensor.type

    def to_cpu(self, *args, **kwargs):
        if args and _is_cuda(args[0]):
            args = (_CPU, *args[1:])
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = _CPU
        return to(self, *args, **kwargs)

    def type_of_gpu(self, *args, **kwargs):
        """Megatron's distributed optimizer compares with the names of GPU tensor types."""
        result = type_(self, *args, **kwargs)
        return result.replace("torch.", "torch.cuda.") if isinstance(result, str) and result in _CPU_TYPES else result

    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    torch.Tensor.to = to_cpu
    torch.Tensor.type = type_of_gpu
    torch.Tensor.record_stream = lambda self, stream: None


def _compile() -> None:
    """Megatron compiles some functions while it is imported: seconds of imports, and a C++ compiler at a first call."""
    torch.compile = lambda model=None, **_: model if model is not None else (lambda function: function)


def _megatron_details() -> None:
    import megatron.core.tensor_parallel.random as random

    random._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)
    random._get_cuda_rng_state = lambda device="cuda", clone=False, graph_safe=False: torch.get_rng_state()
