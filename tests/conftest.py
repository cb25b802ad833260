"""What every test may use, which tests run beside others, and `--test-report FILE`: a session's outcome as a page."""

import os
import platform
from collections import Counter, defaultdict
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# A noisy machine is no bug: an example may take as long as it takes.
settings.register_profile("opd", deadline=None)
settings.load_profile("opd")

WHOLE_MACHINE = {"gpu", "cluster", "controlplane"}
"""Whose tests have the machine to themselves: what they start and measure is all of it."""
ROOMS = 2
"""Folders below tests/ that make a row: `unit/api`, `runtime/run`."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--test-report", type=Path, help="write outcomes, seconds and recorded figures to this page")


def pytest_configure(config: pytest.Config) -> None:
    in_worker = hasattr(config, "workerinput")  # of pytest-xdist: its outcomes reach the session that started it
    if (path := config.getoption("--test-report")) and not in_worker:
        config.pluginmanager.register(Report(path), "test-report")


def room_of(nodeid: str) -> str:
    return Path(nodeid.partition("::")[0]).parts[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What wants the whole machine comes last."""
    items.sort(key=lambda item: room_of(item.nodeid) in WHOLE_MACHINE)


class ByFile(LoadScopeScheduling):
    """Of pytest-xdist: a file stays in one process, as its tests share what they start."""

    def _split_scope(self, nodeid: str) -> str:
        return "machine" if room_of(nodeid) in WHOLE_MACHINE else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    config.option.loadscopereorder = False  # it would begin with the largest
    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    report.in_ci = item.get_closest_marker("full") is None  # report.keywords also holds the checkout folder's name
    return report


class Report:
    """Collects what the session's tests say; figures are what they gave to `record_property`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self.seconds: Counter[str] = Counter()
        self.ci_seconds: Counter[str] = Counter()
        self.figures: list[tuple[str, str, object]] = []
        self.skipped: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        room = "/".join(Path(report.nodeid.partition("::")[0]).parts[1 : 1 + ROOMS])
        self.seconds[room] += report.duration
        if report.in_ci:
            self.ci_seconds[room] += report.duration
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[room][report.outcome] += 1
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skipped[report.longrepr[2]] += 1
        if report.when == "teardown":
            test = report.nodeid.rpartition("::")[2]
            self.figures += [(test, name, value) for name, value in report.user_properties]

    def pytest_sessionfinish(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n".join(self._lines()) + "\n")

    def _lines(self) -> list[str]:
        when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        rows = [
            f"| {room} | {counts['passed']} | {counts['failed']} | {counts['skipped']} "
            f"| {self.seconds[room]:.0f} | {self.ci_seconds[room]:.0f} |"
            for room, counts in sorted(self.outcomes.items())
        ]
        reasons = [f"* {count} skipped: {reason}" for reason, count in self.skipped.items()]
        figures = [f"| {test} | {name} | {_text(value)} |" for test, name, value in self.figures]
        return [
            "# Test report",
            "",
            f"Written by `make test-full` on {when}; {where}.",
            "",
            "| tests | passed | failed | skipped | seconds | of these in `make test` |",
            "|---|---|---|---|---|---|",
            *rows,
            f"| together | | | | {self.seconds.total():.0f} | {self.ci_seconds.total():.0f} |",
            "",
            *reasons,
            "",
            "## Figures",
            "",
            "| test | figure | value |",
            "|---|---|---|",
            *figures,
        ]


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
