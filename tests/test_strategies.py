"""The paper's strategies of enrichment, each one setting: which texts the language model trains on and embeds."""

import numpy as np
import pytest
from format_readers import read, restore
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder, TextEnricher
from skllm4es.datasets import make_transactions
from skllm4es.serialize import parse_events

TINY = FromScratch(
    config={
        "vocab_size": 300,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
)
BRIEF = FineTuning(epochs=0.1)
N_USERS = 10


@pytest.fixture(scope="module")
def users():
    return make_transactions(n_users=N_USERS, mean_events=4, random_state=0)


class RecordingEmbedder(LLMEmbedder):
    """Keeps the texts that it gets."""

    def fit_transform(self, X, y=None):
        self.trained_on = X
        return super().fit_transform(X)

    def transform(self, X):
        self.embedded = X
        return super().transform(X)


@pytest.fixture
def run(users):
    """Fit and apply the whole flow; return the raw texts, those to train on, those to embed, and the report."""

    def run(**strategy):
        X, y = users
        serializer = EventSerializer(["mcc", "amount", "type"])
        pipe = Pipeline(
            [
                ("serialize", serializer),
                ("enrich", TextEnricher(random_state=0, **strategy)),
                ("embed", RecordingEmbedder(TINY, features="hidden", finetune=BRIEF, random_state=0)),
                ("classify", LogisticRegression()),
            ]
        ).fit(X, y)
        report = pipe["enrich"].report_
        assert pipe.predict_proba(X).shape == (N_USERS, 2)
        training = pipe["embed"].trained_on.drop(columns="text")
        trained = [text for name in training for text in training[name]]
        embedded = pipe["embed"].embedded["text"].to_list()
        return serializer.transform(X)["text"].to_list(), trained, embedded, report

    return run


def test_raw_texts_alone_are_the_flow_without_the_enricher(users):
    X, y = users
    pipe = Pipeline(
        [("serialize", EventSerializer()), ("embed", LLMEmbedder(TINY, finetune=BRIEF)), ("c", LogisticRegression())]
    )
    assert pipe.fit(X, y).predict(X).shape == (N_USERS,)


def test_one_format(run):
    raw, trained, embedded, report = run(formats="yaml")
    assert set(report["format"]) == {"yaml"}
    for original, text in zip(raw, trained, strict=True):
        table = parse_events(original)
        assert restore(read("yaml", text), table.header) == restore(table, table.header)
    assert embedded == raw


def test_mixed_formats(run):
    raw, trained, embedded, report = run()
    assert len(trained) == N_USERS
    assert report["format"].nunique() > 3
    assert embedded == raw


@pytest.mark.parametrize("n_variants", range(1, 8))
def test_one_to_seven_times_the_texts(run, n_variants):
    raw, trained, embedded, report = run(n_variants=n_variants)
    assert len(set(trained)) == len(trained) == n_variants * N_USERS
    assert set(trained).isdisjoint(raw)
    assert (report.groupby("user")["format"].nunique() == n_variants).all()
    assert embedded == raw


def test_mixed_formats_and_raw_texts(run):
    raw, trained, embedded, _ = run(n_variants=3, include_raw=True)
    assert len(trained) == 4 * N_USERS
    assert trained[-N_USERS:] == raw
    assert embedded == raw


def test_rewriting_at_inference_too(run):
    raw, trained, embedded, report = run(enrich="always", n_variants=2, check="retry")
    assert len(trained) == 2 * N_USERS
    assert embedded == trained[:N_USERS]
    assert set(embedded).isdisjoint(raw)
    assert len(report) == 2 * N_USERS
    assert (report["recall"][report["format"] != "breakdown"] == 1.0).all()


def test_enriching_always_changes_the_embeddings():
    texts = [f"title|rating\nfilm {number}, {number % 5}" for number in range(6)]
    # The number of score features depends on the texts.
    embedder = LLMEmbedder(TINY, finetune=BRIEF, features="hidden", random_state=0)
    vectors = [
        Pipeline([("enrich", TextEnricher(enrich=enrich, random_state=0)), ("embed", embedder)]).fit_transform(texts)
        for enrich in ("train", "always")
    ]
    assert not np.allclose(*vectors)
