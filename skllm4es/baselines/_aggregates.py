"""EventAggregator: counts, sums, means and standard deviations of each user's events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from skllm4es._compat import fit_context
from skllm4es.baselines._base import EventTransformer
from skllm4es.baselines._features import Codes, EncodedEvents, Floats, Integers, unique_names
from skllm4es.events._flat import FlatEvents


@dataclass(eq=False, repr=False, kw_only=True)
class EventAggregator(EventTransformer):
    """Describe each user by statistics of the events.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    BagOfEvents : Weighted counts of all values instead of statistics.

    Notes
    -----
    The columns are the number of events; of each numeric field, and of the time since the previous event (``gap``, in
    seconds, or in the units of a time that is a number), sum, mean and standard deviation; of each categorical field,
    the number of distinct values; of each of its values, the number of events, and in these the mean and standard
    deviation of each numeric field. What has no events is 0, as are all columns of a user without events. Missing
    numbers are left out. A category that :term:`fit` has not seen counts as one further distinct value. A field may
    hold lists of categories.

    {fields}

    Examples
    --------
    >>> import pandas as pd
    >>> from skllm4es import nest_events
    >>> from skllm4es.baselines import EventAggregator
    >>> cards = pd.DataFrame({
    ...     "client": [3, 7, 7],
    ...     "day": pd.to_datetime(["2024-03-01", "2024-03-01", "2024-03-02"]),
    ...     "type": ["POS", "ATM", "POS"],
    ...     "amount": [8.0, 20.0, 12.0],
    ... })
    >>> X = nest_events(cards, user="client", time="day")
    >>> aggregator = EventAggregator().set_output(transform="pandas")
    >>> aggregator.fit_transform(X)[["n_events", "amount_mean", "type_POS_count", "type_POS_amount_mean"]]
            n_events  amount_mean  type_POS_count  type_POS_amount_mean
    client
    3            1.0          8.0             1.0                   8.0
    7            2.0         16.0             1.0                  12.0
    """

    max_categories: int | None = 100

    _reads_lists = True

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn which fields and categories there are.

        Parameters
        ----------
        X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
            One row per user, as `nest_events` gives it.
        y : None
            Ignored.

        Returns
        -------
        self : EventAggregator
            The fitted transformer.
        """
        features, _ = self._learn(X)
        nobody = features.encode(FlatEvents({}, np.zeros(1, dtype=np.int64)), None)
        self._names = unique_names([name for name, _ in _statistics(nobody, features.categories)])
        self._keep(features)
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Compute the statistics.

        Parameters
        ----------
        X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
            One row per user, with the fields seen during :term:`fit`.

        Returns
        -------
        statistics : ndarray of shape (n_users, n_features_out), dtype float32
            One row per user, in the order of `X`.
        """
        events = self._read(X)
        statistics = np.empty((len(events.lengths), len(self._names)), dtype=np.float32)
        for column, (_, values) in enumerate(_statistics(events, self.categories_)):
            statistics[:, column] = values
        return statistics

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[Any]:
        """Names of the columns of the output.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        names : ndarray of shape (n_features_out,), dtype object
            Such as ``"amount_mean"`` or ``"type_POS_count"``: letters, digits and underscores.
        """
        check_is_fitted(self)
        return np.array(self._names, dtype=object)


def _statistics(events: EncodedEvents, categories: dict[str, list[str | None]]) -> Iterator[tuple[str, Floats]]:
    """Give each column with its name."""
    n_users = len(events.lengths)
    owners = events.owners
    yield "n_events", events.lengths.astype(np.float64)
    gaps = [] if events.gaps is None else [("gap", events.gaps)]
    for name, numbers in [*events.numbers.items(), *gaps]:
        sums, means, deviations = _moments(numbers, owners, n_users)
        yield from {f"{name}_sum": sums, f"{name}_mean": means, f"{name}_std": deviations}.items()
    for name, codes in events.codes.items():
        yield from _of_category(name, categories[name], codes, events, owners[codes.rows], n_users)


def _of_category(
    name: str,
    categories: list[str | None],
    codes: Codes,
    events: EncodedEvents,
    owners: Integers,
    n_users: int,
) -> Iterator[tuple[str, Floats]]:
    n_codes = len(categories) + 1
    groups = owners * n_codes + codes.values
    counts = np.bincount(groups, minlength=n_users * n_codes).reshape(n_users, n_codes)
    yield f"{name}_n_distinct", (counts > 0).sum(axis=1).astype(np.float64)
    names = [f"{name}_{'missing' if category is None else category}" for category in categories]
    yield from ((f"{each}_count", counts[:, code].astype(np.float64)) for code, each in enumerate(names, start=1))
    for number, values in events.numbers.items():
        _, means, deviations = _moments(values[codes.rows], groups, n_users * n_codes)
        for statistic, table in {"mean": means, "std": deviations}.items():
            columns = table.reshape(n_users, n_codes).T[1:]
            yield from ((f"{each}_{number}_{statistic}", column) for each, column in zip(names, columns, strict=True))


def _moments(values: Floats, groups: Integers, n_groups: int) -> tuple[Floats, Floats, Floats]:
    """Sum, mean and standard deviation of each group's values that are not missing."""
    known = ~np.isnan(values)
    values, groups = values[known], groups[known]
    counts = np.maximum(np.bincount(groups, minlength=n_groups), 1)
    sums = np.bincount(groups, values, minlength=n_groups).astype(np.float64)
    means = sums / counts
    squares = np.bincount(groups, (values - means[groups]) ** 2, minlength=n_groups)
    return sums, means, np.sqrt(squares / counts)
