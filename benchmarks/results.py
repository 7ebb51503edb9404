"""The file of a table's results: the scores, written as soon as they are computed, and where they come from."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Record = dict[str, Any]

_PACKAGES = (
    "skllm4es",
    "scikit-learn",
    "lightgbm",
    "torch",
    "transformers",
    "numpy",
    "pandas",
    "pyarrow",
    "hotpp-benchmark",
)
_CELL = ("row", "target", "seed", "fold")
_IDENTITY = (*_CELL, "labels", "draw")


class Results:
    """The results of one table on one data set with one preset.

    Each change replaces the whole file, so it is complete whenever a run ends.

    Parameters
    ----------
    file : path
        The file, which need not exist.
    about : mapping
        What the results describe: table, data set, preset, protocol, ...
    """

    def __init__(self, file: Path, about: Mapping[str, Any]) -> None:
        self.file = file
        content = read(file) if file.exists() else {"runs": [], "not_run": {}, "records": []}
        self.about = dict(about)
        self.runs: list[Record] = content["runs"]
        self.not_run: dict[str, str] = content["not_run"]
        self.records: dict[tuple[Any, ...], Record] = {_identity(record): record for record in content["records"]}

    def begin(self, command: str) -> None:
        """Record the command, versions and machine that results are about to come from."""
        run = {"command": command, "versions": versions(), "machine": machine()}
        if run not in self.runs:
            self.runs.append(run)

    def has(self, record: Record) -> bool:
        """Return whether a record is already there, from vectors with the same settings."""
        found = self.records.get(_identity(record))
        return found is not None and found["key"] == record["key"]

    def has_row(self, row: str) -> bool:
        """Return whether a row has any records."""
        return any(record["row"] == row for record in self.records.values())

    def add(self, records: Iterable[Record]) -> None:
        """Add records of one row, target and split, drop those with other settings, and write the file."""
        fresh = list(records)
        cell, key = _cell(fresh[0]), fresh[0]["key"]
        kept = {name: old for name, old in self.records.items() if _cell(old) != cell or old["key"] == key}
        self.records = kept | {_identity(record): record for record in fresh}
        self.not_run.pop(fresh[0]["row"], None)
        self._write()

    def cannot_run(self, row: str, reason: str) -> None:
        """Record why a row lacks scores; the scores that it has are kept."""
        self.not_run[row] = reason
        self._write()

    def _write(self) -> None:
        header = {"about": self.about, "runs": self.runs, "not_run": self.not_run}
        lines = [json.dumps(record) for record in self.records.values()]
        # One record per line, so that changes to the files can be reviewed.
        text = json.dumps(header, indent=1)[:-2] + ',\n "records": [\n' + ",\n".join(lines) + "\n ]\n}\n"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(f".{os.getpid()}.draft")
        draft.write_text(text)
        draft.replace(self.file)


def read(file: Path) -> Record:
    """Read a file of results."""
    try:
        content: Record = json.loads(file.read_text())
        return {name: content[name] for name in ("about", "runs", "not_run", "records")}
    except (ValueError, KeyError) as error:
        raise ValueError(f"{file} is not a file of results ({error!r}). Move it away to start again.") from error


def versions(packages: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of packages, by default those that results depend on."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> Record:
    """Describe the machine without identifying it."""
    import torch

    from skllm4es.lm.devices import resolve_device

    described: Record = {"system": platform.system(), "architecture": platform.machine(), "cpus": os.cpu_count()}
    described |= {"threads": torch.get_num_threads(), "dtype": resolve_device(None, "auto")[1]}
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def _cell(record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in _CELL)


def _identity(record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in _IDENTITY)
