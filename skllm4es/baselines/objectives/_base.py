"""The base of the objectives, and the slices that most of them train on."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from skllm4es.baselines._encoder import Batch, EventEncoder
from skllm4es.baselines._sequences import Slices


class Objective(nn.Module):
    """Draws slices of users' histories, and computes the loss of an encoder on a batch of them.

    A slice has `min_length` to `max_length` events; a shorter history is used whole. Where a subclass takes an encoder,
    it uses only its sizes.
    """

    #: The number of events that a training user needs.
    min_events: ClassVar[int] = 2
    #: Whether users are contrasted: a batch then mixes all lengths, and two users are needed.
    contrasts_users: ClassVar[bool] = False

    def __init__(self, min_length: int, max_length: int) -> None:
        super().__init__()
        self.min_length, self.max_length = min_length, max_length

    def draw(self, users: Slices, rng: np.random.Generator) -> Slices:
        """Draw the slices of one epoch, of shape (n_users, n_slices): here, one per user."""
        return draw_slices(users, 1, self.min_length, self.max_length, rng)

    def forward(self, encoder: EventEncoder, batch: Batch) -> Tensor:
        """Return the loss. The slices of a user are adjacent in the batch."""
        raise NotImplementedError


def draw_slices(users: Slices, n_slices: int, min_length: int, max_length: int, rng: np.random.Generator) -> Slices:
    """Draw slices of each history, of uniform length between the bounds and at a uniform place."""
    shape = (len(users), n_slices)
    lengths = rng.integers(np.minimum(min_length, users.lengths), np.minimum(max_length, users.lengths) + 1, shape)
    starts = users.starts + rng.integers(0, users.lengths - lengths + 1, shape)
    return Slices(starts, lengths)
