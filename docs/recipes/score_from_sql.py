"""Score the users in a database, batch by batch: any DB-API cursor, or DuckDB."""

from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import pandas as pd

from skllm4es import nest_events


def users_from_cursor(
    cursor: Any,
    query: str,
    user: str,
    time: str,
    types: Mapping[str, Any],
    n_rows: int = 100_000,
) -> Iterator[pd.DataFrame]:
    """Yield users with all their events, from a query sorted by user.

    The last user of a batch waits for the rest of the events.
    """
    done: set[Any] = set()

    def nest(table: pd.DataFrame) -> pd.DataFrame:
        users = set(table[user])
        if again := users & done:
            raise ValueError(
                f"{len(again)} users, such as {min(again)!r}, come again after others: "
                f"end the query with ORDER BY {user}."
            )
        done.update(users)
        return nest_events(table, user=user, time=time)

    cursor.execute(query)
    names = [column[0] for column in cursor.description]
    waiting = pd.DataFrame(columns=names).astype(types)
    while rows := cursor.fetchmany(n_rows):
        table = pd.DataFrame(rows, columns=names).astype(types)
        if table[user].isna().any():
            raise ValueError(f"Some events have no {user}: leave them out.")
        table = pd.concat([waiting, table]) if len(waiting) else table
        is_last = table[user] == table[user].iloc[-1]
        waiting = table[is_last]
        if not is_last.all():
            yield nest(table[~is_last])
    if len(waiting):
        yield nest(waiting)


def users_from_duckdb(
    connection: duckdb.DuckDBPyConnection, query: str, n_users: int = 1000
) -> Iterator[pd.DataFrame]:
    """Yield users whom DuckDB has nested: a user, and events, a list of structs."""
    for batch in connection.sql(query).to_arrow_reader(n_users):
        yield batch.to_pandas(types_mapper=pd.ArrowDtype).set_index("user")


#: DuckDB nests tables that are larger than memory.
NEST = """
SELECT client AS user, list(
    struct_pack(event_time, mcc, amount, type, currency) ORDER BY event_time
) AS events
FROM events GROUP BY client
"""


def scores(pipeline: Any, users: Iterator[pd.DataFrame]) -> pd.Series:
    return pd.concat(
        [pd.Series(pipeline.predict_proba(X)[:, 1], index=X.index) for X in users]
    )
