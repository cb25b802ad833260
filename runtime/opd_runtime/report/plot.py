"""One picture of a run from its metrics.jsonl: reverse KL, reward and pass@1, where the time goes. Needs no display."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .jsonl import FILE_NAME, read_records
from .metrics import TIME_PARTS, StepRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Wong's palette: told apart with any kind of colour vision, and in grey.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#E69F00", "#009E73", "#777777"
_TIME_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#999999", "#F0E442")
_OTHER_COLOUR = "#DDDDDD"


def plot_run(run_dir: Path, out_png: Path) -> None:
    """Draws the run in `run_dir`. Raises UserError when it has no step yet."""
    records = read_records(run_dir / FILE_NAME)
    if not any(record.step > 0 for record in records):
        raise UserError("has no finished step to plot", path=str(run_dir / FILE_NAME), hint="give the folder of a run")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    figure.suptitle(run_dir.resolve().name, fontsize=14, fontweight="bold")
    axes = figure.subplots(2, 2)
    _draw_reverse_kl(axes[0, 0], records)
    _draw_pass_at_1(axes[0, 1], records)
    _draw_reward(axes[1, 0], records)
    _draw_time(axes[1, 1], records)
    for ax in axes.flat:
        ax.set_xlabel("step")
        ax.set_xlim(0, records[-1].total_steps)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.set_axisbelow(True)
    out_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png, dpi=110, format="png")


def _series(records: Sequence[StepRecord], name: str) -> tuple[list[int], list[float]]:
    """Steps that have this metric, and its values."""
    points = [(record.step, record.metrics[name]) for record in records if name in record.metrics]
    return [step for step, _ in points], [value for _, value in points]


def _draw_reverse_kl(ax: "Axes", records: Sequence[StepRecord]) -> None:
    ax.set_title("Reverse KL to the teacher (nats/token, mean of a step)", loc="left")
    steps, means = _series(records, "opd/reverse_kl")
    if not means:
        _say_nothing(ax)
        return
    ax.plot(steps, means, color=_BLUE, linewidth=1.8)
    # An estimate near zero can be negative, which a logarithm cannot show.
    if min(means) > 0:
        ax.set_yscale("log")
    else:
        ax.set_yscale("symlog", linthresh=max(1e-3, 1e-2 * max(means)))
    ax.annotate(f"{means[0]:.3g}", (steps[0], means[0]), xytext=(6, 6), textcoords="offset points", color=_BLUE)
    ax.annotate(
        f"{means[-1]:.3g}", (steps[-1], means[-1]), xytext=(-6, 8), textcoords="offset points", color=_BLUE, ha="right"
    )


def _draw_pass_at_1(ax: "Axes", records: Sequence[StepRecord]) -> None:
    ax.set_title("pass@1 on held-out prompts, 95 % Wilson interval", loc="left")
    steps, scores = _series(records, "eval/pass@1")
    if not scores:
        _say_nothing(ax)
        return
    ax.set_ylim(0, 1.02)
    low_steps, low = _series(records, "eval/pass@1_low")
    _, high = _series(records, "eval/pass@1_high")
    if len(low) == len(high):
        ax.fill_between(low_steps, low, high, color=_GREEN, alpha=0.18, linewidth=0)
    ax.plot(steps, scores, color=_GREEN, linewidth=1.8, marker="o", markersize=4, label="student")
    _, teacher = _series(records, "eval/teacher_pass@1")
    if teacher:
        ax.axhline(teacher[-1], color=_GREY, linestyle="--", linewidth=1.2, label=f"teacher {teacher[-1]:.3f}")
    ax.annotate(
        f"{scores[-1]:.3f}",
        (steps[-1], scores[-1]),
        xytext=(-4, -16),
        textcoords="offset points",
        color=_GREEN,
        ha="right",
    )
    ax.legend(frameon=False, fontsize=9, loc="lower right")


def _draw_reward(ax: "Axes", records: Sequence[StepRecord]) -> None:
    rewards, entropies = _series(records, "reward/raw"), _series(records, "policy/entropy")
    has_reward = any(rewards[1])
    ax.set_title("Task reward of the rollouts, entropy" if has_reward else "Entropy of the student (nats)", loc="left")
    if not has_reward and not entropies[1]:
        _say_nothing(ax)
        return
    if has_reward:
        ax.plot(*rewards, color=_ORANGE, linewidth=1.6, label="mean reward")
    if entropies[1]:
        ax.plot(*entropies, color=_BLUE, linewidth=1.2, alpha=0.7, label="entropy (nats)")
    ax.legend(frameon=False, fontsize=9)


def _draw_time(ax: "Axes", records: Sequence[StepRecord]) -> None:
    ax.set_title("Where a step's time goes (seconds)", loc="left")
    timed = [record for record in records if "time/step" in record.metrics]
    if not timed:
        _say_nothing(ax)
        return
    steps = [record.step for record in timed]
    layers = {part: [record.metrics.get(f"time/{part}", 0.0) for record in timed] for part in TIME_PARTS}
    known = [sum(parts) for parts in zip(*layers.values(), strict=True)]
    other = [max(0.0, record.metrics["time/step"] - part) for record, part in zip(timed, known, strict=True)]
    colours = dict(zip(layers, _TIME_COLOURS, strict=True))
    shown = {part: values for part, values in layers.items() if any(values)}
    ax.stackplot(
        steps,
        *shown.values(),
        other,
        labels=[*shown, "other"],
        colors=[*(colours[part] for part in shown), _OTHER_COLOUR],
        step="mid",
    )
    totals = sorted(part + rest for part, rest in zip(known, other, strict=True))
    # A checkpoint or an evaluation now and then must not flatten the ordinary steps.
    ax.set_ylim(0, 1.35 * totals[int(0.9 * (len(totals) - 1))])
    ax.legend(frameon=False, fontsize=9, ncols=4, loc="upper center")


def _say_nothing(ax: "Axes") -> None:
    ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", va="center", color=_GREY)
