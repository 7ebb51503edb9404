"""LATTE: a slice's embedding is near what a frozen language model makes of its user's description, and not of others'.

With ``z_i`` a linear layer on the embedding of a slice, ``t_i`` the language model's vector of its user's description,
both scaled to length 1, and ``T`` the temperature, over the slices of a batch::

    L = - 1/2 mean_i ( log softmax_j(z_i . t_j / T)[i] + log softmax_j(z_j . t_i / T)[i] )

Users with the same description are not contrasted with each other.

"LATTE: Learning Aligned Transactions and Textual Embeddings for Bank Clients", arXiv 2508.10021; the loss is that of
Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv 2103.00020.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skllm4es.baselines._encoder import Batch, EventEncoder
from skllm4es.baselines.objectives._base import Objective


class LATTE(Objective):
    """See the module; `texts` holds the vectors of the users' descriptions, equal ones for equal descriptions."""

    min_events = 1
    contrasts_users = True

    def __init__(
        self,
        min_length: int,
        max_length: int,
        temperature: float,
        pooling: str,
        texts: Tensor,
        encoder: EventEncoder,
    ) -> None:
        super().__init__(min_length, max_length)
        self.temperature, self.pooling = temperature, pooling
        self.texts: Tensor
        self.register_buffer("texts", nn.functional.normalize(texts, dim=1))
        self.head = nn.Linear(encoder.hidden_size, texts.shape[1])

    def forward(self, encoder: EventEncoder, batch: Batch) -> Tensor:
        """Return the loss."""
        assert batch.users is not None  # It is cut from the events of users.
        slices = nn.functional.normalize(self.head(encoder.embed(batch, self.pooling)), dim=1)
        return alignment_loss(slices, self.texts[batch.users], self.temperature)


def alignment_loss(slices: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """Return the loss of vectors of slices and of their users' descriptions, both of shape (n, size)."""
    same = (texts[:, None] == texts).all(dim=2).fill_diagonal_(False)
    scores = (slices @ texts.T / temperature).masked_fill(same, -torch.inf)
    own = torch.arange(len(scores), device=scores.device)
    losses = [nn.functional.cross_entropy(sides, own) for sides in (scores, scores.T)]
    return (losses[0] + losses[1]) / 2
