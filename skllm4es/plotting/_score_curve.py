"""Scores of cross-validation against a number: the curve of two displays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skllm4es.plotting._base import Display

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.lines import Line2D


@dataclass(eq=False, kw_only=True)
class ScoreCurve(Display):
    """Scores on users held out, and on training users where there are such.

    Parameters
    ----------
    test_scores : ndarray of shape (n_points, n_splits)
        Scores on the users held out.
    train_scores : ndarray of shape (n_points, n_splits), default=None
        Scores on the training users.
    score_name : str, default="score"
        What the scores are, as scikit-learn names them.
    name : str, default=None
        What was scored, for the legend.
    """

    test_scores: npt.NDArray[np.float64]
    train_scores: npt.NDArray[np.float64] | None = None
    score_name: str = "score"
    name: str | None = None
    lines_: list[Line2D] = field(init=False, repr=False)
    bands_: list[PolyCollection] = field(init=False, repr=False)

    def _draw(
        self, x: npt.NDArray[Any], ax: Axes | None, name: str | None, score_type: str, line_kw: Mapping[str, Any] | None
    ) -> None:
        """Draw the mean scores as lines, and a standard deviation around them as bands."""
        if score_type not in ("test", "train", "both"):
            raise ValueError(f"score_type={score_type!r} must be 'test', 'train' or 'both'.")
        if score_type != "test" and self.train_scores is None:
            raise ValueError(
                f"score_type={score_type!r}: there are no scores of training users. A search computes them with "
                "return_train_score=True."
            )
        ax = self._axes(ax)
        name = self.name if name is None else name
        self.lines_, self.bands_ = [], []
        style = {"marker": "o", **(line_kw or {})}
        if score_type != "train":
            self._draw_line(x, self.test_scores, {"label": name or "users held out", **style})
        if score_type != "test":
            if self.lines_:
                style |= {"color": self.lines_[0].get_color(), "linestyle": "--", "marker": "."}
            label = f"{name}, training users" if name else "training users"
            self._draw_line(x, self.train_scores, {"label": label, **style})
        ax.set_ylabel(self.score_name.removeprefix("neg_"))
        if name or score_type == "both":
            ax.legend()

    def _draw_line(self, x: npt.NDArray[Any], scores: Any, style: Mapping[str, Any]) -> None:
        mean, deviation = self._as_drawn(np.asarray(scores)).mean(axis=1), np.std(scores, axis=1)
        (line,) = self.ax_.plot(x, mean, **style)
        band = self.ax_.fill_between(
            x, mean - deviation, mean + deviation, alpha=0.15, color=line.get_color(), linewidth=0
        )
        self.lines_.append(line)
        self.bands_.append(band)

    def _as_drawn(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Turn scores that scikit-learn negates, so that the higher is the better, into the errors that they are."""
        return -scores if self.score_name.startswith("neg_") else scores


def name_of_score(scoring: Any) -> str:
    """Give the name of a score: that of the parameter `scoring`, or of the function.

    Parameters
    ----------
    scoring : str, callable or None
        The parameter `scoring`.

    Returns
    -------
    str
        The name.
    """
    return scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
