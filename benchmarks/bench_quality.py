"""What the default embedding is worth: beside aggregates and a bag of events, on every data set at hand.

    SKLLM4ES_DATA=... python -m benchmarks.bench_quality RESULTS.jsonl [--data movielens ...] [--seeds 0 1 2]
                      [--rows ROW ...] [--folds N] [--memory DIR] [--development]

fits each representation, with its defaults, on the training users of each of five folds, without labels, and scores two
heads on the test users: "linear" (logistic regression whose C is chosen by inner folds, or ridge regression) and
LightGBM; ROC-AUC, and MAE in years for the age. With 25 and 100 labels, drawn four times from the training users, the
head is a logistic regression with C=1. Every representation is centred and brought to unit length, so that
the heads see one scale; LightGBM does not mind.

The folds of the cards are draws of 800 clients to train on and 1,200 to test on, because a thousand in all would be too
few to tell representations apart. Each fold of a row is a line of the file and is not computed again, so an interrupted
run continues with its current fold. The table is printed at the end.

The seconds of a fold are with what `--memory` has. "LLM, without the model's block" leaves out of the vectors what the
language model says of the events, and so tells what it is worth. Other rows than the default ones run only if named by
`--rows`. Use `--development` to choose settings: it uses folds of the training users of the first outer fold, and other
draws of cards.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeCV
from sklearn.metrics import mean_absolute_error, roc_auc_score
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from benchmarks.json_lines import append, read
from skllm4es import EventSerializer, FromScratch, LLMEmbedder, TextEnricher, event_pipeline, nest_events
from skllm4es.baselines import BagOfEvents, CoLESEmbedder, EventAggregator, LATTEEmbedder
from skllm4es.baselines._descriptions import read_descriptions
from skllm4es.datasets import (
    fetch_movielens_100k,
    fetch_online_retail,
    get_data_home,
    load_complete_journey,
    load_mimic_iv,
    make_transactions,
)
from skllm4es.models import smollm2
from skllm4es.vocabularies import load_mcc_names

Rows = npt.NDArray[np.intp]
Targets = dict[str, npt.NDArray[Any]]
#: Users, their targets, and the rows to train and test on.
Fold = tuple[pd.DataFrame, Targets, Rows, Rows]

LIGHTGBM: dict[str, Any] = {
    "n_estimators": 300,
    "learning_rate": 0.02,
    "num_leaves": 15,
    "colsample_bytree": 0.3,
    "subsample": 0.5,
    "subsample_freq": 1,
    "random_state": 0,
    "n_jobs": 1,
    "verbose": -1,
}
FEW, N_DRAWS = (25, 100), 4


def movielens() -> tuple[pd.DataFrame, Targets]:
    X, gender = fetch_movielens_100k(return_X_y=True)
    age = fetch_movielens_100k(target="age").target
    return X[["events"]], {"gender": gender.to_numpy(), "age": age.to_numpy(dtype=float)}


def groceries() -> tuple[pd.DataFrame, Targets]:
    data = {target: load_complete_journey(target=target) for target in ("kids", "age", "income")}
    targets = {f"{target} (binary)": bunch.target.to_numpy() for target, bunch in data.items()}
    return data["kids"].data[["events"]], targets


def retail() -> tuple[pd.DataFrame, Targets]:
    X, y = fetch_online_retail(return_X_y=True, download_if_missing=False)
    return X[["events"]], {"buys again": y.to_numpy()}


def synthea() -> tuple[pd.DataFrame, Targets]:
    folder = get_data_home() / "synthea-1k"
    parts = []
    for kind in ("condition", "medication"):
        table = pd.read_csv(folder / f"{kind}s.csv.gz", parse_dates=["START"])
        table = table.rename(columns=str.lower).assign(kind=kind)
        parts.append(table[["patient", "start", "kind", "description", *(["totalcost"] * ("totalcost" in table))]])
    X = nest_events(pd.concat(parts), user="patient", time="start")
    patients = pd.read_csv(folder / "patients.csv").set_index("ID").loc[X.index]
    targets = {"gender": patients["GENDER"].eq("M"), "death": patients["DEATHDATE"].notna()}
    return X, {name: y.to_numpy().astype(int) for name, y in targets.items()}


def mimic() -> tuple[pd.DataFrame, Targets]:
    X, y = load_mimic_iv(get_data_home() / "mimic-iv-demo", return_X_y=True)
    return X[["events"]], {"death": y.to_numpy()}


DATA: dict[str, tuple[Callable[[], tuple[pd.DataFrame, Targets]] | None, EventSerializer]] = {
    "movielens": (movielens, EventSerializer()),
    "groceries": (groceries, EventSerializer()),
    "retail": (retail, EventSerializer()),
    "synthea": (synthea, EventSerializer()),
    "mimic": (mimic, EventSerializer()),
    "cards": (None, EventSerializer(labels={"mcc": load_mcc_names()})),
}


def folds(data: str, seed: int, *, development: bool) -> Iterator[Fold]:
    load, _ = DATA[data]
    if load is None:
        first = 0 if development else 100
        for draw in range(5):
            X, churn = make_transactions(2000, mean_events=50, random_state=first + 5 * seed + draw)
            yield X[["events"]], {"churn": churn.to_numpy()}, np.arange(800), np.arange(800, 2000)
        return
    X, targets = load()
    strata = next(iter(targets.values()))
    if development:
        kept, _ = next(StratifiedKFold(5, shuffle=True, random_state=0).split(X, strata))
        X, targets, seed = X.iloc[kept], {name: y[kept] for name, y in targets.items()}, seed + 100
        strata = strata[kept]
    for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(X, strata):
        yield X, targets, train, test


def representations(serializer: EventSerializer, seed: int, memory: Path | None) -> dict[str, Any]:
    def llm(**settings: Any) -> Any:
        return make_pipeline(
            serializer, LLMEmbedder(**{"model": smollm2(), "finetune": None} | settings, memory=memory)
        )

    def scratch(**settings: Any) -> Any:
        return make_pipeline(
            serializer, TextEnricher(random_state=seed), LLMEmbedder(random_state=seed, memory=memory, **settings)
        )

    aligned = {"labels": serializer.labels, "random_state": seed, "memory": memory}
    fill = SimpleImputer(keep_empty_features=True)
    return {
        "aggregates": make_pipeline(EventAggregator(), fill, StandardScaler()),
        "bag of events": BagOfEvents(random_state=seed),
        "CoLES, 30 epochs": CoLESEmbedder(epochs=30, random_state=seed),
        "LATTE": LATTEEmbedder(**aligned),
        "LATTE's descriptions": Descriptions(epochs=1, **aligned),
        "LLM": llm(),
        "LLM, all tokens": llm(token_pooling="mean"),
        "LLM, last layer": llm(pooling_depth=1),
        "LLM, 64 components": llm(n_components=64),
        "LLM, 256 components": llm(n_components=256),
        "from scratch": scratch(),
        "from scratch, scores": scratch(features="scores"),
        "from scratch, 100,000 weights": scratch(model=FromScratch(n_params=100_000)),
    }


class Descriptions(LATTEEmbedder):
    """What LATTE learns from: the language model's vectors of the descriptions."""

    def transform(self, X: pd.DataFrame) -> npt.NDArray[np.float32]:
        return read_descriptions(self.describe(X), smollm2(), memory=self.memory, device=None, progress=False)


PIPELINE, NO_MODEL = "event_pipeline", "LLM, without the model's block"
DEFAULT_ROWS = ["aggregates", "bag of events", "LLM", PIPELINE]
#: Blocks side by side; aggregates have half the length, as in `event_pipeline`.
TOGETHER = [("LLM", "aggregates"), ("from scratch", "aggregates")]
LENGTHS = {"aggregates": 0.5}


def run(
    data: str, seed: int, wanted: list[str], memory: Path | None, development: bool, n_folds: int, file: Path
) -> None:
    done = {(line["data"], line["development"], line["seed"], line["fold"], line["row"]) for line in read(file)}
    for fold, (X, targets, train, test) in enumerate(islice(folds(data, seed, development=development), n_folds)):
        vectors, seconds = {}, {}
        for row, estimator in representations(DATA[data][1], seed, memory).items():
            if row not in wanted or (data, development, seed, fold, row) in done:
                continue
            start, cpu = time.perf_counter(), time.process_time()
            parts = estimator.fit_transform(X.iloc[train]), estimator.transform(X.iloc[test])
            seconds[row] = time.perf_counter() - start
            fitted = time.process_time()
            estimator.transform(X.iloc[test[:100]])
            each = (time.process_time() - fitted) * 10
            print(f"{data}, {row}: {fitted - cpu:.0f} s of CPU, then {each:.2f} ms a user", flush=True)
            Z = np.empty((len(X), parts[0].shape[1]))
            Z[train], Z[test] = map(np.asarray, parts)
            vectors[row] = Normalizer().fit_transform(Z - Z[train].mean(axis=0))
            if row == "LLM":  # What identifies and measures, for which no language model is needed.
                events = estimator[-1]._events_
                start = len(events.directions)
                rest = np.delete(Z, slice(start, start + len(events.origin)), axis=1)
                vectors[NO_MODEL] = Normalizer().fit_transform(rest - rest[train].mean(axis=0))
        for names in TOGETHER:
            if all(name in vectors for name in names):
                vectors[" + ".join(names)] = np.hstack([vectors[name] * LENGTHS.get(name, 1) for name in names])
        about = {"data": data, "development": development, "seed": seed, "fold": fold}
        records = []
        for row, Z in vectors.items():
            scores = {name: score(Z, y, train, test) for name, y in targets.items()}
            records.append({**about, "row": row, "s": round(seconds.get(row, 0.0), 1), "scores": scores})
        if PIPELINE in wanted and (data, development, seed, fold, PIPELINE) not in done:
            start = time.perf_counter()
            settings = {"serializer": DATA[data][1], "seed": seed, "memory": memory}
            scores = {name: score_pipeline(X, y, train, test, **settings) for name, y in targets.items()}
            seconds[PIPELINE] = (time.perf_counter() - start) / len(targets)
            records.append({**about, "row": PIPELINE, "s": round(seconds[PIPELINE], 1), "scores": scores})
        append(file, records)  # A whole fold at once, so that an interrupted fold is run again.


def score_pipeline(
    X: pd.DataFrame,
    y: npt.NDArray[Any],
    train: Rows,
    test: Rows,
    *,
    serializer: EventSerializer,
    seed: int,
    memory: Path | None,
) -> dict[str, float]:
    """Score what `event_pipeline` returns, whose head averages a linear model and LightGBM."""
    kind = "regressor" if len(np.unique(y)) > 2 else "classifier"
    pipeline = event_pipeline(kind, memory=memory, random_state=seed)
    pipeline.set_params(features__llm__serialize=serializer)
    pipeline.fit(X.iloc[train], y[train])
    if kind == "regressor":
        return {"both": round(float(mean_absolute_error(y[test], pipeline.predict(X.iloc[test]))), 4)}
    return {"both": round(float(roc_auc_score(y[test], pipeline.predict_proba(X.iloc[test])[:, 1])), 4)}


def score(Z: npt.NDArray[Any], y: npt.NDArray[Any], train: Rows, test: Rows) -> dict[str, float]:
    """Score the heads on the test users."""
    if len(np.unique(y)) > 2:
        heads = {"linear": RidgeCV(np.logspace(-3, 2, 11)), "LightGBM": LGBMRegressor(objective="mae", **LIGHTGBM)}
        return {
            name: round(float(mean_absolute_error(y[test], head.fit(Z[train], y[train]).predict(Z[test]))), 4)
            for name, head in heads.items()
        }
    linear = LogisticRegressionCV(Cs=np.logspace(-1, 2, 4), scoring="roc_auc", max_iter=1000)
    trees = LGBMClassifier(**LIGHTGBM).fit(Z[train], y[train])
    scores = {
        "linear": roc_auc_score(y[test], linear.fit(Z[train], y[train]).decision_function(Z[test])),
        "LightGBM": roc_auc_score(y[test], trees.predict_proba(Z[test])[:, 1]),
    }
    for n_labels in FEW:
        if y[train].mean() * n_labels < 2:
            continue
        draws = []
        for draw in range(N_DRAWS):
            rows, _ = train_test_split(train, train_size=n_labels, stratify=y[train], random_state=draw)
            head = LogisticRegression(max_iter=1000).fit(Z[rows], y[rows])
            draws.append(roc_auc_score(y[test], head.decision_function(Z[test])))
        scores[f"{n_labels} labels"] = np.mean(draws)
    return {name: round(float(value), 4) for name, value in scores.items()}


def table(file: Path) -> str:
    """Return a table of each score's mean and standard deviation over folds and seeds."""
    values, seconds = defaultdict(list), defaultdict(list)
    heads: dict[str, None] = {}
    for line in read(file):
        name = line["data"] + (", development" if line["development"] else "")
        seconds[name, line["row"]].append(line["s"])
        for target, of_heads in line["scores"].items():
            for head, value in of_heads.items():
                heads.setdefault(head)
                values[name, target, line["row"], head].append(value)
    text = f"| data, target | representation | {' | '.join(heads)} | folds | seconds a fold |\n"
    text += "|---" * (4 + len(heads)) + "|\n"
    for name, target, row in dict.fromkeys(key[:3] for key in values):
        cells = []
        for head in heads:
            scores = values.get((name, target, row, head), [])
            digits = 2 if target == "age" else 3
            cells.append(f"{np.mean(scores):.{digits}f} ± {np.std(scores):.{digits}f}" if scores else "")
        n_folds = max(len(values[name, target, row, head]) for head in heads if (name, target, row, head) in values)
        text += (
            f"| {name}, {target} | {row} | {' | '.join(cells)} | {n_folds} | {np.median(seconds[name, row]):.0f} |\n"
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=DEFAULT_ROWS)
    parser.add_argument("--folds", type=int, default=5, help="how many of the five folds to run")
    parser.add_argument("--memory", type=Path, default=None, help="where each distinct event is kept once embedded")
    parser.add_argument("--development", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    warnings.filterwarnings("ignore", category=FutureWarning)
    for seed in arguments.seeds:
        for data in arguments.data:
            run(data, seed, arguments.rows, arguments.memory, arguments.development, arguments.folds, arguments.file)
    print(table(arguments.file))


if __name__ == "__main__":
    main()
