"""PoolingDepthDisplay: how well the vectors predict, against the number of layers that are pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import validation_curve

from skllm4es.plotting._base import RING
from skllm4es.plotting._score_curve import ScoreCurve, name_of_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_PARAMETER = "pooling_depth"


@dataclass(eq=False, kw_only=True)
class PoolingDepthDisplay(ScoreCurve):
    """Validation curve over the pooling depth of an `LLMEmbedder`.

    Build it with `from_cv_results`, after a search, or with `from_estimator`. The lines are means over the splits, the
    bands a standard deviation to both sides, the ring the best mean. Scores whose name begins with ``neg_`` are drawn
    as the errors that they are.

    Parameters
    ----------
    test_scores : ndarray of shape (n_depths, n_splits)
        Scores on the users held out.
    train_scores : ndarray of shape (n_depths, n_splits), default=None
        Scores on the training users.
    score_name : str, default="score"
        What the scores are, as scikit-learn names them.
    name : str, default=None
        What was scored, for the legend.
    depths : ndarray of shape (n_depths,)
        The pooling depths, ascending.

    Attributes
    ----------
    lines_ : list of matplotlib.lines.Line2D
        The mean scores: on users held out, on training users, or both.
    bands_ : list of matplotlib.collections.PolyCollection
        Their standard deviations.
    best_ : matplotlib.lines.Line2D or None
        The ring around the best mean on users held out; None if these are not drawn.
    ax_ : matplotlib.axes.Axes
        The axes.
    figure_ : matplotlib.figure.Figure
        The figure.

    See Also
    --------
    sklearn.model_selection.ValidationCurveDisplay : The same for any parameter.

    Examples
    --------
    >>> from lightgbm import LGBMClassifier
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.pipeline import make_pipeline
    >>> from skllm4es import EventSerializer, LLMEmbedder
    >>> from skllm4es.datasets import make_transactions
    >>> from skllm4es.plotting import PoolingDepthDisplay
    >>> X, y = make_transactions(n_users=20, mean_events=3, random_state=0)
    >>> tiny = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> embedder = LLMEmbedder(tiny, epochs=1, random_state=0)
    >>> pipeline = make_pipeline(EventSerializer(["mcc"]), embedder, LGBMClassifier(verbose=-1, n_jobs=1))
    >>> search = GridSearchCV(pipeline, {"llmembedder__pooling_depth": [1, 2]}, cv=2, refit=False).fit(X, y)
    >>> display = PoolingDepthDisplay.from_cv_results(search.cv_results_, score_name="accuracy")
    >>> display.lines_[0].get_xdata().tolist()
    [1, 2]
    """

    depths: npt.NDArray[np.int64]
    best_: Line2D | None = field(init=False, repr=False)

    @classmethod
    def from_cv_results(
        cls,
        cv_results: Mapping[str, Any],
        *,
        param_name: str | None = None,
        metric: str = "score",
        score_name: str | None = None,
        name: str | None = None,
        score_type: str = "test",
        ax: Axes | None = None,
        line_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw what a search over pooling depths found.

        Where the search also went over other parameters, each depth is drawn with those that were best for it.

        Parameters
        ----------
        cv_results : dict
            The attribute `cv_results_` of a fitted :class:`~sklearn.model_selection.GridSearchCV`, or of another search
            of its kind.
        param_name : str, default=None
            The parameter, for example ``"embed__pooling_depth"``; needed only where several end in ``pooling_depth``.
        metric : str, default="score"
            Which of the scores, if the search had several.
        score_name : str, default=None
            What the axis says; `metric` by default.
        name : str, default=None
            What was scored, for the legend.
        score_type : {"test", "train", "both"}, default="test"
            Whether users held out, training users or both are drawn. The search has scores of training users with
            ``return_train_score=True``.
        ax : matplotlib.axes.Axes, default=None
            The axes to draw in; those of a new figure by default.
        line_kw : dict, default=None
            Settings of the lines, as :meth:`matplotlib.axes.Axes.plot` takes them.

        Returns
        -------
        PoolingDepthDisplay
            The display.

        Raises
        ------
        ValueError
            If there is no such parameter or metric, or a depth is not a number.
        """
        searched = [key.removeprefix("param_") for key in cv_results if key.startswith("param_")]
        depths = _as_numbers(cv_results[f"param_{_find_parameter(searched, param_name)}"])
        if f"mean_test_{metric}" not in cv_results:
            metrics = [key.removeprefix("mean_test_") for key in cv_results if key.startswith("mean_test_")]
            raise ValueError(f"The search has no metric {metric!r}; it has {metrics}. Name one by metric=.")
        # By depth, and of each depth the best last: candidates that failed have no score, and go first.
        means = np.asarray(cv_results[f"mean_test_{metric}"], dtype=float)
        order = np.lexsort((np.where(np.isnan(means), -np.inf, means), depths))
        chosen = order[np.append(np.diff(depths[order]) != 0, True)]
        train_scores = _scores_of_splits(cv_results, f"train_{metric}")
        display = cls(
            depths=depths[chosen],
            test_scores=_scores_of_splits(cv_results, f"test_{metric}")[chosen],
            train_scores=train_scores[chosen] if train_scores.size else None,
            score_name=metric if score_name is None else score_name,
            name=name,
        )
        return display.plot(ax=ax, score_type=score_type, line_kw=line_kw)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        depths: Sequence[int],
        param_name: str | None = None,
        cv: Any = None,
        scoring: Any = None,
        n_jobs: int | None = None,
        score_name: str | None = None,
        name: str | None = None,
        score_type: str = "test",
        ax: Axes | None = None,
        line_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Cross-validate an estimator at some pooling depths, and draw the scores.

        Give its `LLMEmbedder` a `memory`: each fold then costs one fine-tuning, not one for each depth.

        Parameters
        ----------
        estimator : estimator
            A pipeline with an `LLMEmbedder`. It is cloned.
        X : dataframe of shape (n_users, n_columns)
            What the pipeline takes.
        y : array-like of shape (n_users,), default=None
            The target.
        depths : sequence of int
            The pooling depths.
        param_name : str, default=None
            The parameter, for example ``"embed__pooling_depth"``; needed only where several end in ``pooling_depth``.
        cv : int, cross-validation generator or iterable, default=None
            The splits, as in :func:`~sklearn.model_selection.cross_val_score`.
        scoring : str or callable, default=None
            The score, likewise.
        n_jobs : int, default=None
            Number of processes, as joblib counts them.
        score_name : str, default=None
            What the axis says; the name of `scoring` by default.
        name : str, default=None
            What is scored, for the legend.
        score_type : {"test", "train", "both"}, default="test"
            Whether users held out, training users or both are drawn.
        ax : matplotlib.axes.Axes, default=None
            The axes to draw in; those of a new figure by default.
        line_kw : dict, default=None
            Settings of the lines, as :meth:`matplotlib.axes.Axes.plot` takes them.

        Returns
        -------
        PoolingDepthDisplay
            The display.

        Raises
        ------
        ValueError
            If the estimator has no such parameter.
        """
        ascending = np.unique(_as_numbers(depths))
        train_scores, test_scores = validation_curve(
            estimator,
            X,
            y,
            param_name=_find_parameter(list(estimator.get_params()), param_name),
            param_range=ascending.tolist(),
            cv=cv,
            scoring=scoring,
            n_jobs=n_jobs,
            error_score="raise",
        )
        display = cls(
            depths=ascending,
            test_scores=test_scores,
            train_scores=train_scores,
            score_name=name_of_score(scoring) if score_name is None else score_name,
            name=name,
        )
        return display.plot(ax=ax, score_type=score_type, line_kw=line_kw)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        name: str | None = None,
        score_type: str = "test",
        line_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            The axes to draw in; those of a new figure by default.
        name : str, default=None
            What was scored, for the legend; the attribute `name` by default.
        score_type : {"test", "train", "both"}, default="test"
            Whether users held out, training users or both are drawn.
        line_kw : dict, default=None
            Settings of the lines, as :meth:`matplotlib.axes.Axes.plot` takes them.

        Returns
        -------
        PoolingDepthDisplay
            The display.
        """
        self._draw(self.depths, ax, name, score_type, line_kw)
        means = self.test_scores.mean(axis=1)
        self.best_ = None
        if score_type != "train" and not np.isnan(means).all():
            best = [int(np.nanargmax(means))]
            colour = self.lines_[0].get_color()
            (self.best_,) = self.ax_.plot(self.depths[best], self._as_drawn(means)[best], color=colour, **RING)
        self.ax_.set_xlabel("pooling depth (last hidden layers)")
        self.ax_.locator_params(axis="x", integer=True)
        return self


def _find_parameter(names: Sequence[str], wanted: str | None) -> str:
    found = [name for name in names if name == wanted or (wanted is None and name.split("__")[-1] == _PARAMETER)]
    if len(found) != 1:
        sought = f"end in {_PARAMETER}" if wanted is None else f"are called {wanted}"
        known = f"they are {found}. Name one by param_name=" if found else f"there are {sorted(names)}"
        raise ValueError(f"{len(found)} parameters {sought}, where one is needed: {known}.")
    return found[0]


def _as_numbers(depths: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    values = list(depths)
    if odd := [depth for depth in values if isinstance(depth, bool) or not isinstance(depth, Integral)]:
        raise ValueError(
            f"The pooling depths must be whole numbers; got {odd[0]!r}. 'auto' has no place on the axis: name a number."
        )
    return np.array(values, dtype=np.int64)


def _scores_of_splits(cv_results: Mapping[str, Any], ending: str) -> npt.NDArray[np.float64]:
    """Gather the scores: one row a candidate, one column a split."""
    n_splits = sum(key.startswith("split") and key.endswith(f"_{ending}") for key in cv_results)
    scores = [cv_results[f"split{split}_{ending}"] for split in range(n_splits)]
    return np.array(scores, dtype=float).T
