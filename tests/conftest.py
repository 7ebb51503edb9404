"""Fixtures that several test modules share."""

import os
import sys
import threading
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from event_kinds import EVENT_KINDS
from hypothesis import HealthCheck, settings

# Tests never reach for the network; the hub's client reads this when it is first imported.
os.environ["HF_HUB_OFFLINE"] = "1"

# A machine that does other things as well is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
# For `--hypothesis-profile=thorough`.
settings.register_profile("thorough", settings.get_profile("patient"), max_examples=10_000)

_BESIDE_THE_REPOSITORY = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_home() -> Path:
    """Folder with the real data sets; tests that need it are skipped where there is none."""
    if given := os.environ.get("SKLLM4ES_DATA"):
        return Path(given).expanduser()
    if _BESIDE_THE_REPOSITORY.is_dir():
        return _BESIDE_THE_REPOSITORY
    pytest.skip(f"needs real data: set SKLLM4ES_DATA to its folder ({_BESIDE_THE_REPOSITORY} does not exist)")


@pytest.fixture(autouse=True)
def _no_model_of_another_test():
    """What the process shares between embedders does not reach from one test into the next."""
    if language_model := sys.modules.get("skllm4es.lm.language_model"):
        language_model._SHARED.clear()


@pytest.fixture
def server(monkeypatch):
    """A web server whose answers the test chooses. Whoever tries again does not wait."""
    from web_server import Server

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
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


@pytest.fixture(params=EVENT_KINDS)
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
    from skllm4es.events._objects import convert_objects

    name = request.param

    def as_kind(users, index=None):
        if isinstance(users, pd.DataFrame):
            index = users.index if index is None else index
            users = pa.array(users["events"].array)
        lists = users if isinstance(users, pa.Array | pa.ChunkedArray) else convert_objects(users)
        lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
        return EVENT_KINDS[name](lists, pd.RangeIndex(len(lists)) if index is None else index)

    as_kind.name = name
    as_kind.is_polars = name.startswith("polars")
    return as_kind
