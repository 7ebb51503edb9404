"""Directories of fitted embedders and fine-tuned models: weights as safetensors, all else as JSON, nothing pickled."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skllm4es.lm.language_model import LanguageModel
from skllm4es.lm.loading import quietly

_SETTINGS = "skllm4es.json"
_FORMAT = {"format": "skllm4es.LLMEmbedder", "version": 1}


def save_embedder(
    directory: Path, language_model: LanguageModel, dtype: torch.dtype, settings: Mapping[str, Any]
) -> None:
    """Write an embedder into a new directory, whole or not at all.

    Parameters
    ----------
    directory : pathlib.Path
        The directory.
    language_model : LanguageModel
        Its language model.
    dtype : torch.dtype
        The type of the weights with which it runs.
    settings : mapping
        The rest, as JSON can hold it.
    """
    directory = directory.expanduser().absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"There is something in {directory} already. Choose a directory that is new or empty.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as draft:
        save_model(Path(draft), language_model.load(dtype, "cpu"), language_model.tokenizer)
        _write(Path(draft) / _SETTINGS, _FORMAT | dict(settings))
        directory.mkdir(exist_ok=True)
        Path(draft).replace(directory)
        Path(draft).mkdir()  # For the context manager to remove.


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
    file = directory.expanduser() / _SETTINGS
    try:
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OSError(
            f"There is no embedder in {directory}: {file} cannot be read ({error}). Pass a directory that "
            "LLMEmbedder.save_pretrained wrote; a language model alone is loaded by LLMEmbedder(model=DIR)."
        ) from error
    found = {name: settings.pop(name, None) for name in _FORMAT}
    if found != _FORMAT:
        raise OSError(f"{file} holds {found}, and this version of skllm4es reads {_FORMAT}.")
    return settings


def save_model(directory: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a language model and its tokenizer, as transformers does.

    Parameters
    ----------
    directory : pathlib.Path
        The directory.
    model : transformers.PreTrainedModel
        The model.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer.
    """
    with quietly():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def save_losses(directory: Path, losses: Sequence[float]) -> None:
    """Write the course of the loss beside a model.

    Parameters
    ----------
    directory : pathlib.Path
        The directory of the model.
    losses : sequence of float
        The losses.
    """
    _write(directory / "losses.json", {"losses": list(losses)})


def read_losses(directory: Path) -> list[float]:
    """Read what `save_losses` wrote.

    Parameters
    ----------
    directory : pathlib.Path
        The directory of the model.

    Returns
    -------
    list of float
        The losses.
    """
    losses: list[float] = json.loads((directory / "losses.json").read_text(encoding="utf-8"))["losses"]
    return losses


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
