"""Feature names say which value a column is about, in every fit alike, and LightGBM takes them."""

from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightgbm import Booster, LGBMClassifier
from sklearn.base import clone

from skllm4es.baselines import BagOfEvents, EventAggregator

COUNTS = [EventAggregator(time=None), BagOfEvents(n_components=None)]
each_baseline = pytest.mark.parametrize("baseline", COUNTS, ids=["aggregates", "bag"])
#: Characters that collided, that LightGBM or JSON forbid, and letters of other alphabets.
CHARACTERS = [*"ab_+- .=%<>,:;[]{}\"'\\/\n\r\t\x01\x7f", "\u2028", "é", "к", "日", "ö", "😀"]
VALUES = st.none() | st.just("missing") | st.text(st.sampled_from(CHARACTERS), max_size=4)


def users_of(field, values):
    return pd.DataFrame({"events": [[{field: value, "amount": float(i)}] for i, value in enumerate(values)]})


def names_of(baseline, X):
    return clone(baseline).fit(X).get_feature_names_out().tolist()


def columns_of(baseline, X):
    """Name, for each user, the column that says that the user has an event with the value of the first field."""
    fitted = clone(baseline).set_params(columns=[next(iter(X["events"][0][0]))]).fit(X)
    vectors = fitted.transform(X)
    names = fitted.get_feature_names_out()
    of_values = [not name.startswith("n_events") and not name.endswith("_n_distinct") for name in names]
    rows = vectors.toarray() if hasattr(vectors, "toarray") else vectors
    return [names[of_values & (row != 0)][0] for row in rows]


@each_baseline
@given(st.lists(VALUES, min_size=2, max_size=6, unique=True), st.randoms())
def test_a_name_means_the_same_value_in_every_fit(baseline, values, random):
    values = ["x", *(value for value in values if value != "x")]
    first, shuffled = users_of("type", values), [*values, *values[::2]]
    random.shuffle(shuffled)
    other = users_of("type", [shuffled[0], *shuffled])
    name = dict(zip(values, columns_of(baseline, first), strict=True))
    assert len(set(name.values())) == len(values)
    assert columns_of(baseline, other) == [name[value] for value in [shuffled[0], *shuffled]]


def test_plus_and_minus_are_not_told_apart_by_rank():
    rare, often = users_of("grade", ["A+", "A-", "A-"]), users_of("grade", ["A+", "A+", "A-"])
    for X in (rare, often):
        fitted = EventAggregator(time=None).set_output(transform="pandas").fit(X)
        assert fitted.transform(X)["grade_A+_count"].tolist() == [grade[0]["grade"] == "A+" for grade in X["events"]]


@each_baseline
def test_letters_of_any_alphabet_are_kept_and_the_rest_can_be_read_back(baseline):
    values = ["кофе", "日本", "naïve", "a, b", "100%", "x=y", "a b", "a_b", "\n"]
    X = users_of("вид", values)
    names = [name.removesuffix("_count") for name in columns_of(baseline, X)]
    assert names[:3] == ["вид_кофе", "вид_日本", "вид_naïve"]
    assert [unquote(name) for name in names] == [f"вид_{value}" for value in values]


@pytest.mark.parametrize(
    "fields",
    [("a", "a_b"), ("gap", "gap_mean"), ("a", "a_n"), ("n", "n_events"), ("type", "type_amount")],
)
@each_baseline
def test_fields_and_values_that_meet_at_an_underscore_stay_apart(baseline, fields):
    texts = ["b_c", "c", "missing", None, "b", "amount", "mean", "n_distinct", "distinct", "net", "net_amount"]
    events = [
        {"time": i, fields[0]: one, fields[1]: other, "amount": i / 3, "net_amount": i / 7, "gap": i / 9}
        for i, (one, other) in enumerate((one, other) for one in texts for other in texts)
    ]
    X = pd.DataFrame({"events": [events[::2], events[1::2]]})
    names = names_of(clone(baseline).set_params(time="time", columns=[*fields, "amount", "net_amount"]), X)
    assert len(set(names)) == len(names)


@each_baseline
@given(st.lists(VALUES, min_size=2, max_size=6, unique=True))
def test_lightgbm_trains_with_any_name_and_keeps_it(baseline, values):
    X = users_of('any, "field"', [*values, "x"])
    vectors = clone(baseline).fit(X).transform(X)
    vectors = vectors.toarray() if hasattr(vectors, "toarray") else vectors
    frame = pd.DataFrame(vectors, columns=names_of(baseline, X))
    model = LGBMClassifier(n_estimators=1, verbose=-1, n_jobs=1, min_child_samples=1)
    model.fit(frame, np.arange(len(X)) % 2).predict(frame)
    names = list(frame)
    assert model.booster_.feature_name() == names
    assert model.booster_.dump_model()["feature_names"] == names
    assert Booster(model_str=model.booster_.model_to_string()).feature_name() == names
