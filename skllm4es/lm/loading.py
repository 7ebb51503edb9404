"""Where a pretrained language model and its tokenizer come from: a hub name, or a local directory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub import constants
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from skllm4es.lm.adapters import attach_adapter, underlying
from skllm4es.lm.pooling import is_causal

#: Left open, transformers asks at a terminal whether to run the code that comes with a model.
NO_CODE = {"trust_remote_code": False}
#: Other files of weights are pickles.
_NO_PICKLE = {"use_safetensors": True}

#: What transformers raises for files that are not there, or not what they should be.
_BROKEN = (OSError, ValueError, RuntimeError, ImportError, SafetensorError, LookupError, TypeError, AttributeError)


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a pretrained tokenizer.

    Parameters
    ----------
    name : str
        A name on the model hub, or a local directory in the form of ``save_pretrained``.
    revision : str, default=None
        The commit on the hub; the newest by default.

    Returns
    -------
    transformers.PreTrainedTokenizerBase
        The tokenizer.

    Raises
    ------
    OSError
        If it cannot be loaded; the message says what to do.
    """
    with loading_errors(name):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, revision=revision, **NO_CODE)
    return tokenizer


def load_causal_model(name: str, revision: str | None = None, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a pretrained causal language model with its head, to be trained or to write with.

    Parameters
    ----------
    name : str
        A name on the model hub, or a local directory.
    revision : str, default=None
        The commit on the hub; the newest by default.
    dtype : torch.dtype, default=torch.float32
        The type of its weights.

    Returns
    -------
    transformers.PreTrainedModel
        The model, in evaluation mode, on the CPU. An adapter in the directory is part of its weights.

    Raises
    ------
    OSError
        If it cannot be loaded, or is not causal; the message says what to do.
    """
    with loading_errors(name):
        if base := underlying(name):
            return attach_adapter(load_causal_model(*base, dtype), name).merge_and_unload().requires_grad_(True)
        model, missing = _load(AutoModelForCausalLM, name, dtype, revision)
        if not is_causal(model):
            raise ValueError(
                f"{type(model).__name__} is not a causal language model: its tokens see what follows them."
            )
        _check_complete(missing)
    return model


def load_base_model(name: str, dtype: torch.dtype, revision: str | None = None) -> PreTrainedModel | PeftModel:
    """Load a pretrained language model without its head, to embed with.

    Parameters
    ----------
    name : str
        A name on the model hub, or a local directory.
    dtype : torch.dtype
        The type of its weights.
    revision : str, default=None
        The commit on the hub; the newest by default.

    Returns
    -------
    transformers.PreTrainedModel or peft.PeftModel
        The model, in evaluation mode, on the CPU; with its head and its adapter, where the directory holds an adapter.

    Raises
    ------
    OSError
        If it cannot be loaded; the message says what to do.
    """
    with loading_errors(name):
        if base := underlying(name):
            return attach_adapter(load_causal_model(*base, dtype), name)
        model, missing = _load(AutoModel, name, dtype, revision)
        # The pooler of an encoder, on top of its last layer, is not used.
        _check_complete([weights for weights in missing if "pooler" not in weights])
    return model


@contextmanager
def loading_errors(name: str) -> Iterator[None]:
    """Load quietly, and say what to do where a model cannot be loaded.

    Parameters
    ----------
    name : str
        Its name.

    Yields
    ------
    None
        Nothing.

    Raises
    ------
    OSError
        Instead of any error that loading raises.
    """
    try:
        with quietly():
            yield
    except _BROKEN as error:
        raise OSError(
            f"The language model {name!r} could not be loaded: {_first_line(error)}\n"
            "1. A local model: pass the directory that holds its config.json, and its weights as safetensors; "
            f"{'it is there' if os.path.isdir(name) else 'there is no directory of this name here'}.\n"
            "2. A model of the hub: check its spelling (owner/name) and that this machine reaches the hub"
            f"{' (HF_HUB_OFFLINE is set, which forbids it)' if constants.HF_HUB_OFFLINE else ''}; "
            "download it once where it does, or copy its directory here.\n"
            "3. A gated model: accept its terms on its page, then log in with `hf auth login`.\n"
            "4. A model that is not a causal language model cannot be fine-tuned by next-token prediction: choose a "
            "decoder such as Llama, Qwen or GPT-2. An encoder such as BERT can embed as it is, with finetune=None; one "
            "with a decoder besides, such as T5, cannot.\n"
            "5. No model at all: LLMEmbedder() trains a small one from scratch, offline."
        ) from error


def _load(kind: Any, name: str, dtype: torch.dtype, revision: str | None) -> tuple[PreTrainedModel, list[str]]:
    model, report = kind.from_pretrained(
        name, dtype=dtype, revision=revision, output_loading_info=True, **NO_CODE, **_NO_PICKLE
    )
    return model.eval(), sorted(report["missing_keys"])


def _check_complete(missing: Sequence[str]) -> None:
    if missing:
        raise ValueError(f"{len(missing)} of its weights are not in its files, such as {missing[0]}.")


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the bar and the report that transformers shows while it loads or saves weights."""
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
