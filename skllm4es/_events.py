"""Event sequences as a dataframe with one row per user, and the flat columns that the transformers work on.

This is where users' data enters: `nest_events` turns a long table into ``X``, `unnest_events` turns it back, and
`flatten_events` is how `EventSerializer` and the baselines read ``X``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import polars as pl

    DataFrame = pd.DataFrame | pl.DataFrame


def nest_events(
    events: pd.DataFrame | pl.DataFrame | pa.Table,
    *,
    user: str,
    time: str,
    columns: Sequence[str] | None = None,
) -> DataFrame:
    """Gather a long table of events into a dataframe with one row per user.

    Parameters
    ----------
    events : pandas.DataFrame, polars.DataFrame or pyarrow.Table of shape (n_events, n_columns)
        One row an event, in any order. It is not changed.
    user : str
        The column that says whose event it is.
    time : str
        The column that orders a user's events. Events at equal times keep the order of the table.
    columns : sequence of str, default=None
        The columns to keep with each event, in this order; all but `user` by default.

    Returns
    -------
    X : pandas.DataFrame or polars.DataFrame of shape (n_users, 1)
        One row per user, ordered by user, with the list-typed column ``events``. A polars table gives a polars
        frame, whose first column holds the users; other tables give a pandas frame with the users as its index
        and ``events`` of type ``ArrowDtype(list<struct>)``. Strings are dictionary-encoded.

    Raises
    ------
    TypeError
        If `events` is not a table, or a column mixes types that Arrow cannot hold together.
    ValueError
        If a named column is missing, or an event has no user or no time.

    See Also
    --------
    unnest_events : The inverse.

    Examples
    --------
    >>> import pandas as pd
    >>> from skllm4es import nest_events
    >>> cards = pd.DataFrame({
    ...     "client": [7, 3, 7],
    ...     "time": pd.to_datetime(["2024-03-02", "2024-03-01", "2024-03-01"]),
    ...     "amount": [12.5, 8.0, 99.9],
    ... })
    >>> X = nest_events(cards, user="client", time="time")
    >>> [event["amount"] for event in X["events"].loc[7]]
    [99.9, 12.5]
    """
    table = _to_arrow(events)
    columns = _check_columns(table, user=user, time=time, columns=columns)
    users, user_codes = _factorize(table[user])
    order = _order_of_events(user_codes, _sortable(table[time]))
    fields = [_encode_strings(table[name]) for name in columns]
    if order is not None:
        user_codes = user_codes[order]
        fields = [field.take(pa.array(order)) for field in fields]
    offsets = np.searchsorted(user_codes, np.arange(len(users) + 1))
    lists = _list_array(pa.StructArray.from_arrays(fields, names=columns), offsets)
    if _is_polars(events):
        import polars as pl

        return pl.DataFrame({user: pl.from_arrow(users), "events": pl.from_arrow(lists)})
    index = pd.Index(users.to_pandas(), name=user)
    return pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(lists)}, index=index)


def unnest_events(X: DataFrame, *, events: str = "events", user: str | None = None) -> DataFrame:
    """Spread a dataframe with one row per user into a long table with one row an event.

    Parameters
    ----------
    X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
        One row per user, as `nest_events` gives it. It is not changed.
    events : str, default="events"
        The column that holds the events.
    user : str, default=None
        The name of the user column: for pandas, the name to give the index in the table (its own name by default,
        ``"user"`` if it has none); for polars, the column that holds the users, the first one that is not `events`
        by default.

    Returns
    -------
    table : pandas.DataFrame or polars.DataFrame of shape (n_events, 1 + n_features)
        The user column, then the fields of the events; users in the order of `X`, events in theirs. A user without
        events has no row here. Other columns of `X` are left out.

    Raises
    ------
    TypeError
        If `X` is not a dataframe or the column `events` does not hold events.
    ValueError
        If a named column is missing.

    See Also
    --------
    nest_events : The inverse.

    Examples
    --------
    >>> import pandas as pd
    >>> from skllm4es import nest_events, unnest_events
    >>> cards = pd.DataFrame({"client": [3, 7, 7], "day": [1, 1, 2], "amount": [8.0, 99.9, 12.5]})
    >>> unnest_events(nest_events(cards, user="client", time="day"))
       client  day  amount
    0       3    1     8.0
    1       7    1    99.9
    2       7    2    12.5
    """
    flat = flatten_events(X, events)
    users: pa.Array
    if not isinstance(X, pd.DataFrame):
        user = user or next((name for name in X.columns if name != events), None)
        if user is None or user not in X.columns:
            raise ValueError(f"X has no user column {user!r}; its columns are {list(X.columns)}. Pass user=NAME.")
        users = X[user].to_arrow()
    else:
        user = user or str(X.index.name or "user")
        users = pa.array(X.index)
    if user in flat.columns:
        raise ValueError(f"The events already have a field {user!r}: name the user column otherwise with user=NAME.")
    owners = np.repeat(np.arange(flat.n_users), flat.lengths)
    decoded = {name: _decode_strings(column) for name, column in flat.columns.items()}
    table = pa.table({user: users.take(pa.array(owners)), **decoded})
    if _is_polars(X):
        import polars as pl

        return pl.DataFrame(table)
    return _to_pandas(table)


@dataclass(frozen=True)
class FlatEvents:
    """The events of all users end to end: user ``i`` owns the rows ``offsets[i]:offsets[i + 1]`` of each column.

    Parameters
    ----------
    columns : dict of str to pyarrow.ChunkedArray of length n_events
        The fields of the events, by name.
    offsets : ndarray of shape (n_users + 1,), dtype int64
        Where each user's events begin and end.
    """

    columns: dict[str, pa.ChunkedArray]
    offsets: npt.NDArray[np.int64]

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of events of each user."""
        return np.diff(self.offsets)

    def latest(self, max_events: int) -> FlatEvents:
        """Keep the last `max_events` events of each user."""
        lengths = np.minimum(self.lengths, max_events)
        offsets = _offsets_of(lengths)
        if offsets[-1] == self.offsets[-1]:
            return self
        first = self.offsets[1:] - lengths
        rows = pa.array(np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths))
        return FlatEvents({name: column.take(rows) for name, column in self.columns.items()}, offsets)


def flatten_events(X: Any, events: str = "events") -> FlatEvents:
    """Read the events of a dataframe with one row per user as flat columns and offsets.

    Parameters
    ----------
    X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
        One row per user. It is not changed.
    events : str, default="events"
        The column that holds the events: Arrow or polars lists of structs, or object cells that are lists of dicts.
        A null and an empty list are both a user without events.

    Returns
    -------
    FlatEvents
        The fields of the events and the offsets of the users.

    Raises
    ------
    TypeError
        If `X` is not a dataframe or the column does not hold lists of structs.
    ValueError
        If `X` has no such column.
    """
    if not isinstance(X, pd.DataFrame) and not _is_polars(X):
        raise TypeError(
            f"X must be a pandas or polars dataframe with one row per user and a column {events!r} of events; "
            f"got {type(X).__name__}. Build it from a long table with nest_events(table, user=..., time=...)."
        )
    if events not in X.columns:
        raise ValueError(
            f"X has no column {events!r}; its columns are {list(X.columns)}. Name the column that holds the events "
            "with events=NAME, or build X from a long table with nest_events(table, user=..., time=...)."
        )
    lists = _lists_of_structs(X[events], events)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    structs = pc.list_flatten(lists)
    columns = {
        field.name: pa.chunked_array([chunk.flatten()[i] for chunk in structs.chunks], field.type).unify_dictionaries()
        for i, field in enumerate(structs.type)
    }
    return FlatEvents(columns, _offsets_of(lengths))


def _lists_of_structs(column: Any, name: str) -> pa.ChunkedArray:
    if isinstance(column, pd.Series):
        try:
            array = pa.array(column.array, from_pandas=True) if column.dtype == object else pa.array(column.array)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise TypeError(f"The cells of the column {name!r} are not lists of events: {error}") from error
    else:
        array = column.to_arrow()
    lists = array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
    if pa.types.is_null(lists.type) or (_is_list(lists.type) and pa.types.is_null(lists.type.value_type)):
        return lists.cast(pa.list_(pa.struct([])))
    if not _is_list(lists.type) or not pa.types.is_struct(lists.type.value_type):
        raise TypeError(
            f"The column {name!r} must hold each user's events as a list of structs; it is of type {lists.type}. "
            "Build X from a long table with nest_events(table, user=..., time=...)."
        )
    return lists


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_)


def _is_polars(frame: Any) -> bool:
    # By module name, so that polars is imported only where it is in use already.
    return type(frame).__module__.partition(".")[0] == "polars"


def _to_arrow(events: Any) -> pa.Table:
    if isinstance(events, pa.Table):
        return events
    if _is_polars(events):
        return events.to_arrow()
    if not isinstance(events, pd.DataFrame):
        raise TypeError(
            "events must be a long table with one row an event, as a pandas or polars dataframe or a pyarrow table; "
            f"got {type(events).__name__}."
        )
    try:
        return pa.Table.from_pandas(events, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TypeError(
            f"A column of events mixes types that cannot be held together: {'; '.join(map(str, error.args))}. "
            "Convert it to one type, for example with events[column].astype(str)."
        ) from error


def _check_columns(table: pa.Table, *, user: str, time: str, columns: Sequence[str] | None) -> list[str]:
    if isinstance(columns, str):
        raise TypeError(f"columns must be a list of column names; got the string {columns!r}. Write [{columns!r}].")
    names = table.column_names
    kept = [name for name in names if name != user] if columns is None else list(columns)
    problems = [
        f"{role} {name!r} is not a column of the table"
        for role, name in [("user", user), ("time", time), *(("columns:", name) for name in kept)]
        if name not in names
    ]
    problems += [f"the column {name!r} appears {names.count(name)} times" for name in _repeated(names)]
    problems += [f"columns names {name!r} more than once" for name in _repeated(kept) if columns is not None]
    if not problems:
        problems = [
            f"{table[name].null_count} of {len(table)} events have no {role} (column {name!r} is null): "
            "drop these rows or fill them in"
            for role, name in [("user", user), ("time", time)]
            if table[name].null_count
        ]
    if problems:
        raise ValueError("nest_events cannot read this table: " + "; ".join(problems) + f". Its columns are {names}.")
    return kept


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _factorize(column: pa.ChunkedArray) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Sorted distinct values, and for each row the position of its value among them."""
    encoded = _combine(column if pa.types.is_dictionary(column.type) else column.dictionary_encode())
    used = np.unique(encoded.indices.to_numpy())
    dictionary = encoded.dictionary.take(pa.array(used))
    order = pc.array_sort_indices(dictionary).to_numpy()
    rank = np.zeros(len(encoded.dictionary), dtype=np.int64)
    rank[used[order]] = np.arange(len(order))
    return dictionary.take(pa.array(order)), rank[encoded.indices.to_numpy()]


def _sortable(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Numbers in the order of the column's values."""
    if pa.types.is_temporal(column.type) and not pa.types.is_duration(column.type):
        return column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64()).to_numpy()
    if pa.types.is_integer(column.type):
        return column.to_numpy()
    if pa.types.is_floating(column.type):
        values = column.to_numpy()
        if np.isnan(values).any():
            raise ValueError(
                f"{np.isnan(values).sum()} of {len(values)} events have no time (NaN): drop these rows or fill them in."
            )
        return values
    return _factorize(column)[1]


def _order_of_events(users: npt.NDArray[np.int64], times: npt.NDArray[Any]) -> npt.NDArray[np.int64] | None:
    """Sort the rows by user and time, stably; None where they are sorted already (180 times faster)."""
    same_user = users[1:] == users[:-1]
    if np.all((users[1:] > users[:-1]) | (same_user & (times[1:] >= times[:-1]))):
        return None
    return np.lexsort((times, users))


def _encode_strings(column: pa.ChunkedArray) -> pa.Array:
    # Plain Arrow strings overflow their 32-bit offsets at 2 GB; dictionaries also make labels one look-up a value.
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.dictionary_encode()
    return _combine(column)


def _decode_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _combine(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    combined = column.combine_chunks()
    return combined.combine_chunks() if isinstance(combined, pa.ChunkedArray) else combined


def _list_array(structs: pa.StructArray, offsets: npt.NDArray[np.int64]) -> pa.Array:
    if offsets[-1] <= np.iinfo(np.int32).max:
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs)
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), structs)


def _offsets_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """Convert to numpy types, but to pandas' nullable types where nulls would turn integers or booleans to floats."""
    frame = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        whole = pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)
        if whole and column.null_count:
            frame[name] = pd.Series(pd.arrays.ArrowExtensionArray(column)).convert_dtypes(
                dtype_backend="numpy_nullable"
            )
        else:
            frame[name] = column.to_pandas()
    return pd.DataFrame(frame)
