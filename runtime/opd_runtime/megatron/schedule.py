"""The learning rate of a step. Pure."""

import math

from opd_api.spec import Optimizer


def learning_rate(optimizer: Optimizer, step: int, steps: int) -> float:
    """Rate of `step` (from 0): linear warm-up, then constant, or to zero at `steps` along a line or half a cosine."""
    if step < optimizer.warmup_steps:
        return optimizer.lr * (step + 1) / optimizer.warmup_steps
    if optimizer.schedule == "Constant":
        return optimizer.lr
    progress = min((step - optimizer.warmup_steps) / max(steps - optimizer.warmup_steps, 1), 1.0)
    return optimizer.lr * (1 - progress if optimizer.schedule == "Linear" else 0.5 * (1 + math.cos(math.pi * progress)))
