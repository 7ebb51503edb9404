"""Scaling of numbers for the encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from skllm4es.baselines._features import EncodedEvents, Floats

#: Relative deviations up to this come from rounding: the numbers are all the same.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class NumberScaler:
    """Signed logarithm of one plus the number, standardised, since amounts and gaps have long tails."""

    means: Floats  # of shape (n_numbers,): of the logarithms, of the numeric fields and then of the gaps
    deviations: Floats  # of shape (n_numbers,)
    has_missing: tuple[bool, ...]  # whether the number is missing anywhere in fit

    @classmethod
    def fit(cls, events: EncodedEvents) -> Self:
        """Learn means and standard deviations."""
        logs = _logs(events)
        missing = np.isnan(logs)
        counts = np.maximum((~missing).sum(axis=0), 1)
        means = np.where(missing, 0.0, logs).sum(axis=0) / counts
        deviations = np.sqrt((np.where(missing, 0.0, logs - means) ** 2).sum(axis=0) / counts)
        constant = deviations <= _ROUNDING * np.maximum(np.abs(means), 1.0)
        has_missing = [bool(column.any()) for column in missing.T]
        return cls(means, np.where(constant, 1.0, deviations), tuple(has_missing))

    def scale(self, events: EncodedEvents) -> npt.NDArray[np.float32]:
        """Scale the numbers of events, to shape (n_events, n_numbers); NaN stays NaN."""
        return ((_logs(events) - self.means) / self.deviations).astype(np.float32)


def _logs(events: EncodedEvents) -> Floats:
    columns = [*events.numbers.values(), *([] if events.gaps is None else [events.gaps])]
    numbers = np.stack(columns, axis=1) if columns else np.empty((int(events.offsets[-1]), 0))
    return np.sign(numbers) * np.log1p(np.abs(numbers))
