"""The benchmarks: splits, resuming, rows that cannot run, and the page."""

import importlib
import json
import os
import pkgutil
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from forked import assert_killed, die, start
from sklearn.base import BaseEstimator
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import Bunch
from tiny_models import frozen_model

import benchmarks
from benchmarks.bench_engines import table as speed_table
from benchmarks.data import DATA_SETS, DataSet, Target, load
from benchmarks.embeddings import EmbeddingStore
from benchmarks.json_lines import append
from benchmarks.presets import PRESETS
from benchmarks.protocol import HEADS, draw_labelled, published_head, recommended_head, scale, score, splits
from benchmarks.render import draw, render_file, write_page
from benchmarks.render_quality import Quality
from benchmarks.representations import Context, NotHereError, llm
from benchmarks.results import Results, read
from benchmarks.run import main
from benchmarks.tables import TABLES, Row, Table
from skllm4es import EventSerializer, FineTuning, TextEnricher, event_pipeline
from skllm4es.rewriters import RewritingError, TemplateRewriter

N_USERS = 60
LABELLED = np.arange(0, N_USERS, 2)
CLASSES = np.where(np.arange(N_USERS) % 6 == 0, 1.0, 0.0)
PATIENTS = np.arange(N_USERS) // 3
MODULES = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
#: What a module may need that is in no extra of the tests.
OPTIONAL = {"hotpp", "matplotlib", "ptls", "pytorch_lightning", "torchmetrics"}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_imported(name):
    try:
        importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")


def _splits(protocol, *, strata=CLASSES, groups=None, seed=0, labelled=LABELLED):
    return list(
        splits(labelled, strata, groups, n_users=N_USERS, protocol=protocol, n_folds=5, seed=seed),
    )


@pytest.mark.parametrize("protocol", ["cv", "holdout"])
@pytest.mark.parametrize("groups", [None, PATIENTS])
@pytest.mark.parametrize("strata", [None, CLASSES])
def test_no_user_is_in_both_training_and_test(protocol, strata, groups):
    for split in _splits(protocol, strata=strata, groups=groups):
        assert not set(split.train) & set(split.test)
        assert not set(split.seen) & set(split.test)
        assert set(split.train) <= set(split.seen)


@pytest.mark.parametrize("protocol", ["cv", "holdout"])
def test_unlabelled_users_are_seen_but_in_neither_training_nor_test(protocol):
    unlabelled = set(range(N_USERS)) - set(LABELLED)
    for split in _splits(protocol):
        assert unlabelled <= set(split.seen)
        assert not unlabelled & (set(split.train) | set(split.test))


@pytest.mark.parametrize("protocol", ["cv", "holdout"])
@pytest.mark.parametrize("strata", [None, CLASSES])
def test_rows_of_a_group_stay_together_even_without_labels(protocol, strata):
    for split in _splits(protocol, strata=strata, groups=PATIENTS):
        assert not set(PATIENTS[split.test]) & set(PATIENTS[split.train])
        assert not set(PATIENTS[split.test]) & set(PATIENTS[split.seen])


def test_cross_validation_tests_on_each_labelled_user_once():
    assert sorted(np.concatenate([split.test for split in _splits("cv")])) == LABELLED.tolist()


def test_the_holdout_test_set_is_a_tenth_and_the_same_for_all_folds():
    folds = _splits("holdout")
    assert len(folds) == 5
    assert all(np.array_equal(split.test, folds[0].test) for split in folds)
    assert all(np.array_equal(split.seen, folds[0].seen) for split in folds)
    assert len(folds[0].test) == len(LABELLED) / 10


def test_seed_0_gives_the_published_folds_and_other_seeds_differ():
    published = StratifiedKFold(5, shuffle=True, random_state=42).split(LABELLED, CLASSES[LABELLED])
    for split, (train, test) in zip(_splits("cv"), published, strict=True):
        assert np.array_equal(split.train, LABELLED[train])
        assert np.array_equal(split.test, LABELLED[test])
    assert not np.array_equal(_splits("cv")[0].test, _splits("cv", seed=1)[0].test)


def test_each_fold_has_its_share_of_each_class():
    assert all(CLASSES[split.test].sum() == 2 for split in _splits("cv"))


@pytest.mark.parametrize("size", [2, 5, 12])
def test_few_labelled_users_include_all_classes(size):
    train = _splits("cv")[0].train
    drawn = draw_labelled(train, CLASSES, size, [0, 0])
    assert len(set(drawn)) == size
    assert set(drawn) <= set(train)
    assert set(CLASSES[drawn]) == {0.0, 1.0}
    assert not np.array_equal(drawn, draw_labelled(train, CLASSES, size, [0, 1]))


def test_fewer_labelled_users_than_classes_can_be_of_any_class():
    train, classes = np.arange(40), np.arange(40) % 4
    drawn = [frozenset(classes[draw_labelled(train, classes, 2, [0, draw])]) for draw in range(20)]
    assert {len(pair) for pair in drawn} == {2}
    assert frozenset().union(*drawn) == {0, 1, 2, 3}


@pytest.mark.parametrize(("metric", "best"), [("ROC-AUC", 1.0), ("accuracy", 1.0), ("MAE", 0.0)])
def test_vectors_that_contain_the_target_score_well_with_both_classifiers(metric, best):
    rng = np.random.default_rng(0)
    n_classes = 4 if metric == "accuracy" else 2
    y = rng.integers(0, n_classes, 400).astype(float)
    vectors = (np.eye(n_classes)[y.astype(int)] + rng.normal(0, 0.01, (400, n_classes))).astype(np.float32)
    scores = score(vectors, y, np.arange(300), np.arange(300, 400), metric)
    assert list(scores) == ["LightGBM", "linear"]
    assert scores["LightGBM"] == pytest.approx(best, abs=0.05)
    assert scores["linear"] == pytest.approx(best, abs=0.05)


def test_two_labelled_users_are_enough_to_score():
    vectors, y = np.eye(4, dtype=np.float32), np.array([0.0, 1.0, 0.0, 1.0])
    assert None not in score(vectors, y, np.array([0, 1]), np.array([2, 3]), "ROC-AUC").values()
    assert None not in score(vectors, y, np.array([0, 1]), np.array([2, 3]), "MAE").values()


def test_a_test_set_of_one_class_has_no_roc_auc():
    y = np.array([0.0, 1.0, 0.0, 0.0])
    scores = score(np.eye(4, dtype=np.float32), y, np.array([0, 1]), np.array([2, 3]), "ROC-AUC")
    assert scores == {"LightGBM": None, "linear": None}


class Witness(BaseEstimator):
    """Embed a user as the number of users in fit and the user's number of events."""

    n_fits = 0

    def fit(self, X, y=None):
        assert y is None
        type(self).n_fits += 1
        self.n_seen_ = len(X)
        return self

    def transform(self, X):
        return np.stack([np.full(len(X), self.n_seen_), X["events"].map(len)], axis=1)


def _half_labelled(**_):
    bunch = DATA_SETS["transactions"].fetch()
    target = bunch.target.copy()
    target[::2] = -1
    return Bunch(data=bunch.data, target=target)


@pytest.fixture
def witnessed(monkeypatch):
    """Return the rows of a table, on data with labels for half of 60 users."""
    monkeypatch.setitem(DATA_SETS, "half", DataSet(_half_labelled, {"leaves": Target("ROC-AUC")}, "transactions"))
    rows = [Row("witness", (lambda context: Witness(),), "CoLES")]
    monkeypatch.setitem(TABLES, "main", Table("Main results", lambda models: rows))
    monkeypatch.setattr(Witness, "n_fits", 0)
    return rows


def _run(tmp_path, *arguments):
    where = ["--results", str(tmp_path / "results"), "--embeddings", str(tmp_path / "embeddings")]
    return main([*arguments, "--preset", "smoke", *where])


def _only(tmp_path):
    (file,) = (tmp_path / "results").glob("*.json")
    return read(file)


def test_unlabelled_users_have_no_vectors(tmp_path, witnessed):
    data = load("half", N_USERS)
    embedding = EmbeddingStore(tmp_path).get(Witness(), data, np.arange(N_USERS))
    assert len(data.labelled) == N_USERS / 2
    assert np.array_equal(~np.isnan(embedding.vectors).any(axis=1), data.y["leaves"].notna())


class FailsForSome(TemplateRewriter):
    def rewrite(self, texts, formats, seeds):
        if any(text.count("\n") % 2 for text in texts):
            raise RewritingError("refused")
        return super().rewrite(texts, formats, seeds)


@pytest.mark.parametrize("enrich", ["train", "always"])
def test_the_share_of_texts_that_a_template_replaced_is_kept_with_the_vectors(tmp_path, enrich):
    data = load("transactions", N_USERS)
    enricher = TextEnricher(FailsForSome(), formats="html", enrich=enrich, on_error="template")
    texts = EventSerializer().fit_transform(data.X).iloc[:, 0]
    replaced = np.mean([text.count("\n") % 2 for text in texts])
    assert 0 < replaced < 1
    steps = [("serialize", EventSerializer()), ("enrich", enricher), ("embed", FunctionTransformer(_lengths))]
    with pytest.warns(UserWarning, match="could not be rewritten and were replaced by templates"):
        embedding = EmbeddingStore(tmp_path).get(Pipeline(steps), data, np.arange(N_USERS))
    assert embedding.costs["replaced"] == replaced


def _lengths(texts):
    return texts.iloc[:, :1].map(len).to_numpy()


@pytest.mark.parametrize(("fit", "n_seen", "n_fits"), [("leak-free", 15, 2), ("transductive", 20, 1)])
def test_a_leak_free_fit_sees_no_test_user_and_a_transductive_fit_sees_all(tmp_path, witnessed, fit, n_seen, n_fits):
    assert _run(tmp_path, "main", "--dataset", "half", "--fit", fit) == 0
    assert Witness.n_fits == n_fits
    vectors = [np.load(file)["vectors"] for file in (tmp_path / "embeddings" / "half").glob("*.npz")]
    assert {float(stored[0, 0]) for stored in vectors} == {n_seen}
    assert _only(tmp_path)["about"]["fit"] == fit


@pytest.mark.parametrize("kept", ["embeddings", "results"])
def test_what_was_computed_is_not_computed_again(tmp_path, witnessed, kept):
    _run(tmp_path, "main", "--dataset", "half")
    shutil.rmtree(tmp_path / {"embeddings": "results", "results": "embeddings"}[kept])
    _run(tmp_path, "main", "--dataset", "half")
    assert Witness.n_fits == 2
    content = _only(tmp_path)
    assert len(content["records"]) == 2
    assert len(content["runs"]) == 1


def test_a_failing_row_does_not_stop_other_rows_and_sets_the_exit_status(tmp_path, witnessed, capsys):
    def fail(context):
        raise MemoryError("too large")

    witnessed.insert(0, Row("glutton", (fail,), ""))
    assert _run(tmp_path, "main", "--dataset", "half") == 1
    content = _only(tmp_path)
    assert content["not_run"] == {"glutton": "failed: MemoryError: too large"}
    assert {record["row"] for record in content["records"]} == {"witness"}
    assert "MemoryError: too large" in capsys.readouterr().err


def test_scores_from_another_machine_stay_if_a_row_cannot_run(tmp_path, witnessed):
    def miss(context):
        raise NotHereError("there is no GPU")

    _run(tmp_path, "main", "--dataset", "half")
    witnessed[:] = [Row("witness", (miss,), "CoLES")]
    assert _run(tmp_path, "main", "--dataset", "half") == 0
    content = _only(tmp_path)
    assert len(content["records"]) == 2
    assert content["not_run"] == {}


@pytest.mark.parametrize("part", [0, 1])
def test_the_costs_of_an_ensembles_parts_need_not_all_be_known(tmp_path, monkeypatch, witnessed, part):
    parts = [lambda context: Witness(), lambda context: FunctionTransformer(_n_events)]
    rows = [Row("alone", (parts[part],), "CoLES"), Row("together", tuple(parts), "CoLES")]
    monkeypatch.setitem(TABLES, "main", Table("Main results", lambda models: rows))
    _run(tmp_path, "main", "--dataset", "half", "--rows", "alone")
    for file in (tmp_path / "embeddings" / "half").glob("*.npz"):  # as another version would have written them
        np.savez(file, vectors=np.load(file)["vectors"], costs=json.dumps({"fit_s": 2.0, "peak_other_mb": 7.0}))
    assert _run(tmp_path, "main", "--dataset", "half", "--rows", "together") == 0
    for record in _only(tmp_path)["records"][2:]:
        assert record["fit_s"] >= 2
        assert record["peak_other_mb"] == 7
        assert record["replaced"] == 0


def _n_events(X):
    return X["events"].map(len).to_numpy()[:, None]


def test_an_ensemble_concatenates_the_vectors_of_its_parts(tmp_path, witnessed):
    (row,) = witnessed
    witnessed.append(Row("twice", row.parts * 2, ""))
    _run(tmp_path, "main", "--dataset", "half")
    features = {record["row"]: record["n_features"] for record in _only(tmp_path)["records"]}
    assert features == {"witness": 2, "twice": 4}
    assert Witness.n_fits == 2


def test_results_with_other_settings_are_replaced(tmp_path):
    results = Results(tmp_path / "a.json", {})
    record = {"row": "a", "target": "t", "seed": 0, "fold": 0, "labels": "all", "draw": 0, "key": "old"}
    results.add([record, record | {"labels": 5}])
    assert results.has(record)
    assert not results.has(record | {"key": "new"})
    results.add([record | {"key": "new"}])
    assert [stored["key"] for stored in read(tmp_path / "a.json")["records"]] == ["new"]


def test_a_file_without_results_is_not_overwritten(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"records": [')
    with pytest.raises(ValueError, match="is not a file of results"):
        Results(file, {})
    assert file.read_text() == '{"records": ['


def test_the_recorded_command_contains_no_folder(tmp_path, witnessed):
    model = tmp_path / "a model"
    model.mkdir()
    _run(tmp_path, "main", "--dataset", "half", "--model", str(model), "--seeds", "3")
    (run,) = _only(tmp_path)["runs"]
    expected = "python -m benchmarks.run main --dataset half --preset smoke --model 'a model' --seeds 3"
    assert run["command"] == expected
    assert str(tmp_path) not in json.dumps(_only(tmp_path))
    assert set(run["versions"]) >= {"python", "skllm4es", "lightgbm", "torch"}
    assert run["machine"]["cpus"] == os.cpu_count()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "height"], "the targets of movielens-100k are gender, age"),
        (["--seeds", "0", "-1"], "--seeds -1: a seed must be 0 or more"),
        (["--model", "/no/where"], "/no/where is neither a directory nor a model hub name"),
        (["--rewriter", "a@b"], "a@b is neither a directory nor a model hub name"),
    ],
)
def test_invalid_arguments_are_refused_with_the_reason(capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(["main", "--dataset", "movielens-100k", *arguments])
    assert message in capsys.readouterr().err


def test_an_unknown_row_is_refused(tmp_path, witnessed):
    with pytest.raises(SystemExit, match="--rows LSTM: no row's name contains it"):
        _run(tmp_path, "main", "--dataset", "half", "--rows", "witness", "LSTM")
    assert list(tmp_path.iterdir()) == []


def test_rows_without_weights_say_not_run_here_and_have_no_score(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SKLLM4ES_DATA", str(tmp_path / "nothing"))
    _run(tmp_path, "components", "--dataset", "transactions", "--rows", "LLaMA", "TinyStories", "scratch, pre-trained")
    content = _only(tmp_path)
    assert content["records"] == []
    assert (
        "the weights of meta-llama/Llama-3.2-3B are not on this machine"
        in content["not_run"]["LLaMA 3.2 3B, pre-trained"]
    )
    assert content["not_run"]["TinyStories 0.7M, pre-trained"] == "there is no tinystories-656k in the data home"
    assert content["not_run"]["from scratch, pre-trained"] == "a model from scratch has not been pre-trained"
    assert "| LLaMA 3.2 3B, pre-trained | not run here |  |" in capsys.readouterr().out


def test_the_paper_preset_has_the_papers_models_and_settings(tmp_path):
    paper = PRESETS["paper"]
    assert paper.models_of("main") == ("meta-llama/Llama-3.2-3B",)
    assert paper.models_of("base-llms") == ("Qwen/Qwen3-1.7B", "meta-llama/Llama-3.2-3B")
    assert paper.rewriter == "meta-llama/Llama-3.1-8B-Instruct"
    assert paper.protocol == "holdout"
    data = load("transactions", 10)
    data = replace(data, spec=replace(data.spec, paper_epochs=30))
    # Any directory stands for available weights.
    context = Context(data, replace(paper, rewriter=str(tmp_path)), paper.few, seed=0)
    settings = llm(str(tmp_path), enrichment={})(context).get_params()
    assert settings["embed__finetune__epochs"] == 30
    assert isinstance(settings["embed__finetune"], FineTuning)
    assert settings["embed__max_length"] == 8192
    assert settings["enrich__rewriter__model"] == str(tmp_path)


def test_small_models_have_learning_rates_of_their_own(tmp_path):
    (tmp_path / "tinystories-656k").mkdir()
    preset = PRESETS["cpu"]
    context = Context(load("transactions", 10), preset, preset.few, seed=0, data_home=str(tmp_path))
    rates = [llm(model)(context)["embed"].finetune.learning_rate for model in ("tinystories-656k", str(tmp_path))]
    assert rates == [1e-3, "auto"]


@pytest.mark.parametrize("settings", [{}, {"enrichment": {"n_variants": 3}}, {"companion": True}])
def test_each_training_sees_the_budgets_tokens_whatever_the_number_of_its_texts(settings, monkeypatch):
    monkeypatch.setattr("benchmarks.representations._companion", lambda context: load("transactions", 30))
    preset = PRESETS["cpu"]
    budget = replace(preset.many, n_tokens=30_000, pretrained={"batch_tokens": 512, "features": "hidden"})
    context = Context(load("transactions", 10), preset, budget, seed=0)
    pipeline = llm(frozen_model(), **settings)(context).fit(context.data.X)
    assert pipeline["embed"].n_tokens_seen_ == pytest.approx(30_000, rel=0.1)


def test_vectors_are_brought_to_one_scale_by_the_training_users():
    vectors = np.random.default_rng(0).normal(3, [1, 100], (40, 2)).astype(np.float32)
    vectors[0, 0] = np.nan
    scaled = scale(vectors, np.arange(30))
    assert np.linalg.norm(scaled, axis=1) == pytest.approx(np.ones(40))
    changed = vectors.copy()
    changed[30:] *= 5
    assert np.array_equal(scale(changed, np.arange(30))[:30], scaled[:30])


def test_scores_are_of_the_heads_that_are_recommended_and_in_the_paper_preset_of_those_published():
    recommended = [recommended_head(name, "ROC-AUC") for name in HEADS]
    assert [type(head).__name__ for head in recommended] == ["LGBMClassifier", "LogisticRegression"]
    average = event_pipeline("classifier", model="any")["estimator"]
    assert recommended[1].C == dict(average.estimators)["linear"].C
    assert recommended[0].n_estimators == dict(average.estimators)["trees"].n_estimators
    assert published_head("LightGBM", "ROC-AUC")[-1].n_estimators == 500
    assert PRESETS["paper"].published
    assert not PRESETS["cpu"].published


def _content(table="main", dataset="movielens-100k", target="gender", preset="cpu", **about):
    rows = {"CoLES": "CoLES", "LLM4ES (from scratch)": "LLM4ES", "LLM4ES (LLaMA 3.2 3B)": "LLM4ES"}
    return {
        "about": {
            "table": table,
            "dataset": dataset,
            "metrics": {target: "ROC-AUC"},
            "n_users": 10,
            "n_labelled": 10,
            "n_events": 100,
            "preset": preset,
            "protocol": "cv",
            "n_folds": 2,
            "fit": "leak-free",
            "models": ["from scratch"],
            "rewriter": "templates",
            "max_events": 20,
            "scratch": {},
            "pretrained": {},
            "epochs": 0.25,
            "rows": rows,
            **about,
        },
        "runs": [{"command": "python", "versions": {}, "machine": {"cpus": 2, "threads": 1, "architecture": "x"}}],
        "not_run": {"LLM4ES (LLaMA 3.2 3B)": "there is no GPU"},
        "records": [
            {
                "row": row,
                "target": target,
                "seed": 0,
                "fold": fold,
                "labels": labels,
                "draw": 0,
                "key": "",
                "n_train": 8 if labels == "all" else labels,
                "scores": {"linear": 0.6 + 0.2 * fold}
                if TABLES[table].is_curve
                else {"LightGBM": 0.6 + 0.2 * fold, "linear": None if fold else 0.5},
                "fit_s": 1.0,
                "transform_s": 2.0,
                "peak_mb": 300.0,
                "n_features": 4,
            }
            for row in list(rows)[:2]
            for fold in range(2)
            for labels in ((2, 4, "all") if TABLES[table].is_curve else ("all",))
        ],
    }


def test_a_table_shows_mean_and_deviation_beside_the_papers_figure():
    text = render_file(_content())
    assert "| CoLES | 0.700 ± 0.100 | 0.500 ± 0.000 (1 of 2 folds) | 0.683 | 4 | 1.0 | 2.0 | 300 |" in text
    assert "| LLM4ES (from scratch) | 0.700 ± 0.100 | 0.500 ± 0.000 (1 of 2 folds) | 0.748 |" in text
    assert "**gender: ROC-AUC**, preset cpu, protocol cv, leak-free fit" in text


def test_a_row_that_was_not_run_shows_a_reason_and_no_score():
    text = render_file(_content())
    assert "| LLM4ES (LLaMA 3.2 3B) | not run here |  | 0.748 |  |  |  |  |" in text
    assert "- Not run here: there is no GPU. (LLM4ES (LLaMA 3.2 3B))" in text


def test_a_table_says_how_many_texts_are_templates_in_place_of_a_models_answers():
    content = _content()
    content["records"] = [record | {"replaced": 0.307 * (record["row"] == "CoLES")} for record in content["records"]]
    text = render_file(content)
    assert "- A template replaced the model's answer in up to 30.7% of the texts of a fit. (CoLES)" in text
    assert "replaced" not in render_file(_content())


@pytest.mark.parametrize("table", ["main", "data-efficiency"])
def test_an_incomplete_row_says_how_many_folds_it_has(table):
    content = _content(table)
    content["records"] = [record for record in content["records"] if record["row"] != "CoLES" or record["fold"] == 0]
    text = render_file(content)
    assert "(1 of 2 folds)" in next(line for line in text.splitlines() if "CoLES" in line)
    assert "0.600 ± 0.000" in text


def test_figures_of_another_data_set_are_named_and_shown_only_beside_the_same_metric():
    text = render_file(_content(dataset="transactions", target="leaves"))
    assert "| method | LightGBM | linear | paper, rosbank | features |" in text
    assert "| CoLES | 0.700 ± 0.100 | 0.500 ± 0.000 (1 of 2 folds) | 0.841 ± 0.005 | 4 |" in text
    assert "| paper, mimic-iv |" in render_file(_content(dataset="mimic-iv-demo", target="mortality"))
    assert "paper" not in render_file(_content("components", target="age", metrics={"age": "MAE"}))


def test_a_description_mentions_only_what_the_rows_contain():
    text = render_file(_content(models=["from scratch", "Qwen 3 1.7B"]))
    assert "Language models (from scratch) read" in text
    assert "Neural baselines train for 25% of their epochs" in text
    assert "Neural baselines" not in render_file(_content(rows={"from scratch, serialised": ""}))


def test_a_learning_curve_has_one_line_per_number_of_labels():
    text = render_file(_content("data-efficiency"))
    head = "| labelled users, linear | CoLES | LLM4ES (from scratch) | LLM4ES (LLaMA 3.2 3B) (not run here) |"
    assert head in text
    for labels in (2, 4, "all"):
        assert f"| {labels} | 0.700 ± 0.100 | 0.700 ± 0.100 |  |" in text
    assert "LightGBM" not in text


def test_the_page_shows_all_results_except_those_of_smoke_tests(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    results = tmp_path / "results"
    results.mkdir()
    contents = {"a": _content("data-efficiency"), "b": _content(), "c": _content("domains", preset="smoke")}
    contents["d"] = _content("strategies") | {"records": []}
    for name, content in contents.items():
        (results / f"{name}.json").write_text(json.dumps(content))
    assert main(["--render", "--results", str(results), "--page", str(tmp_path / "docs" / "page.md")]) == 0
    assert "page.md: 3 result files" in capsys.readouterr().out
    text = (tmp_path / "docs" / "page.md").read_text()
    assert text.index("## Main results") < text.index("## Data efficiency")
    assert "Other domains" not in text
    assert "## Enrichment strategies" in text
    assert "(page/b-gender.png)" in text
    plots = sorted((tmp_path / "docs" / "page").iterdir())
    assert [file.name for file in plots] == ["a-gender.png", "b-gender.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in plots)


def test_the_page_begins_with_the_largest_data_set_of_the_first_table(tmp_path):
    pytest.importorskip("matplotlib")
    for dataset, n_events in (("mimic-iv-demo", 100), ("movielens-100k", 1000)):
        content = _content(dataset=dataset, n_events=n_events)
        (tmp_path / f"main-{dataset}.json").write_text(json.dumps(content))
    write_page(tmp_path, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert text.index("### movielens-100k") < text.index("### mimic-iv-demo") < text.index("## How to read")


def _quality_lines():
    scores = {"aggregates": (0.6, 0.7), "bag of events": (0.8, 0.65), "LLM": (0.7, 0.75)}
    for fold, shift in enumerate((-0.1, 0.1)):
        for row, (linear, trees) in scores.items():
            of_heads = {"linear": linear + shift, "LightGBM": trees + shift, "25 labels": 0.5}
            errors = {"linear": 10 * linear + shift, "LightGBM": 10 * trees + shift}
            yield {"data": "movielens", "row": row, "fold": fold, "scores": {"gender": of_heads, "age": errors}}
            yield {"data": "mimic", "row": row, "fold": fold, "scores": {"death": of_heads}}


def test_the_table_of_pretrained_models_has_the_better_head_and_marks_the_best_row(tmp_path):
    append(tmp_path / "quality.jsonl", _quality_lines())
    quality = Quality(tmp_path / "quality.jsonl")
    full = quality.table(brief=False)
    assert "| MovieLens 100k: gender | 0.700 ± 0.100 | **0.800** ± 0.100 | 0.750 ± 0.100 |" in full
    assert "| MovieLens 100k: age (error in years) | **6.00** ± 0.10 | 6.50 ± 0.10 | 7.00 ± 0.10 |" in full
    assert "MIMIC" in full
    assert quality.n_ahead() == 0


def test_the_start_pages_table_has_means_and_no_target_with_few_cases(tmp_path):
    pytest.importorskip("matplotlib")
    append(tmp_path / "quality.jsonl", _quality_lines())
    write_page(tmp_path, tmp_path / "page.md")
    brief = (tmp_path / "page" / "when_it_pays.md").read_text()
    assert "| MovieLens 100k: gender | 0.700 | **0.800** | 0.750 |" in brief
    assert "MIMIC" not in brief
    assert "events for 0 of 3 targets" in (tmp_path / "page.md").read_text()


def _runs(**about):
    cost = {"events_tokens": 100, "events_cpu_s": 2, "events_s": 4, "histories_tokens": 30, "histories_cpu_s": 1}
    return {"machine": "m", "threads": 1, **cost, "histories_s": 1, "first_s": 3, "peak_mb": 1e3, "cosine": 1, **about}


def test_the_table_of_speeds_has_medians_and_says_what_did_not_run(tmp_path):
    lines = [_runs(way="ours", events_cpu_s=seconds, cosine=0.99 + seconds / 1000) for seconds in (1, 2, 4)]
    lines += [_runs(way="slow", events_cpu_s=10), _runs(way="ours", threads=2)]
    lines += [_runs(way="wrong", events_cpu_s=0.1, cosine=cosine) for cosine in (1.0, float("nan"))]
    lines += [{"machine": "m", "threads": 1, "way": way, "error": "no such file"} for way in ("ours", "gone")]
    append(tmp_path / "engines.jsonl", lines)
    one, two = speed_table(tmp_path / "engines.jsonl").split("m, 2 threads:")
    assert one.startswith("m, 1 thread:")
    assert [line.split(" | ")[0] for line in one.splitlines()[4:8]] == ["| ours", "| slow", "| gone", "| wrong"]
    assert one.splitlines()[7].endswith("| NaN in its vectors |")
    assert "| ours | 50 | 30 | 25 | 30 | 3 | 1,000 | 0.99100 |" in one
    assert "| gone | did not run: no such file |" in one
    assert "| ours | 50 |" in two


def test_the_page_in_the_docs_matches_the_results(tmp_path):
    pytest.importorskip("matplotlib")
    page = tmp_path / "benchmarks.md"
    assert main(["--render", "--page", str(page)]) == 0
    kept = Path(__file__).parents[1] / "docs" / "benchmarks.md"
    assert page.read_text() == kept.read_text()
    table = Path("when_it_pays.md")
    assert (page.with_suffix("") / table).read_text() == (kept.with_suffix("") / table).read_text()
    plots = [file.name for file in sorted(page.with_suffix("").iterdir())]
    assert plots == [file.name for file in sorted(kept.with_suffix("").iterdir())]


def test_errors_with_few_labels_do_not_flatten_the_plot(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    limits = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: limits.append(figure.axes[0].get_ylim()))
    content = _content("data-efficiency", target="age", metrics={"age": "MAE"})
    for record in content["records"]:
        record["scores"] = {"linear": 9.0 if record["labels"] == "all" else 2000.0 * record["fold"]}
    draw(content, "age", tmp_path / "plot.png")
    assert limits == [pytest.approx((0.9 * 9, 1.15 * 9))]


def _run_and_die_after_some_records(arguments):
    add = Results.add

    def add_and_die(self, records):
        add(self, records)
        die()

    Results.add = add_and_die
    main(arguments)


@pytest.mark.slow
def test_a_killed_run_continues_where_it_stopped(tmp_path):
    where = ["--results", str(tmp_path / "results"), "--embeddings", str(tmp_path / "embeddings")]
    arguments = ["domains", "--dataset", "transactions", "--preset", "smoke", *where]
    assert_killed(start(_run_and_die_after_some_records, arguments))
    before = _only(tmp_path)["records"]
    assert 0 < len(before) < 6
    assert main(arguments) == 0
    after = _only(tmp_path)["records"]
    # Their times are those of the first run.
    assert after[: len(before)] == before
    assert len(after) == 6


@pytest.fixture(scope="module")
def smoke_embeddings(tmp_path_factory):
    """Return a folder in which tables share embeddings, as in normal use."""
    return tmp_path_factory.mktemp("embeddings")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # from an import of hotpp-benchmark
@pytest.mark.parametrize("table", TABLES)
def test_each_table_runs(table, tmp_path, smoke_embeddings, capsys):
    where = ["--results", str(tmp_path / "results"), "--embeddings", str(smoke_embeddings)]
    assert main([table, "--dataset", "transactions", "--preset", "smoke", *where]) == 0
    content = _only(tmp_path)
    n_cells = 2 * (3 if TABLES[table].is_curve else 1)
    scored = dict.fromkeys(content["about"]["rows"], 0)
    for record in content["records"]:
        scored[record["row"]] += 1
        assert np.isfinite(list(record["scores"].values())).all()
    assert {row: n for row, n in scored.items() if row not in content["not_run"]} == {
        row: n_cells for row in scored if row not in content["not_run"]
    }
    assert not {"Agg", "CoLES", "mixed formats, 7x", "from scratch, fine-tuned, enriched"} & set(content["not_run"])
    head = "| labelled users, linear |" if TABLES[table].is_curve else "| method |"
    assert head in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "row", "shown"),
    [
        ("domains", "CoLES", ["training: 100%", "embedding: 100%"]),
        ("components", "from scratch, fine-tuned, enriched", ["fine-tuning: 100%", "embedding: 100%"]),
    ],
)
def test_a_run_shows_how_far_its_slow_parts_are(table, row, shown, tmp_path, capsys):
    _run(tmp_path, table, "--dataset", "transactions", "--rows", row)
    bars = capsys.readouterr().err
    assert not [bar for bar in shown if bar not in bars]


@pytest.mark.slow
def test_summaries_are_compared_if_there_is_an_instruct_model(tmp_path, instruct_model, capsys):
    _run(tmp_path, "strategies", "--dataset", "transactions", "--rewriter", instruct_model, "--rows", "HKFR", "TRSR")
    assert "enriching: 100%" in capsys.readouterr().err
    content = _only(tmp_path)
    assert content["not_run"] == {}
    assert {record["row"] for record in content["records"]} == {
        "LLM-TRSR, 1x",
        "HKFR, 1x",
        "LLM-TRSR, only train, 1x",
        "HKFR, only train, 1x",
    }
