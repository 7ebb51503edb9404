"""The main job, end to end, in a few minutes on two CPU cores: ``python -m skllm4es.demo``.

Compares the LLM embedding with simple aggregates of the same events by five-fold cross-validation: on MovieLens
100k (predict the gender) if it is in the data home, else on simulated card transactions (predict who leaves).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pandas as pd
from lightgbm import LGBMClassifier
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline

from skllm4es import EventSerializer, FineTuning, LLMEmbedder, TextEnricher
from skllm4es.baselines import EventAggregator
from skllm4es.datasets import fetch_movielens_100k, get_data_home, make_transactions
from skllm4es.vocabularies import load_mcc_names

NEXT_STEPS = """
What next
  - This training is the shortest that shows the whole path. For better vectors, drop max_events, and raise
    LLMEmbedder(finetune=FineTuning(epochs=...)) and TextEnricher(n_variants=...).
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
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=0)
    pipelines = {"aggregates": _aggregates(), "LLM embedding": _llm(serializer)}
    results = pd.DataFrame({name: _evaluate(pipeline, X, y, folds) for name, pipeline in pipelines.items()}).T
    print(f"\n{task}, {options.folds}-fold cross-validation, LightGBM on each representation")
    print(results.rename_axis("representation").round(3).to_string())
    print("\nTimes are seconds of all folds together.")
    print(NEXT_STEPS.rstrip())


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
    return make_pipeline(EventAggregator(), _classifier())


def _llm(serializer: EventSerializer) -> Pipeline:
    # A fifth of an epoch, and the latest 40 events: what five folds leave time for.
    embedder = LLMEmbedder(finetune=FineTuning(epochs=0.2), max_length=512, random_state=0, verbose=1)
    return make_pipeline(serializer, TextEnricher(random_state=0), embedder, _classifier())


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


def _evaluate(pipeline: Pipeline, X: pd.DataFrame, y: pd.Series, folds: StratifiedKFold) -> dict[str, float]:
    """Return ROC-AUC, its deviation over the folds, and the seconds that fitting and predicting took."""
    results = cross_validate(pipeline, X, y, cv=folds, scoring="roc_auc", error_score="raise")
    scores = results["test_score"]
    times = {"fit s": results["fit_time"].sum(), "predict s": results["score_time"].sum()}
    return {"ROC-AUC": scores.mean(), "std": scores.std(), **times}


if __name__ == "__main__":
    main()
