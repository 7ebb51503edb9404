"""Undo fits that fail."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Estimator = TypeVar("_Estimator")
_Result = TypeVar("_Result")


def all_or_nothing(
    method: Callable[Concatenate[_Estimator, _Parameters], _Result],
) -> Callable[Concatenate[_Estimator, _Parameters], _Result]:
    """Restore the attributes of the estimator if the method fails: fitted as before, or not at all.

    It covers what the method itself does; a subclass that does more after it needs a decorator of its own.

    >>> from skllm4es._fit import all_or_nothing
    >>> class Estimator:
    ...     @all_or_nothing
    ...     def fit(self, X):
    ...         self.length_ = len(X)
    ...         self.first_ = X[0]
    >>> estimator = Estimator()
    >>> estimator.fit([])
    Traceback (most recent call last):
    ...
    IndexError: list index out of range
    >>> vars(estimator)
    {}
    """

    @wraps(method)
    def whole(self: _Estimator, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        attributes: dict[str, Any] = vars(self)
        before = dict(attributes)
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            for name in attributes.keys() - before.keys():
                del attributes[name]
            attributes.update(before)
            raise

    return whole
