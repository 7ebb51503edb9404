"""What makes a bag of events good: one change at a time, on development folds.

    SKLLM4ES_DATA=... python -m benchmarks.ablate_bag RESULTS.jsonl [--data NAME ...] [--bags NAME ...] [--seeds N ...]

Each bag of `BAGS` differs from `BagOfEvents` as it was before (the values of each field, numbers in ten bins, raw
counts, 64 components) or from the bag above it in one thing. Bins and values come from all users' events; inverse
document frequencies and components from the training users of each of five folds. The heads see rows of unit length,
centred: logistic regression, with a strength chosen by inner folds or, with 25 and 100 labels, of 10; ridge regression;
and LightGBM, which with 25 labels cannot split. Few labels are drawn three times per fold.

A line of the file is one bag on one fold, and is not computed again. The table is printed at the end. Means and
standard deviations over the folds of each seed are kept in ``benchmarks/results/ablate-bag.jsonl``.

What was chosen, and why: the logarithm of counts (most of the gain, as large as that of roots, and scikit-learn has
it), 64 components (128 are no better with a linear head, and worse with LightGBM and 100 labels), the values of each
field, numbers in ten bins (without them the cards lose most of what they tell; elsewhere they cost nothing), inverse
document frequencies, and no smallest number of users. The simulated cards lose by the logarithm: they have few values,
and their clients differ in the shares of these.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from lightgbm import LGBMClassifier, LGBMRegressor
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import mean_absolute_error, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold, train_test_split
from sklearn.preprocessing import normalize

from benchmarks.bench_quality import LIGHTGBM
from benchmarks.development import DATA
from benchmarks.json_lines import append, read
from skllm4es import unnest_events
from skllm4es.baselines import BagOfEvents

Rows = npt.NDArray[np.intp]
N_DRAWS = 3


@dataclass(frozen=True)
class Bag:
    """What is counted, and what is made of the counts."""

    fields: bool = True  # each field's values
    events: bool = False  # the values of all categories of an event, together
    bins: int = 10  # of each number; 0 leaves numbers out
    missing: bool = True  # whether a missing value is one, too
    tf: str = "count"  # or its "root", or "log": one more than its logarithm
    idf: bool = True
    per_field: bool = False  # unit length for each field before they are put together
    min_df: int = 1
    n_components: int = 64  # 0 for the weights themselves
    power: float = 1  # of the singular values by which components are scaled


BEFORE = Bag()
LOG = replace(BEFORE, tf="log", n_components=128)
ROOT = replace(BEFORE, tf="root", n_components=128)
BAGS = {
    "before": BEFORE,
    "log": replace(BEFORE, tf="log"),
    "root": replace(BEFORE, tf="root"),
    "128": replace(BEFORE, n_components=128),
    "log, 128": LOG,
    "root, 128": ROOT,
    "count, 128, per field": replace(BEFORE, n_components=128, per_field=True),
    "count, 64, half power": replace(BEFORE, power=0.5),
    "count, 128, half power": replace(BEFORE, n_components=128, power=0.5),
    "root, 128, half power": replace(ROOT, power=0.5),
    "root, 64, half power": replace(ROOT, n_components=64, power=0.5),
    **{
        f"{tf}, {change}": replace(bag, **settings)
        for tf, bag in {"log": LOG, "root": ROOT}.items()
        for change, settings in {
            "32": {"n_components": 32},
            "256": {"n_components": 256},
            "no reduction": {"n_components": 0},
            "128, no numbers": {"bins": 0},
            "128, 4 bins": {"bins": 4},
            "128, no missing values": {"missing": False},
            "128, no idf": {"idf": False},
            "128, 2 users": {"min_df": 2},
            "128, 5 users": {"min_df": 5},
            "128, per field": {"per_field": True},
            "128, per field, no numbers": {"per_field": True, "bins": 0},
            "128, events": {"fields": False, "events": True},
            "128, events, no numbers": {"fields": False, "events": True, "bins": 0},
            "128, fields and events": {"events": True},
            "128, fields and events, no numbers": {"events": True, "bins": 0},
        }.items()
    },
}


def count(X: pd.DataFrame, bag: Bag) -> list[sparse.csr_matrix]:
    """Count each user's values, one matrix for each field."""
    fitted = BagOfEvents(n_components=None).fit(X)
    events = unnest_events(X)
    owners = X.index.get_indexer(events[X.index.name])
    categories = [name for name in fitted.categories_ if events[name].notna().any()]
    words = [events[name] for name in categories] if bag.fields else []
    if bag.events and (not bag.fields or len(categories) > 1):
        lines = events[categories[0]].astype(str).fillna("")
        for name in categories[1:]:
            lines = lines + "\t" + events[name].astype(str).fillna("")
        words.append(lines)
    if bag.bins:
        words += [pd.qcut(events[name], bag.bins, labels=False, duplicates="drop") for name in fitted.numeric_]
    return [_table(owners, word, len(X), missing=bag.missing) for word in words]


def _table(owners: Rows, words: pd.Series, n_users: int, *, missing: bool) -> sparse.csr_matrix:
    codes, _ = pd.factorize(words, use_na_sentinel=not missing)
    owners, codes = owners[codes >= 0], codes[codes >= 0]
    return sparse.csr_matrix((np.ones(len(codes)), (owners, codes)), shape=(n_users, codes.max() + 1))


def represent(counts: list[sparse.csr_matrix], bag: Bag, train: Rows) -> Any:
    """Return the vectors of all users, of unit length; what is learned is learned from the training users."""
    parts = []
    for table in counts if bag.per_field else [sparse.hstack(counts, format="csr")]:
        kept = table[:, table[train].getnnz(axis=0) >= bag.min_df]
        if kept.shape[1]:
            if bag.tf == "root":
                kept = kept.sqrt()
            tfidf = TfidfTransformer(sublinear_tf=bag.tf == "log", use_idf=bag.idf).fit(kept[train])
            parts.append(tfidf.transform(kept))
    weights = normalize(sparse.hstack(parts, format="csr"))
    if not bag.n_components:
        return weights
    n_components = min(bag.n_components, len(train), weights.shape[1])
    svd = TruncatedSVD(n_components, random_state=0).fit(weights[train])
    return normalize(svd.transform(weights) * svd.singular_values_ ** (bag.power - 1))


def folds(y: pd.Series, groups: npt.NDArray[Any] | None, seed: int) -> Iterator[tuple[Rows, Rows]]:
    """Split users, stratified by a target; numbers are cut at their median."""
    strata = y if y.nunique() == 2 else y > y.median()
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    return splitter(5, shuffle=True, random_state=seed).split(strata, strata, groups)


def score(Z: Any, y: npt.NDArray[Any], train: Rows, test: Rows, seed: int) -> dict[str, float]:
    """Return the score of each head with each number of labels: ROC-AUC, or the mean absolute error."""
    scores = {}
    for size in ("25", "100", "all"):
        values: dict[str, list[float]] = defaultdict(list)
        for draw in range(1 if size == "all" else N_DRAWS):
            labelled = train if size == "all" else _draw(train, y, int(size), seed + draw)
            for head, model in _heads(size, numbers=len(np.unique(y)) > 2).items():
                centre = 0 if sparse.issparse(Z) else Z[labelled].mean(axis=0)
                model.fit(Z[labelled] - centre if np.ndim(centre) else Z[labelled], y[labelled])
                seen = Z[test] - centre if np.ndim(centre) else Z[test]
                if len(np.unique(y)) > 2:
                    values[head].append(mean_absolute_error(y[test], model.predict(seen)))
                else:
                    values[head].append(roc_auc_score(y[test], model.predict_proba(seen)[:, 1]))
        scores |= {f"{head}, {size}": float(np.mean(value)) for head, value in values.items()}
    return scores


def _draw(train: Rows, y: npt.NDArray[Any], size: int, seed: int) -> Rows:
    strata = y if len(np.unique(y)) == 2 else y > np.median(y)
    return train_test_split(train, train_size=size, stratify=strata[train], random_state=seed)[0]


def _heads(size: str, *, numbers: bool) -> dict[str, Any]:
    if numbers:
        linear, trees = RidgeCV(np.logspace(-3, 2, 11)), LGBMRegressor(**LIGHTGBM)
    else:
        linear, trees = LogisticRegression(C=10, max_iter=2000), LGBMClassifier(**LIGHTGBM)
        if size == "all":
            linear = GridSearchCV(linear, {"C": np.logspace(-1, 3, 5)}, scoring="roc_auc", cv=3)
    return {"linear": linear} | ({} if size == "25" else {"LightGBM": trees})


def run(data: str, bags: list[str], seeds: list[int], file: Path) -> None:
    """Score the bags that the file does not have."""
    done = {(line["data"], line["bag"], line["seed"]) for line in read(file)}
    todo = [(name, seed) for name in bags for seed in seeds if (data, name, seed) not in done]
    if not todo:
        return
    X, targets, groups = DATA[data]()
    counted: dict[Any, list[sparse.csr_matrix]] = {}
    for name, seed in todo:
        bag = BAGS[name]
        key = (bag.fields, bag.events, bag.bins)
        if key not in counted:
            counted[key] = count(X, bag)
        records = []
        for target, y in targets.items():
            for fold, (train, test) in enumerate(folds(y, groups, seed)):
                start = time.perf_counter()
                Z = represent(counted[key], bag, train)
                seconds = round(time.perf_counter() - start, 2)
                about = {"data": data, "target": target, "bag": name, "seed": seed, "fold": fold, "s": seconds}
                scores = score(Z, y.to_numpy(), train, test, seed)
                records.append(about | {"scores": {head: round(value, 4) for head, value in scores.items()}})
        append(file, records)
        print(data, name, seed, flush=True)


def table(file: Path) -> str:
    """Return the mean score of each bag, and how far it is from the first, over the folds that both have."""
    values: dict[Any, dict[str, dict[Any, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in read(file):
        for head, value in line["scores"].items():
            values[line["bag"]][f"{line['data']} {line['target']}, {head}"][line["seed"], line["fold"]] = value
    columns = sorted({column for of_bag in values.values() for column in of_bag})
    first = values[next(iter(BAGS))]
    text = f"| score | {' | '.join(values)} |\n|---" + "|---" * len(values) + "|\n"
    for column in columns:
        cells = []
        for of_bag in values.values():
            shared = [key for key in of_bag[column] if key in first[column]]
            gains = [of_bag[column][key] - first[column][key] for key in shared]
            sd = np.std([of_bag[column][key] for key in of_bag[column]])
            mean = np.mean([of_bag[column][key] for key in of_bag[column]])
            cells.append(f"{mean:.3f} ± {sd:.3f} ({np.mean(gains):+.3f})" if gains else "")
        text += f"| {column} | {' | '.join(cells)} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--bags", nargs="+", choices=list(BAGS), default=list(BAGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[100])
    arguments = parser.parse_args()
    for data in arguments.data:
        run(data, arguments.bags, arguments.seeds, arguments.file)
    print(table(arguments.file))


if __name__ == "__main__":
    main()
