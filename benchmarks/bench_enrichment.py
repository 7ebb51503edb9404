"""What enrichment contributes on MovieLens 100k: the rows of the paper's comparison, with a model from scratch.

    SKLLM4ES_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.bench_enrichment --transductive [--seeds 5] [--events 5]

prints a Markdown table of the ROC-AUC for the users' gender (LightGBM and logistic regression on the standardised
embedding), mean ± standard deviation over all seeds and folds, for language models trained on

- *raw 1x*: the serialised texts;
- *best single format*: each text rewritten once, all in the format that is best on a validation set;
- *mixed 1x*, *mixed 7x*: each text rewritten once or seven times, in mixed formats;
- *mixed + raw 8x*: each text rewritten seven times, and the raw text;

once with equal epochs, so that more texts mean more training, and once with equal training tokens. All rows embed the
raw text. Tokens are counted by each row's own tokenizer, trained on its own texts. Folds and seeds share users, so ±
is not a standard error. In brackets beside each score is its difference from *raw 1x* at the same budget, paired by
seed: the mean ± standard deviation over the seeds of the folds' mean.

In each fold, the language model sees only the training users. ``--transductive`` trains one model per seed on the
texts of all users (never on their labels), in a fifth of the time.

The single format is chosen with seed 0, by the mean of both classifiers on a quarter of the first fold's training
users, with models trained on the other three quarters. These users are test users in other folds and seeds, so the row
of the best single format is slightly too good. Each finished cell is a line of JSON in ``--output`` and is not
computed again.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightgbm import LGBMClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.json_lines import Record, append, read
from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder, TextEnricher
from skllm4es.datasets import fetch_movielens_100k
from skllm4es.lm.from_scratch import train_tokenizer
from skllm4es.rewriters import available_formats

MODEL = {"vocab_size": 2048, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2}
ROWS: dict[str, dict[str, Any] | None] = {
    "raw 1x": None,
    "best single format": {},  # The format is chosen first.
    "mixed 1x": {},
    "mixed 7x": {"n_variants": 7},
    "mixed + raw 8x": {"n_variants": 7, "include_raw": True},
}
BUDGETS = ("equal epochs", "equal tokens")


class Results:
    """The records of a file, one per line, which are not computed again."""

    def __init__(self, file: Path, scale: Record) -> None:
        self.file, self.scale = file, scale
        self.records = [record for record in read(file) if record["scale"] == scale]

    def get(self, cell: Record, compute: Callable[[], list[Record]]) -> list[Record]:
        """Return the records of a cell; compute and write them first if they are missing."""
        found = [record for record in self.records if record["cell"] == cell]
        if not found:
            start = time.perf_counter()
            found = [{"scale": self.scale, "cell": cell, **scores} for scores in compute()]
            for record in found:
                record["seconds"] = round(time.perf_counter() - start, 1)
            append(self.file, found)
            self.records += found
            print(f"{cell}: {found[0]['tokens']:,} tokens, {found[0]['seconds']} s", flush=True)
        return found


class Bench:
    """The comparison at one scale."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        X, y = fetch_movielens_100k(return_X_y=True)
        X, y = X[: arguments.users], y[: arguments.users]
        self.texts = EventSerializer(["title", "genres", "rating"], max_events=arguments.events).fit_transform(X)
        self.y = y.to_numpy()
        self.epochs, self.folds = arguments.epochs, arguments.folds
        self.transductive = arguments.transductive
        self.budget = int(arguments.token_epochs * count_tokens(self.texts["text"].to_list()))

    def embed(self, strategy: Record | None, seed: int, users: np.ndarray, budget: str) -> tuple[np.ndarray, Record]:
        """Train on some users' texts, with their share of the budget, and embed the texts of all users."""
        columns = self.texts.iloc[users]
        if strategy is not None:
            columns = TextEnricher(random_state=seed, check=None, **strategy).fit_transform(columns)
            columns = columns.drop(columns="text")
        training = [text for name in columns for text in columns[name]]
        n_tokens = count_tokens(training)
        equal_tokens = self.budget * len(users) / len(self.texts) / n_tokens
        epochs = equal_tokens if budget == "equal tokens" else self.epochs
        embedder = LLMEmbedder(
            FromScratch(config=MODEL), finetune=FineTuning(epochs=epochs), max_length=512, random_state=seed
        ).fit(training)
        described = {"tokens": round(n_tokens * epochs), "epochs": epochs, "loss": embedder.loss_curve_[-1]}
        return embedder.transform(self.texts), described

    def splits(self, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the training and test users of each fold."""
        return StratifiedKFold(self.folds, shuffle=True, random_state=seed).split(self.y, self.y)

    def cell(self, strategy: Record | None, seed: int, budget: str) -> list[Record]:
        """Score one row with one seed; return one record per fold."""
        everyone = np.arange(len(self.y))
        records = []
        embedded = self.embed(strategy, seed, everyone, budget) if self.transductive else None
        for fold, (train, test) in enumerate(self.splits(seed)):
            vectors, described = embedded or self.embed(strategy, seed, train, budget)
            records.append({"fold": fold, **described, **self.score(vectors, train, test, seed)})
        return records

    def try_format(self, name: str) -> list[Record]:
        """Score a format on part of the first fold's training users, with a model trained on the rest of them."""
        train, _ = next(self.splits(0))
        fitted, held_out = train_test_split(train, test_size=0.25, stratify=self.y[train], random_state=0)
        vectors, described = self.embed({"formats": name}, 0, fitted, "equal tokens")
        return [{**described, **self.score(vectors, fitted, held_out, 0)}]

    def score(self, vectors: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, float]:
        """Fit each classifier on the training users' vectors, and score it on the test users'."""
        classifiers = {
            "LightGBM": LGBMClassifier(verbose=-1, n_jobs=1, random_state=seed),
            "logistic regression": LogisticRegression(max_iter=5000),
        }
        scores = {}
        for name, classifier in classifiers.items():
            pipe = make_pipeline(StandardScaler(), classifier).set_output(transform="pandas")
            frame = pd.DataFrame(vectors).add_prefix("d")
            pipe.fit(frame.iloc[train], self.y[train])
            scores[name] = roc_auc_score(self.y[test], pipe.predict_proba(frame.iloc[test])[:, 1])
        return scores


def count_tokens(texts: list[str]) -> int:
    return sum(map(len, train_tokenizer(texts, MODEL["vocab_size"])(texts)["input_ids"]))


def choose_format(bench: Bench, results: Results) -> str:
    means = {}
    for name in available_formats():
        (record,) = results.get({"format": name}, lambda name=name: bench.try_format(name))
        means[name] = (record["LightGBM"] + record["logistic regression"]) / 2
    return max(means, key=lambda name: means[name])


def differences(records: list[Record], baseline: list[Record], classifier: str) -> list[float]:
    """Return, for each seed, the difference from the baseline in the same fold, averaged over the folds."""
    scores = {(record["cell"]["seed"], record["fold"]): record[classifier] for record in baseline}
    paired = defaultdict(list)
    for record in records:
        seed, fold = record["cell"]["seed"], record["fold"]
        if (seed, fold) in scores:
            paired[seed].append(record[classifier] - scores[seed, fold])
    return [float(np.mean(of_seed)) for of_seed in paired.values()]


def describe_scores(records: list[Record], baseline: list[Record], classifier: str) -> str:
    scores = [record[classifier] for record in records]
    described = f"{np.mean(scores):.3f} ± {np.std(scores):.3f}"
    paired = [] if records is baseline else differences(records, baseline, classifier)
    return f"{described} ({np.mean(paired):+.3f} ± {np.std(paired):.3f})" if paired else described


def print_table(results: Results, chosen: str) -> None:
    cells = defaultdict(list)
    for record in results.records:
        if "row" in record["cell"]:
            cells[record["cell"]["budget"], record["cell"]["row"]].append(record)
    n_events = results.scale["events"]
    print(f"\nThe latest {n_events} events of each user. Each row's tokens are counted by its own tokenizer.")
    print("Scores: ROC-AUC, mean ± sd over seeds and folds (difference from raw 1x at the same budget, paired by seed:")
    print("mean ± sd over the seeds of the folds' mean). The users that chose the best single format are test users in")
    print("other folds and seeds.\n")
    print("| budget | trained on | tokens | epochs | final loss | LightGBM | logistic regression | scores |")
    print("|---|---|---|---|---|---|---|---|")
    for (budget, row), records in sorted(cells.items(), key=lambda cell: (cell[0][0], list(ROWS).index(cell[0][1]))):
        name = f"{row} ({chosen})" if row == "best single format" else row
        mean = {key: np.mean([record[key] for record in records]) for key in ("tokens", "epochs", "loss")}
        baseline = cells.get((budget, "raw 1x"), [])
        aucs = [describe_scores(records, baseline, key) for key in ("LightGBM", "logistic regression")]
        print(
            f"| {budget} | {name} | {mean['tokens']:,.0f} | {mean['epochs']:.2f} | {mean['loss']:.2f} "
            f"| {' | '.join(aucs)} | {len(records)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--users", type=int, default=None, help="use only the first users")
    parser.add_argument("--events", type=int, default=5, help="use only the latest events of each user")
    parser.add_argument("--epochs", type=float, default=1, help="of every row, with equal epochs")
    parser.add_argument(
        "--token-epochs", type=float, default=4, help="epochs of raw texts that define the token budget"
    )
    parser.add_argument("--budgets", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    parser.add_argument("--transductive", action="store_true", help="train on the texts of all users, once per seed")
    parser.add_argument("--output", type=Path, default=Path("bench_enrichment.jsonl"))
    arguments = parser.parse_args()
    scale = {key: value for key, value in vars(arguments).items() if key not in ("seeds", "budgets", "output")}
    bench, results = Bench(arguments), Results(arguments.output, scale)
    chosen = choose_format(bench, results)
    print(f"The best single format on the validation users is {chosen}.", flush=True)
    for seed in range(arguments.seeds):
        for budget in arguments.budgets:
            for row, strategy in ROWS.items():
                if row == "best single format":
                    strategy = {"formats": chosen}
                results.get(
                    {"row": row, "seed": seed, "budget": budget},
                    lambda strategy=strategy, seed=seed, budget=budget: bench.cell(strategy, seed, budget),
                )
    print_table(results, chosen)


if __name__ == "__main__":
    main()
