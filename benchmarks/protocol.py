"""Who is trained and tested on, and how vectors are scored: the same for every table.

There are two protocols:

- "holdout", as in the published tables: a tenth of the labelled users is the test set. Five models, each trained on
  four fifths of the rest, are scored on it.
- "cv": five-fold cross-validation over all labelled users. This is far more informative on small data: a tenth of
  MovieLens 100k is 95 users.

There are two ways to fit the representations, which never see a label:

- "leak-free": on all users outside the test set. In "cv", these are the training users and those without a label.
- "transductive": once on the events of all users, including the test set, as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.base import BaseEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, mean_absolute_error, roc_auc_score
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, Normalizer, StandardScaler

from skllm4es import event_pipeline

Rows = npt.NDArray[np.intp]

PROTOCOLS = ("holdout", "cv")
FITS = ("leak-free", "transductive")
CLASSIFICATION = ("ROC-AUC", "accuracy")
HEADS = ("LightGBM", "linear")

#: Settings of the published experiments for binary targets; also used for regression, for which none are known.
_LIGHTGBM: dict[str, Any] = {
    "n_estimators": 500,
    "learning_rate": 0.02,
    "max_depth": 6,
    "subsample": 0.5,
    "subsample_freq": 1,
    "colsample_bytree": 0.75,
    "reg_alpha": 1,
    "reg_lambda": 1,
    "min_child_samples": 50,
    "random_state": 42,
    "n_jobs": 1,
    "verbose": -1,
}
#: Settings of the published experiments on Age, which has several classes.
_LIGHTGBM_CLASSES = _LIGHTGBM | {"n_estimators": 1000, "max_depth": 12, "num_leaves": 50, "subsample": 0.75}


@dataclass(frozen=True)
class Split:
    """The rows of one fold: for training the classifier, for testing, and those that a leak-free embedding may see."""

    fold: int
    train: Rows
    test: Rows
    seen: Rows


def splits(
    labelled: Rows,
    strata: npt.NDArray[Any] | None,
    groups: npt.NDArray[Any] | None,
    *,
    n_users: int,
    protocol: str,
    n_folds: int,
    seed: int,
) -> Iterator[Split]:
    """Split the labelled users.

    Parameters
    ----------
    labelled : ndarray of int of shape (n_labelled,)
        Rows of users with a label. Other users are never trained or tested on.
    strata : ndarray of shape (n_users,) or None
        The class of each user; every fold gets equal shares of the classes.
    groups : ndarray of shape (n_users,) or None
        Groups whose rows stay together.
    n_users : int
        Number of all rows.
    protocol : {"holdout", "cv"}
        See the module's docstring.
    n_folds : int
        Number of folds.
    seed : int
        0 for the published splits; other numbers draw different ones.

    Yields
    ------
    Split
        One per fold.
    """
    if protocol == "holdout":
        rest, test = next(_folds(labelled, strata, groups, 10, seed))
        seen = _apart(n_users, test, groups)
        for fold, (train, _) in enumerate(_folds(rest, strata, groups, n_folds, seed)):
            yield Split(fold, train, test, seen)
    else:
        for fold, (train, test) in enumerate(_folds(labelled, strata, groups, n_folds, seed)):
            yield Split(fold, train, test, _apart(n_users, test, groups))


def _folds(
    rows: Rows, strata: npt.NDArray[Any] | None, groups: npt.NDArray[Any] | None, n_folds: int, seed: int
) -> Iterator[tuple[Rows, Rows]]:
    splitters: dict[tuple[bool, bool], Any] = {
        (False, False): KFold,
        (True, False): StratifiedKFold,
        (False, True): GroupKFold,
        (True, True): StratifiedGroupKFold,
    }
    splitter = splitters[strata is not None, groups is not None](n_folds, shuffle=True, random_state=42 + seed)
    parts = splitter.split(
        rows, None if strata is None else strata[rows], groups=None if groups is None else groups[rows]
    )
    for train, test in parts:
        yield rows[train], rows[test]


def _apart(n_users: int, test: Rows, groups: npt.NDArray[Any] | None) -> Rows:
    """Return all rows except those of the test set and of its groups."""
    everyone = np.arange(n_users)
    return everyone[~(np.isin(everyone, test) if groups is None else np.isin(groups, groups[test]))]


def draw_labelled(train: Rows, strata: npt.NDArray[Any] | None, size: int, seed: Sequence[int]) -> Rows:
    """Draw `size` training users for the learning curve, with at least one of each class if `size` allows."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(train)
    if strata is not None:
        _, first_of_class = np.unique(strata[order], return_index=True)
        order = np.concatenate([order[np.sort(first_of_class)], np.delete(order, first_of_class)])
    return order[:size]


def scale(vectors: npt.NDArray[np.float32], train: Rows) -> npt.NDArray[np.float32]:
    """Bring vectors to the scale that a linear model wants: standardised by the training users, then of unit length."""
    filled = SimpleImputer(keep_empty_features=True)  # Aggregates of nothing are missing, for few users perhaps all.
    scaler = make_pipeline(filled, StandardScaler(), Normalizer()).fit(vectors[train])
    scaled: npt.NDArray[np.float32] = scaler.transform(vectors).astype(np.float32)
    return scaled


def score(
    vectors: npt.NDArray[np.float32],
    y: npt.NDArray[Any],
    train: Rows,
    test: Rows,
    metric: str,
    heads: Sequence[str] = HEADS,
    *,
    published: bool = False,
) -> dict[str, float | None]:
    """Fit each classifier (or regressor) on the training users' vectors, and score it on the test users'.

    The ROC-AUC of a test set with a single class does not exist and is None.
    """
    if metric == "ROC-AUC" and len(np.unique(y[test])) < 2:
        return dict.fromkeys(heads, None)
    scores: dict[str, float | None] = {}
    for head in heads:
        model = (published_head if published else recommended_head)(head, metric).fit(vectors[train], y[train])
        if metric == "ROC-AUC":
            scores[head] = float(roc_auc_score(y[test], model.predict_proba(vectors[test])[:, 1]))
        elif metric == "accuracy":
            scores[head] = float(accuracy_score(y[test], model.predict(vectors[test])))
        else:
            scores[head] = float(mean_absolute_error(y[test], model.predict(vectors[test])))
    return scores


def recommended_head(name: str, metric: str) -> BaseEstimator:
    """Return one of the two models that `event_pipeline` averages."""
    kind = "classifier" if metric in CLASSIFICATION else "regressor"
    average = event_pipeline(kind, model="none is read", random_state=42).named_steps["estimator"]
    linear, trees = (model for _, model in average.estimators)
    return linear if name == "linear" else trees.set_params(n_jobs=1)


def published_head(name: str, metric: str) -> Pipeline:
    """Return the classifier (or regressor) of the published experiments, and a linear one beside it."""
    if name == "LightGBM":
        # A scaler warns of columns in which everything is missing.
        fill = SimpleImputer(strategy="constant", fill_value=0, keep_empty_features=True)
        return make_pipeline(fill, MaxAbsScaler(), _lightgbm(metric))
    classifies = metric in CLASSIFICATION
    return make_pipeline(
        SimpleImputer(keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=0.01, max_iter=1000) if classifies else RidgeCV(np.logspace(0, 5, 11)),
    )


def _lightgbm(metric: str) -> BaseEstimator:
    if metric == "MAE":
        return LGBMRegressor(**_LIGHTGBM)
    return LGBMClassifier(**(_LIGHTGBM_CLASSES if metric == "accuracy" else _LIGHTGBM))
