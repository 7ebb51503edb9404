"""Where the language model and its tokenizer come from: a hub name, a local directory, or texts alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from skllm4es._messages import did_you_mean
from skllm4es.lm.pooling import is_causal

BOS, EOS, PAD = "<s>", "</s>", "<pad>"

#: The model that is trained from scratch where none is named. Measured on MovieLens 100k on 2 CPU cores.
SMALL_LLAMA = {
    "vocab_size": 4096,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


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
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, revision=revision)
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
        The model, in evaluation mode, on the CPU.

    Raises
    ------
    OSError
        If it cannot be loaded, or is not causal; the message says what to do.
    """
    with loading_errors(name):
        model, missing = _load(AutoModelForCausalLM, name, dtype, revision)
        if not is_causal(model):
            raise ValueError(
                f"{type(model).__name__} is not a causal language model: its tokens see what follows them."
            )
        _check_complete(missing)
    return model


def load_base_model(name: str, dtype: torch.dtype, revision: str | None = None) -> PreTrainedModel:
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
    transformers.PreTrainedModel
        The model, in evaluation mode, on the CPU.

    Raises
    ------
    OSError
        If it cannot be loaded; the message says what to do.
    """
    with loading_errors(name):
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
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise OSError(
            f"The language model {name!r} could not be loaded: {_first_line(error)}\n"
            "1. A local model: pass the directory that holds its config.json; "
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


def new_model(
    texts: Sequence[str], config: Mapping[str, Any] | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Make a small Llama with random weights and train a tokenizer for it.

    Draws from torch's global random state: seed it first.

    Parameters
    ----------
    texts : sequence of str
        The texts that the tokenizer is trained on.
    config : mapping, default=None
        Settings of `transformers.LlamaConfig` that replace those of the small Llama.

    Returns
    -------
    model : transformers.LlamaForCausalLM
        The model in float32, in evaluation mode, on the CPU.
    tokenizer : transformers.PreTrainedTokenizerFast
        A byte-level BPE tokenizer, which puts ``<s>`` before each text.
    """
    _check_settings(config or {})
    settings = {**SMALL_LLAMA, **(config or {})}
    tokenizer = train_tokenizer(texts, settings["vocab_size"])
    settings |= {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return LlamaForCausalLM(LlamaConfig(**settings)).eval(), tokenizer


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which can write any text.

    Parameters
    ----------
    texts : sequence of str
        The texts.
    vocab_size : int
        The largest number of tokens; small corpora give fewer.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        The tokenizer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD)


def _check_settings(config: Mapping[str, Any]) -> None:
    known = LlamaConfig().to_dict()
    unknown = [name for name in config if name not in known]
    if unknown:
        hint = did_you_mean(unknown, known) or " See its documentation for their names."
        raise ValueError(f"The settings {unknown} are not of transformers.LlamaConfig.{hint}")


def _load(kind: Any, name: str, dtype: torch.dtype, revision: str | None) -> tuple[PreTrainedModel, list[str]]:
    model, report = kind.from_pretrained(name, dtype=dtype, revision=revision, output_loading_info=True)
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
