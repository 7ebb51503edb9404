"""The events of all users end to end, as flat Arrow columns and offsets: how every transformer reads `X`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from skllm4es.events._arrow import decode_irregular, offsets_of, regularise
from skllm4es.events._cells import not_events, read_cells
from skllm4es.events._frames import hint_for, is_object, is_polars, repeated, row_label, to_arrow
from skllm4es.events._kinds import is_list, unreadable
from skllm4es.events._order import sortable


@dataclass(frozen=True)
class FlatEvents:
    """The events of all users end to end: user ``i`` owns the rows ``offsets[i]:offsets[i + 1]`` of each column.

    Parameters
    ----------
    columns : dict of str to pyarrow.ChunkedArray of length n_events
        The fields of the events, by name.
    offsets : ndarray of shape (n_users + 1,), dtype int64
        Where each user's events begin and end.
    coded : frozenset of str, default=frozenset()
        The fields that came as codes of few values, such as categoricals of pandas, whatever the values are.
    """

    columns: dict[str, pa.ChunkedArray]
    offsets: npt.NDArray[np.int64]
    coded: frozenset[str] = frozenset()

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of events of each user."""
        return np.diff(self.offsets)

    def select(self, names: Sequence[str]) -> FlatEvents:
        """Keep some fields, in the given order."""
        return replace(self, columns={name: self.columns[name] for name in names})

    def latest(self, max_events: int) -> FlatEvents:
        """Keep the last `max_events` events of each user."""
        lengths = np.minimum(self.lengths, max_events)
        offsets = offsets_of(lengths)
        if offsets[-1] == self.offsets[-1]:
            return self
        first = self.offsets[1:] - lengths
        rows = pa.array(np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths))
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        return replace(self, columns=columns, offsets=offsets)

    def first(self, n_events: int) -> FlatEvents:
        """Keep the first users: as many as have about `n_events` events."""
        n_users = min(int(np.searchsorted(self.offsets, n_events)), self.n_users)
        offsets = self.offsets[: n_users + 1]
        columns = {name: column.slice(0, offsets[-1]) for name, column in self.columns.items()}
        return replace(self, columns=columns, offsets=offsets)

    def unsorted_users(self, name: str) -> npt.NDArray[np.int64]:
        """Return the positions of the users whose values of a column decrease somewhere, ignoring missing values.

        Raises a TypeError if the values have no order.
        """
        values, rows = self._known(name)
        return self._owners(rows, np.flatnonzero(values[1:] < values[:-1]))

    def varies(self, name: str) -> bool:
        """Whether some user has different values of a column, ignoring missing ones."""
        values, rows = self._known(name)
        return len(self._owners(rows, np.flatnonzero(values[1:] != values[:-1]))) > 0

    def _known(self, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Return numbers that have the order of a column's values, without missing ones, and their rows."""
        column = decode_irregular(self.columns[name])
        rows = np.arange(len(column))
        missing = pc.is_null(column, nan_is_null=True)
        if pc.any(missing).as_py():
            known = pc.invert(missing)
            column, rows = column.filter(known), rows[known.to_numpy()]
        return sortable(column, name), rows

    def _owners(self, rows: npt.NDArray[np.int64], places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the users who own both the row at some place and the next one."""
        before = np.searchsorted(self.offsets, rows[places], side="right")
        behind = np.searchsorted(self.offsets, rows[places + 1], side="right")
        return np.unique(behind[before == behind] - 1)


def flatten_events(X: Any, events: str | Sequence[str] = "events") -> FlatEvents:
    """Read the events of a dataframe with one row per user as flat columns and offsets.

    Parameters
    ----------
    X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
        One row per user. It is not changed.
    events : str or sequence of str, default="events"
        Where the events are. One name is a column of Arrow, polars or nested-pandas lists of structs, or of object
        cells that are lists of dicts or dataframes (slow: 1 to 5 us an event, where Arrow copies nothing).
        Several names are columns with one list per feature, all of the same length for a user. A null or an empty list
        is a user without events; a null event, or a dict without a key, has missing values.

    Returns
    -------
    FlatEvents
        The fields of the events, in the order in which they first appear, and the offsets of the users.

    Raises
    ------
    TypeError
        If `X` is not a dataframe or a column does not hold lists of events.
    ValueError
        If `X` lacks a column, or a user's lists differ in length.
    """
    single = isinstance(events, str) or not isinstance(events, Iterable)  # In pandas, 0 may be a name.
    names: list[Any] = [events] if single else list(events)
    _check_frame(X, names)
    lists = {name: _read_lists(X, name) for name in names}
    lengths = {name: pc.fill_null(pc.list_value_length(column), 0).to_numpy() for name, column in lists.items()}
    _check_equal_lengths(lengths, X)
    if single:
        columns = _fields_of_structs(lists[names[0]], names[0])
    else:
        columns = {str(name): _flatten(column, name) for name, column in lists.items()}
    coded = frozenset(name for name, column in columns.items() if pa.types.is_dictionary(column.type))
    columns = {name: _regular_field(column, name) for name, column in columns.items()}
    return FlatEvents(columns, offsets_of(lengths[names[0]]), coded)


def _check_frame(X: Any, names: Sequence[str]) -> None:
    if not isinstance(X, pd.DataFrame) and not is_polars(X):
        raise TypeError(
            "X must be a pandas or polars dataframe with one row per user and a column of events; "
            f"got {type(X).__name__}. Build it from a long table with nest_events(table, user=..., time=...)."
            f"{hint_for(X)}"
        )
    columns = list(X.columns)
    problems = [f"X has no column {name!r}" for name in names if name not in columns]
    problems += [f"X has {columns.count(name)} columns {name!r}" for name in names if columns.count(name) > 1]
    problems += [f"events names {name!r} more than once" for name in repeated(names)]
    if not names:
        problems = ["events names no column"]
    if problems:
        raise ValueError(
            f"{'; '.join(problems)}; its columns are {columns}. Name the column that holds the events with "
            "events=NAME, or build X from a long table with nest_events(table, user=..., time=...)."
        )


def _check_equal_lengths(lengths: dict[str, npt.NDArray[Any]], X: Any) -> None:
    table = np.stack(list(lengths.values()))
    unequal = np.flatnonzero((table != table[0]).any(axis=0))
    if len(unequal):
        first = unequal[0]
        seen = ", ".join(f"{name!r} {length}" for name, length in zip(lengths, table[:, first], strict=True))
        raise ValueError(
            f"The columns of events must have lists of the same length for a user; they differ for {len(unequal)} of "
            f"{table.shape[1]} users, first in row {row_label(X, first)!r}, where the lengths are: {seen}."
        )


def _read_lists(X: Any, name: str) -> pa.ChunkedArray:
    """Read a column of any kind as Arrow lists."""
    column = X[name]
    array = read_cells(column, name) if is_object(column) else to_arrow(X[[name]])[0]
    lists = array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
    if pa.types.is_null(lists.type):
        return lists.cast(pa.list_(pa.null()))
    if not is_list(lists.type):
        raise not_events(name, f"it is of type {lists.type}")
    return lists


def _fields_of_structs(lists: pa.ChunkedArray, name: str) -> dict[str, pa.ChunkedArray]:
    type_ = lists.type.value_type
    if pa.types.is_null(type_):
        return {}
    if not pa.types.is_struct(type_):
        raise not_events(name, f"its lists hold {type_}, not structs")
    fields = list(type_)
    if twice := repeated([field.name for field in fields]):
        raise ValueError(f"The events in the column {name!r} have more than one field named {twice[0]!r}.")
    # `flatten`, not `field`: it passes on the nulls of the structs and respects slices.
    chunks = [chunk.flatten() for chunk in _flatten(lists, name).chunks]
    return {field.name: pa.chunked_array([chunk[i] for chunk in chunks], field.type) for i, field in enumerate(fields)}


def _flatten(lists: pa.ChunkedArray, name: Any) -> pa.ChunkedArray:
    try:
        return pc.list_flatten(lists)
    except pa.ArrowNotImplementedError as error:  # Such as a dictionary of structs in the events.
        raise unreadable(name, lists.type.value_type) from error


def _regular_field(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    try:
        return regularise(column)
    except pa.ArrowNotImplementedError as error:
        raise unreadable(name, column.type) from error
