"""A frozen model in the trainer's process: the teacher, or the reference. Built from its own config: it may be larger.

It shares the trainer's parallel groups and nothing else: no gradients, no optimizer, no DDP buffer, and its own module,
so that the student's weights can never be mistaken for its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from megatron.core.transformer.module import Float16Module
from torch import Tensor

from .checkpoint import load_weights
from .model import build_model, megatron_config, read_hf_config


class FrozenModel:
    """A GPTModel that only scores. `offloaded`: its weights live in host memory and visit the GPU to score."""

    def __init__(
        self,
        path: Path,
        *,
        bf16: bool,
        sequence_parallel: bool,
        offloaded: bool,
        load: Path | None = None,
        checkpoint_step: int | None = None,
    ) -> None:
        """Architecture from the Hugging Face folder `path`; weights from there, or from checkpoint `load`."""
        hf = read_hf_config(path)
        model = build_model(hf, megatron_config(hf, bf16=bf16, sequence_parallel=sequence_parallel))
        load_weights(load or path, model, hf, checkpoint_step)
        model.requires_grad_(False).eval()
        self.model = Float16Module(model.config, model) if bf16 else model
        self.offloaded = offloaded
        self._cuda = torch.cuda.is_available()
        if self._cuda and offloaded:
            self._host = {name: p.data.to("cpu").pin_memory() for name, p in self.model.named_parameters()}
            self._release()
        elif self._cuda:
            self.model.cuda()

    @contextmanager
    def on_device(self) -> Iterator[torch.nn.Module]:
        """The model, ready to score; an offloaded one is brought in before and given back after."""
        if not (self._cuda and self.offloaded):
            yield self.model
            return
        device = torch.device("cuda", torch.cuda.current_device())
        for name, parameter in self.model.named_parameters():
            parameter.data = self._host[name].to(device, non_blocking=True)
        try:
            yield self.model
        finally:
            self._release()

    @torch.no_grad()
    def copy_from(self, weights: Iterator[Tensor]) -> None:
        """Takes over weights of the same architecture, in parameter order (a reference that follows)."""
        for (name, own), new in zip(self.model.named_parameters(), weights, strict=True):
            target = self._host[name] if self._cuda and self.offloaded else own
            target.copy_(new)

    def _release(self) -> None:
        # Pointing the parameters at the pinned copies frees the GPU memory; nothing is copied back, they are frozen.
        for name, parameter in self.model.named_parameters():
            parameter.data = self._host[name]
