"""Both faces of the console. Colours and layout are for eyes; here only that the facts are there."""

import io

import pytest
from rich.console import Console

from opd_runtime.report.console import LiveConsole, PlainConsole, duration, number, open_console, sparkline

SUMMARY = {
    "teacher_mode": "SGLang",
    "steps": 10,
    "seconds": 131.2,
    "reverse_kl": {"first": 1.43, "last": 0.00031},
    "pass_at_1": {"before": 0.45, "after": 0.99, "teacher": None},
}


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def plain():
    out, clock = io.StringIO(), Clock()
    return PlainConsole(Console(file=out, width=80), "arithmetic", 10, clock), out, clock


def test_plain_line_tells_the_step_in_one_line(plain, make_record):
    console, out, _ = plain
    console.step(make_record(3, **{"time/left": 75.0, "tokens/per_second": 1234.5}), "Falling")
    line = out.getvalue().splitlines()[-1]
    assert line == (
        "step  3/10  kl 0.709 falling  reward 0.300  1234 tokens/s  2.00 s (rollout 1.25, update 0.50)  1:15 left"
    )


def test_plain_lines_of_fast_steps_are_thinned_but_for_evaluations_and_the_last(plain, make_record):
    console, out, clock = plain
    for step in range(1, 11):
        console.step(make_record(step, evaluated=step == 7, **{"eval/step": 7.0} if step == 7 else {}), "Falling")
        clock.seconds += 0.6
    shown = [int(line[5:7]) for line in out.getvalue().splitlines() if line.startswith("step")]
    assert shown == [1, 5, 7, 10]


def test_brackets_in_a_note_are_text_not_markup(plain):
    console, out, _ = plain
    console.note("[red]spec.teachers[0][/red]")
    assert out.getvalue().splitlines()[-1] == "[red]spec.teachers[0][/red]"


def test_summary_tells_before_after_teacher_and_where_everything_lies(plain, tmp_path):
    console, out, _ = plain
    long_path = tmp_path / ("x" * 120)
    console.summary(SUMMARY, {"plot": long_path, "exported student": tmp_path / "[export]"})
    text = out.getvalue()
    assert [line.split() for line in text.splitlines() if line.startswith(("pass@1", "reverse KL"))] == [
        ["pass@1", "(held", "out)", "0.450", "0.990", "-"],
        ["reverse", "KL,", "nats/token", "1.430", "3.1e-04"],
    ]
    assert "10 steps in 2:11, teacher mode SGLang" in text
    assert f"plot              {long_path}\n" in text
    assert f"exported student  {tmp_path / '[export]'}\n" in text


def test_live_console_shows_progress_and_gives_the_terminal_back(make_record, tmp_path):
    out = io.StringIO()
    console = LiveConsole(Console(file=out, force_terminal=True, width=100, color_system=None), "arithmetic", 10)
    console.phase("starting servers")
    console.note("a note")
    console.step(make_record(4, evaluated=True, **{"eval/step": 4.0, "time/left": 12.0}), "Rising")
    console.step(make_record(5, **{"time/left": 10.0}), "Rising")
    console.step(make_record(6, **{"opd/reverse_kl": float("nan"), "time/left": 8.0}), "Rising")
    console.summary(SUMMARY, {"plot": tmp_path})
    console.close()
    console.close()
    text = out.getvalue()
    assert "a note" in text
    assert "6/10 0:08 left" in text
    assert "rising" in text
    assert "pass@1 0.600 (step 4)" in text
    show_cursor, hide_cursor = "\x1b[?25h", "\x1b[?25l"
    assert text.rindex(show_cursor) > text.rindex(hide_cursor)


def test_terminal_decides_the_face():
    assert isinstance(open_console("x", 1, Console(file=io.StringIO())), PlainConsole)
    live = open_console("x", 1, Console(file=io.StringIO(), force_terminal=True))
    live.close()
    assert isinstance(live, LiveConsole)


@pytest.mark.parametrize(
    ("value", "want"), [(1.2345, "1.234"), (0.0, "0.000"), (0.00042, "4.2e-04"), (-0.5, "-0.500"), (-1e-5, "-1.0e-05")]
)
def test_small_numbers_do_not_round_to_nothing(value, want):
    assert number(value) == want


@pytest.mark.parametrize(("seconds", "want"), [(0.4, "0:00"), (59.6, "1:00"), (3661, "1:01:01"), (90000, "25:00:00")])
def test_duration_reads_like_a_clock(seconds, want):
    assert duration(seconds) == want


@pytest.mark.parametrize(
    ("values", "want"),
    [
        pytest.param([], "", id="nothing"),
        pytest.param([2.0], "▁", id="one value"),
        pytest.param([1.0, 1.0], "▁▁", id="a flat line"),
        pytest.param([1.0, 10.0, 100.0], "▁▅█", id="positive values on a logarithmic scale"),
        pytest.param([-1.0, 0.0, 1.0], "▁▅█", id="others on a linear one"),
        pytest.param([float(2**i) for i in range(48)], "▁▂▂▃▄▄▅▅▆▇▇█", id="many values are averaged"),
    ],
)
def test_sparkline_draws_the_curve(values, want):
    assert sparkline(values) == want
