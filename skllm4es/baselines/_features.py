"""Events as arrays: the codes of categories, numbers, and the gaps between events.

`learn_features` decides in fit how each field is read; `EventFeatures.encode` turns events into arrays, in fit and in
transform alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from skllm4es._messages import raise_if, warn
from skllm4es.events._arrow import combine, unify_dictionaries
from skllm4es.events._checks import changes_since_fit, disorder, kinds_of, missing_fields, resolve_time
from skllm4es.events._encoding import encode_values
from skllm4es.events._flat import FlatEvents
from skllm4es.events._kinds import is_list, is_time
from skllm4es.events._numbers import to_floats
from skllm4es.serialize._values import format_values

#: Integers are categories if they have few distinct values, or more that repeat often.
FEW_VALUES = 20
MANY_VALUES = 1000
REPEATS = 10

#: The largest number that is read: sums must fit into float32, and squares into float64.
LARGEST = 1e30

#: The code of a value that is not among the categories.
UNKNOWN = 0

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Codes:
    """The categories of the events in one field: one code per event, or any number if the field holds lists."""

    values: Integers  # of shape (n_codes,): 0 if not among the categories, i + 1 for category i
    distinct: Integers  # of shape (n_codes,): equal for equal values, those that are not among the categories included
    rows: Integers  # of shape (n_codes,): the event of each code


@dataclass(frozen=True)
class EncodedEvents:
    """The events of all users, one user after another, as arrays."""

    offsets: Integers  # of shape (n_users + 1,): where the events of each user begin and end
    codes: dict[str, Codes]
    numbers: dict[str, Floats]  # of shape (n_events,); NaN is missing
    gaps: Floats | None  # of shape (n_events,): the time since the user's previous event, NaN if there is none

    @property
    def lengths(self) -> Integers:
        """Number of events of each user."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Integers:
        """The user of each event."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


@dataclass(frozen=True)
class EventFeatures:
    """How each field of the events is read, as learned in fit."""

    kinds: dict[str, str]  # what each field holds: "numbers", "texts", ...
    categories: dict[str, list[str | None]]  # the values as texts, the most frequent first; None is missing
    numeric: list[str]
    time: str | None

    def encode(self, flat: FlatEvents, max_events: int | None) -> EncodedEvents:
        """Turn the latest `max_events` events of each user into arrays; the first gap counts from the event before."""
        gaps = None if self.time is None else gaps_of(flat, _finite(self.time, flat.columns[self.time]))
        if max_events is not None:
            gaps = None if gaps is None else gaps[_is_latest(flat, max_events)]
            flat = flat.latest(max_events)
        return EncodedEvents(
            offsets=flat.offsets,
            codes={name: _encode(self._as_lists(name, flat), values) for name, values in self.categories.items()},
            numbers={name: _finite(name, flat.columns[name]) for name in self.numeric},
            gaps=gaps,
        )

    def _as_lists(self, name: str, flat: FlatEvents) -> pa.ChunkedArray:
        """Return a column; if fit saw lists and all are missing, as lists, since a missing list holds no value."""
        column = flat.columns[name]
        missing = self.kinds[name].startswith("lists of") and pa.types.is_null(column.type)
        return column.cast(pa.list_(pa.null())) if missing else column

    def changes(self, flat: FlatEvents, X: Any) -> tuple[list[str], FlatEvents]:
        """Say what of the events is not as fit saw it, and return the events to encode."""
        problems, same = changes_since_fit(flat, self.kinds, self.time, X)
        if self.time in same.columns:  # In fit, it may have had no values, and so no kind.
            _check_time(self.time, kinds_of(same, [self.time])[self.time])
        return problems, same


def learn_features(
    flat: FlatEvents,
    X: Any,
    *,
    columns: Sequence[str] | None,
    numeric: Sequence[str] | None,
    categorical: Sequence[str] | None,
    time: str | None,
    max_events: int | None,
    max_categories: int | None,
    lists: bool,
) -> EventFeatures:
    """Decide how each field is read, and learn the categories.

    The parameters are those of the estimators; `X` is where the events are from, for messages, and `lists` says whether
    a field may hold lists of categories.

    Raises
    ------
    TypeError
        If a field holds values that no baseline reads.
    ValueError
        If there are no events, the parameters do not fit them, or they are not in order of time.
    """
    if not flat.lengths.any():
        raise ValueError(
            f"X has no events to learn from: none of its {flat.n_users} users has any. Pass users with events."
        )
    time = resolve_time(flat, time)
    used = list(flat.columns) if columns is None else list(dict.fromkeys(columns))
    named_numeric = [] if numeric is None else list(numeric)
    named_categorical = [] if categorical is None else list(categorical)
    _check_names(flat, used, named_numeric, named_categorical, time)
    raise_if(disorder(flat, time, X), "The events of X are not in order")
    latest = flat if max_events is None else flat.latest(max_events)
    used = _leave_out_empty(latest, used, time)
    kinds = kinds_of(flat, list(dict.fromkeys([*used, *([] if time is None else [time])])))
    if time is not None:
        _check_time(time, kinds[time])
    named = dict.fromkeys(named_categorical, False) | dict.fromkeys(named_numeric, True)
    fields = [name for name in used if name != time or name in named]
    numbers = [
        name
        for name in fields
        if named.get(name, name not in flat.coded and is_numeric(latest.columns[name], kinds[name]))
    ]
    groups = [name for name in fields if name not in numbers]
    _check_kinds(kinds, numbers, groups, lists)
    if not fields and time is None:
        raise ValueError("There is nothing to learn from: no field of the events is used. Check columns and time.")
    return EventFeatures(
        kinds=kinds,
        categories={name: _learn_categories(latest.columns[name], max_categories) for name in groups},
        numeric=numbers,
        time=time,
    )


def _check_names(
    flat: FlatEvents, used: list[str], numeric: Sequence[str], categorical: Sequence[str], time: str | None
) -> None:
    problems = missing_fields(used, flat, "columns names")
    for parameter, names in {"numeric": numeric, "categorical": categorical}.items():
        problems += missing_fields(names, flat, f"{parameter} names")
        left_out = [name for name in names if name in flat.columns and name not in used]
        problems += [f"{parameter} names {left_out}, which columns leaves out"] if left_out else []
    both = [name for name in numeric if name in categorical]
    problems += [f"numeric and categorical both name {both}"] if both else []
    problems += missing_fields([] if time is None else [time], flat, "time names")
    raise_if(problems, "The parameters do not fit the events", f"The events have the fields {list(flat.columns)}.")


def _leave_out_empty(flat: FlatEvents, used: list[str], time: str | None) -> list[str]:
    """Return the fields that have values, and warn about the others, which would be constant columns."""
    empty = [name for name in used if name != time and not _has_values(flat.columns[name])]
    if empty:
        warn(f"The fields {empty} of the events are missing in all events of fit and are left out.")
    return [name for name in used if name not in empty]


def _has_values(column: pa.ChunkedArray) -> bool:
    values = pc.list_flatten(column) if is_list(column.type) else column
    return not pc.all(pc.is_null(values, nan_is_null=True)).as_py() if len(values) else False


def _check_time(time: str, kind: str) -> None:
    if not (is_time(kind) or kind in ("numbers", "durations", "nothing")):
        raise TypeError(
            f"time={time!r} holds {kind}; it must hold times, dates or numbers. Pass time=None to ignore time."
        )


def _check_kinds(kinds: Mapping[str, str], numeric: Sequence[str], categorical: Sequence[str], lists: bool) -> None:
    for name in numeric:
        kind = kinds[name]
        if kind not in ("numbers", "durations", "booleans", "times of day") and not is_time(kind):
            raise TypeError(f"The field {name!r} of the events holds {kind}, which cannot be read as numbers.")
    for name in categorical:
        if kinds[name].startswith("lists of lists") or (kinds[name].startswith("lists") and not lists):
            raise TypeError(
                f"The field {name!r} of the events holds {kinds[name]}, which this transformer cannot read. Join each "
                "list into one text, or leave the field out with columns=[...]."
            )


def is_numeric(column: pa.ChunkedArray, kind: str) -> bool:
    """Return whether a field is read as numbers unless it is named otherwise."""
    if kind == "numbers" and pa.types.is_integer(column.type):
        n_distinct = pc.count_distinct(column).as_py()
        return n_distinct > max(FEW_VALUES, min(MANY_VALUES, len(column) // REPEATS))
    return kind in ("numbers", "durations", "times of day") or is_time(kind)


def _learn_categories(column: pa.ChunkedArray, max_categories: int | None) -> list[str | None]:
    texts, numbers, _ = texts_of_values(column)
    counts: dict[str | None, int] = {}
    for text, count in zip(texts, np.bincount(numbers, minlength=len(texts)).tolist(), strict=True):
        if count:
            counts[text] = counts.get(text, 0) + count
    frequent = sorted(counts, key=lambda text: (-counts[text], text is not None, text or ""))
    return frequent[:max_categories]


def _encode(column: pa.ChunkedArray, categories: Sequence[str | None]) -> Codes:
    texts, numbers, rows = texts_of_values(column)
    code_of = {text: code for code, text in enumerate(categories, start=UNKNOWN + 1)}
    codes = np.array([code_of.get(text, UNKNOWN) for text in texts], dtype=np.int64)
    # Different values may be one text.
    distinct, _ = pd.factorize(np.array(texts, dtype=object), use_na_sentinel=False)
    return Codes(codes[numbers], distinct[numbers], rows)


def texts_of_values(column: pa.ChunkedArray) -> tuple[list[str | None], npt.NDArray[np.int32], Integers]:
    """Return the distinct values as texts, the index of each value among them, and the event of each value."""
    values, numbers, rows = distinct_values(column)
    return format_values(values).to_pylist(), numbers, rows


def distinct_values(column: pa.ChunkedArray) -> tuple[pa.Array, npt.NDArray[np.int32], Integers]:
    """Return the distinct values, of lists those in them, the index of each value, and the event of each value."""
    rows = np.arange(len(column))
    if is_list(column.type):
        lists = combine(column)
        rows = pc.list_parent_indices(lists).to_numpy()
        column = unify_dictionaries(pa.chunked_array([pc.list_flatten(lists)]))
    return *encode_values(column), rows


def _finite(name: str, column: pa.ChunkedArray) -> Floats:
    numbers = to_floats(column)
    if too_large := int((np.abs(numbers) > LARGEST).sum()):
        raise ValueError(
            f"The field {name!r} of the events holds infinity or numbers beyond {LARGEST:g} in {too_large} of "
            f"{len(numbers)} events. Scale them, or replace them by null if they stand for a missing value."
        )
    return numbers


def gaps_of(flat: FlatEvents, times: Floats) -> Floats:
    """Return the time since the user's previous event, NaN if there is none, given the times of all events."""
    # An event without a time takes that of the one before, so that the gaps still sum to the whole.
    owners = np.repeat(np.arange(len(flat.lengths)), flat.lengths)
    known = pd.Series(times).groupby(owners).ffill().to_numpy()
    gaps: Floats = np.diff(known, prepend=np.nan)
    gaps[flat.offsets[:-1][flat.lengths > 0]] = np.nan
    return gaps


def _is_latest(flat: FlatEvents, max_events: int) -> npt.NDArray[np.bool_]:
    behind = np.repeat(flat.offsets[1:], flat.lengths) - np.arange(flat.offsets[-1])
    return behind <= max_events
