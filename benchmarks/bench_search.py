"""What a search over the pooling depth costs with `memory`: eight depths compared with one.

    SKLLM4ES_DATA=... python -m benchmarks.bench_search [--users N] [--events 15]

runs `GridSearchCV` on MovieLens 100k (gender) over one depth and over eight, with five folds and an empty cache for
each search. First the language model, a small Llama of eight layers, is trained from scratch in every fold; then one
model is used in all folds without training. The texts that are embedded are counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
from lightgbm import LGBMClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline

from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder, TextEnricher
from skllm4es.datasets import fetch_movielens_100k

MODEL = FromScratch(config={"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 8})
DEPTHS = [1, 2, 3, 4, 5, 6, 7, 8]


def search(X: pd.DataFrame, y: pd.Series, embedder: LLMEmbedder, n_events: int, depths: list[int]) -> float:
    pipe = Pipeline(
        [
            ("serialize", EventSerializer(["title", "genres", "rating"], max_events=n_events)),
            ("enrich", "passthrough" if embedder.finetune is None else TextEnricher(random_state=0)),
            ("embed", embedder),
            ("classify", LGBMClassifier(verbose=-1, n_jobs=1, random_state=0)),
        ]
    ).set_output(transform="pandas")
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    start = time.perf_counter()
    GridSearchCV(pipe, {"embed__pooling_depth": depths}, scoring="roc_auc", cv=folds, refit=False).fit(X, y)
    return time.perf_counter() - start


def compare(name: str, X: pd.DataFrame, y: pd.Series, n_events: int, directory: Path, **params: object) -> None:
    seconds = []
    for depths in ([8], DEPTHS):
        cache = directory / f"{len(depths)} {name}"
        embedder = LLMEmbedder(features="hidden", memory=cache, random_state=0, **params)
        seconds.append(search(X, y, embedder, n_events, depths))
    info = embedder.cache_info()
    print(
        f"| {name} | {seconds[0]:.0f} | {seconds[1]:.0f} | {seconds[1] / seconds[0]:.2f} | {info.misses:,} "
        f"| {info.n_models} | {info.n_bytes / 1e6:,.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=None, help="use only the first users")
    parser.add_argument("--events", type=int, default=15, help="use only the latest events of each user")
    arguments = parser.parse_args()
    X, y = fetch_movielens_100k(return_X_y=True)
    X, y = X[: arguments.users], y[: arguments.users]
    print(f"{len(X)} users, at most {arguments.events} events each, 5 folds\n")
    print("| model | one depth, s | eight depths, s | ratio | texts embedded | models trained | cache, MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        warm_up = LLMEmbedder(MODEL, features="hidden", finetune=FineTuning(epochs=0.1), random_state=0)
        search(X[:20], y[:20], warm_up.set_params(memory=directory / "warm"), 5, [1])
        compare("trained in each fold", X, y, arguments.events, directory, model=MODEL)
        texts = EventSerializer(["title", "genres", "rating"], max_events=arguments.events).fit_transform(X)
        barely_trained = LLMEmbedder(MODEL, finetune=FineTuning(epochs=0.01), random_state=0).fit(texts)
        barely_trained.save_pretrained(directory / "model")
        compare("not trained", X, y, arguments.events, directory, model=directory / "model", finetune=None)


if __name__ == "__main__":
    main()
