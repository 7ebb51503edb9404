"""TokenLengthDisplay: the lengths of texts, and how many exceed the maximum of the language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import numpy.typing as npt

from skllm4es._texts import TEXT, read_texts
from skllm4es.plotting._base import Display, find_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.lines import Line2D


@dataclass(eq=False, kw_only=True)
class TokenLengthDisplay(Display):
    """Histogram of the lengths of texts in tokens, with the maximum of the language model.

    Build it with `from_estimator` for a fitted `LLMEmbedder`, or with `from_texts` for texts and a tokenizer.

    Parameters
    ----------
    lengths : ndarray of shape (n_texts,)
        Numbers of tokens.
    max_length : int, default=None
        The maximum number of tokens that the model reads at once.

    Attributes
    ----------
    bars_ : matplotlib.container.BarContainer
        The bars of the histogram.
    cut_ : matplotlib.lines.Line2D or None
        The line at `max_length`. Longer texts are truncated or embedded in windows, see `overflow` of the embedder.
    {axes}

    Examples
    --------
    >>> from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder
    >>> from skllm4es.datasets import make_transactions
    >>> from skllm4es.plotting import TokenLengthDisplay
    >>> X, y = make_transactions(n_users=20, mean_events=3, random_state=0)
    >>> texts = EventSerializer(["mcc"]).fit_transform(X)
    >>> tiny = FromScratch(n_params=1000)
    >>> embedder = LLMEmbedder(
    ...     tiny, finetune=FineTuning(epochs=1), max_length=16, random_state=0
    ... ).fit(texts)
    >>> display = TokenLengthDisplay.from_estimator(embedder, texts)
    >>> display.lengths.shape, display.max_length
    ((20,), 16)
    """

    lengths: npt.NDArray[np.int64]
    max_length: int | None = None
    bars_: BarContainer = field(init=False, repr=False)
    cut_: Line2D | None = field(init=False, repr=False)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, *, ax: Axes | None = None, bar_kw: Mapping[str, Any] | None = None
    ) -> Self:
        """Draw the lengths of the texts of users, and the most that an embedder reads at once.

        Event features read each event by itself: an embedder that has no other features does not cut texts, so there is
        no line.

        Parameters
        ----------
        {fitted}
        X : dataframe, series, ndarray or list of str
            Input of `estimator`: texts, or what the steps before the embedder turn into texts.
        {ax}
        {bar_kw}

        Returns
        -------
        {display}

        Raises
        ------
        ValueError
            If there is no such embedder.
        """
        before, embedder = find_step(estimator, "max_length_")
        texts = X if before is None else before.transform(X)
        tokenizer = embedder._language_model_.tokenizer  # Without its weights, which count no tokens.
        max_length = None if embedder.features_ == ["events"] else embedder.max_length_
        return cls.from_texts(texts, tokenizer, max_length=max_length, ax=ax, bar_kw=bar_kw)

    @classmethod
    def from_texts(
        cls,
        texts: Any,
        tokenizer: Any,
        *,
        max_length: int | None = None,
        ax: Axes | None = None,
        bar_kw: Mapping[str, Any] | None = None,
    ) -> Self:
        """Draw the lengths of texts.

        Parameters
        ----------
        texts : dataframe, series, ndarray or list of str, of shape (n_users, n_columns) or (n_users,)
            The texts. If there are several columns, ``text`` is used.
        tokenizer : transformers.PreTrainedTokenizerBase
            The tokenizer.
        max_length : int, default=None
            The maximum number of tokens that the model reads at once.
        {ax}
        {bar_kw}

        Returns
        -------
        {display}
        """
        strings = read_texts(texts, caller=cls.__name__)[TEXT]
        # As embedders read them: what looks like a control token is text.
        settings = {"split_special_tokens": True, "return_attention_mask": False, "verbose": False}
        encoded = tokenizer(strings, **settings)["input_ids"] if strings else []
        lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
        return cls(lengths=lengths, max_length=max_length).plot(ax=ax, bar_kw=bar_kw)

    def plot(self, ax: Axes | None = None, *, bar_kw: Mapping[str, Any] | None = None) -> Self:
        """Draw the histogram.

        Parameters
        ----------
        {ax}
        {bar_kw}

        Returns
        -------
        {display}

        Raises
        ------
        ValueError
            If there are no texts.
        """
        if not len(self.lengths):
            raise ValueError("There are 0 texts: nothing to draw.")
        ax = self._axes(ax)
        bars = ax.hist(self.lengths, **{"bins": 30} | dict(bar_kw or {}))[2]
        self.bars_ = cast("BarContainer", bars)
        self.cut_ = None
        if self.max_length is not None:
            longer = int((self.lengths > self.max_length).sum())
            self.cut_ = ax.axvline(
                self.max_length, color="black", linestyle="--", label=f"max_length={self.max_length}"
            )
            ax.set_title(f"{longer} of {len(self.lengths)} texts are longer than max_length", fontsize="medium")
            ax.legend()
        ax.set(xlabel="tokens of a text", ylabel="texts")
        return self
