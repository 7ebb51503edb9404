"""The encoder that all neural baselines share: events to vectors, vectors to states, states to one vector per user.

Everything here is causal and padding is at the end, so a state depends only on the events up to its own; `pool` never
reads padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

N_HEADS = 4
DROPOUT = 0.1


@dataclass(frozen=True)
class Schema:
    """What the encoder knows about the events."""

    n_categories: tuple[int, ...]  # of each categorical field; their codes begin at 1, and 0 is unknown
    embedding_sizes: tuple[int, ...]  # of each categorical field
    has_missing: tuple[bool, ...]  # whether each number may be missing

    @property
    def n_numbers(self) -> int:
        """Number of numbers of an event."""
        return len(self.has_missing)

    @property
    def event_size(self) -> int:
        """Size of the vector of an event."""
        return sum(self.embedding_sizes) + self.n_numbers + sum(self.has_missing)


@dataclass(frozen=True)
class Batch:
    """Padded sequences of events."""

    codes: Tensor  # of shape (n_sequences, width, n_fields), int64: the categories
    numbers: Tensor  # of shape (n_sequences, width, n_numbers), float32, scaled; NaN is missing
    elapsed: Tensor  # of shape (n_sequences, width), float64: the time, from an arbitrary point on
    lengths: Tensor  # of shape (n_sequences,), int64: the number of events that are not padding
    users: Tensor | None = None  # of shape (n_sequences,), int64: whose events they are, if cut from those of users

    @cached_property
    def mask(self) -> Tensor:
        """Whether each event is not padding, of shape (n_sequences, width)."""
        return torch.arange(self.codes.shape[1], device=self.lengths.device) < self.lengths[:, None]

    def replace_events(self, where: Tensor, rows: Tensor) -> Batch:
        """Replace the events where `where` is true by those at `rows` of the batch read row by row."""
        codes, numbers = self.codes.clone(), self.numbers.clone()
        codes[where] = self.codes.flatten(0, 1)[rows]
        numbers[where] = self.numbers.flatten(0, 1)[rows]
        return Batch(codes, numbers, self.elapsed, self.lengths)


class EventEncoder(nn.Module):
    """Event vectors (embeddings and scaled numbers) and a recurrent network or a Transformer over them."""

    def __init__(self, schema: Schema, kind: str, hidden_size: int, n_layers: int) -> None:
        super().__init__()
        self.schema, self.kind, self.hidden_size = schema, kind, hidden_size
        # An unknown category is a vector of zeros, since it has nothing to learn from.
        self.embeddings = nn.ModuleList(
            nn.Embedding(n + 1, size, padding_idx=0)
            for n, size in zip(schema.n_categories, schema.embedding_sizes, strict=True)
        )
        network = {"gru": nn.GRU, "lstm": nn.LSTM}.get(kind)
        self.network: nn.Module
        if network is None:
            self.network = CausalTransformer(schema.event_size, hidden_size, n_layers)
        else:
            self.network = network(schema.event_size, hidden_size, n_layers, batch_first=True)

    def embed_events(self, batch: Batch) -> Tensor:
        """Return the vector of each event, of shape (n_sequences, width, event_size)."""
        parts = [embedding(codes) for embedding, codes in zip(self.embeddings, batch.codes.unbind(2), strict=True)]
        missing = batch.numbers.isnan()
        parts.append(batch.numbers.masked_fill(missing, 0.0))
        if any(self.schema.has_missing):
            parts.append(missing[:, :, list(self.schema.has_missing)].float())
        return torch.cat(parts, dim=2)

    def contextualise(self, vectors: Tensor) -> Tensor:
        """Return the state after each event, of shape (n_sequences, width, hidden_size)."""
        # Not packed: on a CPU, the gradient of a packed GRU takes 2 to 7 times as long.
        states = self.network(vectors)
        return states if self.kind == "transformer" else states[0]

    def forward(self, batch: Batch) -> Tensor:
        """Return the state after each event, of shape (n_sequences, width, hidden_size)."""
        return self.contextualise(self.embed_events(batch))

    def embed(self, batch: Batch, pooling: str) -> Tensor:
        """Return one vector per sequence, of shape (n_sequences, hidden_size)."""
        return pool(self(batch), batch, pooling)


def pool(states: Tensor, batch: Batch, pooling: str) -> Tensor:
    """Return the last state of each sequence, or the mean of its states."""
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), batch.lengths - 1]
    return states.masked_fill(~batch.mask[:, :, None], 0.0).sum(dim=1) / batch.lengths[:, None]


class CausalTransformer(nn.Module):
    """A Transformer in which an event attends to itself and to those before it, as in GPT-2."""

    def __init__(self, input_size: int, hidden_size: int, n_layers: int) -> None:
        super().__init__()
        self.project = nn.Linear(input_size, hidden_size)
        self.layers = nn.ModuleList(CausalLayer(hidden_size) for _ in range(n_layers))
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the state after each event."""
        hidden = self.project(vectors)
        hidden = hidden + _positions(hidden.shape[1], hidden.shape[2], hidden.device)
        for layer in self.layers:
            hidden = layer(hidden)
        normed: Tensor = self.norm(hidden)
        return normed


class CausalLayer(nn.Module):
    """Attention to the events so far, and a network on each."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.attention_norm, self.network_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attend, self.merge = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.network = nn.Sequential(
            nn.Linear(size, 4 * size), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(4 * size, size)
        )
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the state after each event."""
        hidden = hidden + self.dropout(self.merge(self._attend(self.attention_norm(hidden))))
        return hidden + self.dropout(self.network(self.network_norm(hidden)))

    def _attend(self, hidden: Tensor) -> Tensor:
        # Not nn.MultiheadAttention: with its mask, memory grows with the square of the length of a history.
        query, key, value = self.attend(hidden).unflatten(2, (3, N_HEADS, -1)).permute(2, 0, 3, 1, 4)
        dropout = DROPOUT if self.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return attended.transpose(1, 2).flatten(2)


def _positions(width: int, size: int, device: torch.device) -> Tensor:
    """Return sines and cosines of the positions, which, unlike learned vectors, have no maximum length."""
    # A model that another thread reads may change the default dtype for a while.
    rates = torch.exp(torch.arange(0, size, 2, dtype=torch.float32, device=device) * (-math.log(10_000.0) / size))
    angles = torch.arange(width, dtype=torch.float32, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
