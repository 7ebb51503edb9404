"""What the displays share: axes to draw in, documentation, and the search for a step of a pipeline."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from sklearn.pipeline import Pipeline

from skllm4es._docstrings import fill

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

#: How the best point of a curve is marked.
RING: dict[str, Any] = {"marker": "o", "markersize": 13, "fillstyle": "none", "linestyle": "none"}

_PARAGRAPHS = {
    "ax": """\
ax : matplotlib.axes.Axes, default=None
    Axes to draw in; by default those of a new figure.""",
    "line_kw": """\
line_kw : dict, default=None
    Settings of the lines, passed to :meth:`matplotlib.axes.Axes.plot`.""",
    "bar_kw": """\
bar_kw : dict, default=None
    Settings of the histogram, passed to :meth:`matplotlib.axes.Axes.hist`.""",
    "scatter_kw": """\
scatter_kw : dict, default=None
    Settings of the points, passed to :meth:`matplotlib.axes.Axes.scatter`.""",
    "map": """\
method : {"pca", "umap"}, default="pca"
    How to reduce the vectors to two dimensions. They are used as they are: scale dimensions with scales of their own,
    as those of aggregates, before. "umap" needs umap-learn: ``pip install 'skllm4es[umap]'``.
random_state : int, RandomState instance or None, default=None
    Determines the map of "umap".
target_name : str, default=None
    Title of the legend; by default the name of `target`, if it has one.""",
    "axes": """\
ax_ : matplotlib.axes.Axes
    The axes.
figure_ : matplotlib.figure.Figure
    The figure.""",
    "fitted": """\
estimator : LLMEmbedder or Pipeline
    A fitted embedder, or a fitted pipeline with one among its steps.""",
}


class Display:
    """Base of the displays, which fills in their docstrings."""

    ax_: Axes
    figure_: Figure

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        paragraphs = _PARAGRAPHS | {"display": f"display : {cls.__name__}\n    The display."}
        cls.__doc__ = fill(cls.__doc__, paragraphs)
        for name, method in vars(cls).items():
            function = getattr(method, "__func__", method)
            if inspect.isfunction(function) and not name.startswith("_"):
                function.__doc__ = fill(function.__doc__, paragraphs)

    def _axes(self, ax: Axes | None) -> Axes:
        """Return the axes to draw in, new ones if there are none, and remember them."""
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(f"{type(self).__name__} needs matplotlib: pip install 'skllm4es[plot]'.") from error
        self.ax_ = plt.subplots(layout="constrained")[1] if ax is None else ax
        self.figure_ = self.ax_.figure  # type: ignore[assignment]
        return self.ax_


def verbatim(*texts: Text) -> None:
    """Draw texts as they are: what is between two dollar signs would be a formula, and often not a valid one."""
    for text in texts:
        text.set_parse_math(False)


def find_step(estimator: Any, attribute: str) -> tuple[Pipeline | None, Any]:
    """Find the fitted estimator that has an attribute: `estimator` itself, or the last such step of a pipeline.

    Returns
    -------
    before : Pipeline or None
        The steps before it, if there are any.
    step : estimator
        The estimator.
    """
    if hasattr(estimator, attribute):
        return None, estimator
    steps = [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else []
    for position in reversed(range(len(steps))):
        if hasattr(steps[position], attribute):
            return estimator[:position] if position else None, steps[position]
    raise ValueError(
        f"Neither {type(estimator).__name__} nor one of its steps has the attribute {attribute}. Pass a fitted "
        "LLMEmbedder, or a fitted Pipeline with one among its steps."
    )
