"""The language model that is made from the texts alone: a byte-level tokenizer and a small Llama of fitting size."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from skllm4es._messages import did_you_mean

BOS, EOS, PAD = "<s>", "</s>", "<pad>"

VOCAB_SIZE = 8192
#: Of these, so many for pieces of words; the others for field values.
_PIECES = 4096
#: Field values that so many users share are tokens by themselves, unless they are as short as a word's piece.
_MIN_USERS, _MIN_LETTERS = 5, 4
_MAX_LETTERS = 128
#: Whatever `EventSerializer` puts between the fields of an event.
_BETWEEN_VALUES = re.compile(r'[|\n\t;"]|,(?! )|, ')
_N_POSITIONS = 512
#: Width of an attention head. The model has as many layers as heads, but four at the least: there is a depth to choose.
_HEAD, _MAX_HEADS = 32, 24
_MIN_LAYERS = 4


def new_model(
    tokenizer: PreTrainedTokenizerFast, n_params: int, config: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """Make a small Llama with random weights.

    Draws from torch's global random state: seed it first.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        Its tokenizer.
    n_params : int
        About how many weights it shall have.
    config : mapping, default=None
        Settings of `transformers.LlamaConfig` that replace those of this Llama.

    Returns
    -------
    transformers.LlamaForCausalLM
        The model in float32, in evaluation mode, on the CPU.
    """
    n_heads = _n_heads(n_params, len(tokenizer))
    settings: dict[str, Any] = {
        "hidden_size": _HEAD * n_heads,
        "num_hidden_layers": max(_MIN_LAYERS, n_heads),
        "max_position_embeddings": _N_POSITIONS,
        "tie_word_embeddings": True,
    }
    settings |= config or {}
    settings = {
        "intermediate_size": 3 * settings["hidden_size"],
        "num_attention_heads": max(1, settings["hidden_size"] // _HEAD),
    } | settings
    settings |= {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return LlamaForCausalLM(LlamaConfig(**settings)).eval()


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse settings that a Llama does not have.

    Parameters
    ----------
    config : mapping
        Settings of `transformers.LlamaConfig`.

    Raises
    ------
    ValueError
        If one of them is unknown.
    """
    known = LlamaConfig().to_dict()
    unknown = [name for name in config if name not in known]
    if unknown:
        hint = did_you_mean(unknown, known) or " See its documentation for their names."
        raise ValueError(f"The settings {unknown} are not of transformers.LlamaConfig.{hint}")


def train_tokenizer(texts: Sequence[str], vocab_size: int, users: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which can write any text, and for which common field values are one token each.

    Parameters
    ----------
    texts : sequence of str
        The texts.
    vocab_size : int
        The largest number of tokens: 4,096 for pieces of words, the others for field values. Small corpora give fewer.
    users : sequence of str, default=()
        One text of each user, where field values are looked for, between the separators of the serialised form. They
        are recognised in all formats.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        The tokenizer, which puts ``<s>`` before each text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocab_size, _PIECES),
        min_frequency=2,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    values = _common_values(users)[: max(0, vocab_size - _PIECES)]
    tokenizer.add_tokens([AddedToken(value, single_word=True, normalized=False) for value in values])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    trained = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD)
    # tokenizers 0.23 never frees its cache of words: a hundred kilobytes a fit. Without it, a quarter more time.
    trained.backend_tokenizer.model._resize_cache(0)
    return trained


def _common_values(users: Sequence[str]) -> list[str]:
    """Find the field values that several users share, the most common first."""
    counts = Counter(value for text in users for value in filter(_is_a_phrase, set(_BETWEEN_VALUES.split(text))))
    common = [value for value, count in counts.items() if count >= _MIN_USERS]
    return sorted(common, key=lambda value: (-counts[value], value))


def _is_a_phrase(value: str) -> bool:
    """Whether a field value may be a token: words, that a byte-level decoder gives back as they are."""
    return (
        _MIN_LETTERS <= len(value) <= _MAX_LETTERS
        and value.isascii()
        and value == value.strip()
        and any(map(str.isalpha, value))
        and value not in (BOS, EOS, PAD)
    )


def _n_heads(n_params: int, vocab_size: int) -> int:
    """Find the number of heads of the Llama whose number of weights is nearest to the one wanted."""

    def difference(n_heads: int) -> int:
        width = _HEAD * n_heads
        # Tied embeddings; in each layer 4 products of width^2 in attention and 9 in the feed-forward part.
        return abs(vocab_size * width + max(_MIN_LAYERS, n_heads) * 13 * width**2 - n_params)

    return min(range(1, _MAX_HEADS + 1), key=difference)
