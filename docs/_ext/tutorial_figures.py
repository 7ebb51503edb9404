"""Figures of tutorials: small, so that their text can be read in thumbnails and on phones."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl


def set_defaults(gallery: dict[str, Any], name: str) -> None:
    """Set matplotlib's defaults before a tutorial runs."""
    mpl.rcdefaults()
    mpl.rcParams.update({"figure.figsize": (5, 3.1), "font.size": 11, "legend.fontsize": 10})
