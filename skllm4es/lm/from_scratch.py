"""The language model that is made from the texts alone: a byte-level tokenizer, and a Llama of a suitable size."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from skllm4es._compat import disable_word_cache

BOS, EOS, PAD = "<s>", "</s>", "<pad>"

VOCAB_SIZE = 8192
#: How many of these are pieces of words; the others are field values.
_PIECES = 4096
#: Field values that this many users share are tokens by themselves, unless they are as short as a piece of a word.
_MIN_USERS, _MIN_LETTERS = 5, 4
_MAX_LETTERS = 128
#: Whatever `EventSerializer` puts between the fields of an event.
_BETWEEN_VALUES = re.compile(r'[|\n\t;"]|,(?! )|, ')
#: What a token does not reach beyond: GPT-2's words, and the separators around empty fields, so that an event in which
#: most fields are empty (``lab, , , , 7``) takes few tokens.
_WORDS = (
    r",?(?: ,)+(?!\S)"
    r"|'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
_N_POSITIONS = 512
#: Width of an attention head. The model has as many layers as heads, but at least four, so that there is a depth to
#: choose.
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
        About how many weights it has.
    config : mapping, default=None
        Settings of `transformers.LlamaConfig` that replace those of this Llama.

    Returns
    -------
    transformers.LlamaForCausalLM
        The model in float32, in evaluation mode, on the CPU.
    """
    config = config or {}
    n_heads = _n_heads(n_params, len(tokenizer), config)
    settings: dict[str, Any] = {
        "hidden_size": _HEAD * n_heads,
        "num_hidden_layers": max(_MIN_LAYERS, n_heads),
        "max_position_embeddings": _N_POSITIONS,
        "tie_word_embeddings": True,
    }
    settings |= config
    settings = {
        "intermediate_size": 3 * settings["hidden_size"],
        "num_attention_heads": _n_heads_of(settings["hidden_size"]),
    } | settings
    settings |= {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return LlamaForCausalLM(LlamaConfig(**settings)).eval()


def train_tokenizer(texts: Sequence[str], vocab_size: int, users: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that can write any text, and whose common field values are one token each.

    Parameters
    ----------
    texts : sequence of str
        The texts.
    vocab_size : int
        The largest number of tokens: 4,096 for pieces of words, the others for field values. Small corpora have fewer.
    users : sequence of str, default=()
        One text of each user, in which field values are found between the separators of the serialised form. They are
        recognised in all formats.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        The tokenizer, which puts ``<s>`` before each text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
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
    disable_word_cache(trained)
    return trained


def _common_values(users: Sequence[str]) -> list[str]:
    """Find the field values that several users share, the most common first."""
    counts = Counter(value for text in users for value in filter(_is_a_phrase, set(_BETWEEN_VALUES.split(text))))
    common = [value for value, count in counts.items() if count >= _MIN_USERS]
    return sorted(common, key=lambda value: (-counts[value], value))


def _is_a_phrase(value: str) -> bool:
    """Return whether a field value may be a token: words that a byte-level decoder restores as they are."""
    return (
        _MIN_LETTERS <= len(value) <= _MAX_LETTERS
        and value.isascii()
        and value == value.strip()
        and any(map(str.isalpha, value))
        and value not in (BOS, EOS, PAD)
    )


def _n_heads(n_params: int, vocab_size: int, config: Mapping[str, Any]) -> int:
    """Find the number of heads with which a Llama of this configuration comes nearest to a number of weights."""

    def difference(n_heads: int) -> int:
        width = _HEAD * n_heads
        n_layers = config.get("num_hidden_layers", max(_MIN_LAYERS, n_heads))
        of_attention = 4 * width**2
        of_feed_forward = 3 * width * config.get("intermediate_size", 3 * width)
        n_tables = 1 if config.get("tie_word_embeddings", True) else 2
        return abs(n_tables * vocab_size * width + n_layers * (of_attention + of_feed_forward) - n_params)

    return min(range(1, _MAX_HEADS + 1), key=difference)


def _n_heads_of(width: int) -> int:
    """Return the largest number of heads of at least 32 dimensions, an even number each, that divides a width."""
    return next((n_heads for n_heads in range(width // _HEAD, 1, -1) if width % (2 * n_heads) == 0), 1)
