"""Directories of fitted embedders and fine-tuned models: weights as safetensors, all else as JSON, nothing pickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skllm4es._store import hash_of
from skllm4es.lm.adapters import save_adapter, underlying
from skllm4es.lm.cache import new_folder
from skllm4es.lm.finetuning import Course, writing_errors
from skllm4es.lm.loading import quietly

_SETTINGS = "skllm4es.json"
_TRAINING = "training.json"
_ARRAYS = "scores.safetensors"
_BASE = "base.json"
_FORMAT = {"format": "skllm4es.LLMEmbedder", "version": 3}


def save_embedder(directory: Path, save_model: Callable[[Path], None], settings: Mapping[str, Any]) -> None:
    """Write an embedder into a new directory, whole or not at all.

    Parameters
    ----------
    directory : pathlib.Path
        The directory.
    save_model : callable of path to None
        Writes its language model into a directory.
    settings : mapping
        The rest, as JSON can hold it.
    """
    directory = directory.expanduser().resolve()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"There is something in {directory} already. Choose a directory that is new or empty.")
    with writing_errors(directory, "save again"):
        directory.parent.mkdir(parents=True, exist_ok=True)
        _save_embedder(directory, save_model, settings)


def _save_embedder(directory: Path, save_model: Callable[[Path], None], settings: Mapping[str, Any]) -> None:
    with new_folder(directory) as draft:
        save_model(draft)
        _write(draft / _SETTINGS, _FORMAT | dict(settings) | {"digest": _digest(draft, settings)})


def read_settings(directory: Path) -> dict[str, Any]:
    """Read what `save_embedder` wrote beside the model.

    Parameters
    ----------
    directory : pathlib.Path
        The directory.

    Returns
    -------
    dict
        The settings.
    """
    file = directory / _SETTINGS
    try:
        settings = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise OSError(
            f"There is no embedder in {directory}: {file} cannot be read ({error}). Pass a directory that "
            "LLMEmbedder.save_pretrained wrote; a language model alone is loaded by LLMEmbedder(model=DIR)."
        ) from error
    found = {name: settings.pop(name, None) for name in _FORMAT}
    if found != _FORMAT:
        raise OSError(f"{file} holds {found}, and this version of skllm4es reads {_FORMAT}.")
    if settings.pop("digest", None) != _digest(directory, settings):
        raise OSError(
            f"The embedder in {directory} is damaged: its files are not those that were saved. Copy it again from "
            "where it is whole, or save it again."
        )
    return settings


def _digest(directory: Path, settings: Mapping[str, Any]) -> str:
    """Hash all that makes an embedder: its files, and its settings as JSON gives them back."""
    read = json.loads(json.dumps(dict(settings)))
    return hash_of(hash_folder(directory), json.dumps(read, sort_keys=True)).hex()


def write_arrays(directory: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write the arrays of an embedder beside its model.

    Parameters
    ----------
    directory : pathlib.Path
        The directory.
    arrays : mapping of str to ndarray
        The arrays.
    """
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, directory / _ARRAYS)


def read_arrays(directory: Path) -> dict[str, npt.NDArray[Any]] | None:
    """Read what `write_arrays` wrote.

    Parameters
    ----------
    directory : pathlib.Path
        The directory.

    Returns
    -------
    dict of str to ndarray or None
        The arrays, if there are any.
    """
    file = directory / _ARRAYS
    return load_file(file) if file.is_file() else None


def write_course(directory: Path, course: Course) -> None:
    """Write how a model was trained beside it, and a fingerprint of it.

    Parameters
    ----------
    directory : pathlib.Path
        The directory of the model.
    course : Course
        How its training went.
    """
    _write(directory / _TRAINING, {"course": asdict(course), "fingerprint": hash_folder(directory)})


def read_course(directory: Path) -> Course:
    """Read how a model was trained.

    Parameters
    ----------
    directory : pathlib.Path
        The directory of the model.

    Returns
    -------
    Course
        How its training went.
    """
    return Course(**_read_training(directory)[0])


def read_fingerprint(directory: Path) -> str:
    """Read the fingerprint that `write_course` wrote.

    Parameters
    ----------
    directory : pathlib.Path
        The directory of the model.

    Returns
    -------
    str
        Hexadecimal digits.
    """
    return _read_training(directory)[1]


def hash_folder(directory: Path) -> str:
    """Hash the files of a model, but for what `write_course` and `save_embedder` add.

    Parameters
    ----------
    directory : pathlib.Path
        The directory.

    Returns
    -------
    str
        Hexadecimal digits.
    """
    added = (_TRAINING, _SETTINGS)
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name not in added)
    return _hash_files(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=64)
def _hash_files(files: tuple[tuple[str, int, int], ...]) -> str:
    """Hash the contents of files; their sizes and times tell when to do so again."""
    digest = hashlib.blake2b(digest_size=16)
    for path, _, _ in files:
        digest.update(Path(path).name.encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def fingerprint_of(source: str, revision: str | None = None) -> str:
    """Tell a model from any other by its files, and by those of the model under its adapter.

    Parameters
    ----------
    source : str
        A directory, or a name on the hub.
    revision : str, default=None
        The commit on the hub.

    Returns
    -------
    str
        The fingerprint.

    Raises
    ------
    OSError
        If the model under the adapter is not the one with which the adapter was saved.
    """
    if revision:
        return f"{source}@{revision}"
    fingerprint = hash_folder(Path(source))
    if (base := underlying(source)) is None:
        return fingerprint
    beneath, file = fingerprint_of(*base), Path(source) / _BASE
    if file.is_file() and json.loads(file.read_text(encoding="utf-8"))["fingerprint"] != beneath:
        raise OSError(f"{base[0]}, the model under the adapter in {source}, was changed since the adapter was saved.")
    return f"{fingerprint} on {beneath}"


def save_model(directory: Path, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a model and its tokenizer, of a model with an adapter the adapter alone.

    Parameters
    ----------
    directory : pathlib.Path
        An empty directory.
    model : transformers.PreTrainedModel or peft.PeftModel
        The model.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer.
    """
    with quietly():
        if isinstance(model, PeftModel):
            save_adapter(model, directory)
            base = underlying(directory)
            assert base is not None
            _write(directory / _BASE, {"fingerprint": fingerprint_of(*base)})
        else:
            model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def _read_training(directory: Path) -> tuple[dict[str, Any], str]:
    try:
        training = json.loads((directory / _TRAINING).read_text(encoding="utf-8"))
        return training["course"], training["fingerprint"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise damaged_model(directory) from error


def damaged_model(directory: Path | str) -> OSError:
    """Make the error that a model that was kept is not as it was written."""
    return OSError(f"The model in {directory} is damaged. Delete the folder, and it will be trained again.")


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
