"""Fixtures that several test modules share."""

import gc
import os
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from event_kinds import EVENT_KINDS
from filelock import FileLock
from hypothesis import HealthCheck, settings

# Tests never use the network. The hub's client reads this variable when it is first imported.
os.environ["HF_HUB_OFFLINE"] = "1"

# Tests must not fail on a busy machine.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
# For `make quick`, and for a release.
settings.register_profile("quick", settings.get_profile("patient"), max_examples=10)
settings.register_profile("thorough", settings.get_profile("patient"), max_examples=10_000)

_DATA_BESIDE_REPOSITORY = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_home() -> Path:
    """Folder with the real data sets; tests that need it are skipped if it does not exist."""
    if folder := os.environ.get("SKLLM4ES_DATA"):
        return Path(folder).expanduser()
    if _DATA_BESIDE_REPOSITORY.is_dir():
        return _DATA_BESIDE_REPOSITORY
    pytest.skip(f"needs real data: set SKLLM4ES_DATA to its folder ({_DATA_BESIDE_REPOSITORY} does not exist)")


@pytest.fixture(autouse=True)
def _seeds():
    """Start each test, though not the fixtures of its module, with the same random numbers where it names no seed."""
    np.random.seed(0)  # noqa: NPY002  # What `random_state=None` draws from.
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_shared_models():
    """Start each test without the models that embedders of earlier tests loaded and share."""
    if language_model := sys.modules.get("skllm4es.lm.language_model"):
        language_model._SHARED.clear()


@pytest.fixture(scope="module", autouse=True)
def _quick_garbage_collection():
    """Exclude what is in memory before a module's tests, mostly imported modules, from garbage collection.

    transformers collects garbage after each training, which otherwise takes longer than training models this small:
    a fit of 0.32 s takes 0.08 s.
    """
    gc.collect()
    gc.freeze()


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
    """Directory of a tiny instruct model that answers with a short paragraph of HTML; one process trains it for all."""
    from instruct_model import make_instruct_model

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "instruct.lock"):
        if not (shared / "instruct").exists():
            make_instruct_model(shared / "draft").rename(shared / "instruct")
    return str(shared / "instruct")


@pytest.fixture(params=EVENT_KINDS)
def as_kind(request):
    """Convert events to each kind of dataframe that `EventSerializer` reads: the test runs once per kind.

    The fixture is a function ``as_kind(users, index=None) -> (X, events)``.

    - ``users`` is what every kind is built from: a list with one entry per user, which is a list of dicts, or None for
      a user without events (NaN is a missing value); a pyarrow array of lists of structs, where the types matter; or
      the dataframe of `nest_events`.
    - ``index`` holds the users' labels: by default those of the dataframe, or else 0, 1, ... The polars kinds hold them
      in a column before the events.
    - ``X`` is the dataframe, and ``events`` is the argument that says where its events are: ``"events"``, or the list
      of fields if each field is a column.

    ``as_kind.name`` is the name of the kind, for expectations that differ, and ``as_kind.is_polars`` says whether `X`
    is a polars dataframe. A kind whose library is not installed is skipped.
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


@pytest.fixture
def edit_prompt(tmp_path_factory, monkeypatch):
    """Return a function that adds text to the file of a prompt, new or not, in a copy of the folder."""
    from skllm4es.rewriters import _prompts

    folder = tmp_path_factory.mktemp("package") / "prompts"
    shutil.copytree(_prompts.FOLDER, folder)
    monkeypatch.setattr(_prompts, "FOLDER", folder)

    def edit(name, addition):
        with (folder / f"{name}.txt").open("a", encoding="utf-8") as file:
            file.write(addition)

    return edit


@pytest.fixture(scope="session")
def needs_smollm2():
    """Skip tests with SmolLM2 where it is not installed."""
    from skllm4es.models import smollm2

    pytest.importorskip("gguf")
    try:
        smollm2()
    except OSError as missing:
        pytest.skip(str(missing))
