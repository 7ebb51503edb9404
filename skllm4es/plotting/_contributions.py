"""ContributionsDisplay: what the events of one user add to a score."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from skllm4es.plotting._base import Display, verbatim

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer

#: What no event adds has a grey bar, and so has the rest.
_GREY = ("(average user)", "(all others)")
_WIDTH = 60


@dataclass(eq=False, kw_only=True)
class ContributionsDisplay(Display):
    r"""Bars of what the events of one user add to a linear score, the largest first, and of all others together.

    Build it with `from_contributions` for what :meth:`~skllm4es.LLMEmbedder.explain` returns.

    Parameters
    ----------
    contributions : pandas.Series of shape (n_events,)
        What each event adds, with the events as index. It sums to the score, but for the intercept.

    Attributes
    ----------
    bars_ : matplotlib.container.BarContainer
        The bars, from the bottom up.
    {axes}

    Examples
    --------
    >>> import numpy as np
    >>> from skllm4es import FromScratch, LLMEmbedder
    >>> from skllm4es.plotting import ContributionsDisplay
    >>> texts = ["title|stars\nHeat, 5\nAlien, 4", "title|stars\nBambi, 1\nAlien, 5"]
    >>> tiny = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    >>> model = FromScratch(config=tiny | {"num_hidden_layers": 2})
    >>> embedder = LLMEmbedder(model, features="events", random_state=0).fit(texts)
    >>> contributions = embedder.explain(texts, np.ones(embedder.n_features_out_))
    >>> draw = ContributionsDisplay.from_contributions
    >>> display = draw(contributions, user=1, n_bars=3)
    >>> len(display.bars_)  # The others are one bar.
    4
    """

    contributions: pd.Series[Any]
    bars_: BarContainer = field(init=False, repr=False)

    @classmethod
    def from_contributions(
        cls,
        contributions: pd.DataFrame,
        *,
        user: int = 0,
        n_bars: int = 10,
        ax: Axes | None = None,
        bar_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the contributions of one user.

        Parameters
        ----------
        contributions : pandas.DataFrame
            What :meth:`~skllm4es.LLMEmbedder.explain` returns.
        user : int, default=0
            The user's position.
        n_bars : int, default=10
            How many contributions have a bar of their own.
        {ax}
        bar_kw : dict, default=None
            Settings of the bars, passed to :meth:`matplotlib.axes.Axes.barh`.

        Returns
        -------
        {display}

        Raises
        ------
        ValueError
            If there is no such user, or `n_bars` is less than 1.
        """
        of_user = contributions[contributions["user"] == user]
        if not len(of_user):
            raise ValueError(
                f"user={user!r} is not among the {contributions['user'].nunique()} users of the contributions. Pass a "
                "position in the texts that were explained."
            )
        display = cls(contributions=of_user.set_index("event")["contribution"])
        return display.plot(ax, n_bars=n_bars, bar_kw=bar_kw)

    def plot(self, ax: Axes | None = None, *, n_bars: int = 10, bar_kw: Mapping[str, Any] | None = None) -> Self:
        """Draw the bars.

        Parameters
        ----------
        {ax}
        n_bars : int, default=10
            How many contributions have a bar of their own.
        bar_kw : dict, default=None
            Settings of the bars, passed to :meth:`matplotlib.axes.Axes.barh`.

        Returns
        -------
        {display}

        Raises
        ------
        ValueError
            If `n_bars` is less than 1.
        """
        if n_bars < 1:
            raise ValueError(f"n_bars={n_bars!r} must be at least 1.")
        ax = self._axes(ax)
        ordered = self.contributions.iloc[np.argsort(-self.contributions.abs().to_numpy(), kind="stable")]
        shown = ordered.iloc[:n_bars]
        if len(ordered) > n_bars:
            shown = pd.concat([shown, pd.Series({_GREY[1]: ordered.iloc[n_bars:].sum()})])
        shown = shown[::-1]
        colours = [
            "tab:gray" if name in _GREY else "tab:red" if value > 0 else "tab:blue" for name, value in shown.items()
        ]
        self.bars_ = ax.barh(range(len(shown)), shown.to_numpy(), **{"color": colours} | dict(bar_kw or {}))
        ax.set_yticks(range(len(shown)), [textwrap.fill(str(name), _WIDTH) for name in shown.index])
        verbatim(*ax.get_yticklabels())
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_xlabel("contribution to the score")
        return self
