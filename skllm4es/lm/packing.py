"""From texts to token sequences that fit the model's window, and from sequences to full batches.

Fine-tuning packs several texts into one window without padding, and without attention or loss from one text to the
next; pooling splits long texts in the same way.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel, PreTrainedTokenizerBase

from skllm4es.serialize._lines import end_of_line
from skllm4es.serialize._serialised import end_of_instruction

#: Label that the loss leaves out, as transformers has it.
IGNORED = -100

#: Name under which transformers finds `attend_within_texts`.
PACKED_ATTENTION = "skllm4es_packed"

#: Characters of texts that are turned into tokens at once: a tokenizer holds a hundred bytes for each token meanwhile.
_AT_ONCE = 2**24


@dataclass(frozen=True)
class Tokenized:
    """The tokens of one text.

    Parameters
    ----------
    ids : list of int
        The tokens.
    lines : list of int
        Where the second, third, ... line begins; empty where it was not asked for.
    body : int
        Where the events begin, behind an instruction and the header line; 0 where it was not asked for.
    """

    ids: list[int]
    lines: list[int]
    body: int


@dataclass(frozen=True)
class Window:
    """Tokens that the model sees at once: a text, or a part of one behind its header.

    Parameters
    ----------
    ids : list of int
        The tokens.
    n_header : int
        How many of the first are instruction and header line; 0 where it was not asked for.
    """

    ids: list[int]
    n_header: int


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, *, headers: bool = False
) -> list[Tokenized]:
    """Turn texts into tokens, special tokens at the beginning included.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        A fast tokenizer.
    texts : sequence of str
        The texts.
    max_length : int
        Texts with more tokens than this also get the places where their lines begin, and their events.
    headers : bool, default=False
        Whether all texts get these.

    Returns
    -------
    list of Tokenized
        One entry a text, none without tokens.
    """
    encoded: list[list[int]] = []
    for group in groups_of(texts):
        encoded += tokenizer(group, add_special_tokens=True, return_attention_mask=False, verbose=False)["input_ids"]
    filler = next(
        token
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
        if token is not None
    )
    return [
        Tokenized(ids or [filler], *(_line_starts(tokenizer, text) if headers or len(ids) > max_length else ([], 0)))
        for text, ids in zip(texts, encoded, strict=True)
    ]


def groups_of(texts: Sequence[str]) -> Iterator[list[str]]:
    """Part texts into groups that fit into memory as tokens.

    Parameters
    ----------
    texts : sequence of str
        The texts.

    Yields
    ------
    list of str
        Some of the texts, in order: as many as have 16 million characters together, at least one.
    """
    group: list[str] = []
    n_characters = 0
    for text in texts:
        if group and n_characters + len(text) > _AT_ONCE:
            yield group
            group, n_characters = [], 0
        group.append(text)
        n_characters += len(text)
    if group:
        yield group


def split(tokens: Tokenized, max_length: int) -> list[Window]:
    """Split a text that is longer than the window, between events where possible, its header repeated.

    Parameters
    ----------
    tokens : Tokenized
        The text.
    max_length : int
        The window.

    Returns
    -------
    list of Window
        Sequences of at most `max_length` tokens, in order.
    """
    if len(tokens.ids) <= max_length:
        return [Window(tokens.ids, tokens.body)]
    header = _header(tokens, max_length)
    room = max_length - len(header)
    windows = []
    start = len(header)
    while start < len(tokens.ids):
        end = _last_line_start(tokens.lines, start, start + room)
        if start + room >= len(tokens.ids):
            end = len(tokens.ids)
        windows.append(Window(header + tokens.ids[start:end], len(header)))
        start = end
    return windows


def truncate(tokens: Tokenized, max_length: int) -> Window:
    """Cut a text that is longer than the window: keep its header and its latest events.

    Parameters
    ----------
    tokens : Tokenized
        The text.
    max_length : int
        The window.

    Returns
    -------
    Window
        At most `max_length` tokens.
    """
    if len(tokens.ids) <= max_length:
        return Window(tokens.ids, tokens.body)
    header = _header(tokens, max_length)
    start = len(tokens.ids) - (max_length - len(header))
    at_line = bisect_left(tokens.lines, start)
    if at_line < len(tokens.lines):
        start = tokens.lines[at_line]
    return Window(header + tokens.ids[start:], len(header))


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Gather sequences into packs by best fit, longest first.

    Parameters
    ----------
    lengths : sequence of int
        The length of each sequence, none above `capacity`.
    capacity : int
        The largest sum of lengths in a pack.

    Returns
    -------
    list of list of int
        The positions of the sequences of each pack.
    """
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # sorted (room left, pack)
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect_left(rooms, (lengths[position], -1))
        if at == len(rooms):
            room, number = capacity, len(packs)
            packs.append([])
        else:
            room, number = rooms.pop(at)
        packs[number].append(position)
        insort(rooms, (room - lengths[position], number))
    return packs


def collate(pack_of_ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Lay the sequences of one pack end to end as a batch of one row.

    Parameters
    ----------
    pack_of_ids : sequence of sequence of int
        The sequences.

    Returns
    -------
    dict
        The arguments of the model: `input_ids`, `labels`, `position_ids`, each of shape (1, n_tokens), and
        `text_ends`, a tuple of the places where the sequences end.
    """
    ids = [token for sequence in pack_of_ids for token in sequence]
    labels = [label for sequence in pack_of_ids for label in (IGNORED, *sequence[1:])]
    positions = [position for sequence in pack_of_ids for position in range(len(sequence))]
    return {
        "input_ids": torch.tensor([ids]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([positions]),
        "text_ends": tuple(np.cumsum([len(sequence) for sequence in pack_of_ids]).tolist()),
    }


def can_pack(model: PreTrainedModel) -> bool:
    """Whether the model's attention can be replaced by `attend_within_texts`: full attention in every layer."""
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    only_full = layers == {"full_attention"} and not getattr(config, "sliding_window", None)
    return bool(getattr(model, "_supports_attention_backend", False)) and only_full


def attend_within_texts(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    text_ends: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each of the texts that lie end to end in a row.

    One scaled dot product a text: on a CPU, a block mask over the row costs four times as much.

    Parameters
    ----------
    module : torch.nn.Module
        The attention layer.
    query, key, value : torch.Tensor of shape (1, n_heads, n_tokens, head_dim)
        What to attend with; keys and values may have fewer heads.
    attention_mask : None
        Ignored: there is no padding.
    dropout : float
        Share of attention weights to drop.
    scaling : float, default=None
        Scale of the dot product.
    text_ends : sequence of int, default=None
        Where the texts end; the whole row is one text by default.
    **kwargs : dict
        Ignored.

    Returns
    -------
    output : torch.Tensor of shape (1, n_tokens, n_heads, head_dim)
        What was attended to.
    weights : None
        Not computed.
    """
    ends = list(text_ends) if text_ends is not None else [query.shape[2]]
    starts = [0, *ends[:-1]]
    outputs = [
        functional.scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            dropout_p=dropout,
            is_causal=True,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for start, end in zip(starts, ends, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(PACKED_ATTENTION, attend_within_texts)


def _header(tokens: Tokenized, max_length: int) -> list[int]:
    """Give the tokens to repeat in each window: instruction and header line, or the first line, if half of it is left.

    They are none where even the first line fills more than half of the window.
    """
    first_line = tokens.lines[0] if tokens.lines else 0
    length = next((length for length in (tokens.body, first_line) if length <= max_length // 2), 0)
    return tokens.ids[:length]


def _last_line_start(lines: Sequence[int], after: int, limit: int) -> int:
    """Find the last place at or before `limit` where a line begins, or `limit` where one line fills the whole room."""
    at = bisect_left(lines, limit + 1) - 1
    return lines[at] if at >= 0 and lines[at] > after else limit


def _line_starts(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], int]:
    """Find the tokens with which the second, third, ... line of a text begin, and the one with which its events do."""
    offsets = tokenizer(text, add_special_tokens=True, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    # Special tokens at the end have the offset 0; the search below needs rising ones.
    starts = np.maximum.accumulate([start for start, _ in offsets])
    breaks = np.array([position + 1 for position, character in enumerate(text) if character == "\n"], dtype=np.int64)
    found = np.unique(np.searchsorted(starts, breaks))
    body = np.searchsorted(starts, end_of_line(text, end_of_instruction(text)) + 1)
    return found[found < len(starts)].tolist(), int(body) if body < len(starts) else 0
