"""CoLES: slices of one history are similar, those of different users are not.

With ``u`` the embeddings of slices scaled to length 1, ``P`` all pairs of slices of one user, ``N`` the pairs of each
slice with the `n_negatives` nearest slices of other users, and ``m`` the margin::

    L = ( sum_P |u_i - u_j|^2 + sum_N max(0, m - |u_i - u_j|)^2 ) / (|P| + |N|)

Babaev et al., "CoLES: Contrastive Learning for Event Sequences with Self-Supervision", SIGMOD 2022, arXiv 2002.08232.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from skllm4es.baselines._encoder import Batch, EventEncoder
from skllm4es.baselines._sequences import Slices
from skllm4es.baselines.objectives._base import Objective, draw_slices


class CoLES(Objective):
    """See the module; the parameters are those of `CoLESEmbedder`."""

    min_events = 1
    contrasts_users = True

    def __init__(
        self, n_slices: int, min_length: int, max_length: int, margin: float, n_negatives: int, pooling: str
    ) -> None:
        super().__init__(min_length, max_length)
        self.n_slices, self.margin, self.n_negatives, self.pooling = n_slices, margin, n_negatives, pooling

    def draw(self, users: Slices, rng: np.random.Generator) -> Slices:
        """Draw several slices of each user."""
        return draw_slices(users, self.n_slices, self.min_length, self.max_length, rng)

    def forward(self, encoder: EventEncoder, batch: Batch) -> Tensor:
        """Return the loss."""
        embeddings = encoder.embed(batch, self.pooling)
        users = torch.arange(len(embeddings), device=embeddings.device) // self.n_slices
        return contrastive_loss(nn.functional.normalize(embeddings, dim=1), users, self.margin, self.n_negatives)


def contrastive_loss(embeddings: Tensor, users: Tensor, margin: float, n_negatives: int) -> Tensor:
    """Return the loss of embeddings of slices, of shape (n, size), given the users of the slices, of shape (n,)."""
    squares = embeddings.square().sum(1)[:, None] + embeddings.square().sum(1) - 2 * embeddings @ embeddings.T
    squares = squares.clamp(min=1e-12)  # The root has no gradient at 0.
    same = users[:, None] == users
    positives = squares[same.triu(diagonal=1)]
    distances = squares.sqrt().masked_fill(same, torch.inf)
    n_nearest = min(n_negatives, len(users) - int(same.sum(1).max()))
    nearest = distances.topk(n_nearest, dim=1, largest=False).values
    negatives = (margin - nearest).clamp(min=0).square()
    return (positives.sum() + negatives.sum()) / max(positives.numel() + negatives.numel(), 1)
