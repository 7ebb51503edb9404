"""What measures: statistics of the numbers and times of a user's events, all on one scale.

A value counts by its rank among the values of `fit`, as a normal score, so that neither the unit nor a few huge amounts
matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from skllm4es.embed._fields import Fields, Floats, Integers, numbers_of, times_of
from skllm4es.serialize._columns import TextColumns

#: Points at which the distribution of a number is kept.
_N_QUANTILES = 201
#: Normal scores, and the statistics of users in standard deviations, are cut there.
_FURTHEST_RANK, _FURTHEST = 0.005, 3.0
_STATISTICS = ("mean", "std", "min", "max", "last")
_HOURS, _WEEKDAYS = 6, 7
_DAY = 24 * 3600


@dataclass(frozen=True)
class Measures:
    """Statistics of numbers and times.

    Parameters
    ----------
    fields : Fields
        Which features are numbers and times.
    quantiles : ndarray of shape (n_ranked, 201), dtype float64
        The distribution of each number, time and gap between times in `fit`.
    center, scale : ndarray of shape (n_statistics,), dtype float64
        Means and standard deviations of the statistics; a scale of 0 marks a constant one.
    """

    fields: Fields
    quantiles: Floats
    center: Floats = field(default_factory=lambda: np.empty(0))
    scale: Floats = field(default_factory=lambda: np.empty(0))

    @classmethod
    def fit(cls, fields: Fields, columns: TextColumns) -> Measures:
        """Learn the distribution of values and of statistics."""
        ranked = [_quantiles(values) for values in _ranked(fields, columns)]
        raw = cls(fields, np.array(ranked, dtype=np.float64).reshape(-1, _N_QUANTILES))
        statistics = raw._statistics(columns)
        with np.errstate(invalid="ignore"):
            known = ~np.isnan(statistics)
            n_known = np.maximum(known.sum(axis=0), 1)
            center = np.where(known, statistics, 0).sum(axis=0) / n_known
            spread = np.sqrt(np.where(known, (statistics - center) ** 2, 0).sum(axis=0) / n_known)
        return cls(fields, raw.quantiles, center, np.where(spread > 1e-9, spread, 0))

    def expected(self) -> dict[str, tuple[Floats, tuple[int, ...]]]:
        """Return each array and the shape that it must have."""
        n_statistics = len(self.names)
        return {
            "quantiles": (self.quantiles, (len(_names_of_ranked(self.fields)), _N_QUANTILES)),
            "center": (self.center, (n_statistics,)),
            "scale": (self.scale, (n_statistics,)),
        }

    @property
    def names(self) -> list[str]:
        """The names of the statistics."""
        names = [f"{name}: {statistic}" for name in _names_of_ranked(self.fields) for statistic in _STATISTICS]
        for name in self.fields.times:
            names += [f"{name}: {4 * i} to {4 * i + 4} h" for i in range(_HOURS)]
            names += [f"{name}: {day}" for day in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")]
        return [*names, "number of events"]

    def __call__(self, columns: TextColumns) -> Floats:
        """Return the statistics of each text, standardised, of shape (n_texts, n_statistics); 0 where there is none."""
        statistics = self._statistics(columns) - self.center
        scaled = np.divide(statistics, self.scale, out=np.zeros_like(statistics), where=self.scale > 0)
        return np.clip(np.nan_to_num(scaled), -_FURTHEST, _FURTHEST)

    def _statistics(self, columns: TextColumns) -> Floats:
        """Return the statistics as they are; NaN where a user has no value."""
        n_texts, owners = len(columns.lengths), columns.owners
        parts = [
            _moments(_normal_scores(values, quantiles), owners, n_texts)
            for values, quantiles in zip(_ranked(self.fields, columns), self.quantiles, strict=True)
        ]
        for name in self.fields.times:
            seconds = times_of(columns, name)
            known = ~np.isnan(seconds)
            days = np.floor(seconds[known] / _DAY).astype(np.int64)
            hours = ((seconds[known] - days * _DAY) * _HOURS / _DAY).astype(np.int64)
            parts.append(_shares(owners[known], hours, n_texts, _HOURS))
            parts.append(_shares(owners[known], (days + 3) % _WEEKDAYS, n_texts, _WEEKDAYS))  # 1970 began on Thursday.
        return np.hstack([*parts, np.log1p(columns.lengths)[:, None]])


def _names_of_ranked(fields: Fields) -> list[str]:
    return [*fields.numbers, *(end for name in fields.times for end in (name, f"{name} since the previous event"))]


def _ranked(fields: Fields, columns: TextColumns) -> list[Floats]:
    """Return everything that is ranked: numbers, times, and the seconds since the previous event of the same user."""
    values = numbers_of(columns, fields)
    firsts = np.cumsum(columns.lengths) - columns.lengths
    for name in fields.times:
        seconds = times_of(columns, name)
        gaps = np.diff(seconds, prepend=np.nan)
        gaps[firsts[columns.lengths > 0]] = np.nan
        values += [seconds, gaps]
    return values


def _quantiles(values: Floats) -> Floats:
    known = values[~np.isnan(values)]
    return np.quantile(known, np.linspace(0, 1, _N_QUANTILES)) if len(known) else np.zeros(_N_QUANTILES)


def _normal_scores(values: Floats, quantiles: Floats) -> Floats:
    """Rank values among quantiles, ties in the middle, and return what a normal variable of that rank is."""
    places = np.linspace(0, 1, _N_QUANTILES)
    distinct, first, count = np.unique(quantiles, return_index=True, return_counts=True)
    ranks = np.interp(values, distinct, (places[first] + places[first + count - 1]) / 2)
    scores: Floats = ndtri(np.clip(ranks, _FURTHEST_RANK, 1 - _FURTHEST_RANK))
    return np.where(np.isnan(values), np.nan, scores)


def _moments(values: Floats, owners: Integers, n_texts: int) -> Floats:
    """Return mean, standard deviation, minimum, maximum and last of each text's known values."""
    known = ~np.isnan(values)
    values, owners = values[known], owners[known]
    counts = np.bincount(owners, minlength=n_texts)
    result = np.full((n_texts, len(_STATISTICS)), np.nan)
    some = counts > 0
    if not some.any():
        return result
    starts = (np.cumsum(counts) - counts)[some]
    means = np.add.reduceat(values, starts) / counts[some]
    squares = np.add.reduceat((values - np.repeat(means, counts[some])) ** 2, starts)
    result[some, 0], result[some, 1] = means, np.sqrt(squares / counts[some])
    result[some, 2], result[some, 3] = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    result[some, 4] = values[starts + counts[some] - 1]
    return result


def _shares(owners: Integers, codes: Integers, n_texts: int, n_codes: int) -> npt.NDArray[Any]:
    """Return the roots of the shares of each code in each text's events, of shape (n_texts, n_codes)."""
    counts = np.bincount(owners * n_codes + codes, minlength=n_texts * n_codes).reshape(n_texts, n_codes)
    shares: Floats = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    return shares
