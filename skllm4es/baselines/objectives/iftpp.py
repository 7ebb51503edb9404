"""IFTPP: the state after an event predicts the next one and the time until it, field by field.

With ``D`` a linear layer, ``f`` the fields of an event and the gap before it, and the cross-entropy of a category or
the absolute error of a number as loss of a field::

    L = mean_t sum_f loss(D_f(state_t), x_{t+1, f})

Shchur et al., "Intensity-Free Learning of Temporal Point Processes", arXiv 1909.12127, in the form of Karpukhin et al.,
"HoTPP Benchmark", arXiv 2406.14341.
"""

from __future__ import annotations

from torch import Tensor

from skllm4es.baselines._encoder import Batch, EventEncoder
from skllm4es.baselines.objectives._base import Objective
from skllm4es.baselines.objectives._events import EventPredictor


class IFTPP(Objective):
    """See the module."""

    def __init__(self, min_length: int, max_length: int, encoder: EventEncoder) -> None:
        super().__init__(min_length, max_length)
        self.predictor = EventPredictor(encoder.hidden_size, encoder.schema)

    def forward(self, encoder: EventEncoder, batch: Batch) -> Tensor:
        """Return the loss."""
        states, follows = encoder(batch)[:, :-1], batch.mask[:, 1:]
        return self.predictor(states[follows], batch.codes[:, 1:][follows], batch.numbers[:, 1:][follows]).mean()
