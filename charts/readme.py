"""`python charts/readme.py`: writes the table of values into the chart's README, from the comments of values.yaml;
`--check` only compares. A comment that starts with `--` describes the key below it.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

CHART = Path(__file__).parent / "opd-operator"
BEGIN, END = "<!-- values: make generate -->\n", "<!-- /values -->\n"


def values(text: str) -> Iterator[tuple[str, object, str]]:
    """Path, default and description of every value; ValueError for a leaf without a description."""
    lines = text.splitlines()

    def walk(node: yaml.MappingNode, above: str) -> Iterator[tuple[str, object, str]]:
        for key, value in node.value:
            path = above + key.value
            comment = lines[key.start_mark.line - 1].strip()
            if comment.startswith("# -- "):
                yield path, yaml.safe_load(yaml.serialize(value)), comment.removeprefix("# -- ")
            elif isinstance(value, yaml.MappingNode):
                yield from walk(value, f"{path}.")
            else:
                raise ValueError(f"values.yaml: {path} has no comment\nhint: write `# -- what it does` above it")

    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    return walk(root, "")


def table(text: str) -> str:
    rows = [f"| `{path}` | `{json.dumps(default)}` | {meaning} |" for path, default, meaning in values(text)]
    return "\n".join(["| value | default | |", "|---|---|---|", *rows, ""])


def readme() -> str:
    """The README as it should be."""
    page = (CHART / "README.md").read_text()
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return before + BEGIN + table((CHART / "values.yaml").read_text()) + END + after


def main(arguments: list[str]) -> int:
    """Exit status: 1 when `--check` finds the README out of step."""
    path = CHART / "README.md"
    wanted = readme()
    if path.read_text() == wanted:
        return 0
    if arguments == ["--check"]:
        print("charts/opd-operator/README.md is out of step with values.yaml\nhint: make generate", file=sys.stderr)
        return 1
    path.write_text(wanted)
    print("wrote charts/opd-operator/README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
