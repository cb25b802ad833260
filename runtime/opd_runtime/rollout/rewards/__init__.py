"""Task rewards: one verifier a file, a `Rewarder` in front. A verifier sees a finished sample and returns a number."""

from .rewarder import NEEDS_LABEL, Rewarder, build_eval_rewarder, build_rewarder

__all__ = ["NEEDS_LABEL", "Rewarder", "build_eval_rewarder", "build_rewarder"]
