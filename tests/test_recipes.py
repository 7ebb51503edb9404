"""The recipes for files, databases and lakehouses run as the guide shows them, and lose nothing on the way."""

import importlib.util
import runpy
import sqlite3
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skllm4es import EventSerializer, nest_events, unnest_events
from skllm4es.baselines import EventAggregator
from skllm4es.datasets import make_transactions

duckdb = pytest.importorskip("duckdb", reason="needs duckdb")
pytest.importorskip("polars", reason="needs polars")

RECIPES = Path(__file__).parents[1] / "docs" / "recipes"
TYPES = {"event_time": "datetime64[us]", "mcc": "int64", "amount": "float64"}


def recipe(name):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def X():
    X, _ = make_transactions(60, mean_events=8, random_state=0)
    return X[[len(events) > 0 for events in X["events"]]]


@pytest.fixture(scope="module")
def table(X):
    return unnest_events(X).rename(columns={"user_id": "client"}).sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def pipeline(X):
    steps = EventAggregator(columns=["event_time", "mcc", "amount"]), SimpleImputer(), StandardScaler()
    return make_pipeline(*steps, LogisticRegression()).fit(X, np.arange(len(X)) % 2)


@pytest.fixture(scope="module")
def expected(pipeline, X):
    return pd.Series(pipeline.predict_proba(X)[:, 1], index=X.index)


@contextmanager
def in_sqlite(table):
    with closing(sqlite3.connect(":memory:")) as connection:
        table.assign(event_time=table["event_time"].astype(str)).to_sql("events", connection, index=False)
        yield connection


@contextmanager
def in_duckdb(table):
    with closing(duckdb.connect()) as connection:
        connection.register("view", table)
        connection.execute("CREATE TABLE events AS SELECT * FROM view")
        yield connection


def assert_same(scores, expected):
    assert scores.index.is_unique
    np.testing.assert_allclose(scores.sort_index(), expected.sort_index(), rtol=1e-6)
    assert sorted(scores.index) == sorted(expected.index)


@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb"])
def test_users_in_a_parquet_file_are_read_as_they_were(library, X, tmp_path):
    files = recipe("users_in_files")
    files.write(X, tmp_path / "users.parquet")
    read = getattr(files, f"read_with_{library}")(tmp_path / "users.parquet")
    assert list(read.index if library != "polars" else read["user"]) == list(X.index)
    texts = EventSerializer().fit(X)
    assert list(texts.transform(read)["text"]) == list(texts.transform(X)["text"])


@pytest.mark.parametrize("n_rows", [1, 7, 100, 10_000])
@pytest.mark.parametrize("database", ["sqlite", "duckdb"])
def test_users_are_read_from_a_cursor_whole_however_many_rows_it_returns(n_rows, database, table, pipeline, expected):
    sql = recipe("score_from_sql")
    query = "SELECT * FROM events ORDER BY client"
    with in_sqlite(table) if database == "sqlite" else in_duckdb(table) as connection:
        users = list(sql.users_from_cursor(connection.cursor(), query, "client", "event_time", TYPES, n_rows))
    assert_same(sql.scores(pipeline, iter(users)), expected)


def test_a_query_without_rows_yields_nothing(table):
    sql = recipe("score_from_sql")
    query = "SELECT * FROM events WHERE client < 0 ORDER BY client"
    with in_sqlite(table) as connection:
        assert list(sql.users_from_cursor(connection.cursor(), query, "client", "event_time", TYPES)) == []


def test_duckdb_nests_the_users(table, pipeline, expected):
    sql = recipe("score_from_sql")
    with in_duckdb(table) as connection:
        assert_same(sql.scores(pipeline, sql.users_from_duckdb(connection, sql.NEST, n_users=16)), expected)


def test_the_last_user_of_a_batch_keeps_events_that_come_later(table):
    sql = recipe("score_from_sql")
    query = "SELECT * FROM events ORDER BY client"
    with in_duckdb(table) as connection:
        parts = list(sql.users_from_cursor(connection.cursor(), query, "client", "event_time", TYPES, 5))
    counts = pd.concat([part["events"].list.len().set_axis(part.index) for part in parts])
    pd.testing.assert_series_equal(
        counts.astype("int64"), table.groupby("client").size(), check_names=False, check_index_type=False
    )


def test_a_query_that_is_not_sorted_by_user_is_an_error(table):
    sql = recipe("score_from_sql")
    read = "SELECT * FROM events", "client", "event_time", TYPES, 50
    message = "come again after others: end the query with ORDER BY client"
    with in_sqlite(table.sort_values("event_time")) as connection, pytest.raises(ValueError, match=message):
        list(sql.users_from_cursor(connection.cursor(), *read))


@pytest.mark.parametrize("type_", ["Int64", "string"])
def test_events_without_a_user_are_an_error(table, type_):
    sql = recipe("score_from_sql")
    some = table.astype({"client": type_})
    some.loc[some.index[:3], "client"] = None
    query = "SELECT * FROM events ORDER BY client NULLS LAST"
    with in_sqlite(some) as connection, pytest.raises(ValueError, match="Some events have no client: leave them out"):
        list(sql.users_from_cursor(connection.cursor(), query, "client", "event_time", TYPES | {"client": type_}))


def test_nanoseconds_are_cut_as_the_guide_says(tmp_path):
    files = recipe("users_in_files")
    time = pd.to_datetime(["2024-01-01T10:00:00.123456789"])
    files.write(nest_events(pd.DataFrame({"user": 1, "time": time}), user="user", time="time"), tmp_path / "users")
    ((event,),) = files.read_with_pandas(tmp_path / "users")["events"]
    assert event["time"] == pd.Timestamp("2024-01-01T10:00:00.123456")


@pytest.mark.parametrize("name", [int, "user {}".format])
def test_a_folder_of_files_is_scored_by_batches(X, pipeline, expected, tmp_path, monkeypatch, name):
    users = tmp_path / "users"
    X, expected = X.rename(index=name), expected.rename(index=name)
    rows = pa.Table.from_pandas(X.rename_axis("user").reset_index(), preserve_index=False)
    for month, start in enumerate(range(0, len(X), 20), start=1):
        (users / f"month={month}").mkdir(parents=True)
        pq.write_table(rows.slice(start, 20), users / f"month={month}" / "part.parquet", coerce_timestamps="us")
    joblib.dump(pipeline, tmp_path / "pipeline.joblib")
    arguments = [tmp_path / "pipeline.joblib", users, tmp_path / "scores"]
    monkeypatch.setattr(sys, "argv", ["score_lakehouse.py", *map(str, arguments)])
    runpy.run_path(str(RECIPES / "score_lakehouse.py"), run_name="__main__")
    assert_same(pd.read_parquet(tmp_path / "scores").set_index("user")["score"], expected)


def test_days_of_events_are_nested_by_duckdb(table, pipeline, expected, tmp_path):
    days = table.assign(month=table["event_time"].dt.month)
    pq.write_to_dataset(pa.Table.from_pandas(days, preserve_index=False), tmp_path / "events", ["month"])
    sql = recipe("score_from_sql")
    with closing(duckdb.connect()) as connection:
        connection.execute(f"CREATE VIEW events AS SELECT * FROM read_parquet('{tmp_path}/events/*/*.parquet')")
        assert_same(sql.scores(pipeline, sql.users_from_duckdb(connection, sql.NEST)), expected)


def test_nest_events_and_duckdb_agree(table):
    sql = recipe("score_from_sql")
    with in_duckdb(table) as connection:
        nested = pd.concat(sql.users_from_duckdb(connection, sql.NEST, n_users=10_000))
    columns = ["event_time", "mcc", "amount", "type", "currency"]
    ours = nest_events(table, user="client", time="event_time", columns=columns)
    texts = EventSerializer().fit(ours)
    # Events at equal times have no order.
    lines = [
        [sorted(text.splitlines()) for text in texts.transform(side)["text"]] for side in (nested.sort_index(), ours)
    ]
    assert lines[0] == lines[1]
