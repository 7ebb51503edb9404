"""DeTPP: the state after an event detects the events within a horizon, as a set of candidates.

A state predicts `n_candidates` events, each with a probability of presence. Candidates and the true events within the
horizon are matched so that the sum of the losses of the pairs is smallest; with ``M`` the matched pairs, ``f`` the
fields and the time until the event, and ``p`` the probability of presence::

    L = mean_M sum_f loss(D_f, x_f) - mean( [matched] log p + [not matched] log(1 - p) )

Each step draws a share of the positions, first those with enough events after them.

Karpukhin and Savchenko, "DeTPP: Leveraging Object Detection for Robust Long-Horizon Event Prediction", arXiv
2408.13131. The windows, the losses of pairs and the matching come from hotpp-benchmark.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skllm4es.baselines._encoder import Batch, EventEncoder
from skllm4es.baselines.objectives._base import Objective

if TYPE_CHECKING:
    from hotpp.data import PaddedBatch

#: Units of time in a horizon: days, if it is a week.
UNITS = 7


class DeTPP(Objective):
    """See the module; the parameters are those of `DeTPPEmbedder`, and the number of numbers without the gap."""

    def __init__(
        self,
        min_length: int,
        max_length: int,
        n_candidates: int,
        horizon: float,
        share: float,
        n_numbers: int,
        encoder: EventEncoder,
    ) -> None:
        super().__init__(min_length, max_length)
        # An optional dependency.
        from hotpp.losses import (
            BinaryCrossEntropyLoss,
            CrossEntropyLoss,
            DetectionLoss,
            MAELoss,
            NextItemLoss,
            TimeMAELoss,
        )

        self.unit, self.n_candidates, self.n_numbers = horizon / UNITS, n_candidates, n_numbers
        losses = {"_presence": BinaryCrossEntropyLoss(), "timestamps": TimeMAELoss(delta="start", max_delta=UNITS)}
        losses |= {f"code{i}": CrossEntropyLoss(n + 1) for i, n in enumerate(encoder.schema.n_categories)}
        losses |= {f"number{i}": MAELoss() for i in range(n_numbers)}
        self.detection = DetectionLoss(NextItemLoss(losses), n_candidates, UNITS, loss_subset=share)
        self.head = nn.Linear(encoder.hidden_size, self.detection.input_size)

    def forward(self, encoder: EventEncoder, batch: Batch) -> Tensor:
        """Return the loss."""
        states, events = _padded(encoder(batch), batch.lengths), self._events(batch)
        positions = self.detection.get_loss_indices(events)
        windows = self.detection.select_subset(self.detection.extract_structured_windows(events), positions)
        # The candidates of all positions would be four times as many.
        states = self.detection.select_subset(states, positions)
        candidates = _padded(self.head(states.payload).unflatten(2, (self.n_candidates, -1)), states.seq_lens)
        with warnings.catch_warnings():
            # The library's statistics of the matches, which are not used here, warn if there is no match.
            warnings.filterwarnings("ignore", "std\\(\\): degrees of freedom")
            matching, losses, _ = self.detection.match_targets(candidates, windows)
        return _matched_loss(matching, losses)

    def _events(self, batch: Batch) -> PaddedBatch:
        elapsed = (batch.elapsed - batch.elapsed[:, :1]) / self.unit
        numbers = batch.numbers.nan_to_num()
        fields = {"timestamps": elapsed.float()}
        fields |= {f"code{i}": codes for i, codes in enumerate(batch.codes.unbind(2))}
        fields |= {f"number{i}": numbers[:, :, i] for i in range(self.n_numbers)}
        return _padded(fields, batch.lengths)


def _padded(payload: Any, lengths: Tensor) -> PaddedBatch:
    from hotpp.data import PaddedBatch

    return PaddedBatch(payload, lengths)


def _matched_loss(matching: PaddedBatch, losses: dict[str, Tensor]) -> Tensor:
    """Add up the losses of matched pairs and of presence."""
    matched = matching.payload >= 0
    target = matching.payload.clip(min=0)[..., None]
    of_pairs = {name: loss.take_along_dim(target, 3)[..., 0] for name, loss in losses.items()}
    present, absent = of_pairs.pop("_presence"), -of_pairs.pop("_presence_neg")
    total = torch.where(matched, present, absent)[matching.seq_len_mask.bool()].mean()
    return total + sum(loss[matched].mean() for loss in of_pairs.values()) if matched.any() else total
