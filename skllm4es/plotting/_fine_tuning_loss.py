"""FineTuningLossDisplay: how the loss fell while the language model was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from skllm4es.plotting._base import RING, Display, find_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


@dataclass(eq=False, kw_only=True)
class FineTuningLossDisplay(Display):
    """Loss of training, and on the users held out, over the course of a training.

    Build it with `from_estimator`. The ring is the lowest loss on the users held out: the weights that were taken.

    Parameters
    ----------
    loss_curve : sequence of float
        The training losses of stretches of equal length.
    validation_loss_curve : sequence of float, default=()
        The losses on the users held out, at equal distances.
    n_tokens : int, default=None
        The tokens that were trained on, for the axis; it shows the share of the training without them.

    Attributes
    ----------
    line_ : matplotlib.lines.Line2D
        The training loss, each at the middle of its stretch.
    validation_line_ : matplotlib.lines.Line2D or None
        The loss on the users held out, if there are such.
    best_ : matplotlib.lines.Line2D or None
        The ring around the lowest of it.
    ax_ : matplotlib.axes.Axes
        The axes.
    figure_ : matplotlib.figure.Figure
        The figure.

    Examples
    --------
    >>> from skllm4es import EventSerializer, LLMEmbedder
    >>> from skllm4es.datasets import make_transactions
    >>> from skllm4es.plotting import FineTuningLossDisplay
    >>> X, y = make_transactions(n_users=20, mean_events=3, random_state=0)
    >>> texts = EventSerializer(["mcc"]).fit_transform(X)
    >>> tiny = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> embedder = LLMEmbedder(tiny, epochs=1, validation_fraction=0.2, random_state=0).fit(texts)
    >>> display = FineTuningLossDisplay.from_estimator(embedder)
    >>> display.ax_.get_xlabel()
    'tokens'
    """

    loss_curve: Sequence[float]
    validation_loss_curve: Sequence[float] = ()
    n_tokens: int | None = None
    line_: Line2D = field(init=False, repr=False)
    validation_line_: Line2D | None = field(init=False, repr=False)
    best_: Line2D | None = field(init=False, repr=False)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        ax: Axes | None = None,
        name: str | None = None,
        line_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the losses of a fitted estimator.

        Parameters
        ----------
        estimator : LLMEmbedder or Pipeline
            A fitted embedder, or a fitted pipeline with one among its steps. The neural baselines will do as well.
        ax : matplotlib.axes.Axes, default=None
            The axes to draw in; those of a new figure by default.
        name : str, default=None
            What was trained, for the legend.
        line_kw : dict, default=None
            Settings of the lines, as :meth:`matplotlib.axes.Axes.plot` takes them.

        Returns
        -------
        FineTuningLossDisplay
            The display.

        Raises
        ------
        ValueError
            If there is no such embedder, or it was not trained.
        """
        # A classifier may have a loss_curve_ too.
        _, embedder = find_step(estimator, "validation_loss_curve_")
        if not embedder.loss_curve_:
            raise ValueError(
                f"{type(embedder).__name__} has no losses to draw: it was not trained, as with finetune=None."
            )
        display = cls(
            loss_curve=embedder.loss_curve_,
            validation_loss_curve=embedder.validation_loss_curve_,
            n_tokens=getattr(embedder, "n_tokens_seen_", None),
        )
        return display.plot(ax=ax, name=name, line_kw=line_kw)

    def plot(
        self, ax: Axes | None = None, *, name: str | None = None, line_kw: Mapping[str, Any] | None = None
    ) -> Self:
        """Draw the losses.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            The axes to draw in; those of a new figure by default.
        name : str, default=None
            What was trained, for the legend.
        line_kw : dict, default=None
            Settings of the lines, as :meth:`matplotlib.axes.Axes.plot` takes them.

        Returns
        -------
        FineTuningLossDisplay
            The display.
        """
        ax = self._axes(ax)
        from matplotlib.ticker import EngFormatter

        prefix = f"{name}, " if name else ""
        style = dict(line_kw or {})
        # A loss is the mean of its stretch, an evaluation is at the end of one.
        ends = self._places(len(self.loss_curve))
        middles = ends - ends[0] / 2
        (self.line_,) = ax.plot(middles, self.loss_curve, **{"label": f"{prefix}training"} | style)
        self.validation_line_ = self.best_ = None
        if len(self.validation_loss_curve):
            ends, losses = self._places(len(self.validation_loss_curve)), np.array(self.validation_loss_curve)
            style |= {"color": self.line_.get_color(), "linestyle": "--", "marker": "."}
            (self.validation_line_,) = ax.plot(ends, losses, **{"label": f"{prefix}users held out"} | style)
            best = [int(losses.argmin())]
            (self.best_,) = ax.plot(ends[best], losses[best], color=style["color"], **RING)
        if self.n_tokens is None:
            ax.set(xlabel="share of the training", ylabel="loss")
        else:
            ax.set(xlabel="tokens", ylabel="next-token loss (nats)")
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.legend()
        return self

    def _places(self, n: int) -> npt.NDArray[np.float64]:
        """Give the ends of n equal stretches of the training."""
        return np.arange(1, n + 1) / n * (self.n_tokens or 1)
