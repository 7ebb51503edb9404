"""PoolingDepthDisplay: scores against the number of hidden layers that are pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import ValidationCurveDisplay

from skllm4es.plotting._base import RING
from skllm4es.plotting._score_curve import ScoreCurve, check_several

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_PARAMETER = "pooling_depth"


class PoolingDepthDisplay(ScoreCurve, ValidationCurveDisplay):
    """Validation curve over the pooling depth of an `LLMEmbedder`.

    A :class:`~sklearn.model_selection.ValidationCurveDisplay` that is also built from the results of a search, by
    `from_cv_results`. The lines are means over the splits, the bands a standard deviation to both sides; the ring marks
    the best mean.

    Parameters
    ----------
    param_name : str
        The parameter, for example ``"embed__pooling_depth"``.
    param_range : ndarray of shape (n_depths,)
        The pooling depths, ascending.
    train_scores : ndarray of shape (n_depths, n_splits)
        Scores on the training users; NaN where a search did not keep them.
    test_scores : ndarray of shape (n_depths, n_splits)
        Scores on the users held out.
    score_name : str, default=None
        Name of the score, for the axis.

    Attributes
    ----------
    lines_ : list of matplotlib.lines.Line2D
        The mean scores: on users held out, on training users, or both.
    fill_between_ : list of matplotlib.collections.PolyCollection
        Their standard deviations.
    best_ : matplotlib.lines.Line2D or None
        The ring around the best mean on users held out; None if these are not drawn.
    {axes}

    Examples
    --------
    >>> from lightgbm import LGBMClassifier
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.pipeline import make_pipeline
    >>> from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder
    >>> from skllm4es.datasets import make_transactions
    >>> from skllm4es.plotting import PoolingDepthDisplay
    >>> X, y = make_transactions(n_users=20, mean_events=3, random_state=0)
    >>> tiny = FromScratch(n_params=1000)
    >>> embedder = LLMEmbedder(
    ...     tiny, features="hidden", finetune=FineTuning(epochs=1), random_state=0
    ... )
    >>> classifier = LGBMClassifier(verbose=-1, n_jobs=1)
    >>> pipeline = make_pipeline(EventSerializer(["mcc"]), embedder, classifier)
    >>> depths = {"llmembedder__pooling_depth": [1, 2]}
    >>> search = GridSearchCV(pipeline, depths, cv=2, refit=False).fit(X, y)
    >>> results = search.cv_results_
    >>> display = PoolingDepthDisplay.from_cv_results(results, score_name="accuracy")
    >>> display.lines_[0].get_xdata().tolist()
    [1, 2]
    """

    best_: Line2D | None

    @classmethod
    def from_cv_results(
        cls,
        cv_results: Mapping[str, Any],
        *,
        param_name: str | None = None,
        metric: str = "score",
        score_name: str | None = None,
        score_type: str = "test",
        **kwargs: Any,
    ) -> Self:
        """Draw the results of a search over pooling depths.

        If the search also went over other parameters, each depth is drawn with the best of them.

        Parameters
        ----------
        cv_results : dict
            The attribute `cv_results_` of a fitted :class:`~sklearn.model_selection.GridSearchCV` or similar search.
        param_name : str, default=None
            The parameter, for example ``"embed__pooling_depth"``; needed only if several end in ``pooling_depth``.
        metric : str, default="score"
            Which of the scores to draw, if the search had several.
        score_name : str, default=None
            Label of the axis; `metric` by default.
        score_type : {"test", "train", "both"}, default="test"
            Whether to draw the scores on users held out, on training users, or both. A search keeps the scores of
            training users with ``return_train_score=True``.
        **kwargs : dict
            Further parameters of `plot`.

        Returns
        -------
        {display}

        Raises
        ------
        ValueError
            If there is no such parameter or metric, a depth is not a number, or there is only one.
        """
        param_name = _find_parameter(
            [key.removeprefix("param_") for key in cv_results if key.startswith("param_")], param_name
        )
        tried = np.ma.asarray(cv_results[f"param_{param_name}"])
        used = np.flatnonzero(~np.ma.getmaskarray(tried))  # Other grids of the search may have no depth.
        depths = _as_numbers(tried.data[used].tolist())
        check_several(depths.tolist(), "pooling depths")
        if f"mean_test_{metric}" not in cv_results:
            metrics = [key.removeprefix("mean_test_") for key in cv_results if key.startswith("mean_test_")]
            raise ValueError(f"The search has no metric {metric!r}; it has {metrics}. Choose one with metric=.")
        test_scores = _scores_by_split(cv_results, f"test_{metric}")
        train_scores = _scores_by_split(cv_results, f"train_{metric}")
        if score_type != "test" and not train_scores.size:
            raise ValueError(
                f"score_type={score_type!r}: the search has no scores of training users. It keeps them with "
                "return_train_score=True."
            )
        # By depth, and within a depth the best last: failed candidates have no score and go first.
        means = np.asarray(cv_results[f"mean_test_{metric}"], dtype=float)[used]
        order = np.lexsort((np.where(np.isnan(means), -np.inf, means), depths))
        chosen = order[np.append(np.diff(depths[order]) != 0, True)]
        display = cls(
            param_name=param_name,
            param_range=depths[chosen],
            train_scores=(train_scores if train_scores.size else np.full_like(test_scores, np.nan))[used[chosen]],
            test_scores=test_scores[used[chosen]],
            score_name=metric if score_name is None else score_name,
        )
        return display.plot(score_type=score_type, **kwargs)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        depths: Sequence[int],
        param_name: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Cross-validate an estimator at several pooling depths, and draw the scores.

        Set `memory` in its `LLMEmbedder`: each fold then trains once and embeds each text once, for all depths.

        Parameters
        ----------
        estimator : estimator
            A pipeline with an `LLMEmbedder`. It is cloned.
        X : dataframe of shape (n_users, n_columns)
            Input of the pipeline.
        y : array-like of shape (n_users,), default=None
            The target.
        depths : sequence of int
            The pooling depths.
        param_name : str, default=None
            The parameter, for example ``"embed__pooling_depth"``; needed only if several end in ``pooling_depth``.
        name : str, default=None
            What is scored, for the legend.
        **kwargs : dict
            Further parameters of :meth:`sklearn.model_selection.ValidationCurveDisplay.from_estimator`, such as `cv`,
            `scoring`, `n_jobs`, `negate_score`, `score_name`, `ax` and `line_kw`. The defaults differ: a fit that fails
            is an error (`error_score`), and the scores on users held out are drawn (`score_type`).

        Returns
        -------
        {display}

        Raises
        ------
        ValueError
            If the estimator has no such parameter, or there is only one depth.
        """
        check_several(depths, "pooling depths")
        param_name = _find_parameter(list(estimator.get_params()), param_name)
        settings = {**cls.DEFAULTS, "param_range": np.unique(_as_numbers(depths)).tolist(), **kwargs}
        display: Self = super().from_estimator(estimator, X, y, param_name=param_name, **settings)
        return display._name_lines(name)

    def plot(self, ax: Axes | None = None, *, score_type: str = "test", **kwargs: Any) -> Self:
        """Draw the curve.

        Parameters
        ----------
        {ax}
        score_type : {"test", "train", "both"}, default="test"
            Whether to draw the scores on users held out, on training users, or both.
        **kwargs : dict
            `name` for the legend, and parameters of :meth:`sklearn.model_selection.ValidationCurveDisplay.plot`.

        Returns
        -------
        {display}
        """
        super().plot(ax, score_type=score_type, **kwargs)
        means = self.test_scores.mean(axis=1)
        self.best_ = None
        if score_type != "train" and not np.isnan(means).all():
            line, best = self.lines_[-1], [int(np.nanargmax(means))]
            (self.best_,) = self.ax_.plot(*line.get_xydata()[best].T, color=line.get_color(), **RING)
        self.ax_.set_xlabel("pooling depth (last hidden layers)")
        self.ax_.set_xscale("linear")
        self.ax_.locator_params(axis="x", integer=True)
        return self


def _find_parameter(names: Sequence[str], wanted: str | None) -> str:
    found = [name for name in names if name == wanted or (wanted is None and name.split("__")[-1] == _PARAMETER)]
    if len(found) != 1:
        sought = f"end in {_PARAMETER}" if wanted is None else f"are called {wanted}"
        known = f"{found}. Choose one with param_name=" if found else f"there are {sorted(names)}"
        raise ValueError(f"{len(found)} parameters {sought}, but exactly one is needed: {known}.")
    return found[0]


def _as_numbers(depths: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    values = list(depths)
    if invalid := [depth for depth in values if isinstance(depth, bool) or not isinstance(depth, Integral)]:
        raise ValueError(
            f"The pooling depths must be whole numbers; got {invalid[0]!r}. 'auto' has no "
            "place on the axis: use its number."
        )
    return np.array(values, dtype=np.int64)


def _scores_by_split(cv_results: Mapping[str, Any], ending: str) -> npt.NDArray[np.float64]:
    """Collect the scores, of shape (n_candidates, n_splits)."""
    n_splits = sum(key.startswith("split") and key.endswith(f"_{ending}") for key in cv_results)
    scores = [cv_results[f"split{split}_{ending}"] for split in range(n_splits)]
    return np.array(scores, dtype=float).T
