"""Read what transformers reads, quietly, without running code or pickles, and with remedies where it fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from skllm4es.lm.architecture import FAILURES, FORWARD, is_causal
from skllm4es.lm.seeding import PROCESS_STATE

#: Without this, transformers asks at the terminal whether to run the code that comes with a model.
NO_CODE = {"trust_remote_code": False}
#: Other files of weights are pickles.
_NO_PICKLE = {"use_safetensors": True}

#: What transformers raises for missing or malformed files.
_LOADING_ERRORS = (*FAILURES, OSError, ImportError, SafetensorError)

#: What to do where a GGUF file cannot be read.
_GGUF_REMEDIES = (
    "1. A file that is missing, cut off or foreign: check its path and size, or download it again, for example with "
    "`hf download OWNER/NAME FILE.gguf --local-dir .`.\n"
    "2. An architecture or type of weights that cannot be read: a newer version of transformers or gguf may read it "
    "(`pip install --upgrade transformers gguf`).\n"
    "3. Otherwise pass the directory or hub name of the original model, with its weights as safetensors."
)


def read_config(name: str, revision: str | None) -> PretrainedConfig:
    """Read the configuration of a pretrained model."""
    config: PretrainedConfig = AutoConfig.from_pretrained(name, revision=revision, **NO_CODE)
    return config


def read_tokenizer(name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Read a pretrained tokenizer."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, revision=revision, **NO_CODE)
    return tokenizer


def read_causal_model(name: str, revision: str | None, dtype: torch.dtype) -> PreTrainedModel:
    """Read a causal language model with its head, in evaluation mode, onto the CPU.

    Raises
    ------
    ValueError
        If the model is not causal, or some of its weights are missing.
    """
    model, missing = _read(AutoModelForCausalLM, name, revision, dtype)
    if not is_causal(model):
        raise ValueError(f"{type(model).__name__} is not a causal language model: its tokens see what follows them.")
    check_complete(missing)
    return model


def read_base_model(name: str, revision: str | None, dtype: torch.dtype) -> PreTrainedModel:
    """Read a language model without its head, in evaluation mode, onto the CPU.

    Raises
    ------
    ValueError
        If some of its weights are missing.
    """
    model, missing = _read(AutoModel, name, revision, dtype)
    # The pooler of an encoder, on top of its last layer, is not used.
    check_complete([weights for weights in missing if "pooler" not in weights])
    return model


def _read(kind: Any, name: str, revision: str | None, dtype: torch.dtype) -> tuple[PreTrainedModel, list[str]]:
    """Read a model; return it and the names of the weights that are not in its files."""
    with FORWARD:  # Until it is read, `dtype` is the one of all new tensors of the process.
        model, report = kind.from_pretrained(
            name, dtype=dtype, revision=revision, output_loading_info=True, **NO_CODE, **_NO_PICKLE
        )
    return model.eval(), sorted(report["missing_keys"])


def check_complete(missing: list[str]) -> None:
    """Reject a model some of whose weights are not in its files."""
    if missing:
        raise ValueError(f"{len(missing)} of its weights are not in its files, such as {missing[0]}.")


@contextmanager
def loading_errors(name: str) -> Iterator[None]:
    """Load quietly, and raise an OSError that says what to do where a model cannot be loaded.

    Parameters
    ----------
    name : str
        The name of the model.
    """
    try:
        with quietly():
            yield
    except _LOADING_ERRORS as error:
        if name.endswith(".gguf") or os.path.isfile(name):
            raise OSError(f"The file {name!r} could not be loaded: {_first_line(error)}\n{_GGUF_REMEDIES}") from error
        raise OSError(
            f"The language model {name!r} could not be loaded: {_first_line(error)}\n"
            "1. A local model: pass a GGUF file, or the directory that holds its config.json, and its weights as "
            f"safetensors; {'the directory exists' if os.path.isdir(name) else 'there is no directory of this name'}.\n"
            "2. A model on the hub: check its spelling (owner/name), and that this machine reaches the hub"
            f"{' (HF_HUB_OFFLINE is set, which forbids it)' if constants.HF_HUB_OFFLINE else ''}; "
            "otherwise download it once on a machine that does, and copy its directory here.\n"
            "3. A gated model: accept its terms on its page, then log in with `hf auth login`.\n"
            "4. The type of the model: training and rewriting need a causal language model, such as Llama, Qwen or "
            "GPT-2. An encoder such as BERT can only embed, without fine-tuning; an encoder-decoder such as T5 can do "
            "neither.\n"
            "5. No pretrained model at hand: `LLMEmbedder()` trains a small one from scratch, offline."
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the progress bar and the report that transformers shows while it loads or saves weights."""
    with PROCESS_STATE:
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
