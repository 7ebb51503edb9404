"""The demo prints a table, with or without the real data."""

import pytest

from skllm4es import demo


def test_without_real_data_it_says_so_and_uses_simulated_transactions(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SKLLM4ES_DATA", str(tmp_path))
    demo.main(["--users", "80", "--folds", "2"])
    out = capsys.readouterr().out
    assert f"MovieLens 100k is not in {tmp_path}; using simulated transactions instead." in out
    assert "aggregates" in out
    assert "LLM embedding" in out
    assert "What next" in out


@pytest.mark.real_data
def test_with_real_data_it_uses_movielens(monkeypatch, data_home, capsys):
    monkeypatch.setenv("SKLLM4ES_DATA", str(data_home))
    demo.main(["--users", "60", "--folds", "2"])
    assert "MovieLens 100k, gender: 60 users" in capsys.readouterr().out
