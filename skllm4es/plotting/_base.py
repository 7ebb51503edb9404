"""What the displays share: axes to draw in, and the step of a pipeline that they look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn.pipeline import Pipeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: How the best point of a curve is marked.
RING: dict[str, Any] = {"marker": "o", "markersize": 13, "fillstyle": "none", "linestyle": "none"}


class Display:
    """Base of the displays.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes that were drawn in.
    figure_ : matplotlib.figure.Figure
        Their figure.
    """

    ax_: Axes
    figure_: Figure

    def _axes(self, ax: Axes | None) -> Axes:
        """Give the axes to draw in, new ones where there are none, and note them."""
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(f"{type(self).__name__} needs matplotlib: pip install 'skllm4es[plot]'.") from error
        self.ax_ = plt.subplots(layout="constrained")[1] if ax is None else ax
        self.figure_ = self.ax_.figure  # type: ignore[assignment]
        return self.ax_


def find_step(estimator: Any, attribute: str) -> tuple[Any, Any]:
    """Find the estimator that has a learned attribute: a fitted estimator itself, or a step of a fitted pipeline.

    Parameters
    ----------
    estimator : estimator
        A fitted estimator or pipeline.
    attribute : str
        What is looked for, such as ``"max_length_"``.

    Returns
    -------
    before : Pipeline or None
        The steps before it, if there are any.
    step : estimator
        The last step that has the attribute.

    Raises
    ------
    ValueError
        If there is none.
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
