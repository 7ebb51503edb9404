"""The recipe of a scoring service: it answers as the pipeline does, and says which field is wrong."""

import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC
from tiny_models import frozen_model

from skllm4es import (
    EventSerializer,
    FineTuning,
    FromScratch,
    LLMEmbedder,
    event_pipeline,
    nest_events,
    unnest_events,
)
from skllm4es.baselines import EventAggregator
from skllm4es.datasets import make_transactions
from skllm4es.vocabularies import load_mcc_names

pytest.importorskip("fastapi", reason="needs fastapi and httpx2")
pytest.importorskip("httpx2", reason="needs fastapi and httpx2")
from fastapi.testclient import TestClient

RECIPE = Path(__file__).parents[1] / "docs" / "recipes" / "serve_with_fastapi.py"
TINY = FromScratch(config={"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2})

# anyio's portal and starlette, of which we use only the client.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("serve_with_fastapi", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def users():
    return make_transactions(40, mean_events=8, random_state=0)


def pipeline_for(serializer):
    embedder = LLMEmbedder(TINY, features="events", finetune=FineTuning(epochs=1), dtype="float32", random_state=0)
    return Pipeline([("serialize", serializer), ("embed", embedder), ("classify", LogisticRegression())])


@pytest.fixture(scope="module")
def pipeline(users):
    return pipeline_for(EventSerializer(labels={"mcc": load_mcc_names()})).fit(*users)


@pytest.fixture(scope="module")
def client(recipe, pipeline, tmp_path_factory):
    """The service for a pipeline that was saved and loaded."""
    home = tmp_path_factory.mktemp("service")
    pipeline["embed"].save_pretrained(home / "model")
    saved = Pipeline([*pipeline.steps])
    saved.steps[1] = ("embed", LLMEmbedder.from_pretrained(home / "model"))
    joblib.dump(saved, home / "pipeline.joblib")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPELINE", str(home / "pipeline.joblib"))
        patch.setenv("MEMORY", str(home / "cache" / "of vectors"))  # The service makes it.
        return TestClient(recipe.make_app())


def as_json(X, row=0):
    table = unnest_events(X.iloc[[row]]).drop(columns="user_id")
    return json.loads(table.to_json(orient="records", date_format="iso"))


EVENT = {"event_time": "2023-05-01T10:00:00", "mcc": 5411, "type": "POS", "amount": 12.5, "currency": "EUR"}


def problems(answer):
    assert answer.status_code == 422
    return [(tuple(problem["loc"]), problem["msg"]) for problem in answer.json()["detail"]]


def test_it_answers_as_the_pipeline_does(client, pipeline, users):
    X, _ = users
    some = [row for row in range(len(X)) if len(X["events"].iloc[row])][:10]
    answers = [client.post("/score", json={"events": as_json(X, row)}).json() for row in some]
    expected = pipeline.predict_proba(X.iloc[some])[:, 1]
    np.testing.assert_allclose([answer["score"] for answer in answers], expected, atol=1e-5)
    assert [answer["n_events"] for answer in answers] == [len(X["events"].iloc[row]) for row in some]


def test_events_in_any_order_have_the_same_score(client, users):
    events = as_json(users[0], 3)
    scores = {client.post("/score", json={"events": order}).json()["score"] for order in (events, events[::-1])}
    assert len(scores) == 1


def test_events_that_fit_has_not_seen_are_scored(client):
    answer = client.post("/score", json={"events": [EVENT | {"mcc": 763, "type": "cheque"}]})
    assert answer.status_code == 200
    assert answer.json()["warnings"] == []


def test_codes_without_a_label_are_named_in_the_answer(client):
    (warning,) = client.post("/score", json={"events": [EVENT | {"mcc": 999_999}]}).json()["warnings"]
    assert "999999" in warning


def test_codes_without_a_label_are_scored_by_a_pipeline_that_was_strict_in_fit(recipe, users):
    serializer = EventSerializer(labels={"mcc": load_mcc_names()}, unlabelled="error")
    client = TestClient(recipe.make_app(pipeline_for(serializer).fit(*users)))
    (warning,) = client.post("/score", json={"events": [EVENT | {"mcc": 999_999}]}).json()["warnings"]
    assert "999999" in warning


def test_answers_at_the_same_time_have_their_own_warnings(client):
    def warnings_of(code):
        events = [EVENT | {"mcc": code}] * 3
        return client.post("/score", json={"events": events}).json()["warnings"]

    codes = [999_000 + i if i % 2 else 5411 for i in range(40)]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(warnings_of, codes))
    for code, found in zip(codes, answers, strict=True):
        assert len(found) == (code != 5411)
        assert all(str(code) in warning for warning in found)


def test_new_events_are_kept_in_a_folder_that_the_service_makes(recipe, users, tmp_path):
    X, y = users
    pipeline = event_pipeline(LogisticRegression(), model=frozen_model()).fit(X, y)
    memory = tmp_path / "a" / "cache"
    client = TestClient(recipe.make_app(pipeline, str(memory)))
    new = [EVENT | {"mcc": 763, "type": "cheque"}]
    answer = client.post("/score", json={"events": new}).json()
    X_new = nest_events(pd.DataFrame(new).assign(user=1, event_time=pd.Timestamp(EVENT["event_time"])), user="user")
    assert answer["score"] == pytest.approx(pipeline.predict_proba(X_new)[0, 1], abs=1e-5)
    assert pipeline["features"]["llm"]["embed"].cache_info().n_vectors > 0


def test_numbers_that_aggregates_cannot_take_are_refused(recipe, users):
    client = TestClient(recipe.make_app(event_pipeline(LogisticRegression(), model=frozen_model()).fit(*users)))
    assert client.post("/score", json={"events": [EVENT | {"amount": 1e29}]}).status_code == 200
    for field, number in [("amount", 1e31), ("amount", -1e300), ("mcc", 1e35)]:
        answer = client.post("/score", json={"events": [EVENT | {field: number}]})
        assert {place[:4] for place, _ in problems(answer)} == {("body", "events", 0, field)}


def test_a_pipeline_that_it_cannot_serve_is_refused_at_the_start(recipe, users, pipeline):
    X, y = users
    steps = list(pipeline.steps)
    regressor = Pipeline([*steps[:-1], ("ridge", Ridge())]).fit(X, y)
    without_probabilities = Pipeline([*steps[:-1], ("svm", LinearSVC())]).fit(X, y)
    for unserved in (regressor, without_probabilities):
        with pytest.raises(TypeError, match="needs predict_proba, of two classes"):
            recipe.make_app(unserved)
    with pytest.raises(TypeError, match="with one EventSerializer, in steps of pipelines and unions; it has 0"):
        recipe.make_app(make_pipeline(EventAggregator(), SimpleImputer(), DummyClassifier()).fit(X, y))


def test_the_time_need_not_be_written(recipe, users):
    client = TestClient(recipe.make_app(pipeline_for(EventSerializer(["mcc"])).fit(*users)))
    assert client.post("/score", json={"events": [{"mcc": 5411}, {"mcc": 5814}]}).status_code == 200


def test_the_events_may_have_another_name(recipe, users):
    X, y = users
    renamed = X.rename(columns={"events": "history"})
    client = TestClient(recipe.make_app(pipeline_for(EventSerializer(events="history")).fit(renamed, y)))
    assert client.post("/score", json={"events": as_json(X, 3)}).status_code == 200


def test_values_may_be_missing(client):
    assert client.post("/score", json={"events": [EVENT | {"amount": None, "type": None}]}).status_code == 200


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"amount": "12.5"}, "amount", "valid"),
        ({"amount": True}, "amount", "valid"),
        ({"amount": 10**400}, "amount", "less than"),
        ({"mcc": [5411]}, "mcc", "valid"),
        ({"type": 5}, "type", "valid string"),
        ({"type": "\ud800"}, "type", "half of a surrogate pair"),
        ({"event_time": "yesterday"}, "event_time", "must be in ISO 8601"),
        ({"event_time": 5}, "event_time", "must be in ISO 8601"),
        ({"event_time": "5"}, "event_time", "must be in ISO 8601"),
        ({"event_time": "2023-13-01T00:00:00"}, "event_time", "valid datetime"),
        ({"event_time": "2023-05-01T10:00:00+01:00"}, "event_time", "must have no time zone"),
        ({"event_time": None}, "event_time", "must be in ISO 8601"),
        ({"shop": "a"}, "shop", "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(client, change, field, message):
    content = json.dumps({"events": [EVENT, EVENT | change]})
    found = problems(client.post("/score", content=content, headers={"Content-Type": "application/json"}))
    assert {loc[:4] for loc, _ in found} == {("body", "events", 1, field)}
    assert any(message in text for _, text in found)


def test_a_field_that_is_left_out_is_named(client):
    without = {name: value for name, value in EVENT.items() if name != "amount"}
    assert problems(client.post("/score", json={"events": [without]})) == [
        (("body", "events", 0, "amount"), "Field required")
    ]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(client, number):
    content = json.dumps({"events": [EVENT]}).replace("12.5", number)
    found = problems(client.post("/score", content=content, headers={"Content-Type": "application/json"}))
    assert {loc[:4] for loc, _ in found} == {("body", "events", 0, "amount")}


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"events": []}', '{"events": [3]}', '{"events": [', "null"])
def test_what_holds_no_events_is_refused(client, body):
    assert problems(client.post("/score", content=body, headers={"Content-Type": "application/json"}))


def test_too_many_events_are_refused(client, recipe):
    ((loc, message),) = problems(client.post("/score", json={"events": [EVENT] * (recipe.MAX_EVENTS + 1)}))
    assert loc == ("body", "events")
    assert "at most 10000" in message


def test_times_with_a_zone_must_have_one(recipe):
    table = pd.DataFrame(
        {
            "user": np.repeat(range(10), 3),
            "t": pd.date_range("2024-01-01", periods=30, tz="UTC"),
            "done": [True, False, None] * 10,
            "day": [datetime(2024, 1, 1).date()] * 30,
        }
    )
    X = nest_events(table, user="user", time="t")
    client = TestClient(recipe.make_app(pipeline_for(EventSerializer()).fit(X, np.arange(10) % 2)))
    event = {"t": "2024-02-01T00:00:00+01:00", "done": True, "day": "2024-02-01"}
    assert client.post("/score", json={"events": [event]}).status_code == 200
    naive = client.post("/score", json={"events": [event | {"t": "2024-02-01T00:00:00"}]})
    assert problems(naive) == [(("body", "events", 0, "t"), "Value error, must have a time zone, as in training")]
    for number in (5, "5", 1.5):
        found = problems(client.post("/score", json={"events": [event | {"t": number, "day": number}]}))
        assert {loc[3] for loc, _ in found} == {"t", "day"}


def test_times_are_brought_to_the_zone_of_training(recipe):
    times = pd.date_range("2024-01-01", periods=30, tz="Europe/Berlin")
    X = nest_events(pd.DataFrame({"user": np.repeat(range(10), 3), "t": times}), user="user", time="t")
    pipeline = pipeline_for(EventSerializer()).fit(X, np.arange(10) % 2)
    client = TestClient(recipe.make_app(pipeline))

    def score(*times):
        return client.post("/score", json={"events": [{"t": time} for time in times]}).json()["score"]

    same = [score(f"2024-02-01T{hour}:00:00{zone}") for hour, zone in (("12", "+01:00"), ("11", "Z"), ("06", "-05:00"))]
    known = pd.DataFrame({"events": [[{"t": pd.Timestamp("2024-02-01 12:00", tz="Europe/Berlin")}]]})
    assert same == [pipeline.predict_proba(known)[0, 1]] * 3
    # The clock is set back between them.
    autumn = ["2024-10-27T02:30:00+02:00", "2024-10-27T02:10:00+01:00"]
    assert score(*autumn) == score(*autumn[::-1])


def test_fields_that_json_cannot_hold_are_an_error_at_the_start(recipe):
    X = pd.DataFrame({"events": [[{"genres": ["a", "b"]}, {"genres": ["b"]}]] * 6})
    pipeline = pipeline_for(EventSerializer()).fit(X, np.arange(6) % 2)
    with pytest.raises(TypeError, match="'genres' holds lists of texts, which this service does not read"):
        recipe.make_app(pipeline)
