"""Checkpoints of an unfinished training: sealed once they are whole; training resumes only from a sealed one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from skllm4es.lm.processes import Processes

_SEAL = "seal"


class SealCheckpoints(TrainerCallback):
    """Write into each checkpoint a digest of its content.

    Parameters
    ----------
    group : Processes
        The processes that train, and write, together.
    """

    def __init__(self, group: Processes) -> None:
        self.group = group

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seal the checkpoint that was just written."""
        self.group.wait()  # All have written their parts.
        if self.group.rank == 0:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (checkpoint / _SEAL).write_text(_digest(checkpoint), encoding="ascii")


def latest_checkpoint(folder: Path) -> str | None:
    """Find the latest checkpoint of a training that is as it was written: neither cut short by a kill nor damaged."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        seal = checkpoint / _SEAL
        if seal.is_file() and seal.read_bytes() == _digest(checkpoint).encode():
            return str(checkpoint)
    return None


def _digest(checkpoint: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != _SEAL):
        digest.update(f"{path.relative_to(checkpoint)}\n".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()
