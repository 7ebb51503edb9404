"""event_pipeline: what we recommend, as one call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from sklearn.base import BaseEstimator

from skllm4es.baselines import EventAggregator
from skllm4es.embed._embedder import LLMEmbedder
from skllm4es.models import smollm2
from skllm4es.serialize._serializer import EventSerializer

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

_LIGHTGBM: dict[str, Any] = {
    "n_estimators": 300,
    "learning_rate": 0.02,
    "num_leaves": 15,
    "colsample_bytree": 0.3,
    "subsample": 0.5,
    "subsample_freq": 1,
    "verbose": -1,
    # As many threads as OpenMP is set to, which joblib limits in its workers; None is as many as the machine has cores.
    "n_jobs": 0,
}


def event_pipeline(
    estimator: str | BaseEstimator,
    model: str | os.PathLike[str] | None = None,
    *,
    memory: str | os.PathLike[str] | joblib.Memory | None = None,
    random_state: int | None = None,
) -> Pipeline:
    """Return the pipeline that we recommend, from users' events to a prediction.

    Aggregates and the vectors of a pretrained language model stand side by side, each on a scale that suits a linear
    model as well as LightGBM. The language model is not trained: it reads each distinct event once.

    Parameters
    ----------
    estimator : {"classifier", "regressor"} or estimator
        What predicts from the vectors. "classifier" and "regressor" average a linear model, which is better with few
        labels, and LightGBM.
    model : str or path, default=None
        The language model: a name on the model hub, a directory or a GGUF file. By default SmolLM2, which pip installs
        (see :func:`skllm4es.models.smollm2`).
    memory : str, path or joblib.Memory, default=None
        Directory that keeps the vector of each distinct event, so that none is computed twice, as in `LLMEmbedder`.
    random_state : int, default=None
        Determines the draws of LightGBM.

    Returns
    -------
    pipeline : :class:`~sklearn.pipeline.Pipeline`
        With the steps ``features``, a :class:`~sklearn.pipeline.FeatureUnion` of ``aggregates`` and ``llm``, and
        ``estimator``. Nothing is fitted. All settings are those of its parts, such as
        ``features__llm__serialize__labels``.

    Raises
    ------
    OSError
        If `model` is None and SmolLM2 is not installed.
    ValueError
        If `estimator` is another string.

    See Also
    --------
    LLMEmbedder : The vectors of the language model, which hold a bag of the events too.
    skllm4es.baselines.EventAggregator : The aggregates.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from skllm4es import event_pipeline
    >>> from skllm4es.datasets import make_transactions
    >>> X, y = make_transactions(200, random_state=0)
    >>> pipeline = event_pipeline("classifier", random_state=0)  # doctest: +SKIP
    >>> cross_val_score(pipeline, X, y, scoring="roc_auc")  # doctest: +SKIP
    """
    # With the import of the package, these would take a third of a second.
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import FeatureUnion, Pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler

    head = _estimator(estimator, random_state)
    aggregates = Pipeline(
        [
            ("aggregate", EventAggregator()),
            ("impute", SimpleImputer(keep_empty_features=True)),
            ("scale", StandardScaler()),
            ("normalize", Normalizer()),
        ]
    )
    embedder = LLMEmbedder(smollm2() if model is None else model, features="events", finetune=None, memory=memory)
    llm = Pipeline([("serialize", EventSerializer()), ("embed", embedder)])
    # Aggregates are many and noisy, and the vectors hold statistics already: at full length they cost where labels are
    # few.
    features = FeatureUnion([("aggregates", aggregates), ("llm", llm)], transformer_weights={"aggregates": 0.5})
    return Pipeline([("features", features), ("estimator", head)])


def _estimator(estimator: str | BaseEstimator, random_state: int | None) -> BaseEstimator:
    if not isinstance(estimator, str):
        return estimator
    if estimator not in ("classifier", "regressor"):
        raise ValueError(f"estimator={estimator!r} must be 'classifier', 'regressor' or an estimator.")
    from lightgbm import LGBMClassifier, LGBMRegressor
    from sklearn.ensemble import VotingClassifier, VotingRegressor
    from sklearn.linear_model import LogisticRegression, RidgeCV

    if estimator == "classifier":
        linear = LogisticRegression(C=3, max_iter=1000)  # On blocks of length 1 and less.
        trees = LGBMClassifier(**_LIGHTGBM, random_state=random_state)
        return VotingClassifier([("linear", linear), ("trees", trees)], voting="soft")
    trees = LGBMRegressor(**_LIGHTGBM, random_state=random_state)
    return VotingRegressor([("linear", RidgeCV(np.logspace(-3, 2, 11))), ("trees", trees)])
