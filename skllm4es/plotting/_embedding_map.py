"""EmbeddingMapDisplay: the vectors of users in two dimensions, coloured by a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import issparse
from sklearn.base import is_classifier, is_regressor
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline
from sklearn.utils import assert_all_finite

from skllm4es._messages import check_has_length
from skllm4es.plotting._base import Display, verbatim

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colorbar import Colorbar

#: Whole numbers with at most this many distinct values are classes.
_MAX_CLASSES = 10


@dataclass(eq=False, kw_only=True)
class EmbeddingMapDisplay(Display):
    """Map of users: their embeddings in two dimensions, coloured by a target.

    Build it with `from_estimator` or `from_embeddings`. A target of texts, booleans, categories, or at most 10 distinct
    whole numbers has one colour per class; other numbers have a colour scale. Users without a target are grey.

    Parameters
    ----------
    positions : ndarray of shape (n_users, 2)
        Positions of the users.
    target : array-like of shape (n_users,), default=None
        What they are coloured by.
    axis_names : tuple of two str, default=("", "")
        Labels of the axes.
    target_name : str, default=None
        Title of the legend or colour scale.

    Attributes
    ----------
    scatters_ : list of matplotlib.collections.PathCollection
        The points of each class, in the order of the legend, or of all users with a number. Users without a target
        come first.
    colorbar_ : matplotlib.colorbar.Colorbar or None
        The colour scale, if the target is a number.
    {axes}

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder
    >>> from skllm4es.datasets import make_transactions
    >>> from skllm4es.plotting import EmbeddingMapDisplay
    >>> X, y = make_transactions(n_users=20, mean_events=3, random_state=0)
    >>> tiny = FromScratch(n_params=1000)
    >>> embedder = LLMEmbedder(tiny, finetune=FineTuning(epochs=1), random_state=0)
    >>> pipeline = make_pipeline(EventSerializer(["mcc"]), embedder).fit(X)
    >>> display = EmbeddingMapDisplay.from_estimator(pipeline, X, y, target_name="leaves")
    >>> [text.get_text() for text in display.ax_.get_legend().get_texts()]
    ['0', '1']
    """

    positions: npt.NDArray[np.float64]
    target: Any = None
    axis_names: tuple[str, str] = ("", "")
    target_name: str | None = None
    scatters_: list[PathCollection] = field(init=False, repr=False)
    colorbar_: Colorbar | None = field(init=False, repr=False)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        target: Any = None,
        *,
        method: str = "pca",
        random_state: int | np.random.RandomState | None = None,
        target_name: str | None = None,
        ax: Axes | None = None,
        scatter_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Embed users, and draw their map.

        Parameters
        ----------
        estimator : estimator
            A fitted transformer of users to vectors, or a fitted pipeline, whose final predictor is left out.
        X : dataframe of shape (n_users, n_columns)
            Its input.
        target : array-like of shape (n_users,), default=None
            What the users are coloured by.
        {map}
        {ax}
        {scatter_kw}

        Returns
        -------
        {display}
        """
        if isinstance(estimator, Pipeline) and _predicts(estimator):
            estimator = estimator[:-1]
        return cls.from_embeddings(
            estimator.transform(X),
            target,
            method=method,
            random_state=random_state,
            target_name=target_name,
            ax=ax,
            scatter_kw=scatter_kw,
        )

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Any,
        target: Any = None,
        *,
        method: str = "pca",
        random_state: int | np.random.RandomState | None = None,
        target_name: str | None = None,
        ax: Axes | None = None,
        scatter_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the map of given vectors.

        Parameters
        ----------
        embeddings : array-like or sparse matrix of shape (n_users, n_features)
            The vectors: at least two, with at least two dimensions.
        target : array-like of shape (n_users,), default=None
            What the users are coloured by.
        {map}
        {ax}
        {scatter_kw}

        Returns
        -------
        {display}

        Raises
        ------
        ValueError
            If there are too few vectors, their number differs from that of the targets, or they hold NaN or infinity.
        """
        if not hasattr(embeddings, "shape"):
            check_has_length(embeddings, "array-like of vectors expected")
        if issparse(embeddings):
            embeddings = embeddings.toarray()
        vectors = np.asarray(embeddings, dtype=np.float64)
        if vectors.ndim != 2 or min(vectors.shape) < 2:
            raise ValueError(
                f"A map needs at least 2 users and 2 dimensions; the embeddings have shape {vectors.shape}."
            )
        assert_all_finite(vectors, input_name="embeddings")
        if method not in _METHODS:
            raise ValueError(f"method={method!r} must be one of {list(_METHODS)}.")
        positions, axis_names = _METHODS[method](vectors, random_state)
        if target_name is None:
            target_name = getattr(target, "name", None)
        display = cls(positions=positions, target=target, axis_names=axis_names, target_name=target_name)
        return display.plot(ax=ax, scatter_kw=scatter_kw)

    def plot(self, ax: Axes | None = None, *, scatter_kw: Mapping[str, Any] | None = None) -> Self:
        """Draw the map.

        Parameters
        ----------
        {ax}
        {scatter_kw}

        Returns
        -------
        {display}
        """
        target = None if self.target is None else _as_series(self.target, len(self.positions))
        style = {"s": 18, "alpha": 0.8, "linewidths": 0} | dict(scatter_kw or {})
        ax = self._axes(ax)
        self.scatters_, self.colorbar_ = [], None
        if target is None:
            self._scatter(slice(None), style)
        else:
            if (unknown := target.isna().to_numpy()).any():
                self._scatter(unknown, style | {"color": "lightgrey", "label": "unknown"})
            if _is_categorical(target):
                classes = _classes(target)
                for value, colour in zip(classes, _colours(len(classes)), strict=True):
                    users = (target == value).fillna(False).to_numpy(dtype=bool)
                    self._scatter(users, {"color": colour, "label": _as_label(value)} | style)
                place: dict[str, Any] = {}
                if len(classes) > _MAX_CLASSES:  # Their legend would cover the map.
                    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "ncols": -(-len(classes) // 25)}
                # Under other names at first: matplotlib leaves out those that begin with an underscore.
                numbers = [str(number) for number in range(len(self.scatters_))]
                legend = ax.legend(self.scatters_, numbers, title=self.target_name, **place)
                for text, scatter in zip(legend.get_texts(), self.scatters_, strict=True):
                    text.set_text(scatter.get_label())
                verbatim(*legend.get_texts(), legend.get_title())
            else:
                known = {"c": target[~unknown].to_numpy(dtype=float)}
                self._scatter(~unknown, style | known)
                self.colorbar_ = self.figure_.colorbar(self.scatters_[-1], ax=ax, label=self.target_name or "")
                verbatim(self.colorbar_.ax.yaxis.label)
        ax.set(xlabel=self.axis_names[0], ylabel=self.axis_names[1])
        verbatim(ax.xaxis.label, ax.yaxis.label)
        return self

    def _scatter(self, users: Any, style: Mapping[str, Any]) -> None:
        self.scatters_.append(self.ax_.scatter(*self.positions[users].T, **style))


def _predicts(pipeline: Pipeline) -> bool:
    """Whether a pipeline ends in a predictor; some of these, such as those that vote, have a `transform` as well."""
    return not hasattr(pipeline, "transform") or is_classifier(pipeline) or is_regressor(pipeline)


def _pca(vectors: npt.NDArray[np.float64], random_state: Any) -> tuple[npt.NDArray[np.float64], tuple[str, str]]:
    if not np.ptp(vectors, axis=0).any():
        raise ValueError(f"All {len(vectors)} embeddings are the same: they cannot be drawn as a map.")
    pca = PCA(2, svd_solver="full").fit(vectors)
    first, second = pca.explained_variance_ratio_
    names = (f"first component ({first:.0%} of variance)", f"second component ({second:.0%} of variance)")
    return pca.transform(vectors), names


def _umap(vectors: npt.NDArray[np.float64], random_state: Any) -> tuple[npt.NDArray[np.float64], tuple[str, str]]:
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError("method='umap' needs umap-learn: pip install 'skllm4es[umap]'.") from error
    # UMAP warns when a seed makes it use one thread.
    n_jobs = -1 if random_state is None else 1
    neighbours = min(15, len(vectors) - 1)
    umap = UMAP(n_neighbors=neighbours, random_state=random_state, n_jobs=n_jobs, init="pca")
    return umap.fit_transform(vectors), ("UMAP 1", "UMAP 2")


_METHODS = {"pca": _pca, "umap": _umap}


def _as_series(target: Any, n_users: int) -> pd.Series:
    check_has_length(target, "array-like as target expected")
    series = pd.Series(target).reset_index(drop=True).infer_objects()
    if pd.api.types.is_extension_array_dtype(series) and _is_number(series):
        series = pd.Series(series.to_numpy(dtype=float, na_value=np.nan))
    if len(series) != n_users:
        raise ValueError(f"The target has {len(series)} entries, but there are {n_users} users.")
    return series


def _is_categorical(target: pd.Series) -> bool:
    known = target.dropna()
    if not _is_number(known):
        return True
    return known.nunique() <= _MAX_CLASSES and bool((known % 1 == 0).all())


def _is_number(target: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(target) and not pd.api.types.is_bool_dtype(target)


def _colours(n_classes: int) -> list[Any]:
    """Return one colour per class: from matplotlib's cycle while it does not repeat, else from a rainbow."""
    from matplotlib import colormaps

    if n_classes <= _MAX_CLASSES:
        return [f"C{position}" for position in range(n_classes)]
    return list(colormaps["turbo"](np.linspace(0, 1, n_classes)))


def _as_label(value: Any) -> str:
    # Whole numbers beside missing ones are floats in pandas.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _classes(target: pd.Series) -> list[Any]:
    """Return the classes in order: that of a categorical, or of the values if they have one."""
    if isinstance(target.dtype, pd.CategoricalDtype):
        return [value for value in target.cat.categories if (target == value).any()]
    distinct = list(target.dropna().unique())
    try:
        return sorted(distinct)
    except TypeError:
        return distinct
