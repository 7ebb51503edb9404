"""Files with one JSON record per line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def read(file: Path) -> list[Record]:
    """Return the records of a file, which need not exist."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def append(file: Path, records: Iterable[Record]) -> None:
    """Append records to a file in one write."""
    with file.open("a") as lines:
        lines.write("".join([json.dumps(record) + "\n" for record in records]))
