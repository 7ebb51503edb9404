"""How good the baselines are on MovieLens 100k, and how long an epoch of each takes.

    python -m benchmarks.bench_baselines results.jsonl [--methods CoLES CPC ...] [--seeds 0 1 ...] [--data-home DIR]

fits each method on all users' events without labels and scores its embeddings by five-fold cross-validation: ROC-AUC
for the gender and mean absolute error for the age, by LightGBM with the settings of the published experiments and by
logistic or ridge regression. Each method, seed and pooling adds a line of JSON to the file as soon as it is scored.
Lines in the file are not computed again, so an interrupted run can be resumed. At the end, the means over the seeds
are printed as a Markdown table, beside the scores of the reference libraries on the same data with one seed. The
methods have the settings of the published configurations, except that ours add no noise to embeddings in CoLES, and
have a learning rate of .004 in IFTPP and DeTPP and .002 in NSP. One seed says little: the initial weights alone move
the AUC of an untrained encoder's mean-pooled embedding between .65 and .72.

    python -m benchmarks.bench_baselines reference.jsonl --reference-python PYTHON [--methods ...] [--seeds ...]

does the same with the methods of the reference libraries.

    python -m benchmarks.bench_baselines speed.jsonl --speed --reference-python PYTHON [--methods ...] [--repeats 3]

times epochs of ours and of the reference library in turn, each in a separate process with one thread, and prints the
ratio of the medians. PYTHON is the interpreter of a separate environment with the reference libraries, created with::

    python -m venv DIR
    DIR/bin/pip install torch==2.13.0 "numpy<2.5" pandas pyarrow scikit-learn scipy pytorch-lightning hydra-core \
        omegaconf torchmetrics duckdb tqdm lightgbm pymonad transformers
    DIR/bin/pip install --no-deps pytorch-lifestream==0.6.0 hotpp-benchmark==0.7.0 torch-linear-assignment==0.1.0

hotpp-benchmark also requires pyspark and datasets, which these methods do not need, and pytorch-lifestream 0.7.0
cannot be imported. DeTPP, ours as well, needs the packages of requirements-tpp.txt in the environment in which it
runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score

from benchmarks.json_lines import append, read
from benchmarks.protocol import published_head
from skllm4es import unnest_events
from skllm4es.baselines import (
    BagOfEvents,
    CoLESEmbedder,
    CPCEmbedder,
    DeTPPEmbedder,
    EventAggregator,
    IFTPPEmbedder,
    NPPREmbedder,
    NSPEmbedder,
    RandomEmbedder,
    RTDEmbedder,
)
from skllm4es.datasets import fetch_movielens_100k

METHODS: dict[str, BaseEstimator] = {
    "random GRU": RandomEmbedder(),
    "aggregates, genres": EventAggregator(
        columns=["timestamp", "genres", "rating"], numeric=["rating"], max_categories=None
    ),
    "aggregates, items": EventAggregator(numeric=["rating"], max_categories=400),
    "bag of items": BagOfEvents(columns=["title"]),
    "bag of all values": BagOfEvents(),
    "CoLES": CoLESEmbedder(),
    "CPC": CPCEmbedder(),
    "RTD": RTDEmbedder(),
    "NSP": NSPEmbedder(),
    "NPPR": NPPREmbedder(),
    "IFTPP": IFTPPEmbedder(),
    "IFTPP-T": IFTPPEmbedder(encoder="transformer", epochs=8, learning_rate=0.001),
    "DeTPP": DeTPPEmbedder(horizon=7 * 86_400.0),
}

#: Runs the reference libraries, in a separate environment.
REFERENCE = str(Path(__file__).with_name("reference_baselines.py"))

#: Methods that a reference library has.
REFERENCED = ["CoLES", "CPC", "RTD", "NSP", "IFTPP", "IFTPP-T", "DeTPP"]

#: Scores of the reference library or of a prototype in plain torch: AUC by LightGBM with its standard deviation, AUC
#: by a linear model, MAE by LightGBM and by a linear model.
REFERENCES: dict[tuple[str, str], tuple[str, str]] = {
    ("random GRU", "last"): ("plain torch", "0.513 / 0.558 / 10.34 / 10.13"),
    ("random GRU", "mean"): ("plain torch", "0.692 ± .050 / 0.686 / 8.89 / 8.72"),
    ("aggregates, genres", ""): ("pandas", "0.718 ± .023 / 0.738 / 7.93 / 8.13"),
    ("aggregates, items", ""): ("pandas", "0.726 ± .021 / 0.761 / 7.46 / 7.53"),
    ("bag of items", ""): ("scikit-learn", "0.749 ± .022 / 0.787 / 7.28 / 7.03"),
    ("CoLES", "last"): ("pytorch-lifestream 0.6.0", "0.698 ± .027 / 0.721 / 8.30 / 8.22"),
    ("CPC", "last"): ("pytorch-lifestream 0.6.0", "0.613 ± .053 / 0.623 / 9.81 / 9.74"),
    ("CPC", "mean"): ("plain torch", "0.638 / 0.689 / 8.75 / 8.52"),
    ("RTD", "last"): ("pytorch-lifestream 0.6.0", "0.544 / 0.561 / 10.24 / 10.09"),
    ("RTD", "mean"): ("pytorch-lifestream 0.6.0", "0.701 / 0.672 / 8.88 / 8.82"),
    ("NSP", "last"): ("pytorch-lifestream 0.6.0", "0.633 ± .011 / 0.666 / 9.18 / 9.36"),
    ("NPPR", "last"): ("plain torch", "0.570 / 0.600 / 9.39 / 9.57"),
    ("NPPR", "mean"): ("plain torch", "0.664 / 0.685 / 8.87 / 8.54"),
    ("IFTPP", "mean"): ("hotpp-benchmark 0.7.0", "0.709 ± .043 / 0.728 / 8.51 / 8.28"),
    ("IFTPP-T", "mean"): ("hotpp-benchmark 0.7.0", "0.651 ± .047 / 0.659 / 9.13 / 8.42"),
    ("DeTPP", "mean"): ("hotpp-benchmark 0.7.0", "0.697 ± .018 / 0.728 / 8.75 / 8.28"),
}


def embed(method: str, seed: int, X: pd.DataFrame) -> Iterator[tuple[str, float, Any]]:
    """Fit a method; yield each pooling that it has, the CPU seconds of the fit, and the embeddings."""
    estimator: Any = clone(METHODS[method])
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=seed)
    start = time.process_time()
    estimator.fit(X)
    seconds = time.process_time() - start
    for pooling in ("last", "mean") if hasattr(estimator, "pooling") else ("",):
        yield pooling, seconds, (estimator.set_params(pooling=pooling) if pooling else estimator).transform(X)


def embed_by_reference(
    method: str, seed: int, python: str, data_home: str | None
) -> Iterator[tuple[str, float, npt.NDArray[np.float32]]]:
    """Yield the same for a method of a reference library, trained in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        events, vectors = Path(folder) / "events.npz", Path(folder) / "vectors.npz"
        write_events(events, data_home)
        seconds = run([python, REFERENCE, method, str(events), "--seed", str(seed), "--vectors", str(vectors)])
        with np.load(vectors) as by_pooling:
            for pooling in ("last", "mean"):
                yield pooling, sum(seconds), by_pooling[pooling]


def run(command: list[str]) -> list[float]:
    """Run a program that prints seconds as JSON in its last line, and return them."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def score(vectors: Any, gender: pd.Series, age: pd.Series) -> dict[str, float]:
    by_gender = {"cv": StratifiedKFold(5, shuffle=True, random_state=42), "scoring": "roc_auc"}
    by_age = {"cv": KFold(5, shuffle=True, random_state=42), "scoring": "neg_mean_absolute_error"}
    auc = cross_val_score(published_head("LightGBM", "ROC-AUC"), vectors, gender, **by_gender)
    auc_linear = cross_val_score(published_head("linear", "ROC-AUC"), vectors, gender, **by_gender)
    mae = cross_val_score(published_head("LightGBM", "MAE"), vectors, age, **by_age)
    mae_linear = cross_val_score(published_head("linear", "MAE"), vectors, age, **by_age)
    return {
        "auc": auc.mean(),
        "auc_sd": auc.std(),
        "auc_linear": auc_linear.mean(),
        "auc_linear_sd": auc_linear.std(),
        "mae": -mae.mean(),
        "mae_linear": -mae_linear.mean(),
    }


def measure_quality(
    path: Path, methods: list[str], seeds: list[int], python: str | None, data_home: str | None
) -> None:
    """Score our methods or, given an interpreter, those of the reference libraries."""
    X, gender = fetch_movielens_100k(return_X_y=True, data_home=data_home)
    _, age = fetch_movielens_100k(target="age", return_X_y=True, data_home=data_home)
    done = {(record["method"], record["seed"]) for record in read(path)}
    for method, seed in product(methods, seeds):
        if (method, seed) in done:
            continue
        embedded = embed_by_reference(method, seed, python, data_home) if python else embed(method, seed, X)
        records = [
            {"method": method, "seed": seed, "pooling": pooling, "size": vectors.shape[1], "fit_s": seconds}
            | score(vectors, gender, age)
            for pooling, seconds, vectors in embedded
        ]
        append(path, records)
        print(*records, sep="\n", flush=True)


def print_quality(records: list[dict[str, Any]]) -> None:
    print("\nMeans over seeds; ± is the standard deviation over folds, and the range over seeds is in brackets.\n")
    print("| method | seeds | AUC LightGBM | linear | MAE LightGBM | linear | fit, CPU s | reference | its AUC / MAE |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (method, pooling), group in pd.DataFrame(records).groupby(["method", "pooling"], sort=False):
        library, figures = REFERENCES.get((method, pooling), ("", ""))
        mean, low, high = (group.drop(columns=["method", "pooling"]).agg(how) for how in ("mean", "min", "max"))
        aucs = [f"{mean[a]:.3f} ± {mean[f'{a}_sd']:.3f} ({low[a]:.3f}-{high[a]:.3f})" for a in ("auc", "auc_linear")]
        print(
            f"| {method}{', ' if pooling else ''}{pooling} | {len(group)} | {' | '.join(aucs)} | {mean['mae']:.2f} "
            f"| {mean['mae_linear']:.2f} | {mean['fit_s']:.0f} | {library} | {figures} |"
        )


def write_events(path: Path, data_home: str | None) -> None:
    """Write the events for the reference process: codes, logarithms of gaps, times in days."""
    X, _ = fetch_movielens_100k(return_X_y=True, data_home=data_home)
    events = unnest_events(X)
    users, days = events["user_id"].to_numpy(), events["timestamp"].astype("int64").to_numpy() / 86_400.0
    offsets = np.append(np.flatnonzero(np.diff(users, prepend=-1)), len(users))
    gaps = np.diff(days, prepend=0.0)
    gaps[offsets[:-1]] = 0.0
    codes = [pd.factorize(events[name])[0] + 1 for name in ("title", "genres", "rating")]
    days -= np.repeat(days[offsets[:-1]], np.diff(offsets))
    np.savez(
        path,
        offsets=offsets,
        codes=np.stack(codes, axis=1),
        n_codes=[code.max() for code in codes],
        gaps=np.log1p(gaps * 86_400.0).astype(np.float32),
        days=days,
    )


def time_ours(method: str, epochs: int, data_home: str | None) -> None:
    """Print the CPU seconds of each of our epochs as JSON."""
    import torch

    from skllm4es.baselines import _training

    torch.set_num_threads(1)
    X, _ = fetch_movielens_100k(return_X_y=True, data_home=data_home)
    seconds, run_epoch = [], _training._run_epoch

    def timed(*arguments: Any) -> float:
        start = time.process_time()
        loss = run_epoch(*arguments)
        seconds.append(time.process_time() - start)
        return loss

    _training._run_epoch = timed  # type: ignore[assignment]
    clone(METHODS[method]).set_params(epochs=epochs, random_state=0).fit(X)
    print(json.dumps(seconds))


def measure_speed(path: Path, methods: list[str], python: str, repeats: int, data_home: str | None) -> None:
    """Time ours and the reference in turn: one epoch to warm up, and one that counts."""
    here = [sys.executable, "-m", "benchmarks.bench_baselines", str(path), "--epochs", "2"]
    here += [] if data_home is None else ["--data-home", data_home]
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events.npz"
        write_events(events, data_home)
        for method in methods:
            ways = {
                "ours": [*here, "--time-ours", method],
                "reference": [python, REFERENCE, method, str(events), "--epochs", "2"],
            }
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(repeats):
                for way, command in ways.items():
                    seconds[way].append(run(command)[-1])
            append(path, [{"method": method, **seconds}])
            print(method, seconds, flush=True)


def print_speed(records: list[dict[str, Any]]) -> None:
    print("\n| method | ours, s per epoch | reference, s per epoch | ratio of medians |")
    print("|---|---|---|---|")
    for record in records:
        ours, reference = statistics.median(record["ours"]), statistics.median(record["reference"])
        ranges = [f"({min(times):.2f}-{max(times):.2f})" for times in (record["ours"], record["reference"])]
        print(f"| {record['method']} | {ours:.2f} {ranges[0]} | {reference:.2f} {ranges[1]} | {ours / reference:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="file of JSON lines")
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data-home", help="folder that contains ml-100k")
    parser.add_argument("--speed", action="store_true", help="time epochs instead of scoring embeddings")
    parser.add_argument("--reference-python", help="interpreter of the environment with the reference libraries")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--time-ours", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    python = arguments.reference_python
    methods = arguments.methods or (REFERENCED if python else list(METHODS))
    if python and (others := sorted(set(methods) - set(REFERENCED))):
        parser.error(f"the reference libraries have no {', '.join(others)}; choose from {', '.join(REFERENCED)}")
    if arguments.time_ours:
        time_ours(arguments.time_ours, arguments.epochs, arguments.data_home)
    elif arguments.speed:
        if not python:
            parser.error("--speed needs --reference-python")
        done = {record["method"] for record in read(arguments.results)}
        todo = [method for method in methods if method not in done]
        measure_speed(arguments.results, todo, python, arguments.repeats, arguments.data_home)
        print_speed(read(arguments.results))
    else:
        measure_quality(arguments.results, methods, arguments.seeds, python, arguments.data_home)
        print_quality(read(arguments.results))


if __name__ == "__main__":
    main()
