"""A fit that fails leaves its estimator as it was: fitted as before, or not at all."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import StandardScaler
from tiny_models import TEXTS, TINY, frozen_model

from skllm4es import EventSerializer, LLMEmbedder, TextEnricher
from skllm4es.baselines import BagOfEvents, CPCEmbedder, EventAggregator, LATTEEmbedder
from skllm4es.datasets import make_transactions

X = make_transactions(n_users=12, mean_events=8, random_state=0)[0]
ALIKE = pd.DataFrame({"events": [[{"event_time": pd.Timestamp("2024-01-01"), "type": "POS"}]] * 4})
SMALL = {"hidden_size": 8, "epochs": 1, "random_state": 0}
#: An estimator, what it is fitted on, and changes of parameters and data with which a fit fails.
CASES = {
    "serializer without such a field": (EventSerializer(), X, {"columns": ["nope"]}, X),
    "serializer with a scaler for texts": (EventSerializer(), X, {"scalers": {"type": StandardScaler()}}, X),
    "enricher without such a format": (TextEnricher(random_state=0), TEXTS, {"formats": "jsn"}, TEXTS),
    "bag of one value": (BagOfEvents(n_components=2, random_state=0), X, {"columns": ["type"], "n_bins": None}, ALIKE),
    "aggregator without such a field": (EventAggregator(), X, {"columns": ["nope"]}, X),
    "CPC that diverges": (CPCEmbedder(**SMALL), X, {"learning_rate": 1e30, "epochs": 3}, X),
    "LATTE of users who are alike": (LATTEEmbedder(model=frozen_model(), **SMALL), X, {}, ALIKE),
    "embedder of more layers than there are": (
        LLMEmbedder(TINY, features="hidden", random_state=0),
        TEXTS,
        {"pooling_depth": 50},
        TEXTS,
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_an_estimator_stays_as_it_was(case):
    estimator, data, changes, unfit = case
    fitted = clone(estimator).fit(data)
    before, vectors = dict(vars(fitted)), as_array(fitted.transform(data))
    with pytest.raises((ValueError, OSError)):
        fitted.set_params(**changes).fit(unfit)
    assert vars(fitted).keys() == before.keys()
    assert all(vars(fitted)[name] is value for name, value in before.items() if name not in changes)
    fitted.set_params(**{name: value for name, value in before.items() if name in changes})
    np.testing.assert_array_equal(as_array(fitted.transform(data)), vectors)
    pickle.dumps(fitted)


def test_an_estimator_is_not_fitted(case):
    estimator, data, changes, unfit = case
    failed = clone(estimator).set_params(**changes)
    with pytest.raises((ValueError, OSError)):
        failed.fit(unfit)
    with pytest.raises(NotFittedError):
        failed.transform(data)


def as_array(output):
    return output.toarray() if hasattr(output, "toarray") else np.asarray(output)
