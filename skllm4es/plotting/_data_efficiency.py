"""DataEfficiencyDisplay: scores against the number of users whose label is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.model_selection import LearningCurveDisplay

from skllm4es.plotting._score_curve import ScoreCurve, check_several

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class DataEfficiencyDisplay(ScoreCurve, LearningCurveDisplay):
    """Learning curve over the number of labelled users.

    A :class:`~sklearn.model_selection.LearningCurveDisplay` with the numbers of users on a logarithmic axis, and a name
    for the legend: build it with `from_estimator`, and draw several into the same axes to compare them. The lines are
    means over the splits, the bands a standard deviation to both sides.

    Parameters
    ----------
    train_sizes : ndarray of shape (n_sizes,)
        Numbers of labelled users to learn from.
    train_scores : ndarray of shape (n_sizes, n_splits)
        Scores on the training users.
    test_scores : ndarray of shape (n_sizes, n_splits)
        Scores on the users held out.
    score_name : str, default=None
        Name of the score, for the axis.

    Attributes
    ----------
    lines_ : list of matplotlib.lines.Line2D
        The mean scores: on users held out, on training users, or both.
    fill_between_ : list of matplotlib.collections.PolyCollection
        Their standard deviations.
    {axes}

    Notes
    -----
    The whole estimator is fitted to the labelled users of each size, including the language model. To use embeddings
    that were learned from users without a label as well, put the fitted embedder in a
    :class:`~sklearn.frozen.FrozenEstimator`, or pass the embeddings as `X`.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.impute import SimpleImputer
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skllm4es.baselines import EventAggregator
    >>> from skllm4es.datasets import make_transactions
    >>> from skllm4es.plotting import DataEfficiencyDisplay
    >>> X, y = make_transactions(n_users=100, mean_events=10, random_state=0)
    >>> aggregates = make_pipeline(
    ...     EventAggregator(), SimpleImputer(), StandardScaler(), LogisticRegression()
    ... )
    >>> display = DataEfficiencyDisplay.from_estimator(
    ...     aggregates, X, y, train_sizes=[20, 40, 80], scoring="roc_auc", name="aggregates"
    ... )
    >>> display.train_sizes.tolist()
    [20, 40, 80]
    """

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, y: Any, *, name: str | None = None, **kwargs: Any) -> Self:
        """Cross-validate an estimator with few labelled users, then with more, and draw the scores.

        Parameters
        ----------
        estimator : estimator
            The predictor. It is cloned.
        X : dataframe or array of shape (n_users, n_columns)
            Its input.
        y : array-like of shape (n_users,)
            The target.
        name : str, default=None
            What is scored, for the legend.
        **kwargs : dict
            Further parameters of :meth:`sklearn.model_selection.LearningCurveDisplay.from_estimator`, such as
            `train_sizes`, `cv`, `scoring`, `random_state`, `n_jobs`, `negate_score`, `score_name`, `ax` and `line_kw`.
            The defaults differ: the users of each size are drawn at random (`shuffle`), a fit that fails is an error
            (`error_score`), and the scores on users held out are drawn (`score_type`).

        Returns
        -------
        {display}
        """
        if "train_sizes" in kwargs:
            check_several(kwargs["train_sizes"], "train_sizes")
        settings = {**cls.DEFAULTS, "shuffle": True, **kwargs}
        display: Self = super().from_estimator(estimator, X, y, **settings)
        return display._name_lines(name)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Self:
        """Draw the curve.

        Parameters
        ----------
        {ax}
        **kwargs : dict
            `name` for the legend, and parameters of :meth:`sklearn.model_selection.LearningCurveDisplay.plot`.

        Returns
        -------
        {display}
        """
        super().plot(ax, **kwargs)
        self.ax_.set_xlabel("labelled users")
        self.ax_.set_xscale("log")
        # Write the few numbers of users instead of powers of ten. A line across the axes (axhline) has none.
        curves = [line for line in self.ax_.get_lines() if line.get_transform() == self.ax_.transData]
        sizes = np.unique(np.concatenate([np.asarray(line.get_xdata()) for line in curves]))
        self.ax_.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
        self.ax_.minorticks_off()
        return self
