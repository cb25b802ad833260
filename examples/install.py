"""Puts the examples' models and prompts where their jobs look: `pvc://opd-examples`, a folder of runs/volumes here.

`python examples/install.py` from the repository's root; may be run again at any time. Needs the standard library alone.
"""

import argparse
import shutil
from pathlib import Path

HERE = Path(__file__).parent
EXAMPLES = ("arithmetic", "reasoning")
PARTS = ("models", "prompts")


def install(volume: Path) -> None:
    """Copies each example's files to `volume`/EXAMPLE, over what is there."""
    for example in EXAMPLES:
        for part in PARTS:
            shutil.copytree(HERE / example / part, volume / example / part, dirs_exist_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volume", type=Path, default=Path("runs/volumes/opd-examples"), help="folder of the claim")
    volume = parser.parse_args().volume
    install(volume)
    print(f"{volume}: models and prompts of {', '.join(EXAMPLES)}")


if __name__ == "__main__":
    main()
