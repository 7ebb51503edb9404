"""EventAggregator: counts, sums, means and standard deviations of each user's events, where they tell users apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skllm4es._messages import warn
from skllm4es.baselines._base import CountingTransformer, Seen
from skllm4es.baselines._features import UNKNOWN, Codes, EncodedEvents, Floats, Integers
from skllm4es.baselines._names import ColumnNames, escape

#: Statistics of fewer users are the same by chance.
MANY_USERS = 50


@dataclass(eq=False, repr=False, kw_only=True)
class EventAggregator(CountingTransformer):
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
    The columns are:

    - the number of events;
    - for each numeric field, and for the time since the previous event (``gap``, in seconds, or in the units of a time
      that is a number): sum, mean and standard deviation;
    - for each categorical field: the number of distinct values;
    - for each of its values: the number of events, and the mean and standard deviation of each numeric field in them.

    Missing numbers are ignored. Counts and sums of nothing are 0; means and standard deviations of nothing are missing
    (NaN), for example the mean of a laboratory value that was never measured. Gradient boosting takes missing values; a
    linear model needs a :class:`~sklearn.impute.SimpleImputer` before it.

    Columns that are the same for all users of :term:`fit`, and copies of earlier columns, are dropped. A warning counts
    them if :term:`fit` has at least 50 users and more than two thirds are dropped, because a field may not
    have been read as intended. If no column differs between users, as with a single user, all are kept.

    Values that have no columns, because :term:`fit` has not seen them or others are more frequent, count as distinct
    values all the same. A field may hold lists of categories: a value that occurs twice in a list counts twice.

    {fields}

    Examples
    --------
    >>> import pandas as pd
    >>> from skllm4es import nest_events
    >>> from skllm4es.baselines import EventAggregator
    >>> cards = pd.DataFrame({
    ...     "client": [3, 7, 7, 8],
    ...     "day": pd.to_datetime(["2024-03-01", "2024-03-01", "2024-03-02", "2024-03-05"]),
    ...     "type": ["POS", "ATM", "POS", "ATM"],
    ...     "amount": [8.0, 20.0, 12.0, 50.0],
    ... })
    >>> X = nest_events(cards, user="client", time="day")
    >>> aggregator = EventAggregator().set_output(transform="pandas")
    >>> shown = ["n_events", "amount_mean", "type_POS_count", "type_POS_amount_mean"]
    >>> aggregator.fit_transform(X)[shown]
            n_events  amount_mean  type_POS_count  type_POS_amount_mean
    client
    3            1.0          8.0             1.0                   8.0
    7            2.0         16.0             1.0                  12.0
    8            1.0         50.0             0.0                   NaN

    A linear model needs something in the place of what is missing:

    >>> from sklearn.impute import SimpleImputer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> linear = make_pipeline(
    ...     EventAggregator(), SimpleImputer(), StandardScaler(), LogisticRegression()
    ... )
    >>> linear.fit(X, [0, 1, 0]).predict(X).shape
    (3,)
    """

    max_categories: int | None = 100

    def _fit(self, seen: Seen) -> None:
        self._names = _informative(_statistics(seen.events, seen.features.categories))

    def _transform(self, events: EncodedEvents) -> npt.NDArray[np.float32]:
        columns = {name: column for column, name in enumerate(self._names)}
        statistics = np.empty((len(events.lengths), len(columns)), dtype=np.float32)
        for name, values in _statistics(events, self.categories_):
            if name in columns:
                statistics[:, columns[name]] = values
        return statistics


def _informative(statistics: Iterable[tuple[str, Floats]]) -> list[str]:
    """Return the names of the columns that differ between users and from earlier columns; or all, if none does."""
    n_users = 0
    names: list[str] = []
    constant: set[str] = set()
    copies: set[str] = set()
    earlier: set[bytes] = set()
    for name, values in statistics:
        names.append(name)
        n_users = len(values)
        column = values.astype(np.float32) + np.float32(0)  # Negative zero is zero.
        column[np.isnan(column)] = np.nan  # There are many bit patterns of NaN.
        if np.array_equal(column[1:], column[:-1], equal_nan=True):
            constant.add(name)
            continue
        digest = hashlib.sha256(column.tobytes()).digest()
        if digest in earlier:
            copies.add(name)
        earlier.add(digest)
    if len(constant) == len(names):
        return names
    if n_users >= MANY_USERS and 3 * (len(constant) + len(copies)) > 2 * len(names):
        warn(
            f"{len(constant) + len(copies)} of {len(names)} statistics are dropped: {len(constant)} are the same for "
            f"all users of fit, and {len(copies)} are copies of others. Check that the fields are read as you expect "
            "(numeric_, categories_); columns=[...] chooses fields, and max_categories limits the values of each."
        )
    return [name for name in names if name not in constant and name not in copies]


def _statistics(events: EncodedEvents, categories: dict[str, list[str | None]]) -> Iterator[tuple[str, Floats]]:
    """Yield each column with its name."""
    owners, n_users = events.owners, len(events.lengths)
    yield "n_events", events.lengths.astype(np.float64)
    gaps = [] if events.gaps is None else [("gap", "_2" if "gap" in events.numbers else "", events.gaps)]
    for name, end, numbers in [*((escape(field), "", numbers) for field, numbers in events.numbers.items()), *gaps]:
        for statistic, values in zip(("sum", "mean", "std"), _moments(numbers, owners, n_users), strict=True):
            yield f"{name}_{statistic}{end}", values
    names = ColumnNames([*events.codes, *events.numbers, "gap"], list(events.numbers))
    for name, codes in events.codes.items():
        yield from _category_statistics(name, categories[name], codes, events, names)


def _category_statistics(
    name: str, categories: list[str | None], codes: Codes, events: EncodedEvents, names: ColumnNames
) -> Iterator[tuple[str, Floats]]:
    n_users, n_codes = len(events.lengths), len(categories) + 1
    groups = events.owners[codes.rows] * n_codes + codes.values
    counts = np.bincount(groups, minlength=n_users * n_codes).reshape(n_users, n_codes)
    n_distinct = (counts[:, UNKNOWN + 1 :] > 0).sum(axis=1) + _n_distinct_unknown(codes, events.owners, n_users)
    yield f"{escape(name)}_n_distinct", n_distinct.astype(np.float64)
    values = [names.value(name, value) for value in categories]
    yield from ((f"{value}_count", counts[:, code].astype(np.float64)) for code, value in enumerate(values, start=1))
    for number, column in events.numbers.items():
        _, means, deviations = _moments(column[codes.rows], groups, n_users * n_codes)
        for statistic, table in {"mean": means, "std": deviations}.items():
            columns = table.reshape(n_users, n_codes).T[1:]
            numbers = [f"{names.number_of_value(value, number)}_{statistic}" for value in values]
            yield from zip(numbers, columns, strict=True)


def _n_distinct_unknown(codes: Codes, owners: Integers, n_users: int) -> Integers:
    """Return how many different values each user has that are not among the categories."""
    unknown = codes.values == UNKNOWN
    n_distinct = codes.distinct.max(initial=0) + 1
    pairs = np.unique(owners[codes.rows[unknown]] * n_distinct + codes.distinct[unknown])
    return np.bincount(pairs // n_distinct, minlength=n_users)


def _moments(values: Floats, groups: Integers, n_groups: int) -> tuple[Floats, Floats, Floats]:
    """Return sum, mean and standard deviation of the known values of each group; of no values, 0, NaN and NaN."""
    known = ~np.isnan(values)
    values, groups = values[known], groups[known]
    counts = np.bincount(groups, minlength=n_groups).astype(np.float64)
    counts[counts == 0] = np.nan
    sums = np.bincount(groups, values, minlength=n_groups).astype(np.float64)
    means = sums / counts
    squares = np.bincount(groups, (values - means[groups]) ** 2, minlength=n_groups)
    return sums, means, np.sqrt(squares / counts)
