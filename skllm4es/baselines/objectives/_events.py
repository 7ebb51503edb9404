"""Prediction of an event, field by field: what IFTPP and NPPR share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skllm4es.baselines._encoder import Schema


class EventPredictor(nn.Module):
    """A linear layer from a state to the fields of an event."""

    def __init__(self, input_size: int, schema: Schema) -> None:
        super().__init__()
        self.sizes = [*schema.n_categories, schema.n_numbers]
        self.linear = nn.Linear(input_size, sum(self.sizes))

    def forward(self, states: Tensor, codes: Tensor, numbers: Tensor) -> Tensor:
        """Return the loss of each event, of shape (n,): the sum over its fields.

        It is the cross-entropy of a category and the absolute error of a number; missing and unknown values are left
        out. As with numbers themselves, the absolute error of scaled logarithms is smallest at the median, and it does
        not depend on units.

        Parameters
        ----------
        states : Tensor of shape (n, input_size)
            The states to predict from.
        codes : Tensor of shape (n, n_fields), dtype int64
            The categories of the events.
        numbers : Tensor of shape (n, n_numbers)
            Their scaled numbers.
        """
        *scores, predicted = self.linear(states).split(self.sizes, dim=1)
        errors = (predicted - numbers).abs()
        loss = torch.where(numbers.isnan(), 0.0, errors).sum(dim=1)
        for score, code in zip(scores, codes.unbind(1), strict=True):
            loss = loss + nn.functional.cross_entropy(score, code - 1, ignore_index=-1, reduction="none")
        return loss
