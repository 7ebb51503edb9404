"""NSP: a network on two embeddings decides whether the second slice follows the first, or is another user's.

Slices are cut in two at a uniform place in their middle half; ``l_i`` and ``r_i`` are the embeddings of the parts,
``s`` the network, and ``j(i)`` a slice of another user::

    L = - mean_i 1/2 ( log s(l_i, r_i) + log(1 - s(l_i, r_j(i))) )

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", arXiv 1810.04805.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from skllm4es.baselines._encoder import Batch, EventEncoder
from skllm4es.baselines._sequences import Slices
from skllm4es.baselines.objectives._base import Objective, draw_slices


class NSP(Objective):
    """See the module; the parameters are those of `NSPEmbedder`."""

    contrasts_users = True

    def __init__(
        self,
        n_slices: int,
        min_length: int,
        max_length: int,
        head_size: int,
        dropout: float,
        pooling: str,
        encoder: EventEncoder,
    ) -> None:
        super().__init__(min_length, max_length)
        self.n_slices, self.pooling = n_slices, pooling
        self.head = nn.Sequential(
            nn.Linear(2 * encoder.hidden_size, head_size),
            nn.BatchNorm1d(head_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(head_size, 1),
        )

    def draw(self, users: Slices, rng: np.random.Generator) -> Slices:
        """Draw several slices of each user, and cut each in two, the first part before the second."""
        return split_slices(draw_slices(users, self.n_slices, self.min_length, self.max_length, rng), rng)

    def forward(self, encoder: EventEncoder, batch: Batch) -> Tensor:
        """Return the loss."""
        parts = encoder.embed(batch, self.pooling)
        first, second = parts[0::2], parts[1::2]
        others = other_users(len(first), self.n_slices, second.device)
        pairs = torch.cat([torch.cat([first, second], dim=1), torch.cat([first, second[others]], dim=1)])
        follows = torch.arange(len(pairs), device=pairs.device) < len(first)
        return nn.functional.binary_cross_entropy_with_logits(self.head(pairs)[:, 0], follows.float())


def split_slices(slices: Slices, rng: np.random.Generator) -> Slices:
    """Cut each slice in two, between a quarter and three quarters of its length."""
    lengths = slices.lengths
    low, high = np.maximum(lengths // 4, 1), np.maximum(3 * lengths // 4, 1)
    first = rng.integers(low, high + 1)
    starts = np.stack([slices.starts, slices.starts + first], axis=2)
    return Slices(starts.reshape(len(slices), -1), np.stack([first, lengths - first], axis=2).reshape(len(slices), -1))


def other_users(n_pairs: int, n_slices: int, device: torch.device) -> Tensor:
    """Draw for each pair, of which `n_slices` adjacent ones are a user's, one of another user."""
    shift = torch.randint(1, n_pairs // n_slices, (1,), device=device) * n_slices
    return (torch.arange(n_pairs, device=device) + shift) % n_pairs
