"""Nesting a long table of events into one row per user, and its inverse: where the users' data enters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from skllm4es._messages import warn
from skllm4es.events._arrow import decode_irregular, decode_strings, encode_strings, list_array
from skllm4es.events._flat import flatten_events
from skllm4es.events._frames import arrow_table, column_names, index_with_data, is_polars, repeated, to_arrow
from skllm4es.events._kinds import is_string, unreadable
from skllm4es.events._order import factorize, factorize_together, order_of_events, sortable, sorts_like_time

if TYPE_CHECKING:
    import polars as pl

    DataFrame = pd.DataFrame | pl.DataFrame


def nest_events(
    events: pd.DataFrame | pl.DataFrame | pa.Table,
    *,
    user: str | list[str],
    time: str | None = None,
    columns: Sequence[str] | None = None,
) -> DataFrame:
    """Gather a long table of events into a dataframe with one row per user.

    Parameters
    ----------
    events : pandas.DataFrame, polars.DataFrame or pyarrow.Table of shape (n_events, n_columns)
        One row per event, in any order. It is not changed.
    user : str or list of str
        The column that identifies the user, or a list of columns that do so together. Users whose values compare equal
        are one.
    time : str, default=None
        The column that orders a user's events: numbers, times, texts or anything else with an order (an ordered
        categorical has its own). Events at equal times keep the order of the table, and so do all events by default:
        leave it out only if the table is in order already.
    columns : sequence of str, default=None
        The columns to keep with each event, in this order; all except `user` by default.

    Returns
    -------
    X : pandas.DataFrame or polars.DataFrame of shape (n_users, 1)
        One row per user, sorted by user, with the list-typed column ``events``. A polars table becomes a polars
        frame whose first columns hold the users; other tables become a pandas frame with the users as its index (a
        `pandas.MultiIndex` for several columns) and ``events`` of type ``ArrowDtype(list<struct>)``. Strings are
        dictionary-encoded. NaN in a pandas table is a null, as in pandas itself. Values that only pandas has, such as
        periods and the intervals of `pandas.cut`, become texts that keep their order; sparse columns become dense.
        Column names that are not strings, such as 0, become strings. Times with a mere offset, such as ``+01:00``,
        become times in UTC.

    Raises
    ------
    TypeError
        If `events` is not a table, if Arrow cannot hold a column (complex numbers, sets, or objects of several kinds,
        such as texts and numbers, dates and times, or times with and without a zone), or if the values of `user` or
        `time` have no order.
    ValueError
        If a named column is missing or repeated, or an event has no user or time.

    Warns
    -----
    UserWarning
        If the times are texts whose order may not be that of the times they stand for, such as "10.1.2024"; or if the
        index of a pandas table has a name or holds times, and `columns` does not say what to keep: it is left out.

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
    names = column_names(events)
    users = [str(name) for name in (user if isinstance(user, list) else [user])]
    time = None if time is None else str(time)
    columns = _check_columns(events, users=users, time=time, columns=columns)
    roles = [("user", name) for name in users] + ([] if time is None else [("time", time)])
    used = list(dict.fromkeys([*(name for _, name in roles), *columns]))
    table = to_arrow(_select(events, [names.index(name) for name in used]))
    keys = {name: decode_irregular(table[name]) for _, name in roles}
    _check_no_nulls(roles, keys)
    distinct, user_codes = factorize_together({name: keys[name] for name in users})
    order = order_of_events(user_codes, None if time is None else _time_in_order(keys[time], time))
    fields = [_field_in_order(table[name], name, order) for name in columns]
    user_codes = user_codes if order is None else user_codes[order]
    offsets = np.searchsorted(user_codes, np.arange(len(distinct[0]) + 1))
    lists = list_array(pa.StructArray.from_arrays(fields, names=columns), offsets)
    if is_polars(events):
        import polars as pl

        ids = [pl.Series(name, pl.from_arrow(values)) for name, values in zip(users, distinct, strict=True)]
        return pl.DataFrame([*ids, pl.Series("events", pl.from_arrow(lists))])
    levels = [_column_for_pandas(values, name) for name, values in zip(users, distinct, strict=True)]
    index = pd.Index(levels[0], name=users[0]) if len(users) == 1 else pd.MultiIndex.from_arrays(levels, names=users)
    return pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(lists)}, index=index)


def unnest_events(
    X: DataFrame, *, events: str | Sequence[str] = "events", user: str | list[str] | None = None
) -> DataFrame:
    """Turn a dataframe with one row per user into a long table with one row per event.

    Parameters
    ----------
    X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
        One row per user, as `nest_events` returns it or with its events in any other form that `EventSerializer`
        reads. It is not changed.
    events : str or sequence of str, default="events"
        The column that holds the events, or the columns that hold one list per feature.
    user : str or list of str, default=None
        The name of the user column. For pandas, this is what the index is called in the table, by default its own name
        or ``"user"`` if it has none; for a `pandas.MultiIndex`, there is one column per level, by default called as the
        level or ``"level_0"``, ``"level_1"``, ... if it has no name. For polars, it is the column that holds the users,
        or a list of them, by default the first one that is not `events`.

    Returns
    -------
    table : pandas.DataFrame or polars.DataFrame of shape (n_events, 1 + n_features)
        The user columns, then the fields of the events; users and events keep the order of `X`. A user without events
        has no row, and other columns of `X` are left out. A pandas table has numpy types (nullable ones for
        integers and booleans with nulls). Named time zones, units of time, widths of numbers, dates and decimals are
        those of the table that was nested; categoricals become their values, and Arrow and nullable types without nulls
        become numpy types.

    Raises
    ------
    TypeError
        If `X` is not a dataframe or the column `events` does not hold events.
    ValueError
        If a named column is missing, list columns differ in length, or a name would be repeated.

    See Also
    --------
    nest_events : The inverse.

    Examples
    --------
    >>> import pandas as pd
    >>> from skllm4es import nest_events, unnest_events
    >>> cards = pd.DataFrame(
    ...     {"client": [3, 7, 7], "day": [1, 1, 2], "amount": [8.0, 99.9, 12.5]}
    ... )
    >>> unnest_events(nest_events(cards, user="client", time="day"))
       client  day  amount
    0       3    1     8.0
    1       7    1    99.9
    2       7    2    12.5
    """
    flat = flatten_events(X, events)
    names = [str(name) for name in user] if isinstance(user, list) else user if user is None else [str(user)]
    users = _users_of_index(X.index, names) if isinstance(X, pd.DataFrame) else _users_of_columns(X, events, names)
    if taken := repeated([*users.column_names, *flat.columns]):
        raise ValueError(f"The events already have a field {taken[0]!r}. Rename the user column with user=NAME.")
    owners = pa.array(np.repeat(np.arange(flat.n_users), flat.lengths))
    long = {
        name: column.cast(pa.large_string()) if is_string(column.type) else column
        for name, column in zip(users.column_names, users.columns, strict=True)
    }
    long = {name: column.take(owners) for name, column in long.items()}
    table = pa.table(long | {name: decode_strings(column) for name, column in flat.columns.items()})
    if is_polars(X):
        import polars as pl

        return pl.DataFrame(table)
    return _to_pandas(table)


def _users_of_index(index: pd.Index, names: list[str] | None) -> pa.Table:
    if names is None:
        default = "user" if index.nlevels == 1 else "level_{}"
        names = [default.format(i) if name is None else str(name) for i, name in enumerate(index.names)]
    if len(names) != index.nlevels:
        raise ValueError(
            f"The index of X has {index.nlevels} levels, {list(index.names)}, but user names {len(names)}: {names}. "
            "Name each level in a list, or leave user out."
        )
    positions = list(range(index.nlevels))
    index = index.set_names(positions)  # A level whose name is an integer would be taken for a position.
    return arrow_table(names, [pd.Series(index.get_level_values(i)) for i in positions])


def _users_of_columns(X: Any, events: str | Sequence[str], names: list[str] | None) -> pa.Table:
    taken = [events] if isinstance(events, str) else events
    if names is None:
        found = [name for name in X.columns if name not in taken]
        names = found[:1]
        if len(found) > 1:
            warn(
                f"The table has {found[0]!r} as the user and leaves out the columns {found[1:]} of X. If they tell "
                f"users apart as well, pass user={found}; to leave them out, pass user={found[0]!r}."
            )
    if not names or not set(names) <= set(X.columns):
        raise ValueError(f"X has no user column {names}; its columns are {list(X.columns)}. Pass user=NAME.")
    return to_arrow(X[names])


def _check_columns(events: Any, *, users: list[str], time: str | None, columns: Sequence[str] | None) -> list[str]:
    names = column_names(events)
    if isinstance(columns, str):
        raise TypeError(f"columns must be a list of column names; got the string {columns!r}. Write [{columns!r}].")
    kept = [name for name in names if name not in users] if columns is None else [str(name) for name in columns]
    roles = [("user", name) for name in users] + ([] if time is None else [("time", time)])
    roles += [("columns:", name) for name in kept]
    problems = [f"{role} {name!r} is not a column of the table" for role, name in roles if name not in names]
    problems += [f"the column {name!r} appears {names.count(name)} times" for name in repeated(names)]
    problems += [f"columns names {name!r} more than once" for name in repeated(kept) if columns is not None]
    problems += [f"user names {name!r} more than once" for name in repeated(users)]
    if not users:
        problems.append("user names no column")
    if not kept:
        problems.append("no column is left to keep with the events")
    if problems:
        levels = [str(name) for name in events.index.names] if isinstance(events, pd.DataFrame) else []
        in_index = [name for _, name in roles if name in levels and name not in names]
        remedy = f" {in_index[0]!r} is in its index: pass table.reset_index()." if in_index else ""
        raise ValueError(f"nest_events cannot read this table: {'; '.join(problems)}. Its columns are {names}.{remedy}")
    # An index of times may well repeat the column of times.
    if columns is None and (which := index_with_data(events, times=time is None)):
        warn(
            f"nest_events leaves out the index{which} of the table. Make it a column with table.reset_index(), or drop "
            "it with table.reset_index(drop=True)."
        )
    return kept


def _time_in_order(column: pa.ChunkedArray, name: str) -> npt.NDArray[Any]:
    """Return numbers in the order of time, and warn if that of its texts is another one."""
    encoded = pa.types.is_dictionary(column.type)
    if is_string(column.type.value_type if encoded else column.type) and not (encoded and column.type.ordered):
        texts, codes = factorize(column, name)
        if not sorts_like_time(texts):
            warn(
                f"The times in the column {name!r} are texts and are sorted as texts, from {texts[0].as_py()!r} to "
                f"{texts[-1].as_py()!r}. If that is not their order in time, convert them first, for example with "
                "pd.to_datetime or pd.to_numeric."
            )
        return codes
    return sortable(column, name)


def _check_no_nulls(roles: list[tuple[str, str]], columns: dict[str, pa.ChunkedArray]) -> None:
    # NaN too: pandas' own are nulls by now, those of polars and Arrow are not.
    missing = {name: pc.sum(pc.is_null(column, nan_is_null=True)).as_py() for name, column in columns.items()}
    problems = [
        f"{missing[name]} of {len(columns[name])} events have no {role} (column {name!r} is null or NaN)"
        for role, name in roles
        if missing[name]
    ]
    if problems:
        raise ValueError(f"nest_events cannot read this table: {'; '.join(problems)}. Drop these rows or fill them in.")


def _select(events: Any, positions: list[int]) -> Any:
    if isinstance(events, pa.Table):
        return events.select(positions)
    if isinstance(events, pd.DataFrame):
        # Column by column: together they would be copied, which pandas 2 cannot do in another byte order.
        columns = {position: events.iloc[:, position] for position in positions}
        return pd.DataFrame(columns, copy=False).set_axis(events.columns[positions], axis=1)
    return events[:, positions]


def _field_in_order(column: pa.ChunkedArray, name: str, order: npt.NDArray[np.int64] | None) -> pa.Array:
    try:
        field = encode_strings(column)
        return field if order is None else field.take(pa.array(order))
    except pa.ArrowNotImplementedError as error:
        raise unreadable(name, column.type) from error


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """Convert to numpy types, or to nullable ones where nulls would turn integers or booleans into floats."""
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
    except (ValueError, OverflowError, NotImplementedError) as error:  # Python's dates end at year 9999.
        raise ValueError(
            f"The column {name!r} ({column.type}) has values that pandas cannot hold: {error}. Fix them, or pass a "
            "polars frame."
        ) from error
