"""The demo prints a table, whether the real data is there or not."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from skllm4es import EventSerializer, demo
from skllm4es.datasets import make_transactions


def test_without_real_data_it_says_so_and_uses_simulated_transactions(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SKLLM4ES_DATA", str(tmp_path))
    demo.main(["--users", "80", "--folds", "2"])
    out = capsys.readouterr().out
    assert f"MovieLens 100k is not in {tmp_path}; using simulated transactions instead." in out
    assert "aggregates" in out
    assert "LLM embedding" in out
    assert "What next" in out


def test_its_steps_give_what_the_pipeline_gives():
    X, y = make_transactions(60, mean_events=10, random_state=0)
    pipeline = demo._llm(EventSerializer(["mcc", "amount"]))
    fold = np.arange(40), np.arange(40, 60)
    stepwise = demo._evaluate(pipeline, X, y, [fold])["ROC-AUC"]
    proba = pipeline.fit(X.iloc[:40], y.iloc[:40]).predict_proba(X.iloc[40:])[:, 1]
    assert stepwise == roc_auc_score(y.iloc[40:], proba)


@pytest.mark.real_data
def test_with_real_data_it_uses_movielens(monkeypatch, data_home, capsys):
    monkeypatch.setenv("SKLLM4ES_DATA", str(data_home))
    demo.main(["--users", "60", "--folds", "2"])
    assert "MovieLens 100k, gender: 60 users" in capsys.readouterr().out
