"""NPPR: the state after an event predicts the next event, and reconstructs the ones before it.

With ``e_t`` the state after event ``t``, ``D_NP`` and ``D_PR`` predictors of the fields ``f``, ``g`` the time between
two events, and ``lambda`` the time after which a past event has the weight ``1/e``::

    L_NP = mean_t sum_f loss(D_NP(e_t), x_{t+1, f})
    L_PR = mean_t sum_{k=1..min(K, t)} exp(-g_{t,t-k} / lambda) sum_f loss(D_PR(e_t, g_{t,t-k}), x_{t-k, f})
    L    = (1 - a) L_NP + a L_PR

The means are over the events that have a next or a previous event. A training step draws one ``k`` for each ``t`` and
weights it by ``min(K, t)``, whose expectation is the sum.

Skalski et al., "Towards a Foundation Purchasing Model: Pretrained Generative Autoregression on Transaction Sequences",
ICAIF 2023, arXiv 2401.01641.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skllm4es.baselines._encoder import Batch, EventEncoder
from skllm4es.baselines.objectives._base import Objective
from skllm4es.baselines.objectives._events import EventPredictor


class NPPR(Objective):
    """See the module; ``a``, ``K`` and ``lambda`` are `alpha`, `n_past` and `decay` of `NPPREmbedder`."""

    def __init__(
        self, min_length: int, max_length: int, alpha: float, n_past: int, decay: float, encoder: EventEncoder
    ) -> None:
        super().__init__(min_length, max_length)
        self.alpha, self.n_past, self.decay = alpha, n_past, decay
        self.next = EventPredictor(encoder.hidden_size, encoder.schema)
        self.mix = nn.Sequential(nn.Linear(encoder.hidden_size + 1, encoder.hidden_size), nn.ReLU())
        self.past = EventPredictor(encoder.hidden_size, encoder.schema)

    def forward(self, encoder: EventEncoder, batch: Batch) -> Tensor:
        """Return the loss, with one past event drawn for each event."""
        states = encoder(batch)
        n_before = (
            torch.arange(batch.mask.shape[1], device=states.device).clamp(max=self.n_past).expand(batch.mask.shape)
        )
        lags = (torch.rand(batch.mask.shape, device=states.device) * n_before).long() + 1
        past = n_before * self.past_losses(states, batch, lags)
        past = past[:, 1:][batch.mask[:, 1:]].mean()
        return (1 - self.alpha) * self.next_losses(states, batch).mean() + self.alpha * past

    def next_losses(self, states: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each next event, of shape (n_next_events,)."""
        follows = batch.mask[:, 1:]
        return self.next(states[:, :-1][follows], batch.codes[:, 1:][follows], batch.numbers[:, 1:][follows])

    def past_losses(self, states: Tensor, batch: Batch, lags: Tensor) -> Tensor:
        """Return the weighted loss of the event `lags` before each one, of shape (n_sequences, width); 0 if none is."""
        positions = torch.arange(lags.shape[1], device=lags.device) - lags
        exists = (positions >= 0) & batch.mask
        sequences, now = exists.nonzero(as_tuple=True)
        then = positions[exists]
        gaps = batch.elapsed[sequences, now] - batch.elapsed[sequences, then]
        relative = (gaps / self.decay).to(states.dtype)
        mixed = self.mix(torch.cat([states[exists], relative.log1p()[:, None]], dim=1))
        found = self.past(mixed, batch.codes[sequences, then], batch.numbers[sequences, then])
        losses = states.new_zeros(lags.shape)
        losses[exists] = torch.exp(-relative) * found
        return losses
