"""How good the default embedding is, on real ratings and simulated cards, beside aggregates and a bag of events.

    SKLLM4ES_DATA=... python -m benchmarks.bench_quality RESULTS.jsonl [--data movielens cards] [--seeds 0 1 2]
                      [--rows PART ...] [--development]

fits `EventSerializer`, `TextEnricher` and `LLMEmbedder` with their defaults on the training users of each of five
folds, and scores LightGBM (with the field's settings) and a linear model (logistic regression with C=0.01, or ridge)
on the test users: ROC-AUC, and MAE in years for the age. Representations whose features share one scale also get a
linear model without scaling, whose regularisation is chosen on the training users.

Folds of the cards are draws of 800 clients to train on and 1,200 to test on, because a thousand in all would be too
few to tell representations apart. "+" puts representations of one run side by side, as a `FeatureUnion` does. Each
fold of a row is a line of the file and is not computed again, so an interrupted run continues with its current fold.
The table is printed at the end.

The rows that change one setting of `LLMEmbedder` are ablations, which run only if named by `--rows`. Use
`--development` to choose settings: it uses folds of the training users of the first outer fold, and other draws of
cards.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import mean_absolute_error, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline

from benchmarks.json_lines import append, read
from benchmarks.protocol import score
from benchmarks.settings import make_embedder
from skllm4es import EventSerializer, TextEnricher
from skllm4es.baselines import BagOfEvents, EventAggregator
from skllm4es.datasets import fetch_movielens_100k, make_transactions
from skllm4es.vocabularies import load_mcc_names

Rows = npt.NDArray[np.intp]
#: Users, their targets, and the rows to train and test on.
Fold = tuple[pd.DataFrame, dict[str, pd.Series], Rows, Rows]


def movielens(seed: int, *, development: bool) -> Iterator[Fold]:
    X, gender = fetch_movielens_100k(return_X_y=True)
    targets = {"gender": gender, "age": fetch_movielens_100k(target="age").target}
    if development:
        kept, _ = next(StratifiedKFold(5, shuffle=True, random_state=0).split(X, gender))
        X, targets, seed = X.iloc[kept], {name: y.iloc[kept] for name, y in targets.items()}, seed + 100
    for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(X, targets["gender"]):
        yield X, targets, train, test


def cards(seed: int, *, development: bool) -> Iterator[Fold]:
    first = 0 if development else 100
    for draw in range(5):
        X, churn = make_transactions(2000, mean_events=50, random_state=first + 5 * seed + draw)
        yield X, {"churn": churn}, np.arange(800), np.arange(800, 2000)


DATA: dict[str, tuple[Callable[..., Iterator[Fold]], EventSerializer]] = {
    "movielens": (movielens, EventSerializer()),
    "cards": (cards, EventSerializer(labels={"mcc": load_mcc_names()})),
}


def rows(serializer: EventSerializer, seed: int) -> dict[str, Any]:
    def llm(*, enriched: bool = True, **settings: Any) -> Pipeline:
        enricher = TextEnricher(random_state=seed) if enriched else "passthrough"
        return make_pipeline(serializer, enricher, make_embedder(random_state=seed, **settings))

    return {
        "aggregates": EventAggregator(),
        "bag of events": BagOfEvents(random_state=seed),
        "LLM": llm(),
        "LLM, hidden states": llm(features="hidden"),
        "LLM, not enriched": llm(enriched=False),
        "LLM, 64 components": llm(n_components=64),
        "LLM, 256 components": llm(n_components=256),
        "LLM, a short training": llm(epochs=0.01, n_params=500_000),
        "LLM, a long training": llm(epochs=0.15, n_params=500_000),
        "LLM, words alone": llm(config={"vocab_size": 4096}),
    }


DEFAULT_ROWS = ["aggregates", "bag of events", "LLM"]
ONE_SCALE = {"LLM", "bag of events", "LLM + bag of events"}
TOGETHER = [("LLM", "aggregates"), ("LLM", "bag of events"), ("aggregates", "bag of events")]


def run(data: str, seed: int, wanted: list[str], development: bool, file: Path) -> None:
    folds, serializer = DATA[data]
    done = {(line["data"], line["development"], line["seed"], line["fold"], line["row"]) for line in read(file)}
    for fold, (X, targets, train, test) in enumerate(folds(seed, development=development)):
        vectors, seconds = {}, {}
        for row, estimator in rows(serializer, seed).items():
            if row not in wanted or (data, development, seed, fold, row) in done:
                continue
            start = time.perf_counter()
            parts = estimator.fit_transform(X.iloc[train]), estimator.transform(X.iloc[test])
            seconds[row] = time.perf_counter() - start
            vectors[row] = np.empty((len(X), parts[0].shape[1]), dtype=np.float32)
            vectors[row][train], vectors[row][test] = map(np.asarray, parts)
        for one, other in TOGETHER:
            if one in vectors and other in vectors:
                vectors[f"{one} + {other}"] = np.hstack([vectors[one], vectors[other]])
        about = {"data": data, "development": development, "seed": seed, "fold": fold}
        records = []
        for row, Z in vectors.items():
            scores = {name: _scores(row, Z, y.to_numpy(), train, test) for name, y in targets.items()}
            records.append({**about, "row": row, "s": seconds.get(row, 0.0), "scores": scores})
        append(file, records)  # A whole fold at once, so that an interrupted fold is run again.


def _scores(row: str, Z: npt.NDArray[np.float32], y: npt.NDArray[Any], train: Rows, test: Rows) -> dict[str, float]:
    metric = "ROC-AUC" if len(np.unique(y)) == 2 else "MAE"
    scores = score(Z, y, train, test, metric)
    if row in ONE_SCALE:
        if metric == "ROC-AUC":
            strengths = {"C": np.logspace(-1, 3, 9)}
            search = GridSearchCV(LogisticRegression(max_iter=1000), strengths, scoring="roc_auc", cv=5)
            value = roc_auc_score(y[test], search.fit(Z[train], y[train]).decision_function(Z[test]))
        else:
            regression = RidgeCV(np.logspace(-4, 2, 13)).fit(Z[train], y[train])
            value = mean_absolute_error(y[test], regression.predict(Z[test]))
        scores["linear, not scaled"] = float(value)
    return scores


def table(file: Path) -> str:
    """Return a table of each score's mean and standard deviation over folds and seeds."""
    values, seconds = defaultdict(list), defaultdict(list)
    for line in read(file):
        name = line["data"] + (", development" if line["development"] else "")
        seconds[name, line["row"]].append(line["s"])
        for target, of_heads in line["scores"].items():
            for head, value in of_heads.items():
                values[name, target, head, line["row"]].append(value)
    text = "| data | target | head | representation | mean | sd | folds | fit and transform, s |\n"
    text += "|---" * 8 + "|\n"
    for (name, target, head, row), scores in sorted(values.items()):
        text += (
            f"| {name} | {target} | {head} | {row} | {np.mean(scores):.3f} | {np.std(scores):.3f} | {len(scores)} | "
            f"{np.median(seconds[name, row]):.0f} |\n"
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=DEFAULT_ROWS)
    parser.add_argument("--development", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    for seed in arguments.seeds:
        for data in arguments.data:
            run(data, seed, arguments.rows, arguments.development, arguments.file)
    print(table(arguments.file))


if __name__ == "__main__":
    main()
