"""What the functions that load a data set share: checked parameters, their documentation, and the result."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from sklearn.utils import Bunch

from skllm4es._compat import validate_params
from skllm4es._docstrings import fill
from skllm4es.datasets._base import Source

_CONSTRAINTS = {
    "data_home": [str, os.PathLike, None],
    "download_if_missing": ["boolean"],
    "return_X_y": ["boolean"],
}

#: Hours, minutes and seconds, as in "2 days 03:00:00", and a number that no unit follows.
_CLOCK, _WITHOUT_UNIT = re.compile(r"\d+(:\d+)+(\.\d+)?"), re.compile(r"[\d.]+(?!\s*[\d.A-Za-zµμ])")

_DOWNLOAD = """\
data_home : str or path-like, default=None
    Folder that holds, or will hold, the folder ``{folder}``{files}. If None, the
    environment variable ``SKLLM4ES_DATA``, else ``~/skllm4es_data``; see :func:`get_data_home`.
download_if_missing : bool, default=True
    If False, raise an OSError if the data is not in the data home, instead of downloading it.
return_X_y : bool, default=False
    If True, return ``(data, target)`` instead of a Bunch."""
_LABELS = """\
labels : {labels}
headers : dict of str to str
    Names for the header line, to pass to :class:`~skllm4es.EventSerializer`.
DESCR : str
    Description of the data set, with its terms."""
_PAIR = """\
(data, target) : tuple if ``return_X_y`` is True
    The DataFrame and the Series above.

Raises
------
OSError
    If the data is absent and may not or cannot be downloaded, or if a file is missing, truncated or changed. The
    message says which, and what to do."""


def fetcher(
    source: Source, constraints: Mapping[str, Any], *, labels: str, **paragraphs: str
) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function that fetches `source`: check its parameters and fill in its docstring."""
    names = ", ".join(f"``{name}``" for name in getattr(source, "tables", ()))
    files = f" with the files {names}, compressed as published" if names else ""
    paragraphs |= {
        "download": _DOWNLOAD.format(folder=source.folder, files=files),
        "labels": _LABELS.format(labels=labels),
        "pair": _PAIR,
    }

    def decorate(function: Callable[..., Any]) -> Any:
        function.__doc__ = fill(function.__doc__, paragraphs)
        return validate_params({**_CONSTRAINTS, **constraints}, prefer_skip_nested_validation=True)(function)

    return decorate


def make_bunch(
    X: pd.DataFrame,
    y: pd.Series,
    *,
    return_X_y: bool,
    target_names: Sequence[str],
    description: str,
    labels: Mapping[str, Mapping[Any, str] | pd.Series],
    headers: Mapping[str, str],
    **others: Any,
) -> Bunch | tuple[pd.DataFrame, pd.Series]:
    """Return the users and their target, alone or in a Bunch with what describes them."""
    if return_X_y:
        return X, y
    return Bunch(
        data=X,
        target=y,
        feature_names=list(X.columns),
        target_names=list(target_names),
        labels=dict(labels),
        headers=dict(headers),
        DESCR=description,
        **others,
    )


def read_horizon(horizon: str | pd.Timedelta) -> pd.Timedelta:
    """Return a positive length of time; raise a ValueError if it is none, or has no unit."""
    if isinstance(horizon, str) and _WITHOUT_UNIT.search(_CLOCK.sub("", horizon)):
        # Nanoseconds to pandas.
        raise ValueError(
            f"horizon must be a length of time with a unit, such as '48h' or '2 days'; {horizon!r} has none."
        )
    try:
        length = pd.Timedelta(horizon)
    except ValueError as error:
        raise ValueError(f"horizon must be a length of time such as '48h' or '2 days', got {horizon!r}.") from error
    if not length > pd.Timedelta(0):  # NaT is not above either.
        raise ValueError(f"horizon must be a positive length of time such as '48h', got {horizon!r}.")
    return length
