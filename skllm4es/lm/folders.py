"""Folders of models: written whole or not at all, recognised by what is in them."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError

from skllm4es._store import DRAFT, draft_in

#: Files beside a model that are not part of it: how it was trained, and the embedder that it belongs to.
TRAINING_FILE, EMBEDDER_FILE = "training.json", "skllm4es.json"

#: Codes of OSErrors that come from a disk.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty draft to write into, which becomes `folder` in the end: whole, or not at all."""
    draft = draft_in(folder.parent, f"{folder.name}-")
    draft.mkdir()
    try:
        yield draft
        _share(draft)
        draft.replace(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _share(draft: Path) -> None:
    """Give all files the permissions of any new file: safetensors writes for the owner alone."""
    example = draft_in(draft)
    os.close(os.open(example, os.O_CREAT | os.O_EXCL, 0o666))
    mode = stat.S_IMODE(example.stat().st_mode)
    example.unlink()
    for path in draft.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that an interruption leaves nothing that looks whole."""
    draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=folder.parent))
    with suppress(FileNotFoundError):  # Another process was first.
        folder.replace(draft)
    shutil.rmtree(draft, ignore_errors=True)


def hash_folder(directory: Path) -> str:
    """Hash the files of a model, without those that only lie beside it."""
    beside = (TRAINING_FILE, EMBEDDER_FILE)
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in directory.iterdir() if path.is_file() and path.name not in beside):
        digest.update(path.name.encode())
        digest.update(_content_of(path))
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Hash one file, whatever its name."""
    return _content_of(path.absolute()).hex()


def _content_of(path: Path) -> bytes:
    return _hash_content(str(path), path.stat().st_size, path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash_content(path: str, size: int, modified: int) -> bytes:
    """Hash the content of a file, again only if its size or time has changed."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def check_room(folder: Path, needed: int) -> None:
    """Raise an OSError if the disk of a folder has fewer free bytes than a training will write."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"The disk of {folder} has {free:,} bytes free, and the training will need {needed:,}. Nothing was trained "
            "yet. Free some space, or choose another directory."
        )


@contextmanager
def writing_errors(
    folder: Path, again: str = "train again: with a directory for checkpoints, training resumes from the last whole one"
) -> Iterator[None]:
    """Raise an OSError with a remedy where a model cannot be written, whichever library fails.

    Parameters
    ----------
    folder : pathlib.Path
        Where it is written.
    again : str, default="train again: ..."
        What to do once it can be written.
    """
    try:
        yield
    except Exception as error:
        if not _comes_from_a_disk(error):
            raise
        raise OSError(
            f"The model could not be written to {folder}: {error}. Nothing half-written will be used. Free some space, "
            f"or choose a directory that you may write to, and {again}."
        ) from error


def _comes_from_a_disk(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in _DISK_ERRORS
    if isinstance(error, RuntimeError):
        return "PytorchStreamWriter" in str(error)
    # Tokenizers raise nothing more specific.
    return isinstance(error, SafetensorError) or (type(error) is Exception and "(os error " in str(error))
