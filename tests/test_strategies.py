"""The paper's strategies of enrichment, each one setting: what the language model trains on, and what it embeds."""

import numpy as np
import pytest
from format_readers import read, restore
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from skllm4es import EventSerializer, LLMEmbedder, TextEnricher
from skllm4es.datasets import make_transactions
from skllm4es.serialize import parse_events

TINY = {"vocab_size": 300, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
N_USERS = 10


@pytest.fixture(scope="module")
def users():
    return make_transactions(n_users=N_USERS, mean_events=4, random_state=0)


@pytest.fixture
def run(users, monkeypatch):
    """Fit and apply the whole flow; give the raw texts, the texts trained on, those embedded, and the report."""
    seen = {"trained": [], "embedded": []}
    fit, embedded = LLMEmbedder._language_model, LLMEmbedder._embedded

    def train(self, corpus, *args):
        seen["trained"] = [text for columns in zip(*corpus, strict=True) for text in columns]
        return fit(self, corpus, *args)

    def embed(self, texts, known):
        seen["embedded"] = list(texts)
        return embedded(self, texts, known)

    monkeypatch.setattr(LLMEmbedder, "_language_model", train)
    monkeypatch.setattr(LLMEmbedder, "_embedded", embed)

    def run(**strategy):
        X, y = users
        serializer = EventSerializer(["mcc", "amount", "type"])
        pipe = Pipeline(
            [
                ("serialize", serializer),
                ("enrich", TextEnricher(random_state=0, **strategy)),
                ("embed", LLMEmbedder(TINY, features="hidden", epochs=0.1, random_state=0)),
                ("classify", LogisticRegression()),
            ]
        ).fit(X, y)
        report = pipe["enrich"].report_
        assert pipe.predict_proba(X).shape == (N_USERS, 2)
        return serializer.transform(X)["text"].to_list(), seen["trained"], seen["embedded"], report

    return run


def test_raw_texts_alone_are_the_flow_without_the_enricher(users):
    X, y = users
    pipe = Pipeline(
        [("serialize", EventSerializer()), ("embed", LLMEmbedder(TINY, epochs=0.1)), ("c", LogisticRegression())]
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


def test_enriching_always_gives_other_embeddings_than_enriching_for_training():
    texts = [f"title|rating\nfilm {number}, {number % 5}" for number in range(6)]
    embedder = LLMEmbedder(TINY, epochs=0.1, random_state=0)
    vectors = [
        Pipeline([("enrich", TextEnricher(enrich=enrich, random_state=0)), ("embed", embedder)]).fit_transform(texts)
        for enrich in ("train", "always")
    ]
    assert not np.allclose(*vectors)
