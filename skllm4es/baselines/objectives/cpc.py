"""CPC: the state after an event tells the next events apart from random ones.

With ``z_t`` the vector of event ``t``, ``c_t`` the state after it, a matrix ``W_k`` for each of `n_steps` steps, and a
set ``Z`` of ``z_{t+k}`` and the vectors of `n_negatives` events::

    L = - mean_k mean_t log( exp(z_{t+k} . W_k c_t) / sum_{z in Z} exp(z . W_k c_t) )

The negatives are drawn once per slice, for all its ``t`` and ``k``, uniformly and with replacement from all events of
the batch, including those of the slice itself.

van den Oord et al., "Representation Learning with Contrastive Predictive Coding", arXiv 1807.03748.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skllm4es.baselines._encoder import Batch, EventEncoder
from skllm4es.baselines.objectives._base import Objective


class CPC(Objective):
    """See the module; the parameters are those of `CPCEmbedder`."""

    def __init__(self, min_length: int, max_length: int, n_steps: int, n_negatives: int, encoder: EventEncoder) -> None:
        super().__init__(min_length, max_length)
        self.n_negatives = n_negatives
        event_size = encoder.schema.event_size
        self.predictors = nn.ModuleList(nn.Linear(encoder.hidden_size, event_size) for _ in range(n_steps))

    def forward(self, encoder: EventEncoder, batch: Batch) -> Tensor:
        """Return the loss."""
        vectors = encoder.embed_events(batch)
        states = encoder.contextualise(vectors)
        negatives = vectors.flatten(0, 1)[draw_events(batch.mask, len(vectors) * self.n_negatives)]
        negatives = negatives.view(len(vectors), self.n_negatives, -1)
        losses = [
            step_loss(predict(states[:, :-step]), vectors[:, step:], negatives)[batch.mask[:, step:]].mean()
            for step, predict in enumerate(self.predictors, start=1)
            if step < batch.mask.shape[1]
        ]
        return torch.stack(losses).mean()


def draw_events(mask: Tensor, n_events: int) -> Tensor:
    """Draw events that are not padding, with replacement, as positions in the batch read row by row."""
    events = mask.flatten().nonzero()[:, 0]
    return events[torch.randint(len(events), (n_events,), device=events.device)]


def step_loss(predicted: Tensor, actual: Tensor, negatives: Tensor) -> Tensor:
    """Return the loss of each prediction, of shape (n, width).

    Parameters
    ----------
    predicted, actual : Tensor of shape (n, width, size)
        The predictions, and the vectors that they should be close to.
    negatives : Tensor of shape (n, n_negatives, size)
        The vectors that they should be far from.
    """
    positive = (predicted * actual).sum(dim=2, keepdim=True)
    scores = torch.cat([positive, predicted @ negatives.transpose(1, 2)], dim=2)
    return scores.logsumexp(dim=2) - positive[:, :, 0]
