"""The run on a terminal: a live panel of three lines, or, where there is no terminal, one plain line every few seconds.

Shows what it is told. `open_console` picks the face; both know the same verbs.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from opd_api.status import Trend

from .metrics import TIME_PARTS, StepRecord

PLAIN_LINE_SECONDS = 2.0
"""At most one plain line in so many seconds, so that logs of short steps stay readable."""

ARROWS: Mapping[Trend, str] = {"Falling": "↘", "Stable": "→", "Rising": "↗", "Spike": "↑"}
_COLOURS: Mapping[Trend, str] = {"Falling": "green", "Stable": "cyan", "Rising": "yellow", "Spike": "red"}
_BLOCKS = "▁▂▃▄▅▆▇█"


class RunConsole(Protocol):
    """What a face of the run can do."""

    def phase(self, text: str) -> None:
        """What is going on before or between steps."""

    def note(self, text: str) -> None:
        """One message that stays on the screen."""

    def step(self, record: StepRecord, trend: Trend) -> None:
        """One more step is done."""

    def summary(self, summary: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
        """The last words: before, after, teacher, and where everything lies."""

    def close(self) -> None:
        """Leaves the terminal as it was. Harmless when called again."""


def open_console(title: str, total_steps: int, console: Console | None = None) -> RunConsole:
    """The live face on a terminal, the plain one elsewhere."""
    console = console or Console()
    face = LiveConsole if console.is_terminal else PlainConsole
    return face(console, title, total_steps)


# ------------------------------------------------------------ formatting
def number(value: float) -> str:
    """Three decimals, or two digits and an exponent for what would be 0.000."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"


def duration(seconds: float) -> str:
    """59 -> 0:59, 3661 -> 1:01:01."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def sparkline(values: Sequence[float], width: int = 12) -> str:
    """The curve in at most `width` block letters, on a logarithmic scale where it is positive throughout."""
    count = min(width, len(values))
    means = [fmean(values[len(values) * i // count : len(values) * (i + 1) // count]) for i in range(count)]
    heights = [math.log(mean) for mean in means] if min(means, default=0.0) > 0 else means
    low, high = min(heights, default=0.0), max(heights, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((height - low) * scale)] for height in heights)


@dataclass(slots=True, kw_only=True)
class _Facts:
    """What both faces remember of the steps so far."""

    total_steps: int
    step: int = 0
    trend: Trend = "Stable"
    metrics: dict[str, float] = field(default_factory=dict)
    reverse_kls: list[float] = field(default_factory=list)

    def take(self, record: StepRecord, trend: Trend) -> None:
        old_evaluation = {name: value for name, value in self.metrics.items() if name.startswith("eval/")}
        self.step, self.trend, self.metrics = record.step, trend, old_evaluation | record.metrics
        if math.isfinite(reverse_kl := record.metrics.get("opd/reverse_kl", math.nan)):
            self.reverse_kls.append(reverse_kl)

    def time_parts(self) -> list[tuple[str, float]]:
        """Named parts of the last step that took time."""
        parts = ((part, self.metrics.get(f"time/{part}", 0.0)) for part in TIME_PARTS)
        return [(part, seconds) for part, seconds in parts if seconds >= 0.005]


def _summary_table(summary: Mapping[str, Any]) -> Table:
    table = Table(title="", box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading in ("", "before", "after", "teacher"):
        table.add_column(heading, justify="left" if not heading else "right")
    scores, kl = summary["pass_at_1"], summary["reverse_kl"]
    if any(value is not None for value in scores.values()):
        row = ("-" if scores[who] is None else f"{scores[who]:.3f}" for who in ("before", "after", "teacher"))
        table.add_row("pass@1 (held out)", *row)
    table.add_row(
        "reverse KL, nats/token", *("-" if kl[when] is None else number(kl[when]) for when in ("first", "last")), ""
    )
    return table


def _print_summary(console: Console, summary: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
    console.print()
    console.print(_summary_table(summary))
    console.print()
    line = f"{summary['steps']} steps in {duration(summary['seconds'])}, teacher mode {summary['teacher_mode']}"
    console.print(line, highlight=False)
    width = max(map(len, paths), default=0)
    for what, path in paths.items():
        console.print(f"{what:<{width}}  {path}", markup=False, highlight=False, soft_wrap=True)


# ------------------------------------------------------------ faces
class PlainConsole:
    """Lines for a log file."""

    def __init__(
        self, console: Console, title: str, total_steps: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._clock = console, clock
        self._facts = _Facts(total_steps=total_steps)
        self._last_line = float("-inf")
        self._line(f"{title}: {total_steps} steps")

    def phase(self, text: str) -> None:
        self._line(text)

    def note(self, text: str) -> None:
        self._line(text)

    def step(self, record: StepRecord, trend: Trend) -> None:
        """A line, unless the last one is too fresh; evaluations and the last step always get theirs."""
        self._facts.take(record, trend)
        worth_it = record.step == record.total_steps or "eval/pass@1" in record.metrics
        if worth_it or self._clock() - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = self._clock()
            self._line(self._step_line(record))

    def summary(self, summary: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
        _print_summary(self._console, summary, paths)

    def close(self) -> None:
        pass

    def _step_line(self, record: StepRecord) -> str:
        facts, metrics = self._facts, record.metrics
        width = len(str(facts.total_steps))
        parts = [f"step {record.step:>{width}}/{facts.total_steps}"]
        if "opd/reverse_kl" in metrics:
            parts.append(f"kl {number(metrics['opd/reverse_kl'])} {facts.trend.lower()}")
        if "reward/raw" in metrics:
            parts.append(f"reward {metrics['reward/raw']:.3f}")
        if "eval/pass@1" in metrics:
            parts.append(f"pass@1 {metrics['eval/pass@1']:.3f}")
        if "tokens/per_second" in metrics:
            parts.append(f"{metrics['tokens/per_second']:.0f} tokens/s")
        if "time/step" in metrics:
            split = ", ".join(f"{part} {seconds:.2f}" for part, seconds in facts.time_parts())
            parts.append(f"{metrics['time/step']:.2f} s" + (f" ({split})" if split else ""))
        if metrics.get("time/left"):
            parts.append(f"{duration(metrics['time/left'])} left")
        return "  ".join(parts)

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveConsole:
    """Three lines at the foot of the terminal, redrawn four times a second; notes scroll above them."""

    def __init__(self, console: Console, title: str, total_steps: int) -> None:
        self._console, self._title = console, title
        self._facts = _Facts(total_steps=total_steps)
        self._spinner = Spinner("dots", text="starting")
        self._waiting_since: float | None = time.monotonic()
        self._what = "starting"
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def phase(self, text: str) -> None:
        self._what, self._waiting_since = text, time.monotonic()

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def step(self, record: StepRecord, trend: Trend) -> None:
        self._waiting_since = None
        self._facts.take(record, trend)

    def summary(self, summary: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
        self._waiting_since = None
        self._live.transient = False
        self.close()
        _print_summary(self._console, summary, paths)

    def close(self) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        lines = self._panel()
        if self._waiting_since is not None:
            self._spinner.update(text=f"{self._what}  {duration(time.monotonic() - self._waiting_since)}")
            lines.append(self._spinner)
        return Group(*lines)

    def _panel(self) -> list[RenderableType]:
        facts = self._facts
        head = Table.grid(padding=(0, 1))
        left = f"{duration(facts.metrics['time/left'])} left" if "time/left" in facts.metrics else ""
        bar = ProgressBar(total=facts.total_steps, completed=facts.step, width=30)
        head.add_row(Text(self._title, "bold"), bar, f"{facts.step}/{facts.total_steps}", Text(left, "dim"))
        if not facts.reverse_kls:
            return [head]
        return [head, self._quality(), self._speed()]

    def _quality(self) -> Text:
        facts, metrics = self._facts, self._facts.metrics
        line = _line().append("reverse KL ", "dim").append(number(facts.reverse_kls[-1]), "bold")
        line.append(f" {sparkline(facts.reverse_kls)} ", _COLOURS[facts.trend])
        line.append(f"{ARROWS[facts.trend]} {facts.trend.lower()}", _COLOURS[facts.trend])
        if "reward/raw" in metrics:
            line.append("  reward ", "dim").append(f"{metrics['reward/raw']:.3f}", "bold")
        if "eval/pass@1" in metrics:
            line.append("  pass@1 ", "dim").append(f"{metrics['eval/pass@1']:.3f}", "bold")
            line.append(f" (step {metrics['eval/step']:.0f})", "dim")
        return line

    def _speed(self) -> Text:
        metrics = self._facts.metrics
        line = _line()
        if "tokens/per_second" in metrics:
            line.append(f"{metrics['tokens/per_second']:.0f} tokens/s  ", "dim")
        line.append(f"{metrics.get('time/step', 0.0):.2f} s a step", "dim")
        parts = ", ".join(f"{part} {seconds:.2f}" for part, seconds in self._facts.time_parts())
        return line.append(f": {parts}" if parts else "", "dim")


def _line() -> Text:
    """A narrow terminal cuts the line: the panel keeps its height."""
    return Text(no_wrap=True, overflow="ellipsis")
