"""Predicting an event, field by field: what IFTPP and NPPR share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skllm4es.baselines._encoder import Schema


class EventPredictor(nn.Module):
    """A linear layer from a state to the fields of an event.

    Parameters
    ----------
    input_size : int
        The length of a state.
    schema : Schema
        The fields.
    """

    def __init__(self, input_size: int, schema: Schema) -> None:
        super().__init__()
        self.sizes = [*schema.n_categories, schema.n_numbers]
        self.linear = nn.Linear(input_size, sum(self.sizes))

    def forward(self, states: Tensor, codes: Tensor, numbers: Tensor) -> Tensor:
        """Give the loss of each event, of shape (n,): that of its fields added up.

        Cross-entropy of a categorical field, absolute error of a number. What is missing or unknown is left out. The
        error of scaled logarithms is smallest at the logarithm of the median, as the error of the numbers themselves is
        at the median; it does not depend on their units.

        Parameters
        ----------
        states : Tensor of shape (n, input_size)
            What is predicted from.
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
