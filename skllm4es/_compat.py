"""Private names of other libraries that this package uses, each with the versions that it is known to work with.

Public names are imported where they are used. What a new release may rename or move is here and nowhere else.
"""

from __future__ import annotations

# scikit-learn 1.6 to 1.9
from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_params,
)
from sklearn.utils._set_output import _get_output_config as output_config

__all__ = [
    "HasMethods",
    "Interval",
    "StrOptions",
    "fit_context",
    "output_config",
    "validate_params",
]
