"""Nesting a long table of events into one row per user, and its inverse: where the users' data enters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from skllm4es.events._arrow import decode_irregular, decode_strings, encode_strings, list_array
from skllm4es.events._flat import flatten_events
from skllm4es.events._frames import column_names, is_polars, repeated, to_arrow
from skllm4es.events._kinds import is_string, unreadable
from skllm4es.events._order import factorize, order_of_events, sortable

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
        One row per event, in any order. It is not changed.
    user : str
        The column that identifies the user.
    time : str
        The column that orders a user's events: numbers, times, texts or anything else with an order (an ordered
        categorical has its own). Events at equal times keep the order of the table.
    columns : sequence of str, default=None
        The columns to keep with each event, in this order; all except `user` by default.

    Returns
    -------
    X : pandas.DataFrame or polars.DataFrame of shape (n_users, 1)
        One row per user, sorted by user, with the list-typed column ``events``. A polars table becomes a polars
        frame whose first column holds the users; other tables become a pandas frame with the users as its index
        and ``events`` of type ``ArrowDtype(list<struct>)``. Strings are dictionary-encoded. NaN in a pandas table is
        a null, as in pandas itself. Values that only pandas has, such as periods and the intervals of `pandas.cut`,
        become texts that keep their order; sparse columns become dense.

    Raises
    ------
    TypeError
        If `events` is not a table, if Arrow cannot hold a column (complex numbers, or texts mixed with numbers), or if
        the values of `user` or `time` have no order.
    ValueError
        If a named column is missing or repeated, or an event has no user or time.

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
    columns = _check_columns(names, user=user, time=time, columns=columns)
    used = list(dict.fromkeys([user, time, *columns]))
    table = to_arrow(_select(events, [names.index(name) for name in used]))
    keys = {name: decode_irregular(table[name]) for name in (user, time)}
    _check_no_nulls({"user": user, "time": time}, keys)
    users, user_codes = factorize(keys[user], user)
    order = order_of_events(user_codes, sortable(keys[time], time))
    fields = [_field_in_order(table[name], name, order) for name in columns]
    user_codes = user_codes if order is None else user_codes[order]
    offsets = np.searchsorted(user_codes, np.arange(len(users) + 1))
    lists = list_array(pa.StructArray.from_arrays(fields, names=columns), offsets)
    if is_polars(events):
        import polars as pl

        return pl.DataFrame([pl.Series(user, pl.from_arrow(users)), pl.Series("events", pl.from_arrow(lists))])
    index = pd.Index(_column_for_pandas(users, user), name=user)
    return pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(lists)}, index=index)


def unnest_events(X: DataFrame, *, events: str | Sequence[str] = "events", user: str | None = None) -> DataFrame:
    """Turn a dataframe with one row per user into a long table with one row per event.

    Parameters
    ----------
    X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
        One row per user, as `nest_events` returns it or with its events in any other form that `EventSerializer`
        reads. It is not changed.
    events : str or sequence of str, default="events"
        The column that holds the events, or the columns that hold one list per feature.
    user : str, default=None
        The name of the user column. For pandas, this is what the index is called in the table, by default its own name
        or ``"user"`` if it has none; for polars, it is the column that holds the users, by default the first one that
        is not `events`.

    Returns
    -------
    table : pandas.DataFrame or polars.DataFrame of shape (n_events, 1 + n_features)
        The user column, then the fields of the events; users and events keep the order of `X`. A user without
        events has no row, and other columns of `X` are left out. A pandas table has numpy types (nullable ones for
        integers and booleans with nulls). Time zones, units of time, widths of numbers, dates and decimals are those of
        the table that was nested; categoricals become their values, and Arrow and nullable types without nulls become
        numpy types.

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
    if not isinstance(X, pd.DataFrame):
        taken = [events] if isinstance(events, str) else events
        user = user or next((name for name in X.columns if name not in taken), None)
        if user is None or user not in X.columns:
            raise ValueError(f"X has no user column {user!r}; its columns are {list(X.columns)}. Pass user=NAME.")
        users = to_arrow(X[[user]])[0]
    else:
        user = user or str(X.index.name or "user")
        users = to_arrow(pd.DataFrame({user: X.index}))[0]
    if user in flat.columns:
        raise ValueError(f"The events already have a field {user!r}. Rename the user column with user=NAME.")
    if is_string(users.type):
        users = users.cast(pa.large_string())
    owners = pa.array(np.repeat(np.arange(flat.n_users), flat.lengths))
    decoded = {name: decode_strings(column) for name, column in flat.columns.items()}
    table = pa.table({user: users.take(owners), **decoded})
    if is_polars(X):
        import polars as pl

        return pl.DataFrame(table)
    return _to_pandas(table)


def _check_columns(names: list[str], *, user: str, time: str, columns: Sequence[str] | None) -> list[str]:
    if isinstance(columns, str):
        raise TypeError(f"columns must be a list of column names; got the string {columns!r}. Write [{columns!r}].")
    kept = [name for name in names if name != user] if columns is None else list(columns)
    problems = [
        f"{role} {name!r} is not a column of the table"
        for role, name in [("user", user), ("time", time), *(("columns:", name) for name in kept)]
        if name not in names
    ]
    problems += [f"the column {name!r} appears {names.count(name)} times" for name in repeated(names)]
    problems += [f"columns names {name!r} more than once" for name in repeated(kept) if columns is not None]
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
        raise ValueError(f"nest_events cannot read this table: {'; '.join(problems)}. Drop these rows or fill them in.")


def _select(events: Any, positions: list[int]) -> Any:
    if isinstance(events, pa.Table):
        return events.select(positions)
    return events.iloc[:, positions] if isinstance(events, pd.DataFrame) else events[:, positions]


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
