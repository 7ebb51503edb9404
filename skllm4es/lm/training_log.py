"""How a training went, and the record of it beside the model that it made."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from skllm4es.lm.folders import TRAINING_FILE, hash_folder


@dataclass(frozen=True)
class TrainingLog:
    """How a training went.

    Parameters
    ----------
    losses : list of float
        The mean next-token loss, in nats per token, of about fifty equal stretches.
    validation_losses : list of float
        The loss on the held-out texts, at each evaluation.
    n_tokens : int
        Tokens trained on, counted every time.
    seconds : float
        How long it took; for a training that was resumed, the last part.
    loss_tokens, validation_tokens : list of int
        Tokens trained on by the end of each stretch, and by each evaluation.
    """

    losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    n_tokens: int = 0
    seconds: float = 0.0
    loss_tokens: list[int] = field(default_factory=list)
    validation_tokens: list[int] = field(default_factory=list)


def write_log(directory: Path, log: TrainingLog) -> None:
    """Write a log beside the model of a directory, with a fingerprint of the model's files."""
    record = {"log": asdict(log), "fingerprint": hash_folder(directory)}
    (directory / TRAINING_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_log(directory: Path) -> TrainingLog:
    """Read the log that `write_log` wrote."""
    return TrainingLog(**_read(directory)["log"])


def check_whole(directory: Path, again: str = "trained again") -> None:
    """Raise an OSError if the files of a model are not those that `write_log` saw."""
    if _read(directory, again)["fingerprint"] != hash_folder(directory):
        raise _damaged(directory, again)


def _read(directory: Path, again: str = "trained again") -> dict[str, Any]:
    try:
        record = json.loads((directory / TRAINING_FILE).read_text(encoding="utf-8"))
        return {name: record[name] for name in ("log", "fingerprint")}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(directory, again) from error


def _damaged(directory: Path, again: str) -> OSError:
    return OSError(f"The model in {directory} is damaged. Delete the folder, and it will be {again}.")
