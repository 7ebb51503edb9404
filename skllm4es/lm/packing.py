"""Packs: several texts end to end in one row, without padding, attention or loss from one text to the next."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from skllm4es._compat import attention_of
from skllm4es.lm.architecture import can_pack

#: Label that the loss leaves out, as in transformers.
IGNORED = -100

#: Name under which transformers finds `attend_within_texts`.
_PACKED_ATTENTION = "skllm4es_packed"

#: The sequences of tokens of one pack.
Pack = list[Sequence[int]]


def make_packs(sequences: Sequence[Sequence[int]], capacity: int) -> list[Pack]:
    """Gather sequences that have something to predict into packs.

    Parameters
    ----------
    sequences : sequence of sequence of int
        The tokens of each text.
    capacity : int
        The most tokens in a pack; a longer text is a pack by itself.
    """
    useful = [sequence for sequence in sequences if len(sequence) > 1]
    lengths = [min(len(sequence), capacity) for sequence in useful]
    return [[useful[i] for i in positions] for positions in pack(lengths, capacity)]


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


def collate(sequences: Pack) -> dict[str, Any]:
    """Lay the sequences of one pack end to end as a batch of one row.

    Parameters
    ----------
    sequences : list of sequence of int
        The sequences.

    Returns
    -------
    dict
        The arguments of the model: `input_ids`, `labels`, `position_ids`, each of shape (1, n_tokens), and
        `text_ends`, a tuple of the places where the sequences end.
    """
    ids = [token for sequence in sequences for token in sequence]
    labels = [label for sequence in sequences for label in (IGNORED, *sequence[1:])]
    positions = [position for sequence in sequences for position in range(len(sequence))]
    return {
        "input_ids": torch.tensor([ids]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([positions]),
        "text_ends": tuple(np.cumsum([len(sequence) for sequence in sequences]).tolist()),
    }


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model attend within texts while it trains, if it can."""
    usual = attention_of(model)
    if can_pack(model):
        model.set_attn_implementation(_PACKED_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


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
    """Attend causally within each of the texts that lie end to end in a row.

    One scaled dot product per text: on a CPU, a block mask over the row costs four times as much.

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
        The attended values.
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


AttentionInterface.register(_PACKED_ATTENTION, attend_within_texts)
