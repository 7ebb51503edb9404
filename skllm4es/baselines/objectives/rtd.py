"""RTD: the state after an event shows whether the event was replaced.

Each event except the first is replaced with probability `replaced` by an event drawn from the batch; with ``r_t``
whether event ``t`` was, and ``p_t`` a logistic regression on the state after it::

    L = - mean_t ( r_t log p_t + (1 - r_t) log(1 - p_t) )

Clark et al., "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", arXiv 2003.10555.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skllm4es.baselines._encoder import Batch, EventEncoder
from skllm4es.baselines.objectives._base import Objective
from skllm4es.baselines.objectives.cpc import draw_events


class RTD(Objective):
    """See the module; the parameters are those of `RTDEmbedder`."""

    def __init__(self, min_length: int, max_length: int, replaced: float, encoder: EventEncoder) -> None:
        super().__init__(min_length, max_length)
        self.replaced = replaced
        self.head = nn.Linear(encoder.hidden_size, 1)

    def forward(self, encoder: EventEncoder, batch: Batch) -> Tensor:
        """Return the loss."""
        corrupted, replaced = replace_events(batch, self.replaced)
        scores = self.head(encoder(corrupted))[:, :, 0]
        return nn.functional.binary_cross_entropy_with_logits(scores[batch.mask], replaced[batch.mask].float())


def replace_events(batch: Batch, share: float) -> tuple[Batch, Tensor]:
    """Replace a share of the events by events of the batch; also return which, of shape (n_sequences, width)."""
    replaced = (torch.rand(batch.mask.shape, device=batch.mask.device) < share) & batch.mask
    replaced[:, 0] = False
    return batch.replace_events(replaced, draw_events(batch.mask, int(replaced.sum()))), replaced
