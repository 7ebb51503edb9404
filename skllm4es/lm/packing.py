"""Packs: several texts end to end in one row, without padding, attention or loss from one text to the next."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from skllm4es._compat import attention_of, supports_own_attention
from skllm4es.lm.architecture import FAILURES, evaluating, found_once
from skllm4es.lm.devices import rounded_up
from skllm4es.lm.sliced_loss import IGNORED
from skllm4es.lm.windows import Window

#: On a CPU, texts of up to so many tokens are attended in blocks of so many queries.
_SHORT_TEXT, _BLOCK = 512, 128


#: Name under which transformers finds `attend_within_texts`.
_PACKED_ATTENTION = "skllm4es_packed"

#: The windows of one pack.
Pack: TypeAlias = list[Window]


def make_packs(windows: Sequence[Window], capacity: int, longest: int | None = None) -> list[Pack]:
    """Gather windows that have something to predict into packs.

    Parameters
    ----------
    windows : sequence of Window
        The tokens of each text, long ones in several windows.
    capacity : int
        The most tokens in a pack; a longer window is a pack by itself.
    longest : int, default=None
        The most tokens of a window that shares its pack; by default the capacity.
    """
    useful = [window for window in windows if n_labels(window)]
    longest = capacity if longest is None else longest
    lengths = [len(window.ids) if len(window.ids) <= longest else capacity for window in useful]
    return [[useful[i] for i in positions] for positions in pack(lengths, capacity)]


def n_labels(window: Window) -> int:
    """Return how many tokens of a window are predicted: all but the first and those that an earlier window had."""
    return len(window.ids) - max(1, window.n_repeated)


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


def collate(windows: Pack) -> dict[str, Any]:
    """Lay the windows of one pack end to end as a batch of one row.

    Parameters
    ----------
    windows : list of Window
        The windows.

    Returns
    -------
    dict
        The arguments of the model: `input_ids`, `labels`, `position_ids`, each of shape (1, n_tokens), and
        `text_ends`, a tuple of the places where the windows end.
    """
    ids = [token for window in windows for token in window.ids]
    labels = []
    for window in windows:
        n_ignored = len(window.ids) - n_labels(window)
        labels += [IGNORED] * n_ignored + window.ids[n_ignored:]
    positions = [position for window in windows for position in range(len(window.ids))]
    return {
        "input_ids": torch.tensor([ids]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([positions]),
        "text_ends": tuple(np.cumsum([len(window.ids) for window in windows]).tolist()),
    }


def pad_pack(batch: dict[str, Any]) -> dict[str, Any]:
    """Fill a pack up to a number of tokens that other packs have, too; what is added is a text without labels.

    Parameters
    ----------
    batch : dict
        What `collate` returns, on any device.
    """
    ids = batch["input_ids"]
    n_tokens = ids.shape[1]
    n_added = rounded_up(n_tokens, ids.device) - n_tokens
    if not n_added:
        return batch
    positions = torch.arange(n_added, device=ids.device)[None]
    return batch | {
        "input_ids": functional.pad(ids, (0, n_added)),
        "labels": functional.pad(batch["labels"], (0, n_added), value=IGNORED),
        "position_ids": torch.cat([batch["position_ids"], positions], dim=1),
        "text_ends": (*batch["text_ends"], n_tokens + n_added),
    }


@contextmanager
def packed_attention(model: PreTrainedModel, enabled: bool = True) -> Iterator[None]:
    """Let a model attend within the texts of a pack."""
    usual = attention_of(model)
    if enabled:
        model.set_attn_implementation(_PACKED_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


@found_once
def can_pack(model: PreTrainedModel) -> bool:
    """Find out, by trying once, whether a model with its head keeps the texts of a pack apart.

    Two texts in one pack must have the logits that each has alone. A limit of attention to a number of tokens does not
    show in texts so short, and is looked up in the configuration.
    """
    return _has_full_attention(model) and _try_packing(model)


def _has_full_attention(model: PreTrainedModel) -> bool:
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    limits = ("sliding_window", "attention_chunk_size", "local_attention", "window_size")
    only_full = layers == {"full_attention"} and not any(getattr(config, name, None) for name in limits)
    return supports_own_attention(model) and only_full


@torch.inference_mode()
def _try_packing(model: PreTrainedModel) -> bool:
    vocab_size = model.config.get_text_config().vocab_size
    texts = [[(7 * i + shift) % vocab_size for i in range(n)] for n, shift in ((9, 1), (12, 3))]
    try:
        with evaluating(model):
            apart = [model(input_ids=torch.tensor([ids], device=model.device)).logits[0] for ids in texts]
            with packed_attention(model):
                arguments = collate([Window(ids, 0) for ids in texts])
                del arguments["labels"]
                tensors = {name: arguments[name].to(model.device) for name in ("input_ids", "position_ids")}
                packed = model(**tensors, text_ends=arguments["text_ends"]).logits[0]
    except FAILURES:
        return False  # What fails with packs is trained without them.
    expected = torch.cat(apart).float()
    tolerance = 1e-4 if model.dtype == torch.float32 else 2e-2
    return bool((packed.float() - expected).abs().max() <= tolerance * expected.abs().max())


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
        _attend(query[:, :, start:end], key[:, :, start:end], value[:, :, start:end], dropout, scaling)
        for start, end in zip(starts, ends, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, scaling: float | None
) -> torch.Tensor:
    """Attend causally within one text."""
    n_tokens = query.shape[2]
    if query.device.type == "cpu" and n_tokens <= _SHORT_TEXT:
        n_added = rounded_up(n_tokens, query.device) - n_tokens  # Behind the text, where none of it looks.
        query, key, value = (functional.pad(states[0], (0, 0, 0, n_added)) for states in (query, key, value))
        return _attend_in_blocks(query, key, value, dropout, scaling)[None, :, :n_tokens]
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        dropout_p=dropout,
        is_causal=True,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _attend_in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float, scaling: float | None
) -> torch.Tensor:
    """Attend by plain products, whose gradients take half the time of torch's fused kernel on a CPU.

    For 512 tokens of SmolLM2-135M in bfloat16, forward and backward: 15 instead of 32 ms a layer; for 130, 2.2 instead
    of 5.3 ms. Blocks of queries leave out most of what is masked.
    """
    n_heads, n_tokens, head_dim = query.shape
    # The heads that share keys and values attend together.
    scale = head_dim**-0.5 if scaling is None else scaling
    groups = (query * scale).reshape(len(key), n_heads // len(key), n_tokens, head_dim)
    outputs = []
    for start in range(0, n_tokens, _BLOCK):
        end = min(n_tokens, start + _BLOCK)
        block = groups[:, :, start:end].flatten(1, 2)
        scores = (block @ key[:, :end].transpose(1, 2)).view(n_heads, end - start, end)
        ahead = torch.full((end - start, end), float("-inf"), dtype=scores.dtype).triu(start + 1)
        weights = functional.dropout((scores + ahead).softmax(dim=-1), dropout)
        attended = weights.view(len(key), -1, end) @ value[:, :end]
        outputs.append(attended.view(n_heads, end - start, -1))
    return torch.cat(outputs, dim=1)


AttentionInterface.register(_PACKED_ATTENTION, attend_within_texts)
