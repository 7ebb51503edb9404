"""The three steps in a Pipeline in front of LightGBM."""

import numpy as np
import pytest
from lightgbm import LGBMClassifier
from searches import search_in_which_candidates_differ
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import FeatureUnion, Pipeline
from tiny_models import tiny

from skllm4es import EventSerializer, FineTuning, LLMEmbedder, TextEnricher
from skllm4es.datasets import fetch_movielens_100k, make_transactions
from skllm4es.vocabularies import load_mcc_names

MODEL = tiny(vocab_size=400, hidden_size=16, intermediate_size=32, num_hidden_layers=4)


def make_pipeline(model=MODEL, max_events=4, columns=None, **embedder):
    return Pipeline(
        [
            ("serialize", EventSerializer(columns, max_events=max_events)),
            ("enrich", TextEnricher(random_state=0)),
            ("embed", LLMEmbedder(model, random_state=0, **{"finetune": FineTuning(epochs=1), **embedder})),
            ("classify", LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1)),
        ]
    )


@pytest.fixture(scope="module")
def transactions():
    return make_transactions(60, mean_events=8, random_state=0)


@pytest.fixture(scope="module")
def movielens(data_home):
    return fetch_movielens_100k(target="gender", data_home=data_home, return_X_y=True)


def test_pipeline_scores_new_users(transactions):
    X, y = transactions
    X_train, X_test, y_train, _ = train_test_split(X, y, random_state=0)
    proba = make_pipeline().fit(X_train, y_train).predict_proba(X_test)
    assert proba.shape == (15, 2)
    assert np.isfinite(proba).all()


def test_a_user_without_events_gets_a_prediction(transactions):
    X, y = transactions
    pipeline = make_pipeline().fit(X, y)
    X = X.iloc[:3].copy()
    X.loc[X.index[1], "events"] = None
    assert np.isfinite(pipeline.predict_proba(X)).all()


def test_cross_validation_in_two_processes_gives_the_same_scores(transactions):
    X, y = transactions
    scores = [cross_val_score(make_pipeline(), X, y, cv=2, n_jobs=n_jobs, error_score="raise") for n_jobs in (1, 2)]
    np.testing.assert_array_equal(*scores)


def test_grid_search_over_pooling_depth_beside_profile_columns(transactions):
    X, y = transactions
    X = X.assign(age=np.arange(len(X)))
    events = make_pipeline(features="hidden")[:-1]
    columns = ColumnTransformer([("events", events, ["events"]), ("profile", "passthrough", ["age"])])
    pipeline = Pipeline([("columns", columns), ("classify", LGBMClassifier(n_estimators=5, verbose=-1))])
    grid = {"columns__events__embed__pooling_depth": [1, 4]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_estimator_["columns"].transform(X).shape == (60, 17)


def test_feature_union_of_two_depths(transactions):
    X, _ = transactions
    texts = EventSerializer().fit_transform(X)
    shallow, deep = (
        LLMEmbedder(MODEL, features="hidden", pooling_depth=depth, random_state=0, finetune=FineTuning(epochs=1))
        for depth in (1, 4)
    )
    union = FeatureUnion([("k1", shallow), ("k4", deep)])
    assert union.fit_transform(texts).shape == (60, 32)
    assert union.get_feature_names_out()[0] == "k1__llmembedder0"


def test_clone_keeps_every_parameter():
    pipeline = make_pipeline(pooling_depth=2)
    assert str(clone(pipeline)) == str(pipeline)


def test_input_is_not_changed(transactions):
    X, y = transactions
    before = X.copy(deep=True)
    make_pipeline().fit(X, y).predict(X)
    assert X.equals(before)


def test_labels_replace_codes_in_the_texts(transactions):
    X, _ = transactions
    texts = EventSerializer(labels={"mcc": load_mcc_names()}).fit_transform(X)["text"]
    assert texts.str.contains("Grocery Stores, Supermarkets").any()


@pytest.mark.slow
@pytest.mark.real_data
class TestMovieLens:
    """On real data, with few events and little training to keep it short."""

    SHORT = {"columns": ["genres", "rating"], "max_events": 10}
    TRAINING = FineTuning(epochs=0.02)

    def test_cross_val_score(self, movielens):
        X, y = movielens
        pipeline = make_pipeline(**self.SHORT, finetune=self.TRAINING)
        scores = cross_val_score(pipeline, X, y, scoring="roc_auc", cv=2, error_score="raise")
        assert scores.mean() > 0.5

    def test_grid_search_over_pooling_depth(self, movielens):
        X, y = movielens
        pipeline = make_pipeline(**self.SHORT, features="hidden", finetune=self.TRAINING)
        search_in_which_candidates_differ(pipeline, {"embed__pooling_depth": [1, 2, 4]}, X, y)

    @pytest.mark.filterwarnings("ignore:The columns .* hold texts to train on and are not used:UserWarning")
    @pytest.mark.parametrize("finetune", [None, TRAINING], ids=["frozen", "trained"])
    def test_real_pretrained_llama(self, movielens, data_home, finetune):
        X, y = movielens
        pipeline = make_pipeline(data_home / "tinystories-656k", finetune=finetune, pooling_depth=2, **self.SHORT)
        scores = cross_val_score(pipeline, X, y, scoring="roc_auc", cv=2, error_score="raise")
        assert scores.mean() > 0.5
