"""FineTuningLossDisplay: the losses of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from skllm4es.plotting._base import RING, Display, find_step, verbatim

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


@dataclass(eq=False, kw_only=True)
class FineTuningLossDisplay(Display):
    """Loss on the training texts and on the users held out, during a training.

    Build it with `from_estimator`. The ring marks the lowest loss on the users held out; the weights at that point were
    kept.

    Parameters
    ----------
    loss_curve : sequence of float
        The mean training losses of the parts of the training.
    validation_loss_curve : sequence of float, default=()
        The losses on the users held out.
    loss_curve_tokens : sequence of int, default=None
        Number of tokens trained on by the end of each part. If None, the parts are equal, and the axis shows the share
        of the training.
    validation_loss_curve_tokens : sequence of int, default=None
        Number of tokens trained on before each loss on the users held out. If None, these are at equal distances.

    Attributes
    ----------
    line_ : matplotlib.lines.Line2D
        The training losses, each at the middle of its part.
    validation_line_ : matplotlib.lines.Line2D or None
        The loss on the users held out, if there are any.
    best_ : matplotlib.lines.Line2D or None
        The ring around the lowest of these.
    {axes}

    Examples
    --------
    >>> from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder
    >>> from skllm4es.datasets import make_transactions
    >>> from skllm4es.plotting import FineTuningLossDisplay
    >>> X, y = make_transactions(n_users=20, mean_events=3, random_state=0)
    >>> texts = EventSerializer(["mcc"]).fit_transform(X)
    >>> tiny = FromScratch(n_params=1000)
    >>> finetune = FineTuning(epochs=1, validation_fraction=0.2)
    >>> embedder = LLMEmbedder(tiny, finetune=finetune, random_state=0).fit(texts)
    >>> display = FineTuningLossDisplay.from_estimator(embedder)
    >>> display.ax_.get_xlabel()
    'tokens'
    """

    loss_curve: Sequence[float]
    validation_loss_curve: Sequence[float] = ()
    loss_curve_tokens: Sequence[int] | None = None
    validation_loss_curve_tokens: Sequence[int] | None = None
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
            A fitted embedder or neural baseline, or a fitted pipeline with one among its steps.
        {ax}
        name : str, default=None
            What was trained, for the legend.
        {line_kw}

        Returns
        -------
        {display}

        Raises
        ------
        ValueError
            If there is no such estimator, or it was not trained.
        """
        # A classifier may have a loss_curve_ too.
        _, embedder = find_step(estimator, "validation_loss_curve_")
        if not embedder.loss_curve_:
            raise ValueError(
                f"{type(embedder).__name__} has no losses to draw, because it was not trained, as with finetune=None. "
                "Pass an embedder that was trained."
            )
        display = cls(
            loss_curve=embedder.loss_curve_,
            validation_loss_curve=embedder.validation_loss_curve_,
            loss_curve_tokens=getattr(embedder, "loss_curve_tokens_", None),
            validation_loss_curve_tokens=getattr(embedder, "validation_loss_curve_tokens_", None),
        )
        return display.plot(ax=ax, name=name, line_kw=line_kw)

    def plot(
        self, ax: Axes | None = None, *, name: str | None = None, line_kw: Mapping[str, Any] | None = None
    ) -> Self:
        """Draw the losses.

        Parameters
        ----------
        {ax}
        name : str, default=None
            What was trained, for the legend.
        {line_kw}

        Returns
        -------
        {display}

        Raises
        ------
        ValueError
            If there are no losses.
        """
        if not len(self.loss_curve):
            raise ValueError("There are 0 losses: nothing to draw.")
        ax = self._axes(ax)
        from matplotlib.ticker import EngFormatter

        prefix = f"{name}, " if name else ""
        style = dict(line_kw or {})
        # A training loss is the mean over its part, a validation loss belongs to the end of one.
        ends = self._ends(self.loss_curve, self.loss_curve_tokens)
        middles = ends - np.diff(ends, prepend=0) / 2
        (self.line_,) = ax.plot(middles, self.loss_curve, **{"label": f"{prefix}training"} | style)
        self.validation_line_ = self.best_ = None
        if len(self.validation_loss_curve):
            ends = self._ends(self.validation_loss_curve, self.validation_loss_curve_tokens)
            losses = np.array(self.validation_loss_curve)
            style |= {"color": self.line_.get_color(), "linestyle": "--", "marker": "."}
            (self.validation_line_,) = ax.plot(ends, losses, **{"label": f"{prefix}users held out"} | style)
            best = [int(losses.argmin())]
            (self.best_,) = ax.plot(ends[best], losses[best], color=style["color"], **RING)
        if self.loss_curve_tokens is None:
            ax.set(xlabel="share of the training", ylabel="loss")
        else:
            ax.set(xlabel="tokens", ylabel="next-token loss (nats)")
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        verbatim(*ax.legend().get_texts())
        return self

    def _ends(self, losses: Sequence[float], tokens: Sequence[int] | None) -> npt.NDArray[np.float64]:
        """Return where the parts of the training end that losses belong to."""
        if tokens is not None:
            return np.array(tokens, dtype=float)
        whole = 1 if self.loss_curve_tokens is None else self.loss_curve_tokens[-1]
        return np.arange(1, len(losses) + 1) / len(losses) * whole
