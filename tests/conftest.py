"""Fixtures that several test modules share."""

import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

# Tests never reach for the network; the hub's client reads this when it is first imported.
os.environ["HF_HUB_OFFLINE"] = "1"

_BESIDE_THE_REPOSITORY = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_home() -> Path:
    """Folder with the real data sets; tests that need it are skipped where there is none."""
    if given := os.environ.get("SKLLM4ES_DATA"):
        return Path(given).expanduser()
    if _BESIDE_THE_REPOSITORY.is_dir():
        return _BESIDE_THE_REPOSITORY
    pytest.skip(f"needs real data: set SKLLM4ES_DATA to its folder ({_BESIDE_THE_REPOSITORY} does not exist)")


@pytest.fixture
def server(monkeypatch):
    """A web server whose answers the test chooses."""
    from web_server import Server

    from skllm4es.datasets import _base

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(_base, "_SECONDS_BETWEEN_RETRIES", 0)
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture(scope="session")
def instruct_model(tmp_path_factory) -> str:
    """Directory of a tiny instruct model, which answers with a short paragraph of HTML."""
    from instruct_model import make_instruct_model

    return make_instruct_model(tmp_path_factory.mktemp("instruct"))


def _pandas_arrow(lists, index):
    return pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(lists)}, index=index), "events"


def _polars(lists, index):
    pl = pytest.importorskip("polars", reason="needs polars")
    return pl.DataFrame({"user": pl.Series(index), "events": pl.from_arrow(lists)}), "events"


def _list_columns(lists):
    """One array of lists for each field: the lists of structs taken apart."""
    flat = pc.list_flatten(lists).flatten()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32(), mask=_nulls_as_offsets(lists))
    names = [field.name for field in lists.type.value_type]
    return {name: pa.ListArray.from_arrays(offsets, values) for name, values in zip(names, flat, strict=True)}


def _nulls_as_offsets(lists):
    return np.append(lists.is_null().to_numpy(zero_copy_only=False), False)


def _pandas_list_columns(lists, index):
    columns = _list_columns(lists)
    data = {name: pd.arrays.ArrowExtensionArray(column) for name, column in columns.items()}
    return pd.DataFrame(data, index=index), list(columns)


def _polars_list_columns(lists, index):
    pl = pytest.importorskip("polars", reason="needs polars")
    columns = _list_columns(lists)
    data = {name: pl.from_arrow(column) for name, column in columns.items()}
    return pl.DataFrame({"a user": pl.Series(index), **data}), list(columns)


def _nested_pandas(lists, index):
    nested_pandas = pytest.importorskip("nested_pandas", reason="needs nested-pandas")
    X, events = _pandas_arrow(lists, index)
    return nested_pandas.NestedFrame(X.astype({events: nested_pandas.NestedDtype(lists.type)})), events


def _object_dicts(lists, index):
    return pd.DataFrame({"events": pd.Series(lists.to_pylist(), dtype=object, index=index)}), "events"


def _object_frames(lists, index):
    from skllm4es._events import _to_pandas

    def frame(events):
        structs = events.values
        return _to_pandas(pa.table(dict(zip([f.name for f in structs.type], structs.flatten(), strict=True))))

    cells = pd.Series([frame(events) if events.is_valid else None for events in lists], dtype=object, index=index)
    return pd.DataFrame({"events": cells}), "events"


_EVENT_KINDS = {
    "pandas-arrow": _pandas_arrow,
    "polars": _polars,
    "pandas-list-columns": _pandas_list_columns,
    "polars-list-columns": _polars_list_columns,
    "nested-pandas": _nested_pandas,
    "object-dicts": _object_dicts,
    "object-frames": _object_frames,
}


@pytest.fixture(params=_EVENT_KINDS)
def as_kind(request):
    """Put the same events into each kind of dataframe that `EventSerializer` reads: the test runs once a kind.

    The fixture is a function ``as_kind(users, index=None) -> (X, events)``.

    - ``users`` is what every kind is made from: a list with one entry per user, each of them a list of dicts or None
      for a user without events (NaN is a missing value); a pyarrow array of lists of structs, where the types matter;
      or the dataframe of `nest_events`.
    - ``index`` holds the users' labels, 0, 1, ... by default (those of the dataframe, if it is one). The polars kinds
      have them as a column before the events.
    - ``X`` is the dataframe and ``events`` the argument that says where its events are: ``"events"``, or the list of
      fields where each field is a column.

    ``as_kind.name`` names the kind, for expectations that differ, and ``as_kind.is_polars`` says whether `X` is of
    polars. A kind whose library is not installed is skipped.
    """
    from skllm4es._events import _convert_objects

    name = request.param

    def as_kind(users, index=None):
        if isinstance(users, pd.DataFrame):
            index = users.index if index is None else index
            users = pa.array(users["events"].array)
        lists = users if isinstance(users, pa.Array | pa.ChunkedArray) else _convert_objects(users)
        lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
        return _EVENT_KINDS[name](lists, pd.RangeIndex(len(lists)) if index is None else index)

    as_kind.name = name
    as_kind.is_polars = name.startswith("polars")
    return as_kind
