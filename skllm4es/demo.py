"""The main job, end to end, in a few minutes on two CPU cores: ``python -m skllm4es.demo``.

Compares the LLM embedding with simple aggregates of the same events by five-fold cross-validation: on MovieLens
100k (predict the gender) where it is at hand, on simulated card transactions (predict who leaves) otherwise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from lightgbm import LGBMClassifier
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline
from tqdm.auto import tqdm

from skllm4es import EventSerializer, FineTuning, LLMEmbedder, TextEnricher, unnest_events
from skllm4es.datasets import fetch_movielens_100k, get_data_home, make_transactions
from skllm4es.vocabularies import load_mcc_names

NEXT_STEPS = """
What next
  - This is the shortest training that shows the whole path. For more, drop max_events, and raise
    LLMEmbedder(epochs=...) and TextEnricher(n_variants=...).
  - With a GPU and a pretrained model: LLMEmbedder("meta-llama/Llama-3.2-3B", pooling_depth=8).
  - Your own events: X = nest_events(table, user="client", time="date"), then the same pipeline.
  - The README has the quickstart; help(skllm4es.LLMEmbedder) has every setting.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo and print its table.

    Parameters
    ----------
    arguments : sequence of str, default=None
        The command line; that of the process by default.
    """
    options = _parse(arguments)
    X, y, serializer, task = _data(options.users)
    print(f"{task}: {len(X)} users, {sum(map(len, X['events'])):,} events, {y.mean():.0%} positive\n")
    folds = list(StratifiedKFold(options.folds, shuffle=True, random_state=0).split(X, y))
    results = pd.DataFrame(
        [
            {"representation": "aggregates", **_evaluate(_aggregates(), X, y, folds)},
            {"representation": "LLM embedding", **_evaluate(_llm(serializer), X, y, folds)},
        ]
    ).set_index("representation")
    print(f"\n{task}, {options.folds}-fold cross-validation, LightGBM on each representation")
    print(results.to_string(na_rep="-", float_format="{:.3f}".format))
    print("\nTimes are seconds of all folds together.")
    print(NEXT_STEPS.rstrip())


class Aggregates(TransformerMixin, BaseEstimator):
    """Number of events, moments of the numeric fields, shares of the frequent values of the others.

    Parameters
    ----------
    n_values : int, default=50
        How many values of a field get a share of their own.
    """

    def __init__(self, n_values: int = 50) -> None:
        self.n_values = n_values

    def fit(self, X: pd.DataFrame, y: Any = None) -> Aggregates:
        """Learn which values are frequent.

        Parameters
        ----------
        X : pandas.DataFrame of shape (n_users, 1)
            One row per user.
        y : None
            Ignored.

        Returns
        -------
        self : Aggregates
            The fitted transformer.
        """
        events = _long(X)
        self.values_ = {
            name: events[name].value_counts().index[: self.n_values] for name in events if _is_category(events[name])
        }
        return self

    def transform(self, X: pd.DataFrame) -> np.ndarray:
        """Compute the aggregates.

        Parameters
        ----------
        X : pandas.DataFrame of shape (n_users, 1)
            One row per user.

        Returns
        -------
        ndarray of shape (n_users, n_features)
            The aggregates.
        """
        events = _long(X)
        users = events.pop("row")
        parts: list[pd.DataFrame | pd.Series] = [users.value_counts().rename("n_events")]
        for name in events:
            if name in self.values_:
                shares = pd.crosstab(users, events[name], normalize="index")
                parts.append(shares.reindex(columns=self.values_[name], fill_value=0.0))
            elif pd.api.types.is_numeric_dtype(events[name]):
                parts.append(events[name].groupby(users).agg(["mean", "std", "median"]))
        return pd.concat(parts, axis=1).reindex(range(len(X))).to_numpy(dtype=float)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m skllm4es.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=None, help="use only the first users (default: all)")
    parser.add_argument("--folds", type=int, default=5, help="number of folds (default: 5)")
    options = parser.parse_args(arguments)
    if options.users is not None and options.users < 2 * options.folds:
        parser.error(f"--users {options.users} is too few for {options.folds} folds")
    return options


def _data(n_users: int | None) -> tuple[pd.DataFrame, pd.Series, EventSerializer, str]:
    if not (get_data_home() / "ml-100k").is_dir():
        print(f"MovieLens 100k is not in {get_data_home()}; using simulated transactions instead.")
        print("For the real data: python -c 'from skllm4es.datasets import *; fetch_movielens_100k()'\n")
        X, y = make_transactions(n_users or 1000, mean_events=50, random_state=0)
        serializer = EventSerializer(["mcc", "amount", "type"], labels={"mcc": load_mcc_names()}, max_events=50)
        return X, y, serializer, "Simulated card transactions, who leaves"
    X, y = fetch_movielens_100k(target="gender", return_X_y=True)
    serializer = EventSerializer(["title", "genres", "rating"], max_events=40)
    return X[:n_users], y[:n_users], serializer, "MovieLens 100k, gender"


def _aggregates() -> Pipeline:
    return Pipeline([("aggregate", Aggregates()), ("classify", _classifier())])


def _llm(serializer: EventSerializer) -> Pipeline:
    # A fifth of an epoch and the latest 40 events: what five folds leave time for.
    return Pipeline(
        [
            ("serialize", serializer),
            ("enrich", TextEnricher(random_state=0)),
            ("embed", LLMEmbedder(finetune=FineTuning(epochs=0.2), max_length=512, random_state=0, verbose=1)),
            ("classify", _classifier()),
        ]
    )


def _classifier() -> LGBMClassifier:
    return LGBMClassifier(
        n_estimators=300,
        learning_rate=0.03,
        subsample=0.5,
        subsample_freq=1,
        colsample_bytree=0.75,
        min_child_samples=50,
        random_state=0,
        n_jobs=1,
        verbose=-1,
    )


def _evaluate(pipeline: Pipeline, X: pd.DataFrame, y: pd.Series, folds: list[Any]) -> dict[str, float]:
    """ROC-AUC over the folds, and the seconds that each step took."""
    scores, seconds = [], dict.fromkeys(pipeline.named_steps, 0.0)
    for train, test in tqdm(folds, desc="-".join(pipeline.named_steps), unit="fold"):
        train_data, test_data = X.iloc[train], X.iloc[test]
        for name, step in pipeline.steps[:-1]:
            with_target = (train_data, y.iloc[train])
            train_data = _timed(seconds, name, step.fit_transform, *with_target)
            test_data = _timed(seconds, name, step.transform, test_data)
        name, classifier = pipeline.steps[-1]
        _timed(seconds, name, classifier.fit, train_data, y.iloc[train])
        scores.append(roc_auc_score(y.iloc[test], _timed(seconds, name, classifier.predict_proba, test_data)[:, 1]))
    times = {f"{name} s": round(value, 1) for name, value in seconds.items()}
    return {"ROC-AUC": float(np.mean(scores)), "std": float(np.std(scores)), **times}


def _timed(seconds: dict[str, float], name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    start = time.perf_counter()
    result = function(*arguments)
    seconds[name] += time.perf_counter() - start
    return result


def _long(X: pd.DataFrame) -> pd.DataFrame:
    return cast(pd.DataFrame, unnest_events(X.set_axis(range(len(X))), user="row"))


def _is_category(column: pd.Series) -> bool:
    # Whole numbers are codes or grades: each value counts by itself.
    return column.name != "row" and not pd.api.types.is_float_dtype(column) and column.dtype.kind != "M"


if __name__ == "__main__":
    main()
