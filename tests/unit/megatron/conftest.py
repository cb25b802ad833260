"""The pure parts of the trainer need no Megatron."""

from trainer_fixtures import make_batch, make_config  # noqa: F401
