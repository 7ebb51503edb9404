"""Curves of cross-validated scores: what is added to two displays of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from skllm4es.plotting._base import Display, verbatim

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def check_several(values: Sequence[Any], what: str) -> None:
    """Reject a curve of a single point, before anything is computed for it."""
    if len(set(values)) < 2:
        raise ValueError(f"A curve needs at least two {what}; got {list(values)}.")


class ScoreCurve(Display):
    """Mixin of scikit-learn's displays of scores: a light band around each line, and names for the legend."""

    #: Defaults of `from_estimator` that differ from scikit-learn's.
    DEFAULTS: Mapping[str, Any] = {"score_type": "test", "error_score": "raise"}

    lines_: list[Any]
    errorbar_: list[Any] | None
    fill_between_: list[Any] | None

    def plot(
        self,
        ax: Axes | None = None,
        *,
        name: str | None = None,
        score_type: str = "test",
        line_kw: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the curve.

        Parameters
        ----------
        {ax}
        name : str, default=None
            What was scored, for the legend.
        score_type : {"test", "train", "both"}, default="test"
            Whether to draw the scores on users held out, on training users, or both.
        {line_kw}
        **kwargs : dict
            Further settings, as in the method of scikit-learn's display.

        Returns
        -------
        {display}
        """
        style = {"marker": "o", **(line_kw or {})}
        super().plot(self._axes(ax), score_type=score_type, line_kw=style, **kwargs)  # type: ignore[misc]
        if self.errorbar_:  # scikit-learn keeps no lines of these.
            self.lines_ = [container[0] for container in self.errorbar_]
        for line, band in zip(self.lines_, self.fill_between_ or [], strict=False):
            band.set(color=line.get_color(), alpha=0.15, linewidth=0)
        return self._name_lines(name)

    def _name_lines(self, name: str | None) -> Self:
        if name is not None:
            for curve in self.errorbar_ or self.lines_:
                curve.set_label(name if curve.get_label() == "Test" else f"{name}, train")
            self.ax_.legend()
        legend = self.ax_.get_legend()
        verbatim(self.ax_.yaxis.label, *(legend.get_texts() if legend else ()))
        return self
