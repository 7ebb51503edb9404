"""DataEfficiencyDisplay: how well users are predicted, against the number of those whose label is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import learning_curve

from skllm4es.plotting._score_curve import ScoreCurve, name_of_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(eq=False, kw_only=True)
class DataEfficiencyDisplay(ScoreCurve):
    """Learning curve over the number of labelled users.

    Build it with `from_estimator`, and draw several into one axes to compare them. The lines are means over the splits,
    the bands a standard deviation to both sides. Scores whose name begins with ``neg_`` are drawn as the errors that
    they are.

    Parameters
    ----------
    test_scores : ndarray of shape (n_sizes, n_splits)
        Scores on the users held out.
    train_scores : ndarray of shape (n_sizes, n_splits), default=None
        Scores on the training users.
    score_name : str, default="score"
        What the scores are, as scikit-learn names them.
    name : str, default=None
        What was scored, for the legend.
    n_users : ndarray of shape (n_sizes,)
        Numbers of labelled users to learn from, ascending.

    Attributes
    ----------
    lines_ : list of matplotlib.lines.Line2D
        The mean scores: on users held out, on training users, or both.
    bands_ : list of matplotlib.collections.PolyCollection
        Their standard deviations.
    ax_ : matplotlib.axes.Axes
        The axes.
    figure_ : matplotlib.figure.Figure
        The figure.

    See Also
    --------
    sklearn.model_selection.LearningCurveDisplay : The same, with other axes.

    Notes
    -----
    All of the estimator is fitted to the labelled users of each size, the language model among it. Embeddings that
    were learned from users without a label too are a step that is not fitted again: put a fitted embedder in a
    :class:`~sklearn.frozen.FrozenEstimator`, or pass the embeddings as `X`.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skllm4es.baselines import EventAggregator
    >>> from skllm4es.datasets import make_transactions
    >>> from skllm4es.plotting import DataEfficiencyDisplay
    >>> X, y = make_transactions(n_users=100, mean_events=10, random_state=0)
    >>> aggregates = make_pipeline(EventAggregator(), StandardScaler(), LogisticRegression())
    >>> display = DataEfficiencyDisplay.from_estimator(
    ...     aggregates, X, y, train_sizes=[20, 40, 80], scoring="roc_auc", name="aggregates"
    ... )
    >>> display.n_users.tolist()
    [20, 40, 80]
    """

    n_users: npt.NDArray[np.int64]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        train_sizes: Sequence[float] | npt.NDArray[Any],
        cv: Any = None,
        scoring: Any = None,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
        score_name: str | None = None,
        name: str | None = None,
        score_type: str = "test",
        ax: Axes | None = None,
        line_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Cross-validate an estimator with few labelled users, then with more, and draw the scores.

        Parameters
        ----------
        estimator : estimator
            What predicts. It is cloned.
        X : dataframe or array of shape (n_users, n_columns)
            What it takes.
        y : array-like of shape (n_users,)
            The target.
        train_sizes : array-like of shape (n_sizes,)
            The numbers of labelled users, or their shares of the largest training set if they are floats.
        cv : int, cross-validation generator or iterable, default=None
            The splits, as in :func:`~sklearn.model_selection.learning_curve`.
        scoring : str or callable, default=None
            The score, likewise.
        shuffle : bool, default=True
            Whether the users of each size are drawn at random, rather than the first ones taken. Smaller sets are parts
            of the larger ones.
        random_state : int, RandomState instance or None, default=None
            Determines which users are drawn.
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
        DataEfficiencyDisplay
            The display.
        """
        n_users, train_scores, test_scores = learning_curve(
            estimator,
            X,
            y,
            train_sizes=train_sizes,
            cv=cv,
            scoring=scoring,
            shuffle=shuffle,
            random_state=random_state,
            n_jobs=n_jobs,
            error_score="raise",
        )
        display = cls(
            n_users=n_users,
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
        DataEfficiencyDisplay
            The display.
        """
        self._draw(self.n_users, ax, name, score_type, line_kw)
        self.ax_.set_xlabel("labelled users")
        self.ax_.set_xscale("log")
        # The numbers of users themselves, which are few, instead of powers of ten.
        sizes = np.unique(np.concatenate([np.asarray(line.get_xdata()) for line in self.ax_.get_lines()]))
        self.ax_.set_xticks(sizes, [f"{size:g}" for size in sizes])
        self.ax_.minorticks_off()
        return self
