"""Other ways to write the serialised form, against which `bench_serializer` times `EventSerializer`.

Except for plain pandas, every way is the fastest that its library allows. Labels are quoted beforehand
(`quoted_labels`), because plain one-liners do not quote. So all ways write the same text as `EventSerializer`, byte
for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from skllm4es.serialize import format_events
from skllm4es.vocabularies import load_mcc_names

USER, TIME, MCC, AMOUNT, TYPE, CURRENCY = "user", "time", "mcc", "amount", "type", "currency"
COLUMNS = [TIME, MCC, AMOUNT, TYPE, CURRENCY]
HEADER = "|".join(COLUMNS)

#: Writes the texts from input that is already prepared, so that only the call is timed.
Way = Callable[[], Any]


def quoted_labels() -> dict[int, str]:
    """Return the names of the merchant category codes as the serialised form writes them."""
    return {int(code): format_events([], [[name]]).strip("\n") for code, name in load_mcc_names().items()}


def authors_way(events: pa.Table) -> Way:
    """Write row by row in Python with pandas' `apply`, as the method's published scripts do."""
    frame, labels = _to_pandas(events), quoted_labels()

    def write_value(name: str, value: Any) -> str:
        if pd.isna(value):
            return ""
        if name == TIME:
            return value.strftime("%Y-%m-%d %H:%M:%S")
        if name == MCC:
            return labels.get(value, str(value))
        return str(value)

    def write_event(row: pd.Series) -> str:
        return ", ".join([write_value(name, row[name]) for name in COLUMNS])

    def write_user(group: pd.DataFrame) -> str:
        return HEADER + "\n" + "\n".join(group.apply(write_event, axis=1))

    return lambda: frame.groupby(USER).apply(write_user)


def pandas_way(events: pa.Table) -> Way:
    """Cast whole columns to strings, concatenate them, then join each group."""
    frame, labels = _to_pandas(events), quoted_labels()

    def write() -> pd.Series:
        lines = frame[TIME].astype("datetime64[s]").astype(str)
        for field in (frame[MCC].map(labels), frame[AMOUNT].astype(str), frame[TYPE], frame[CURRENCY]):
            lines = lines + ", " + field
        return HEADER + "\n" + lines.groupby(frame[USER]).agg("\n".join)

    return write


def pyarrow_way(events: pa.Table) -> Way:
    """Cast columns to strings, join, list by the users' offsets, join; look up labels by position."""
    table, offsets = events.combine_chunks(), _offsets(events)
    labels = quoted_labels()
    names = pa.array([labels.get(code) for code in range(max(labels) + 1)])

    def write() -> pa.Array:
        lines = pc.binary_join_element_wise(
            table[TIME].cast(pa.timestamp("s")).cast(pa.string()),
            pc.take(names, table[MCC]),
            table[AMOUNT].cast(pa.string()),
            table[TYPE].cast(pa.string()),
            table[CURRENCY].cast(pa.string()),
            ", ",
        )
        bodies = pc.binary_join(pa.ListArray.from_arrays(offsets, lines.combine_chunks()), "\n")
        return pc.binary_join_element_wise(HEADER, bodies, "\n")

    return write


def polars_way(events: pa.Table) -> Way:
    """Use `concat_str` by row, then `str.join` by group."""
    frame, labels = pl.DataFrame(_plain_strings(events)), quoted_labels()
    fields = [
        # Casting writes six digits of a second's fraction, but takes a quarter of the time of strftime.
        pl.col(TIME).cast(pl.String).str.slice(0, 19),
        pl.col(MCC).replace_strict(labels, return_dtype=pl.String),
        pl.col(AMOUNT).cast(pl.String),
        pl.col(TYPE),
        pl.col(CURRENCY),
    ]
    texts = pl.concat_str([pl.lit(HEADER), pl.concat_str(fields, separator=", ").str.join("\n")], separator="\n")
    query = frame.lazy().group_by(USER, maintain_order=True).agg(texts.alias("text"))
    return lambda: query.collect()["text"]


def duckdb_way(events: pa.Table) -> Way:
    """Use `string_agg` over a join with the labels."""
    import duckdb

    labels = quoted_labels()
    connection = duckdb.connect()
    # One thread keeps the order of the events without the sort that `ORDER BY` inside `string_agg` would cost.
    connection.execute("SET threads = 1")
    connection.register("events", _plain_strings(events))
    connection.register("names", pa.table({MCC: pa.array(labels.keys(), pa.int32()), "name": labels.values()}))
    connection.execute("CREATE TABLE cards AS FROM events; CREATE TABLE labels AS FROM names")
    query = f"""
        SELECT '{HEADER}' || chr(10) || string_agg(concat_ws(', ', {TIME}::TIMESTAMP_S, name, {AMOUNT}, {TYPE},
               {CURRENCY}), chr(10)) AS text
        FROM cards JOIN labels USING ({MCC}) GROUP BY "{USER}" ORDER BY "{USER}"
    """
    return lambda: connection.sql(query).to_arrow_table()["text"]


def reference_ways() -> dict[str, Callable[[pa.Table], Way]]:
    """Return the references that can run here, except for the authors' own."""
    ways = {
        "pandas: concatenate columns, groupby, join": pandas_way,
        "pyarrow: cast, join, list by offsets, join": pyarrow_way,
        "polars: concat_str, group_by, str.join": polars_way,
    }
    if find_spec("duckdb"):
        return {**ways, "DuckDB: string_agg": duckdb_way}
    print("DuckDB is not installed, so its string_agg is left out.")
    return ways


def as_list(texts: Any) -> list[str]:
    """Return the texts of any way as Python strings."""
    return list(texts.to_pylist() if hasattr(texts, "to_pylist") else texts)


def _offsets(events: pa.Table) -> pa.Array:
    users = events[USER].to_numpy()
    starts = np.flatnonzero(np.diff(users, prepend=users[0] - 1))
    return pa.array(np.append(starts, len(users)), pa.int32())


def _plain_strings(events: pa.Table) -> pa.Table:
    schema = [field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field for field in events.schema]
    return events.cast(pa.schema(schema))


def _to_pandas(events: pa.Table) -> pd.DataFrame:
    return _plain_strings(events).to_pandas()
