"""What tutorials share: figures whose text can be read in thumbnails and on phones, and warnings without paths."""

from __future__ import annotations

import warnings
from typing import Any

import matplotlib as mpl


def set_defaults(gallery: dict[str, Any], name: str) -> None:
    """Set matplotlib's defaults, and hide the builder's paths in warnings, before a tutorial runs."""
    mpl.rcdefaults()
    mpl.rcParams.update({"figure.figsize": (5, 3.1), "font.size": 11, "legend.fontsize": 10})
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}\n"
