"""What all baselines have in common."""

import pickle
import sys
from decimal import Decimal
from functools import cache

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from estimators import BASELINES, COUNTING, NEEDS_HOTPP, NEURAL, TRAINED, each_of
from lightgbm import LGBMClassifier
from searches import search_in_which_candidates_differ
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_models import frozen_model

from skllm4es import EventSerializer, nest_events
from skllm4es.baselines import (
    BagOfEvents,
    DeTPPEmbedder,
    EventAggregator,
    IFTPPEmbedder,
    RandomEmbedder,
)
from skllm4es.baselines._features import EncodedEvents
from skllm4es.baselines._scaling import NumberScaler
from skllm4es.datasets import make_transactions

every_baseline = each_of(BASELINES, "baseline")
every_embedder = each_of(NEURAL, "baseline")
every_trained = each_of(TRAINED, "baseline")


@pytest.fixture(scope="module")
def X():
    return make_transactions(n_users=24, mean_events=20, random_state=0)[0]


@pytest.fixture(scope="module")
def fitted(X):
    """Each baseline, fitted on first use; tests do not change it."""

    class Fitted(dict):
        def __missing__(self, baseline):
            return self.setdefault(baseline, clone(baseline).fit(X))

    return Fitted()


def users_of(*users, fields=("day", "type", "amount")):
    """Users given as lists of tuples."""
    return pd.DataFrame(
        {"events": [None if u is None else [dict(zip(fields, e, strict=True)) for e in u] for u in users]}
    )


def is_known(vectors, baseline):
    """Whether all numbers are finite; statistics of nothing are missing."""
    return (np.isfinite(vectors) | (np.isnan(vectors) & isinstance(baseline, EventAggregator))).all()


# What comes out


@every_baseline
def test_one_row_of_finite_float32_a_user(baseline, fitted, X):
    vectors = fitted[baseline].transform(X)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(X), len(fitted[baseline].get_feature_names_out()))
    assert is_known(vectors, baseline)
    assert len(np.unique(vectors, axis=0)) == len(X)


@every_baseline
def test_lightgbm_takes_the_pandas_output(baseline, fitted, X):
    frame = clone(baseline).set_output(transform="pandas").fit(X).transform(X)
    LGBMClassifier(n_estimators=2, verbose=-1, n_jobs=1).fit(frame, np.arange(len(X)) % 2).predict(frame)


# What the vectors depend on


@every_embedder
def test_the_random_state_matters(baseline, fitted, X):
    other = clone(baseline).set_params(random_state=1).fit(X)
    assert not np.allclose(other.transform(X), fitted[baseline].transform(X))


@every_baseline
def test_only_the_latest_events_count_with_max_events(baseline):
    long = users_of(*[[(day, "ab"[day % 2], float(user + day)) for day in range(9)] for user in range(4)])
    short = long.assign(events=[user[-3:] for user in long["events"]])
    estimator = clone(baseline).set_params(max_events=3, time=None).fit(long)
    np.testing.assert_array_equal(estimator.transform(long), estimator.transform(short))
    assert not np.array_equal(
        clone(baseline).set_params(time=None).fit(long).transform(long), estimator.transform(long)
    )


@pytest.mark.parametrize("name", ["aggregates", "bag", "coles"])
def test_every_kind_of_dataframe_gives_the_same(name, X, fitted, as_kind):
    kind, events = as_kind(X)
    estimator = clone(BASELINES[name]).set_params(events=events).fit(kind)
    np.testing.assert_allclose(estimator.transform(kind), fitted[BASELINES[name]].transform(X), rtol=1e-5, atol=1e-6)


# Odd users


@every_baseline
def test_users_without_events_have_a_row(baseline, X):
    mixed = pd.concat([X.iloc[:6], pd.DataFrame({"events": pd.array([None, []], X["events"].dtype)}, index=[98, 99])])
    vectors = clone(baseline).fit(mixed).transform(mixed)
    assert is_known(vectors, baseline)
    np.testing.assert_array_equal(vectors[6], vectors[7])


@every_baseline
def test_a_frame_of_users_without_any_events_is_transformed(baseline, fitted, X):
    nobody = pd.DataFrame({"events": pd.Series([None, []], dtype=object)})
    assert is_known(fitted[baseline].transform(nobody), baseline)


@every_baseline
def test_users_with_a_single_event_are_learned_from_and_embedded(baseline):
    X = users_of(*[[(day, "ab"[user % 2], float(user)) for day in range(1 + user % 3)] for user in range(9)])
    assert is_known(clone(baseline).fit(X).transform(X), baseline)


@every_baseline
def test_unknown_categories_are_all_the_same(baseline):
    X = users_of(*[[(day, "abc"[(user + day) % 3], float(user)) for day in range(5)] for user in range(6)])
    estimator = clone(baseline).fit(X)
    one, other = users_of([(1, "x", 3.0), (2, "a", 4.0)]), users_of([(1, "y", 3.0), (2, "a", 4.0)])
    assert is_known(estimator.transform(one), baseline)
    np.testing.assert_array_equal(estimator.transform(one), estimator.transform(other))


@every_baseline
def test_missing_values_are_taken_in_fit_and_in_transform(baseline):
    full = users_of(*[[(day, "ab"[(user + day) % 2], float(user)) for day in range(5)] for user in range(6)])
    holes = users_of(*[[(day, None, None), (day + 1, "a", 2.0), (day + 2, "b", np.nan)] for day in range(6)])
    for seen in (full, holes):
        assert is_known(clone(baseline).fit(seen).transform(holes), baseline)


@every_baseline
@pytest.mark.parametrize("missing", [None, np.nan, []])
def test_a_field_without_values_in_fit_is_left_out_with_a_warning(baseline, missing):
    X = users_of(*[[(day, "ab"[(user + day) % 2], missing) for day in range(5)] for user in range(6)])
    estimator = clone(baseline)
    with pytest.warns(UserWarning, match=r"The fields \['amount'\] of the events are missing in all events of fit"):
        estimator.fit(X)
    without = clone(baseline).set_params(columns=["day", "type"]).fit(X)
    assert estimator.categories_.keys() == without.categories_.keys()
    assert estimator.numeric_ == without.numeric_
    later = users_of([(1, "a", 3.0), (2, "b", 4.0)])
    np.testing.assert_array_equal(estimator.transform(later), without.transform(later))


@every_baseline
def test_a_field_without_values_in_transform_is_of_any_kind(baseline):
    event = pa.struct([("day", pa.int64()), ("type", pa.float64()), ("amount", pa.string())])
    X = users_of(*[[(day, "ab"[(user + day) % 2], user * 1.5) for day in range(5)] for user in range(6)])
    empty = users_of([(1, None, None), (2, None, None)])
    typed = pa.array([[(1, np.nan, None), (2, None, None)]], pa.list_(event))
    estimator = clone(baseline).fit(X)
    expected = estimator.transform(empty)
    typed = pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(typed)})
    np.testing.assert_array_equal(estimator.transform(typed), expected)


def test_a_time_without_values_in_fit_is_one_of_any_kind():
    aggregator = EventAggregator(time="day").fit(users_of([(None, "a", 1.0)], [(None, "b", 2.0)]))
    later = aggregator.transform(users_of([(pd.Timestamp("2024-01-01"), "a", 1.0)]))
    assert later.shape == (1, len(aggregator.get_feature_names_out()))
    with pytest.raises(TypeError, match="time='day' holds texts; it must hold times, dates or numbers"):
        aggregator.transform(users_of([("Monday", "a", 1.0)]))


def test_events_without_any_values_are_an_error():
    X = users_of([(None, None, None), (None, None, None)])
    with (
        pytest.warns(UserWarning, match="are left out"),
        pytest.raises(ValueError, match="no field of the events is used"),
    ):
        EventAggregator().fit(X)


@every_embedder
def test_missing_times_are_taken(baseline):
    days = [pd.Timestamp("2024-01-01"), None, pd.Timestamp("2024-01-03")]
    X = users_of(*[[(day, "ab"[user % 2], float(user)) for day in days] for user in range(6)])
    assert np.isfinite(clone(baseline).set_params(time="day").fit(X).transform(X)).all()


def test_an_event_without_a_time_does_not_shorten_the_whole():
    X = users_of([(0, "a", 1.0), (None, "a", 1.0), (200, "a", 1.0), (300, "a", 1.0)], [(None, "a", 1.0), (7, "a", 1.0)])
    statistics = EventAggregator(time="day").set_output(transform="pandas").fit_transform(X)
    assert statistics["gap_sum"].tolist() == [300, 0]
    assert statistics["gap_mean"].tolist() == pytest.approx([100, np.nan], nan_ok=True)
    assert statistics["gap_std"].tolist() == pytest.approx([np.std([0, 200, 100]), np.nan], nan_ok=True)


# Events of any fields


FIELDS = {
    "numbers": {"columns": ["amount"], "time": None},
    "categories": {"columns": ["type"], "time": None},
    "numbers and time": {"columns": ["event_time", "amount"]},
    "categories and time": {"columns": ["event_time", "type"]},
    "no time": {"columns": ["mcc", "type", "amount"], "time": None},
    "time aside": {"columns": ["mcc"], "time": "event_time"},
}


@every_baseline
@pytest.mark.parametrize("fields", FIELDS)
def test_events_may_lack_numbers_categories_or_time(baseline, fields, X):
    vectors = clone(baseline).set_params(**FIELDS[fields]).fit_transform(X.iloc[:8])
    assert is_known(vectors, baseline)
    assert np.nanmax(np.ptp(vectors, axis=0))


@each_of({"aggregates": EventAggregator(), **NEURAL}, "baseline")
def test_the_time_alone_is_enough(baseline, X):
    assert np.isfinite(clone(baseline).set_params(columns=["event_time"]).fit_transform(X.iloc[:8])).all()


@pytest.mark.parametrize("codes", [np.arange(2000), np.arange(2000) + 0.5, pd.date_range("2024", periods=2000)])
def test_categoricals_are_categories_whatever_their_values(codes):
    table = pd.DataFrame({"user": np.arange(2000) // 50, "amount": np.arange(2000.0), "shop": pd.Categorical(codes)})
    flat = EventAggregator(time=None, max_categories=3).fit(nest_events(table, user="user"))
    assert (list(flat.categories_), flat.numeric_) == (["shop"], ["amount"])
    named = EventAggregator(time=None, numeric=["shop"]).fit(nest_events(table, user="user"))
    assert set(named.numeric_) == {"shop", "amount"}


def test_fields_are_read_by_type(X):
    flat = EventAggregator().fit(X)
    assert flat.time_ == "event_time"
    assert flat.numeric_ == ["amount"]
    assert list(flat.categories_) == ["mcc", "type", "currency"]


def test_categories_are_the_most_frequent_first():
    X = users_of([(1, "b", 1.0), (2, "b", 1.0), (3, "a", 1.0), (4, "c", 1.0), (5, None, 1.0), (6, None, 1.0)])
    assert EventAggregator().fit(X).categories_["type"] == [None, "b", "a", "c"]
    assert EventAggregator(max_categories=2).fit(X).categories_["type"] == [None, "b"]


def test_integers_are_categories_if_they_are_few_or_repeat():
    events = pd.DataFrame({"user": 1, "t": range(3000), "few": 0, "codes": 0, "numbers": range(3000)})
    events["few"], events["codes"] = events["t"] % 20, events["t"] % 300
    fitted = EventAggregator(time=None, columns=["few", "codes", "numbers"]).fit(
        nest_events(events, user="user", time="t")
    )
    assert list(fitted.categories_) == ["few", "codes"]
    assert fitted.numeric_ == ["numbers"]
    some = nest_events(events[:1000], user="user", time="t")
    assert EventAggregator(time=None, columns=["few", "codes"]).fit(some).numeric_ == ["codes"]


def test_fields_may_be_named_as_numbers_or_categories():
    X = users_of([(1, 5, 1.5), (2, 6, 2.5)])
    fitted = EventAggregator(numeric=["type"], categorical=["amount"], time="day").fit(X)
    assert fitted.numeric_ == ["type"]
    assert fitted.categories_ == {"amount": ["1.5", "2.5"]}


def test_names_may_be_arrays(X):
    fitted = EventAggregator(columns=np.array(["mcc", "amount"]), numeric=np.array(["mcc", "amount"])).fit(X)
    assert fitted.numeric_ == ["mcc", "amount"]


def test_a_field_named_gap_is_not_mistaken_for_the_time():
    X = users_of([(1, "a", 5.0), (4, "a", 7.0)], fields=("day", "type", "gap"))
    fitted = EventAggregator(time="day").fit(X)
    values = dict(zip(fitted.get_feature_names_out(), fitted.transform(X)[0].tolist(), strict=True))
    assert (values["gap_mean"], values["gap_mean_2"]) == (6.0, 3.0)


def test_codes_read_as_floats_because_one_is_missing_are_the_same_codes():
    fitted = EventAggregator(time=None).fit(users_of([(1, 5411, 1.0), (2, 5812, 2.0)]))
    moved = fitted.transform(users_of([(1, 5411.0, 1.0), (2, None, 2.0)]))
    names = fitted.get_feature_names_out().tolist()
    assert moved[0, names.index("type_5411_count")] == 1


@every_embedder
def test_lists_of_categories_are_an_error_that_says_what_to_do(baseline):
    X = pd.DataFrame({"events": [[{"genres": ["Comedy", "War"], "rating": 5.0}] * (2 + user) for user in range(3)]})
    with pytest.raises(TypeError, match=r"'genres' of the events holds lists of texts.*Join each list.*columns="):
        clone(baseline).fit(X)
    assert np.isfinite(clone(baseline).set_params(columns=["rating"]).fit_transform(X)).all()


# Errors


@every_baseline
def test_there_must_be_events_to_learn_from(baseline):
    with pytest.raises(ValueError, match="X has no events to learn from: none of its 2 users has any"):
        clone(baseline).fit(pd.DataFrame({"events": pd.Series([None, []], dtype=object)}))


@every_baseline
def test_events_must_be_in_order_of_time(baseline, X, fitted):
    X = users_of(*[[(pd.Timestamp(day=d, month=1, year=2024), "a", 1.0) for d in days] for days in ([1, 2], [2, 1])])
    with pytest.raises(ValueError, match="'day' decreases within 1 of 2 users, first in row 1"):
        clone(baseline).set_params(time="day").fit(X)


def test_gaps_are_those_of_a_field_that_differs_between_events_of_a_user():
    times = pd.date_range("2024-01-01", periods=4, freq="h")
    born = [pd.Timestamp("1950-02-03")] * 3 + [pd.Timestamp("1940-01-01")]
    users = [list(zip(born, times, "aaaa", strict=True))[i:j] for i, j in ((0, 3), (3, 4))]
    X = users_of(*users, fields=("born", "time", "code"))
    statistics = EventAggregator().set_output(transform="pandas").fit(X)
    assert statistics.time_ == "time"
    assert statistics.transform(X)["gap_sum"].tolist() == [7200, 0]


@every_baseline
def test_fields_that_differ_from_those_of_fit_are_an_error(baseline, fitted):
    other = users_of([(1, "a", 1.0)], fields=("mcc", "type", "amount"))
    with pytest.raises(
        ValueError, match=r"differ from those that fit saw: fit saw \['event_time', 'currency'\], which"
    ):
        fitted[baseline].transform(other)
    changed = users_of(
        [("text", "a", pd.Timestamp("2024-01-01"), "b", 1.0)],
        fields=("amount", "type", "event_time", "currency", "mcc"),
    )
    with pytest.raises(ValueError, match=r"'amount' holds texts \(\w+\), where fit saw numbers"):
        fitted[baseline].transform(changed)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"columns": ["amuont"]}, r"columns names \['amuont'\], which the events do not have"),
        ({"numeric": ["sum"]}, r"numeric names \['sum'\], which the events do not have"),
        ({"numeric": ["amount"], "categorical": ["amount"]}, r"numeric and categorical both name \['amount'\]"),
        ({"columns": ["type"], "numeric": ["amount"]}, r"numeric names \['amount'\], which columns leaves out"),
        ({"time": "date"}, r"time names \['date'\], which the events do not have"),
    ],
)
def test_parameters_that_do_not_fit_the_events_are_an_error(parameters, message, X):
    with pytest.raises(ValueError, match=f"{message}.*The events have the fields"):
        EventAggregator(**parameters).fit(X)


def test_texts_as_numbers_or_times_are_an_error(X):
    with pytest.raises(TypeError, match="'type' of the events holds texts, which cannot be read as numbers"):
        EventAggregator(numeric=["type"]).fit(X)
    with pytest.raises(TypeError, match="time='type' holds texts; it must hold times, dates or numbers"):
        EventAggregator(time="type").fit(users_of([(1, "a", 1.0)]))


@every_baseline
@pytest.mark.parametrize("time", [np.inf, 1e35])
def test_infinite_times_are_an_error(baseline, time):
    X = users_of([(1.0, "a", 1.0), (2.0, "a", 1.0)], [(1.0, "b", 1.0), (time, "b", 1.0)])
    with pytest.raises(ValueError, match=r"'day' of the events holds infinity or numbers beyond 1e\+30 in 1 of 4"):
        clone(baseline).set_params(time="day").fit(X)


@every_baseline
@pytest.mark.parametrize("number", [np.inf, -1e300])
def test_infinity_and_huge_numbers_are_an_error(baseline, number):
    X = users_of([(1, "a", number), (2, "a", 1.0)], [(1, "b", 1.0), (2, "b", 1.0)])
    with pytest.raises(ValueError, match=r"'amount' of the events holds infinity or numbers beyond 1e\+30 in 1 of 4"):
        clone(baseline).fit(X)


def test_an_array_is_an_error():
    with pytest.raises(TypeError, match="X must be a pandas or polars dataframe"):
        EventAggregator().fit(np.zeros((3, 2)))


# As scikit-learn's own


def test_in_a_pipeline_and_a_search(X):
    y = np.arange(len(X)) % 2
    pipe = Pipeline(
        [
            ("embed", clone(TRAINED["coles"])),
            ("scale", StandardScaler()),
            ("classify", LogisticRegression(max_iter=500)),
        ]
    )
    assert cross_val_score(pipe, X, y, cv=2).shape == (2,)
    search_in_which_candidates_differ(pipe, {"embed__pooling": ["mean", "last"]}, X, y)


def test_beside_texts_in_a_feature_union(X):
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = make_pipeline(EventSerializer(["type"]), ColumnTransformer([("tfidf", TfidfVectorizer(), "text")]))
    union = FeatureUnion([("events", clone(NEURAL["random"])), ("texts", texts)])
    assert union.fit_transform(X).shape[0] == len(X)


# Embedders


@every_trained
def test_the_loss_falls(baseline):
    X, _ = make_transactions(n_users=60, mean_events=25, random_state=1)
    estimator = clone(baseline).set_params(epochs=8, learning_rate=0.01, hidden_size=16).fit(X)
    assert len(estimator.loss_curve_) == estimator.n_iter_ == 8
    assert np.mean(estimator.loss_curve_[-3:]) < np.mean(estimator.loss_curve_[:2])


@pytest.fixture(scope="module")
def loud_users():
    """Users of two tastes, which their films show, among numbers that mean nothing."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    films = np.where(
        rng.random((200, 30)) < 0.1, rng.integers(0, 40, (200, 30)), 2 * rng.integers(0, 20, (200, 30)) + y[:, None]
    )
    noise = rng.normal(size=(200, 30, 8))
    numbers = [f"n{i}" for i in range(8)]
    events = [
        [
            {"film": f"film {film}", **dict(zip(numbers, row.tolist(), strict=True))}
            for film, row in zip(*user, strict=True)
        ]
        for user in zip(films, noise, strict=True)
    ]
    return pd.DataFrame({"events": events}), y


LOUD = {"hidden_size": 16, "pooling": "last", "random_state": 1, "time": None}


def auc_of(embedder, X, y):
    vectors = StandardScaler().fit_transform(embedder.fit_transform(X))
    return cross_val_score(LogisticRegression(C=0.1), vectors, y, cv=4, scoring="roc_auc").mean()


@pytest.fixture(scope="module")
def untrained_auc(loud_users):
    """The score of each untrained encoder, found on first use."""
    return cache(lambda encoder: auc_of(RandomEmbedder(encoder=encoder, **LOUD), *loud_users))


@every_trained
def test_training_separates_classes_that_an_untrained_encoder_does_not(baseline, loud_users, untrained_auc):
    trained = clone(baseline).set_params(epochs=8, batch_size=8, learning_rate=0.01, **LOUD)
    assert auc_of(trained, *loud_users) > max(0.75, untrained_auc(baseline.encoder) + 0.1)


@each_of(COUNTING, "baseline")
def test_counts_separate_classes_better_than_by_chance(baseline):
    X, y = make_transactions(n_users=400, mean_events=40, class_sep=4, random_state=0)
    pipe = make_pipeline(clone(baseline), SimpleImputer(), StandardScaler(), LogisticRegression(C=0.01))
    assert cross_val_score(pipe, X, y, cv=4, scoring="roc_auc").mean() > 0.7


@every_embedder
def test_both_poolings(baseline, fitted, X):
    other = {"mean": "last", "last": "mean"}[baseline.pooling]
    vectors = clone(baseline).set_params(pooling=other).fit(X).transform(X)
    assert vectors.shape == (len(X), 8)
    assert not np.allclose(vectors, fitted[baseline].transform(X), atol=1e-3)


def test_pooling_may_be_changed_after_fit(fitted, X):
    mean = pickle.loads(pickle.dumps(fitted[NEURAL["random"]]))
    last = pickle.loads(pickle.dumps(mean)).set_params(pooling="last")
    assert not np.allclose(mean.transform(X), last.transform(X))


#: Changes of parameters for two epochs of training; the last parameter is compared with its default.
CHANGES = {
    "coles": [{"n_slices": 3}, {"margin": 0.1}, {"n_negatives": 1}],
    "latte": [
        {"temperature": 1.0},
        {"labels": {"type": {"POS": "in a shop"}}},
        {"model": frozen_model(seed=1)},
        {"descriptions": "about"},
    ],
    "cpc": [{"n_steps": 3}, {"n_negatives": 5}],
    "rtd": [{"replaced": 0.4}],
    "nsp": [{"n_slices": 2}, {"head_size": 4}, {"dropout": 0.0}],
    "nppr": [{"alpha": 0.1}, {"n_past": 3}, {"decay": 60.0}],
    "iftpp": [
        {"lr_step": 1},
        {"lr_step": 1, "lr_decay": 0.1},
        {"learning_rate": 0.01},
        {"batch_size": 8},
        {"min_length": 2},
        {"max_length": 16},
        {"validation_fraction": 0.3},
        {"n_layers": 2},
        {"max_categories": 2},
        {"encoder": "lstm"},
    ],
    "detpp": [{"n_candidates": 3}, {"horizon": 3600.0}, {"share": 1.0}],
}


@pytest.fixture(scope="module")
def learned(X):
    """The vectors of a baseline with some parameters changed, fitted on first use."""
    X = X.assign(about=[f"a user of {len(events)} events" for events in X["events"]])
    vectors = {}

    def learn(name, *changes):
        key = repr((name, changes))
        if key not in vectors:
            vectors[key] = clone(TRAINED[name]).set_params(epochs=2, **dict(changes)).fit_transform(X)
        return vectors[key]

    return learn


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param(name, change, id=f"{name}-{'-'.join(change)}", marks=NEEDS_HOTPP if name == "detpp" else ())
        for name, changes in CHANGES.items()
        for change in changes
    ],
)
def test_every_parameter_of_training_changes_what_is_learned(name, change, X, learned):
    *others, last = change.items()
    assert not np.allclose(learned(name, *others, last), learned(name, *others), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", TRAINED)
def test_every_parameter_of_a_baseline_is_tried(name):
    own = set(TRAINED[name].get_params()) - set(IFTPPEmbedder().get_params())
    own -= {"memory"}  # It changes how long training takes.
    assert own <= {parameter for change in CHANGES.get(name, []) for parameter in change}


@every_trained
def test_training_stops_early_and_keeps_the_best_epoch(baseline):
    X, _ = make_transactions(n_users=40, mean_events=20, random_state=2)
    estimator = clone(baseline).set_params(
        epochs=30, learning_rate=0.05, validation_fraction=0.25, n_iter_no_change=2, batch_size=16
    )
    estimator.fit(X)
    curve = estimator.validation_loss_curve_
    assert len(curve) == estimator.n_iter_
    assert estimator.n_iter_ == 30 or np.argmin(curve) == len(curve) - 3
    stopped_there = clone(estimator).set_params(epochs=int(np.argmin(curve)) + 1).fit(X)
    np.testing.assert_array_equal(stopped_there.transform(X), estimator.transform(X))


def test_an_infinite_loss_is_an_error_that_says_what_to_do(X):
    with pytest.raises(ValueError, match=r"The loss became \w+ during training. Lower learning_rate \(it was 1e\+30\)"):
        clone(TRAINED["cpc"]).set_params(learning_rate=1e30, epochs=3).fit(X)


@pytest.mark.parametrize("name", ["coles", "latte", "nsp"])
@pytest.mark.parametrize(
    ("fraction", "remedy"),
    [
        (None, "at least 2: fit on more users.$"),
        (0.1, "at least 2 besides the 2 held out: .* validation_fraction=None"),
    ],
)
def test_contrasting_users_needs_two(name, fraction, remedy, X):
    with pytest.raises(ValueError, match=rf"1 of 1 users have . events or more. Training needs {remedy}"):
        clone(TRAINED[name]).set_params(validation_fraction=fraction).fit(X.iloc[:1])


@each_of({name: each for name, each in TRAINED.items() if name not in ("coles", "latte")}, "baseline")
def test_there_must_be_users_with_more_than_one_event(baseline):
    with pytest.raises(ValueError, match="0 of 3 users have 2 events or more"):
        clone(baseline).fit(users_of([(1, "a", 1.0)], [(1, "b", 2.0)], [(2, "b", 3.0)]))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"min_length": 9, "max_length": 8}, "min_length=9 is more than max_length=8"),
        ({"embedding_sizes": {"amount": 4}}, "embedding_sizes names 'amount', which is not among the categorical"),
        ({"embedding_sizes": {"type": 0}}, r"embedding_sizes\['type'\] must be an int of at least 1; got 0"),
        ({"encoder": "transformer", "hidden_size": 6}, "hidden_size=6 must be a multiple of 4"),
    ],
)
def test_sizes_that_do_not_fit_are_an_error(parameters, message, X):
    with pytest.raises(ValueError, match=message):
        clone(TRAINED["coles"]).set_params(**parameters).fit(X)


def test_sizes_of_embeddings_may_be_given(X):
    wide = clone(NEURAL["random"]).set_params(embedding_sizes={"type": 50}).fit(X)
    narrow = clone(NEURAL["random"]).fit(X)
    assert sum(wide._encoder.schema.embedding_sizes) == sum(narrow._encoder.schema.embedding_sizes) + 50 - 8


def test_progress_is_shown_if_asked_for(X, capfd):
    clone(TRAINED["coles"]).fit(X)
    assert capfd.readouterr().err == ""
    clone(TRAINED["coles"]).set_params(verbose=1).fit_transform(X)
    shown = capfd.readouterr().err
    assert "epoch" in shown
    assert "user" in shown


def test_an_embedder_from_a_machine_with_a_gpu_runs_on_the_cpu(fitted, X):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    embedder = pickle.loads(pickle.dumps(fitted[NEURAL["random"]]))
    stored = pickle.dumps(embedder.set_params(device="cuda"))
    with pytest.warns(UserWarning, match="There is no device 'cuda' on this machine: the embedder runs on the CPU"):
        moved = pickle.loads(stored)
    assert moved.device_ == "cpu"
    np.testing.assert_array_equal(moved.transform(X), fitted[NEURAL["random"]].transform(X))


def test_numbers_are_signed_logarithms_standardised():
    amounts = np.array([-5.0, 0.0, 3.0, 1e6, np.nan, 2.0])
    gaps = np.array([np.nan, 60.0, 60.0, np.nan, 1.0, 0.0])
    events = EncodedEvents(np.array([0, 3, 6]), {}, {"amount": amounts}, gaps)
    scaler = NumberScaler.fit(events)
    logs = np.stack([np.sign(column) * np.log1p(np.abs(column)) for column in (amounts, gaps)], axis=1)
    expected = (logs - np.nanmean(logs, axis=0)) / np.nanstd(logs, axis=0)
    np.testing.assert_allclose(scaler.scale(events), expected, rtol=1e-6)
    assert scaler.has_missing == (True, True)
    same = EncodedEvents(np.array([0, 2]), {}, {"amount": np.array([7.0, 7.0])}, None)
    np.testing.assert_array_equal(NumberScaler.fit(same).scale(same), [[0], [0]])


def test_embeddings_of_categories_grow_with_their_number():
    users = [[{"few": f"{i % 3}", "some": f"{i % 100}", "many": f"{i}"} for i in range(2000)]] * 2
    embedder = RandomEmbedder(random_state=0, hidden_size=8).fit(pd.DataFrame({"events": users}))
    # From 8 to 32, the next power of two above the root of the number.
    assert embedder._encoder.schema.embedding_sizes == (8, 16, 32)


@pytest.mark.parametrize(("encoder", "n_layers"), [("gru", 1), ("lstm", 1), ("transformer", 2)])
def test_each_encoder_has_its_own_number_of_layers(encoder, n_layers, X):
    by_default, given = (
        RandomEmbedder(encoder=encoder, n_layers=layers, hidden_size=8, random_state=0).fit_transform(X)
        for layers in (None, n_layers)
    )
    np.testing.assert_array_equal(by_default, given)


def test_the_same_users_in_several_batches_have_the_same_vectors(fitted, X):
    embedder = fitted[TRAINED["iftpp-t"]]
    many = pd.concat([X] * 150)
    assert many["events"].list.len().sum() > 2 * 32_768
    np.testing.assert_allclose(embedder.transform(many), np.tile(embedder.transform(X), (150, 1)), rtol=1e-4, atol=1e-5)


def test_the_memory_of_the_transformer_does_not_grow_with_the_square_of_the_length(X):
    from torch.profiler import ProfilerActivity, profile

    embedder = clone(NEURAL["random"]).set_params(encoder="transformer", columns=["type"], time=None).fit(X)

    def largest(n_events):
        events = [[{"type": "POS"}] * n_events]
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            embedder.transform(pd.DataFrame({"events": events}))
        return max(event.cpu_memory_usage for event in profiled.events())

    assert largest(4000) < 6 * largest(1000)


def test_a_full_gpu_is_an_error_that_says_what_to_do(fitted, X):
    import torch

    def run_out_of_memory(module, inputs):
        raise torch.OutOfMemoryError

    hook = torch.nn.modules.module.register_module_forward_pre_hook(run_out_of_memory)
    try:
        with pytest.raises(MemoryError, match=r"24 users of up to \d+ events do not fit into.*max_events"):
            fitted[NEURAL["random"]].transform(X)
    finally:
        hook.remove()


def test_predictions_on_held_out_users(X):
    y = np.arange(len(X)) % 2
    pipe = make_pipeline(clone(BASELINES["bag"]), LogisticRegression())
    folds = StratifiedKFold(3)
    predicted = cross_val_predict(pipe, X, y, cv=folds)
    for train, test in folds.split(X, y):
        expected = clone(pipe).fit(X.iloc[train], y[train]).predict(X.iloc[test])
        np.testing.assert_array_equal(predicted[test], expected)


# Counts


def test_aggregates_by_hand():
    X = users_of([(1, "a", 1.0), (3, "b", 4.0), (7, "a", 3.0)], [(1, "b", None)], [(1, "b", 6.0), (2, "b", 8.0)], None)
    frame = EventAggregator(time="day").set_output(transform="pandas").fit_transform(X)
    none = np.nan
    expected = {
        "n_events": [3, 1, 2, 0],
        "amount_sum": [8, 0, 14, 0],
        "amount_mean": [8 / 3, none, 7, none],
        "amount_std": [np.std([1, 4, 3]), none, 1, none],
        "gap_sum": [6, 0, 1, 0],
        "gap_mean": [3, none, 1, none],
        "gap_std": [1, none, 0, none],
        "type_n_distinct": [2, 1, 1, 0],
        "type_b_count": [1, 1, 2, 0],
        "type_a_count": [2, 0, 0, 0],
        "type_b_amount_mean": [4, none, 7, none],
        "type_a_amount_mean": [2, none, none, none],
        "type_b_amount_std": [0, none, 1, none],
        "type_a_amount_std": [1, none, none, none],
    }
    assert list(frame) == list(expected)
    np.testing.assert_allclose(frame, pd.DataFrame(expected), rtol=1e-6)


def test_values_without_columns_are_distinct_values_too():
    X = users_of(*([(day, f"shop {day * user % 7}", 1.0) for day in range(1, 9)] for user in range(1, 9)))
    aggregator = EventAggregator(max_categories=1, columns=["type"], time=None).set_output(transform="pandas")
    expected = [len({event["type"] for event in events}) for events in X["events"]]
    assert aggregator.fit_transform(X)["type_n_distinct"].to_list() == expected
    later = users_of([(1, "new", 1.0), (2, "newer", 1.0), (3, "newer", 1.0), (4, "shop 0", 1.0), (5, None, 1.0)])
    assert aggregator.transform(later)["type_n_distinct"].to_list() == [4]


def test_statistics_that_are_the_same_for_all_or_copies_of_others_are_dropped():
    X = users_of([(1, "a", 1.0), (2, "b", 1.0)], [(1, "a", 2.0)], [(1, "a", 4.0), (2, "b", 5.0), (3, "b", 6.0)])
    fitted = EventAggregator(time=None, columns=["type", "amount"]).set_output(transform="pandas").fit(X)
    names = fitted.get_feature_names_out().tolist()
    frame = fitted.transform(X)
    assert "type_a_count" not in names  # It is 1 for all.
    assert "type_a_amount_std" not in names  # It is 0 for all.
    assert {"n_events", "type_n_distinct", "type_b_count", "type_a_amount_mean"} <= set(names)
    assert not frame.T.duplicated().any()
    assert all(len(np.unique(column)) > 1 for column in frame.to_numpy().T)
    later = users_of([(1, "a", 1.0), (2, "a", 3.0)], [], [(1, "c", None)])
    assert list(fitted.transform(later)) == names
    assert fitted.transform(later.iloc[:0]).shape == (0, len(names))


def test_negative_zero_is_no_other_number():
    X = users_of(*[[(1, "a", zero)] * n_events for n_events, zero in ((1, 0.0), (2, -0.0), (3, 0.0))])
    names = EventAggregator(time=None, columns=["amount"]).fit(X).get_feature_names_out()
    assert names.tolist() == ["n_events"]


def test_all_statistics_of_users_who_are_all_alike_are_kept():
    fitted = EventAggregator(time=None, columns=["amount"]).fit(users_of(*[[(1, "a", 1.0)]] * 2))
    assert fitted.get_feature_names_out().tolist() == ["n_events", "amount_sum", "amount_mean", "amount_std"]


def test_a_warning_counts_the_statistics_if_most_of_many_users_are_dropped():
    users = [[(1, "a", 1.0)] * (1 + user % 2) for user in range(50)]
    aggregator = EventAggregator(time=None, columns=["type", "amount"])
    with pytest.warns(
        UserWarning, match="7 of 8 statistics are dropped: 5 are the same for all users of fit, and 2 are copies"
    ):
        aggregator.fit(users_of(*users))
    aggregator.fit(users_of(*users[:49]))


def test_deviations_of_large_numbers_are_exact():
    X = users_of([(1, "a", 1e9), (2, "a", 1e9 + 2)])
    fitted = EventAggregator(time=None).fit(X)
    names = fitted.get_feature_names_out().tolist()
    assert fitted.transform(X)[0, names.index("amount_std")] == 1.0


@pytest.mark.parametrize("baseline", [EventAggregator(), BagOfEvents(n_components=None)])
def test_lists_of_categories_are_counted_by_their_elements(baseline):
    lists = pa.array([[{"genres": ["a", "b", "c"]}, {"genres": ["a"]}], [{"genres": None}, {"genres": []}]])
    X = pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(lists)})
    fitted = clone(baseline).fit(X)
    assert fitted.categories_ == {"genres": ["a", "b", "c"]}
    names = [name for name in fitted.get_feature_names_out() if name.startswith("genres_a")]
    vectors = fitted.transform(X)
    counts = vectors[:, fitted.get_feature_names_out().tolist().index(names[0])]
    assert (np.asarray(counts.todense() if hasattr(counts, "todense") else counts).ravel() > 0).tolist() == [
        True,
        False,
    ]


def test_weights_are_tfidf_of_the_values():
    from sklearn.feature_extraction.text import TfidfVectorizer

    X = users_of([(1, "a", 1.0), (2, "a", 2.0), (3, "b", 1.0)], [(1, "b", 1.0)], [(1, "c", 1.0), (2, "a", 1.0)])
    for sublinear in (True, False):
        bag = BagOfEvents(columns=["type"], n_components=None, sublinear_tf=sublinear).fit(X)
        words = TfidfVectorizer(token_pattern=r"\w", sublinear_tf=sublinear)
        expected = words.fit_transform(["a a b", "b", "c a"])
        order = [bag.get_feature_names_out().tolist().index(f"type_{value}") for value in "abc"]
        np.testing.assert_allclose(bag.transform(X).toarray()[:, order], expected.toarray(), rtol=1e-6)


def test_reduced_rows_have_unit_length_and_those_without_events_none(X):
    some = X.assign(events=[None, *X["events"].tolist()[1:]])
    vectors = BagOfEvents(random_state=0).fit(X).transform(some)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [0] + [1] * (len(X) - 1), rtol=1e-6)
    assert vectors.dtype == np.float32


def test_numbers_are_counted_in_bins_or_left_out():
    X = users_of([(day, "a", float(day)) for day in range(100)], [(1, "a", None)])
    bag = BagOfEvents(columns=["amount"], n_bins=4, n_components=None).fit(X)
    assert bag.get_feature_names_out().tolist() == ["amount_missing", *(f"amount_bin{i}" for i in range(4))]
    np.testing.assert_allclose(bag.transform(X).toarray(), [[0, 0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0, 0]])
    full = BagOfEvents(columns=["amount"], n_bins=4, n_components=None).fit(X.iloc[:1])
    np.testing.assert_array_equal(full.transform(X).toarray()[1], 0)  # A missing number that fit has not seen.
    with pytest.raises(ValueError, match=r"No field is counted: \['amount'\] are numeric.*Set n_bins"):
        BagOfEvents(columns=["amount"], n_bins=None).fit(X)


def test_sparse_weights_reach_the_classifier(X):
    pipe = make_pipeline(BagOfEvents(n_components=None), LogisticRegression())
    assert pipe.fit(X, np.arange(len(X)) % 2).predict(X).shape == (len(X),)


def test_a_bag_of_users_who_are_all_alike():
    X = users_of(*[[(1, "a", 1.0), (2, "b", 1.0)]] * 2)
    vectors = BagOfEvents(columns=["type"]).fit_transform(X)
    np.testing.assert_allclose(np.abs(vectors[:, 0]), 1.0, rtol=1e-6)


def test_a_single_value_cannot_be_reduced():
    X = users_of([(1, "a", 1.0)], [(1, "a", 1.0)])
    with pytest.raises(ValueError, match=r"The events have a single value in all.*n_components=None"):
        BagOfEvents(columns=["type"]).fit(X)


NUMBERS = {
    "decimals": pa.array([Decimal("1.5"), None, Decimal("3.0")]),
    "durations": pa.array([1500, None, 3000], pa.duration("ms")),
    "seconds of the day": pa.array([1, None, 2], pa.time32("s")),
    "half floats": pa.array(np.array([1.5, np.nan, 3.0], np.float16)),
    "times aside": pa.array([1000, None, 2000], pa.timestamp("ms")),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_all_kinds_of_numbers_are_read(kind):
    structs = pa.StructArray.from_arrays([NUMBERS[kind], pa.array(["a", "b", "a"])], names=["number", "type"])
    X = pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(pa.ListArray.from_arrays([0, 3], structs))})
    fitted = EventAggregator(time=None).fit(X)
    statistics = dict(zip(fitted.get_feature_names_out(), fitted.transform(X)[0].tolist(), strict=True))
    assert fitted.numeric_ == ["number"]
    assert statistics["number_mean"] == pytest.approx(2.25 if kind in ("decimals", "durations", "half floats") else 1.5)


@pytest.mark.parametrize("values", [pa.array([b"a"]), pa.array([{"x": 1}]), pa.array([[[1]]])])
def test_unreadable_values_are_an_error_that_names_the_field(values):
    structs = pa.StructArray.from_arrays([values], names=["odd"])
    X = pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(pa.ListArray.from_arrays([0, 1], structs))})
    with pytest.raises(TypeError, match="The field 'odd' of the events"):
        EventAggregator().fit(X)


def test_there_are_at_most_as_many_components_as_values():
    X = users_of([(1, "a", 1.0)], [(1, "b", 1.0)], [(1, "a", 1.0), (2, "b", 1.0)])
    assert BagOfEvents(columns=["type"]).fit_transform(X).shape == (3, 2)


def test_detpp_without_its_library_is_an_error_that_names_the_extra(monkeypatch, X):
    monkeypatch.setitem(sys.modules, "hotpp.losses", None)
    with pytest.raises(ImportError, match=r'DeTPPEmbedder needs hotpp-benchmark 0.7.*pip install "skllm4es\[tpp\]"'):
        DeTPPEmbedder().fit(X)
