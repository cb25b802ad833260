"""The records as TensorBoard scalars, in `<run>/tensorboard`. Imports torch's writer only when it is asked to write."""

from pathlib import Path

from .metrics import METRICS, StepRecord

FOLDER = "tensorboard"


class TensorBoardLog:
    """A writer that a resumed run opens again: events of steps it repeats are marked as taken back."""

    def __init__(self, run_dir: Path, completed_steps: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        purge_step = completed_steps + 1 if completed_steps else 0
        self._writer = SummaryWriter(str(run_dir / FOLDER), purge_step=purge_step)
        self._writer.add_text("what the metrics mean", _legend())

    def append(self, record: StepRecord) -> None:
        for name, value in record.metrics.items():
            self._writer.add_scalar(name, value, record.step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _legend() -> str:
    rows = (f"| `{name}` | {metric.unit} | {metric.sentence} |" for name, metric in METRICS.items())
    return "\n".join(["| metric | unit | meaning |", "|---|---|---|", *rows])
