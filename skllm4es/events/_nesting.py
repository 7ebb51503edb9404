"""Event sequences as a dataframe with one row per user, and the flat columns that the transformers work on.

This is where users' data enters: `nest_events` turns a long table into ``X``, `unnest_events` turns it back, and
`flatten_events` is how `EventSerializer` and the baselines read ``X``.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from skllm4es.serialize._values import is_list, is_string, is_time, no_text, value_kind

if TYPE_CHECKING:
    import polars as pl

    DataFrame = pd.DataFrame | pl.DataFrame

#: What to do with values that Arrow cannot hold.
_REMEDY = (
    "Convert them to numbers, times or strings, all of one type, for example with astype(str), or cast(pl.String) in "
    "polars."
)


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
        The column that orders a user's events: numbers, times, texts or anything else that has an order (an ordered
        categorical has its own). Events at equal times keep the order of the table.
    columns : sequence of str, default=None
        The columns to keep with each event, in this order; all but `user` by default.

    Returns
    -------
    X : pandas.DataFrame or polars.DataFrame of shape (n_users, 1)
        One row per user, ordered by user, with the list-typed column ``events``. A polars table gives a polars
        frame, whose first column holds the users; other tables give a pandas frame with the users as its index
        and ``events`` of type ``ArrowDtype(list<struct>)``. Strings are dictionary-encoded. NaN in a pandas table is
        a null, as in pandas itself. What only pandas has is kept as texts that have the order of the values, for
        example the intervals of `pandas.cut` and periods; sparse columns become dense.

    Raises
    ------
    TypeError
        If `events` is not a table, Arrow cannot hold a column (complex numbers, or texts among numbers), or the values
        of `user` or `time` have no order.
    ValueError
        If a named column is missing or repeated, or an event has no user or no time.

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
    names = _column_names(events)
    columns = _check_columns(names, user=user, time=time, columns=columns)
    table = _to_arrow(_select(events, [names.index(name) for name in dict.fromkeys([user, time, *columns])]))
    keys = {name: _regular_dictionary(table[name]) for name in (user, time)}
    _check_no_nulls({"user": user, "time": time}, keys)
    users, user_codes = _factorize(keys[user], user)
    order = _order_of_events(user_codes, _sortable(keys[time], time))
    fields = [_field_in_order(table[name], name, order) for name in columns]
    user_codes = user_codes if order is None else user_codes[order]
    offsets = np.searchsorted(user_codes, np.arange(len(users) + 1))
    lists = _list_array(pa.StructArray.from_arrays(fields, names=columns), offsets)
    if _is_polars(events):
        import polars as pl

        return pl.DataFrame([pl.Series(user, pl.from_arrow(users)), pl.Series("events", pl.from_arrow(lists))])
    index = pd.Index(_column_for_pandas(users, user), name=user)
    return pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(lists)}, index=index)


def unnest_events(X: DataFrame, *, events: str | Sequence[str] = "events", user: str | None = None) -> DataFrame:
    """Spread a dataframe with one row per user into a long table with one row an event.

    Parameters
    ----------
    X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
        One row per user, as `nest_events` gives it, or with its events in any other form that `EventSerializer` reads.
        It is not changed.
    events : str or sequence of str, default="events"
        The column that holds the events, or the columns that hold one list per feature.
    user : str, default=None
        The name of the user column: for pandas, the name to give the index in the table (its own name by default,
        ``"user"`` if it has none); for polars, the column that holds the users, the first one that is not `events`
        by default.

    Returns
    -------
    table : pandas.DataFrame or polars.DataFrame of shape (n_events, 1 + n_features)
        The user column, then the fields of the events; users in the order of `X`, events in theirs. A user without
        events has no row here. Other columns of `X` are left out. A pandas table has numpy types (nullable ones for
        integers and booleans with nulls): time zones, units of time, widths of numbers, dates and decimals are those of
        the table that was nested; categoricals come back as their values, and Arrow and nullable types without nulls as
        numpy's.

    Raises
    ------
    TypeError
        If `X` is not a dataframe or the column `events` does not hold events.
    ValueError
        If a named column is missing, or list columns differ in length.

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
    users: pa.ChunkedArray
    if not isinstance(X, pd.DataFrame):
        taken = [events] if isinstance(events, str) else events
        user = user or next((name for name in X.columns if name not in taken), None)
        if user is None or user not in X.columns:
            raise ValueError(f"X has no user column {user!r}; its columns are {list(X.columns)}. Pass user=NAME.")
        users = _to_arrow(X[[user]])[0]
    else:
        user = user or str(X.index.name or "user")
        users = _to_arrow(pd.DataFrame({user: X.index}))[0]
    if user in flat.columns:
        raise ValueError(f"The events already have a field {user!r}: name the user column otherwise with user=NAME.")
    owners = np.repeat(np.arange(flat.n_users), flat.lengths)
    decoded = {name: _decode_strings(column) for name, column in flat.columns.items()}
    table = pa.table({user: _widen_strings(users).take(pa.array(owners)), **decoded})
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

    def first(self, n_events: int) -> FlatEvents:
        """Keep the first users: as many as have about `n_events` events."""
        n_users = min(int(np.searchsorted(self.offsets, n_events)), self.n_users)
        offsets = self.offsets[: n_users + 1]
        return FlatEvents({name: column.slice(0, offsets[-1]) for name, column in self.columns.items()}, offsets)

    def unsorted_users(self, name: str) -> npt.NDArray[np.int64]:
        """Positions of the users whose values of the column `name` decrease somewhere; missing values are passed over.

        Parameters
        ----------
        name : str
            The column, for example the time of the events.

        Returns
        -------
        users : ndarray of shape (n_unsorted,), dtype int64
            Their positions, ascending.

        Raises
        ------
        TypeError
            If the values of the column have no order.
        """
        column = _regular_dictionary(self.columns[name])
        rows = np.arange(len(column))
        missing = pc.is_null(column, nan_is_null=True)
        if pc.any(missing).as_py():
            known = pc.invert(missing)
            column, rows = column.filter(known), rows[known.to_numpy()]
        values = _sortable(column, name)
        decreases = np.flatnonzero(values[1:] < values[:-1])  # Few but for the borders between users.
        before = np.searchsorted(self.offsets, rows[decreases], side="right")
        behind = np.searchsorted(self.offsets, rows[decreases + 1], side="right")
        return np.unique(behind[before == behind] - 1)


def flatten_events(X: Any, events: str | Sequence[str] = "events") -> FlatEvents:
    """Read the events of a dataframe with one row per user as flat columns and offsets.

    Parameters
    ----------
    X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
        One row per user. It is not changed.
    events : str or sequence of str, default="events"
        Where the events are. A name is the column that holds them as Arrow, polars or nested-pandas lists of structs,
        or as object cells, lists of dicts or dataframes (slow: 1 to 5 us an event, where Arrow copies nothing).
        Several names are columns with one list per feature, as long in each of them. A null and an empty list are both
        a user without events; an event that is null, or a dict without some key, has missing values there.

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
    names = [events] if isinstance(events, str) else list(events)
    _check_frame(X, names)
    lists = {name: _read_lists(X, name) for name in names}
    lengths = {name: pc.fill_null(pc.list_value_length(column), 0).to_numpy() for name, column in lists.items()}
    _check_equal_lengths(lengths, X)
    if isinstance(events, str):
        columns = _fields_of_structs(lists[events], events)
    else:
        columns = {name: pc.list_flatten(column) for name, column in lists.items()}
    columns = {name: _regular_field(column, name) for name, column in columns.items()}
    return FlatEvents(columns, _offsets_of(lengths[names[0]]))


def find_time(flat: FlatEvents) -> str | None:
    """Give the first field of times or dates that orders the events; if none does, the first, which is told of."""
    names = [name for name, column in flat.columns.items() if _is_temporal(column.type)]
    names = [name for name in names if is_time(value_kind(flat.columns[name].type))]
    return next((name for name in names if not len(flat.unsorted_users(name))), names[0] if names else None)


def disorder(flat: FlatEvents, time: str | None, X: Any) -> list[str]:
    """Say in which rows of `X` the values of the field `time` decrease, if there are such."""
    if time not in flat.columns or not len(users := flat.unsorted_users(time)):
        return []
    return [
        f"{time!r} decreases within {len(users)} of {flat.n_users} users, first in row {row_label(X, users[0])!r}; "
        f"sort the events, as nest_events(table, user=..., time={time!r}) does; or, if another field orders them, set "
        "time to that field, None if there is none"
    ]


def kinds_of(flat: FlatEvents, names: Sequence[str]) -> dict[str, str]:
    """Name what the values of some fields are."""
    kinds = {}
    for name in names:
        try:
            kinds[name] = value_kind(flat.columns[name].type)
        except TypeError as error:
            raise TypeError(f"The field {name!r} of the events: {error}.") from error
    return kinds


def missing_fields(names: Any, flat: FlatEvents, source: str) -> list[str]:
    """Say which of the named fields the events do not have, if there are such."""
    missing = [name for name in names if name not in flat.columns]
    return [f"{source} {missing}, which the events do not have"] if missing else []


def _check_frame(X: Any, names: Sequence[str]) -> None:
    if not isinstance(X, pd.DataFrame) and not _is_polars(X):
        raise TypeError(
            "X must be a pandas or polars dataframe with one row per user and a column of events; "
            f"got {type(X).__name__}. Build it from a long table with nest_events(table, user=..., time=...)."
        )
    columns = list(X.columns)
    problems = [f"X has no column {name!r}" for name in names if name not in columns]
    problems += [f"X has {columns.count(name)} columns {name!r}" for name in names if columns.count(name) > 1]
    problems += [f"events names {name!r} more than once" for name in _repeated(names)]
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
            f"The columns of events must hold equally many values for a user; they do not for {len(unequal)} of "
            f"{table.shape[1]} users, first in row {row_label(X, first)!r}, where the numbers of values are: {seen}."
        )


def row_label(X: Any, position: int) -> Any:
    """Name a row of a dataframe or series for a message: by the index of pandas, or by its position."""
    if not isinstance(X, pd.DataFrame | pd.Series):
        return int(position)
    label = X.index[[position]].tolist()[0]
    try:
        repr(label)
    except Exception:  # Pandas cannot write times of a zone after the year 9999.
        return int(position)
    return label


def _read_lists(X: Any, name: str) -> pa.ChunkedArray:
    """Read a column of a dataframe, of whatever kind, as Arrow lists."""
    column = X[name]
    array = _lists_of_objects(column, name) if _is_object(column) else _to_arrow(X[[name]])[0]
    lists = array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
    if pa.types.is_null(lists.type):
        return lists.cast(pa.list_(pa.null()))
    if not is_list(lists.type):
        raise _not_events(name, f"it is of type {lists.type}")
    return lists


def _not_events(name: str, seen: str) -> TypeError:
    return TypeError(
        f"The column {name!r} must hold each user's events as a list; {seen}. Build X from a long table with "
        "nest_events(table, user=..., time=...), or name one list column per feature with events=[NAME, ...]."
    )


def _fields_of_structs(lists: pa.ChunkedArray, name: str) -> dict[str, pa.ChunkedArray]:
    type_ = lists.type.value_type
    if pa.types.is_null(type_):
        return {}
    if not pa.types.is_struct(type_):
        raise _not_events(name, f"its lists hold {type_}, not structs")
    fields = list(type_)
    if repeated := _repeated([field.name for field in fields]):
        raise ValueError(f"The events in the column {name!r} have more than one field named {repeated[0]!r}.")
    # `flatten` and not `field`: it passes the nulls of the structs on, and keeps to the rows of a slice.
    chunks = [chunk.flatten() for chunk in pc.list_flatten(lists).chunks]
    return {field.name: pa.chunked_array([chunk[i] for chunk in chunks], field.type) for i, field in enumerate(fields)}


def _lists_of_objects(column: Any, name: str) -> pa.Array:
    cells = [None if _is_missing(cell) else cell for cell in column.to_list()]
    strange = [i for i, cell in enumerate(cells) if not (cell is None or _is_frame(cell) or _is_sequence(cell))]
    if strange:
        first, row = cells[strange[0]], row_label(column, strange[0])
        raise _not_events(
            name,
            f"{len(strange)} of its cells are neither lists nor dataframes, first in row {row!r}, which "
            f"holds {first!r:.60} ({type(first).__name__})",
        )
    try:
        return _convert_objects(cells)
    except MemoryError:
        raise
    except Exception as error:
        found = _first_unfit(cells, _convert_objects)
        why = _unfit_fields(cells[: found + 1], column) or str(error)
        raise TypeError(
            f"The cells of the column {name!r} cannot be held together: before row {row_label(column, found)!r} they "
            f"can, with it: {why if _REMEDY in why else f'{why}. {_REMEDY}'}"
        ) from error


def _first_unfit(values: Any, convert: Callable[[Any], Any]) -> int:
    """Find the first of the values that cannot be converted together with those before it; their number if all can."""

    def is_unfit(n_values: int) -> bool:
        try:
            convert(values[:n_values])
        except Exception:
            return True
        return False

    return bisect.bisect_left(range(1, len(values) + 1), True, key=is_unfit)


def _unfit_fields(cells: list[Any], column: Any) -> str:
    """Say which fields of events that are dicts cannot be converted by themselves, and why."""
    events = [
        (row_label(column, place), event)
        for place, cell in enumerate(cells)
        if _is_sequence(cell)
        for event in cell
        if isinstance(event, dict)
    ]
    rows = [row for row, _ in events]
    keys = dict.fromkeys(key for _, event in events for key in event)
    columns = [pd.Series([event.get(key) for _, event in events], rows, dtype=object) for key in keys]
    try:
        _arrow_table([str(key) for key in keys], columns)
    except TypeError as error:
        return str(error)
    return ""


def _convert_objects(cells: list[Any]) -> pa.Array:
    if any(_is_frame(cell) for cell in cells):
        return _lists_of_frames(cells)
    lists = pa.array(cells, from_pandas=True)
    if not is_list(lists.type) or not pa.types.is_struct(lists.type.value_type):
        return lists
    # Older versions of pyarrow sort the keys.
    keys = dict.fromkeys(
        key for cell in cells if cell is not None for event in cell if isinstance(event, dict) for key in event
    )
    fields = [lists.type.value_type.field(key) for key in keys]
    ordered = pa.list_(pa.struct(fields))
    return lists if lists.type == ordered else pa.array(cells, ordered, from_pandas=True)


def _lists_of_frames(cells: list[Any]) -> pa.Array:
    tables = [
        _to_arrow(cell if _is_frame(cell) else pd.DataFrame([] if cell is None else list(cell))) for cell in cells
    ]
    events = pa.concat_tables(tables, promote_options="permissive")
    fields = [_combine(column) for column in events.columns]
    offsets = _offsets_of(np.array([len(table) for table in tables]))
    return _list_array(pa.StructArray.from_arrays(fields, names=events.column_names), offsets)


def _is_missing(cell: Any) -> bool:
    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and cell != cell)


def _is_frame(cell: Any) -> bool:
    return isinstance(cell, pd.DataFrame | pa.Table) or _is_polars(cell)


def _is_sequence(cell: Any) -> bool:
    return isinstance(cell, list | tuple) or (isinstance(cell, np.ndarray) and cell.ndim == 1)


def _is_polars(frame: Any) -> bool:
    # By names, so that polars is imported only where it is in use already.
    return type(frame).__module__.partition(".")[0] == "polars" and type(frame).__name__ == "DataFrame"


def _column_names(events: Any) -> list[str]:
    if isinstance(events, pa.Table):
        return events.column_names
    if not isinstance(events, pd.DataFrame) and not _is_polars(events):
        raise TypeError(
            "events must be a long table with one row an event, as a pandas or polars dataframe or a pyarrow table; "
            f"got {type(events).__name__}."
        )
    return [str(name) for name in events.columns]


def _select(events: Any, positions: list[int]) -> Any:
    if isinstance(events, pa.Table):
        return events.select(positions)
    return events.iloc[:, positions] if isinstance(events, pd.DataFrame) else events[:, positions]


def _to_arrow(frame: Any) -> pa.Table:
    """Give a dataframe of any kind as a table of Arrow."""
    return _arrow_table(_column_names(frame), _columns(frame))


def _arrow_table(names: list[str], columns: list[Any]) -> pa.Table:
    """Make a table of columns of any kind, or say which of them Arrow cannot hold, and why."""
    arrays, problems = [], []
    for name, column in zip(names, columns, strict=True):
        try:
            name.encode()  # Half a pair is no character, in names as in values.
            arrays.append(_column_to_arrow(column))
            arrays[-1].validate()  # Of arrays within arrays, pyarrow makes broken lists at times.
        except MemoryError:
            raise
        except Exception as error:
            type_ = column.type if isinstance(column, pa.ChunkedArray) else column.dtype
            problems.append(f"{name!r} ({type_}{_where_unfit(column)}): {error}")
    if problems:
        raise TypeError(f"Arrow, in which events are kept, cannot hold {'; '.join(problems)}. {_REMEDY}")
    return pa.Table.from_arrays(arrays, names=names)


def _columns(frame: Any) -> list[Any]:
    if isinstance(frame, pd.DataFrame):
        return [frame.iloc[:, place] for place in range(frame.shape[1])]
    return frame.columns if isinstance(frame, pa.Table) else frame.get_columns()


def _column_to_arrow(column: Any) -> pa.ChunkedArray | pa.Array:
    if _is_object(column):  # Polars would hand over the addresses of its objects.
        column = pd.Series(column.to_list(), dtype=object)
    if not isinstance(column, pd.Series):
        return _takeable(column if isinstance(column, pa.ChunkedArray) else _from_polars(column))
    if isinstance(column.dtype, pd.SparseDtype):
        column = pd.Series(np.asarray(column))
    array = pa.array(column, from_pandas=True)
    type_ = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    return _as_texts(column) if isinstance(type_, pa.BaseExtensionType) else _takeable(array)


def _where_unfit(column: Any) -> str:
    if not _is_object(column):
        return ""
    values = pd.Series(column.to_list(), dtype=object)
    place = _first_unfit(values, _column_to_arrow)
    if place == len(values):  # Not the values are what does not do.
        return ""
    return f", from row {row_label(column, place)!r} on, which holds {values[place]!r:.60}"


def _is_object(column: Any) -> bool:
    return not isinstance(column, pa.ChunkedArray) and str(column.dtype).lower() == "object"  # Of pandas or of polars.


def _from_polars(column: Any) -> pa.Array:
    import polars as pl

    try:
        return column.to_arrow()
    except pl.exceptions.PanicException as error:
        raise ValueError(f"polars cannot hand it over ({error}), mostly as the name of a field holds NUL") from error


def _as_texts(column: pd.Series) -> pa.DictionaryArray:
    """Write values of types that only pandas has, such as intervals and periods, as texts with their order."""
    values = pd.Categorical(column)
    if not values.ordered:
        values = values.reorder_categories(values.categories.sort_values())
    texts = pa.array([str(value) for value in values.categories], pa.large_string())
    return pa.DictionaryArray.from_arrays(pa.array(values.codes, mask=values.codes < 0), texts, ordered=True)


def _takeable(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Give views as plain strings or bytes, and dictionaries of lists as lists: Arrow cannot take rows of them."""
    encoded = pa.types.is_dictionary(column.type)
    values = column.type.value_type if encoded else column.type
    if encoded and pa.types.is_nested(values):
        return _decode(column)
    if (plain := _without_view(values)) == values:
        return column
    if not encoded:
        return column.cast(plain)
    chunks = [
        pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.cast(plain), ordered=column.type.ordered)
        for chunk in _chunks(column)
    ]
    return pa.chunked_array(chunks, pa.dictionary(column.type.index_type, plain, column.type.ordered))


def _without_view(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(type_):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(type_) else type_


def _chunks(column: pa.ChunkedArray | pa.Array) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _check_columns(names: list[str], *, user: str, time: str, columns: Sequence[str] | None) -> list[str]:
    if isinstance(columns, str):
        raise TypeError(f"columns must be a list of column names; got the string {columns!r}. Write [{columns!r}].")
    kept = [name for name in names if name != user] if columns is None else list(columns)
    problems = [
        f"{role} {name!r} is not a column of the table"
        for role, name in [("user", user), ("time", time), *(("columns:", name) for name in kept)]
        if name not in names
    ]
    problems += [f"the column {name!r} appears {names.count(name)} times" for name in _repeated(names)]
    problems += [f"columns names {name!r} more than once" for name in _repeated(kept) if columns is not None]
    if not kept:
        problems.append("no column is left to keep with the events")
    if problems:
        raise ValueError(f"nest_events cannot read this table: {'; '.join(problems)}. Its columns are {names}.")
    return kept


def _check_no_nulls(roles: dict[str, str], columns: dict[str, pa.ChunkedArray]) -> None:
    # NaN too: pandas' own are nulls by now, those of polars and Arrow are not.
    missing = {role: pc.sum(pc.is_null(columns[name], nan_is_null=True)).as_py() for role, name in roles.items()}
    problems = [
        f"{count} of {len(columns[roles[role]])} events have no {role} (column {roles[role]!r} is null or NaN)"
        for role, count in missing.items()
        if count
    ]
    if problems:
        raise ValueError(
            f"nest_events cannot read this table: {'; '.join(problems)}. Drop these rows or fill them in first."
        )


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _regular_dictionary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decode a column whose dictionary repeats a value or holds a null, as Arrow allows: its codes are no keys."""
    if not pa.types.is_dictionary(column.type):
        return column
    dictionaries = [chunk.dictionary for chunk in column.chunks]
    regular = all(len(values.unique()) == len(values) and not values.null_count for values in dictionaries)
    return column if regular else _decode_strings(column)


def _factorize(column: pa.ChunkedArray, name: str) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Sorted distinct values, and for each row the position of its value among them."""
    try:
        encoded = _combine(column if pa.types.is_dictionary(column.type) else column.dictionary_encode())
        indices = encoded.indices.to_numpy()
        used = np.flatnonzero(np.bincount(indices, minlength=len(encoded.dictionary)))
        dictionary = encoded.dictionary.take(pa.array(used))
        order = np.arange(len(used)) if encoded.type.ordered else pc.array_sort_indices(dictionary).to_numpy()
    except pa.ArrowNotImplementedError as error:
        raise TypeError(
            f"The values of the column {name!r} cannot be put in order: they are of type {column.type}. "
            "Convert them to numbers, times or strings."
        ) from error
    rank = np.zeros(len(encoded.dictionary), dtype=np.int64)
    rank[used[order]] = np.arange(len(order))
    return dictionary.take(pa.array(order)), rank[indices]


def _sortable(column: pa.ChunkedArray, name: str) -> npt.NDArray[Any]:
    """Numbers in the order of the column's values, none of which is missing."""
    if _is_temporal(column.type):
        return column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64()).to_numpy()
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column.to_numpy()
    return _factorize(column, name)[1]


def _is_temporal(type_: pa.DataType) -> bool:
    return pa.types.is_temporal(type_) and not pa.types.is_interval(type_)


def _order_of_events(users: npt.NDArray[np.int64], times: npt.NDArray[Any]) -> npt.NDArray[np.int64] | None:
    """Sort the rows by user and time, stably; None where they are sorted already (30 times faster)."""
    same_user = users[1:] == users[:-1]
    if np.all((users[1:] > users[:-1]) | (same_user & (times[1:] >= times[:-1]))):
        return None
    key = _single_key(users, times)
    return np.lexsort((times, users)) if key is None else np.argsort(key, kind="stable")


def _single_key(users: npt.NDArray[np.int64], times: npt.NDArray[Any]) -> npt.NDArray[np.int64] | None:
    """User and time in one integer, sorted in 1.9 s where the two take 4.7 s (10M events); None where it overflows."""
    largest = np.iinfo(np.int64).max
    first, last = times.min(), times.max()
    if times.dtype.kind not in "iu" or int(last) > largest or int(last) - int(first) > largest:
        return None
    steps = times.astype(np.int64) - np.int64(first)
    unit = max(int(np.gcd.reduce(steps)), 1)  # Seconds stored as nanoseconds need 30 bits less.
    span = int(steps.max()) // unit + 1
    return users * span + steps // unit if (int(users.max()) + 1) * span <= largest else None


def _field_in_order(column: pa.ChunkedArray, name: str, order: npt.NDArray[np.int64] | None) -> pa.Array:
    try:
        field = _encode_strings(column)
        return field if order is None else field.take(pa.array(order))
    except pa.ArrowNotImplementedError as error:
        raise _unreadable(name, column.type) from error


def _unreadable(name: str, type_: pa.DataType) -> TypeError:
    return TypeError(f"The field {name!r} of the events: {no_text(type_)}.")


def _encode_strings(column: pa.ChunkedArray) -> pa.Array:
    # Plain Arrow strings overflow their 32-bit offsets at 2 GB; dictionaries also make labels one look-up a value.
    return _combine(column.dictionary_encode() if is_string(column.type) else column)


def _decode_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_dictionary(column.type):
        return column
    return column.cast(pa.large_string()) if is_string(column.type.value_type) else _decode(column)


def _decode(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray:
    """Decode a dictionary of any values: casts know few types."""
    chunks = [chunk.dictionary.take(chunk.indices) for chunk in _chunks(column)]
    return pa.chunked_array(chunks, column.type.value_type)


def _widen_strings(array: pa.ChunkedArray) -> pa.ChunkedArray:
    return array.cast(pa.large_string()) if is_string(array.type) else array


def _regular_field(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    try:
        return _unify_dictionaries(_regular(column))
    except pa.ArrowNotImplementedError as error:
        raise _unreadable(name, column.type) from error


def _regular(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decode what Arrow cannot work on: dictionaries of anything but strings, string views, floats of 16 bits."""
    column = _takeable(column)
    type_ = _regular_type(column.type)
    if pa.types.is_dictionary(column.type) and not pa.types.is_dictionary(type_):
        column = _decode(column)
    return column if type_ == column.type else column.cast(type_)


def _regular_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return type_ if is_string(type_.value_type) else _regular_type(type_.value_type)
    if is_list(type_):
        regular = _regular_type(type_.value_type)
        return type_ if regular == type_.value_type else pa.large_list(regular)
    if pa.types.is_string_view(type_):
        return pa.large_string()
    return pa.float32() if pa.types.is_float16(type_) else type_


def _unify_dictionaries(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type) and column.type.index_type.bit_width < 32:
        # The dictionaries of several chunks together may need more codes than the narrow index of one has.
        type_ = pa.dictionary(pa.int32(), column.type.value_type, column.type.ordered)
        chunks = [
            pa.DictionaryArray.from_arrays(chunk.indices.cast(pa.int32()), chunk.dictionary, ordered=type_.ordered)
            for chunk in column.chunks
        ]
        column = pa.chunked_array(chunks, type_)
    return column.unify_dictionaries()


def _combine(column: pa.ChunkedArray) -> pa.Array:
    combined = _unify_dictionaries(column).combine_chunks()
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
            frame[name] = _column_for_pandas(column, name)
    return pd.DataFrame(frame)


def _column_for_pandas(column: pa.Array | pa.ChunkedArray, name: str) -> pd.Series:
    try:
        return column.to_pandas()
    except (ValueError, OverflowError, NotImplementedError) as error:  # Years from 1 to 9999 alone are dates of Python.
        raise ValueError(
            f"The column {name!r} ({column.type}) has values that pandas cannot hold: {error}. Mend them, or pass a "
            "polars frame."
        ) from error
