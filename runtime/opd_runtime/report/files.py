"""Writes a whole file so that a reader sees the old one or the new one, never half of it."""

import os
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Writes beside `path`, then takes its place."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)
