"""What the docs print exists: files and headings they link to, `opd` command lines, jobs, fields and metrics.

Does not show that a command does what the text says of it.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from opd_api.crd import openapi_schema
from opd_api.load import load_job
from opd_runtime import cli
from opd_runtime.cli.reference import generated
from opd_runtime.report.metrics import METRICS

ROOT = Path(__file__).parents[3]
GENERATED = ("docs/reference/", "docs/test-report/")
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "bench/**/*.md", "requirements/*.md")
    for path in ROOT.glob(pattern)
)
SPEC = openapi_schema()["properties"]["spec"]
GROUPS = "|".join(name for name, field in SPEC["properties"].items() if "properties" in field or "items" in field)
FIELD_PATH = re.compile(rf"^(?:spec\.)?((?:{GROUPS})(?:\[\w*\])?(?:\.\w+(?:\[\w*\])?)+)(?=[:=]|$)")
METRIC_GROUPS = "|".join({name.partition("/")[0] for name in METRICS})
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

every_page = pytest.mark.parametrize("page", PAGES, ids=str)
every_written_page = pytest.mark.parametrize(
    "page", [page for page in PAGES if not str(page).startswith(GENERATED)], ids=str
)


@pytest.fixture(scope="module")
def verbs() -> dict[str, Any]:
    """Parsers of the verbs by name."""
    cli._register()
    command: Any = get_command(cli.app)
    return command.commands


def code(page: Path) -> Iterator[str]:
    """Lines of code blocks, and inline code."""
    text = (ROOT / page).read_text()
    for _, block in FENCE.findall(text):
        yield from block.splitlines()
    prose = FENCE.sub("", text)
    yield from re.findall(r"^ {4}(\S.*)$", prose, re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", prose)


def headings(file: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    lines = re.findall(r"^#+ (.*)$", FENCE.sub("", file.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}


def command_lines(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Verb and arguments of each `opd VERB …`; a verb named alone is left out, options named alone get a FILE."""
    for line in code(page):
        found = re.match(r"(?:\$ )?(?:\w+=\S+ )*opd ([a-z]+) +([^|\s].*)$", line.strip())
        if found and "…" not in line:
            arguments = shlex.split(found[2].partition(" | ")[0], comments=True)
            yield found[1], arguments if any(a[0] != "-" for a in arguments) else [*arguments, "FILE"]


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", (ROOT / page).read_text())):
        place, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (ROOT / page).parent / place if place else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in headings(file), target


@every_page
def test_every_command_line_can_be_read(page: Path, verbs: dict[str, Any]) -> None:
    for verb, arguments in command_lines(page):
        verbs[verb].make_context(verb, arguments)  # raises for an option or verb that is none


@every_written_page
def test_every_job_is_valid_and_every_piece_of_one_has_known_fields(page: Path) -> None:
    for language, block in FENCE.findall((ROOT / page).read_text()):
        document = yaml.safe_load(block) if language == "yaml" else {}
        if "kind" in document:
            load_job(block, str(page))
        else:
            assert not list(unknown_fields(document, SPEC))


@every_written_page
def test_every_field_named_by_its_path_is_in_the_contract(page: Path) -> None:
    for piece in code(page):
        found = FIELD_PATH.match(piece)
        if not found or found[1].endswith(".py") or "is no field" in piece:
            continue
        node: Any = True
        for name in reversed(re.sub(r"\[\w*\]", "", found[1]).split(".")):
            node = {name: node}
        assert not list(unknown_fields(node, SPEC)), piece


@every_written_page
def test_every_metric_named_is_one(page: Path) -> None:
    for piece in code(page):
        if re.fullmatch(rf"(?:{METRIC_GROUPS})/[\w@]+", piece) and not (ROOT / piece).exists():
            assert piece in METRICS


def unknown_fields(value: Any, schema: dict[str, Any]) -> Iterator[str]:
    """Names in a piece of a spec that the contract lacks."""
    if isinstance(value, list):
        for item in value:
            yield from unknown_fields(item, schema["items"])
    elif isinstance(value, dict):
        schema = schema.get("items", schema)
        for name, below in value.items():
            if name in schema.get("properties", ()):
                yield from unknown_fields(below, schema["properties"][name])
            elif "properties" in schema:
                yield name


def test_reference_pages_are_in_step() -> None:
    for path, text in generated().items():
        assert path.read_text() == text


def test_the_checks_find_what_is_wrong() -> None:
    assert list(unknown_fields({"rollout": {"batch": 1}}, SPEC)) == ["batch"]
    assert list(unknown_fields({"teachers": {"modus": 1}}, SPEC)) == ["modus"]
    assert FIELD_PATH.match("spec.rollout.batch")
    assert any(verb == "run" for verb, _ in command_lines(Path("docs/quick-start.md")))
