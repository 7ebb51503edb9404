"""Directories of fitted embedders: weights as safetensors, everything else as JSON, nothing pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from skllm4es._store import hash_of
from skllm4es.embed._finetuning import FineTuning, LoRA
from skllm4es.embed._from_scratch import FromScratch
from skllm4es.embed._settings import plain
from skllm4es.lm.folders import EMBEDDER_FILE, hash_folder, new_folder, writing_errors

_ARRAYS_FILE = "scores.safetensors"
_FORMAT = {"format": "skllm4es.LLMEmbedder", "version": 5}

#: The objects that parameters can be, by the names that they are written under.
_OBJECTS = {kind.__name__: kind for kind in (FineTuning, FromScratch, LoRA)}
#: Parameters that are not written: directories of this machine, and texts that only `fit` needs.
_NOT_WRITTEN = {"memory", "extra_texts", "checkpoint_dir"}


def save_embedder(
    directory: Path, save_model: Callable[[Path], None], arrays: Mapping[str, npt.NDArray[Any]], settings: Any
) -> None:
    """Write an embedder into a new directory, whole or not at all.

    Parameters
    ----------
    directory : pathlib.Path
        The directory.
    save_model : callable of path to None
        Writes its language model into a directory.
    arrays : mapping of str to ndarray
        Its arrays, if it has any.
    settings : dict
        Everything else, as JSON holds it.
    """
    directory = directory.expanduser().resolve()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} is not empty. Choose a directory that is new or empty.")
    with writing_errors(directory, "save again"):
        directory.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(directory) as draft:
            save_model(draft)
            if arrays:
                contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
                save_file(contiguous, draft / _ARRAYS_FILE)
            content = _FORMAT | settings | {"digest": _digest(draft, settings)}
            (draft / EMBEDDER_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_embedder(directory: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read the settings and arrays that `save_embedder` wrote beside the model."""
    file = directory / EMBEDDER_FILE
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
            f"The embedder in {directory} is damaged: its files are not those that were saved. Copy it again from an "
            "intact copy, or save it again."
        )
    arrays = directory / _ARRAYS_FILE
    return settings, load_file(arrays) if arrays.is_file() else {}


def parameters_as_json(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as JSON holds them, without those that belong to this machine."""
    return {name: _as_json(name, value) for name, value in parameters.items() if name not in _NOT_WRITTEN}


def parameters_from_json(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `parameters_as_json`."""
    # Whoever wrote the directory does not decide where this machine keeps things.
    return {name: _from_json(value) for name, value in parameters.items() if name not in _NOT_WRITTEN}


def _as_json(name: str, value: Any) -> Any:
    if type(value).__name__ in _OBJECTS:
        return {type(value).__name__: parameters_as_json(value.get_params(deep=False))}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    value = plain(value)
    try:
        json.dumps(value)
    except TypeError as error:
        raise TypeError(
            f"The parameter {name}={value!r} cannot be written as JSON. Replace it before saving, for example with "
            f"set_params({name}=None): a fitted embedder does not need it."
        ) from error
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in _OBJECTS:
        ((name, parameters),) = value.items()
        return _OBJECTS[name](**parameters_from_json(parameters))
    return value


def _digest(directory: Path, settings: Mapping[str, Any]) -> str:
    """Hash everything that makes up an embedder: its files, and its settings as JSON returns them."""
    read = json.loads(json.dumps(dict(settings)))
    return hash_of(hash_folder(directory), json.dumps(read, sort_keys=True)).hex()
