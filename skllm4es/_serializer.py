"""EventSerializer: the first step of the flow, from events to one text per user."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from skllm4es._events import FlatEvents, flatten_events
from skllm4es._texts import TEXT, TextTransformerMixin
from skllm4es.formats._fields import (
    EncodedFields,
    Fields,
    PlainFields,
    encode_values,
    encoding_pays,
    finish_fields,
    write_lines,
)
from skllm4es.formats._serialised import format_header
from skllm4es.formats._values import format_values, label_values, needs_no_quotes


class EventSerializer(TextTransformerMixin, BaseEstimator):
    """Write each user's events as a text, one line an event.

    The text begins with a header line of feature names joined by ``|``; each event is one line of fields joined by
    ``, ``; a field that holds a comma, a quote or a line break is quoted as in CSV.
    :func:`~skllm4es.formats.parse_events` reads it back.

    Parameters
    ----------
    columns : sequence of str, default=None
        The fields of the events to write, in this order; all of them, in their own order, by default.
    labels : mapping of str to (mapping or pandas.Series), default=None
        For each named field, the descriptions that replace its codes, for example
        ``{"mcc": {5411: "Grocery Stores, Supermarkets"}}``.
    unlabelled : {"keep", "error"} or str, default="keep"
        What is written for a code without a description: the code itself, or the given text. Each `transform` tells
        in one warning how many there were, and which; with "error" it is an error.
    headers : mapping of str to str, default=None
        Other names for fields in the header line, for example ``{"amount": "amount(rubles)"}``.
    max_events : int, default=None
        Write only the latest `max_events` events of each user; all of them by default.
    missing : str, default=""
        What is written for a missing value (null, NaN, NaT).
    events : str or sequence of str, default="events"
        The column of `X` that holds the events: Arrow, polars or nested-pandas lists of structs, or object cells that
        are lists of dicts or dataframes (tens of times slower). Several names are columns with one list per feature.

    Attributes
    ----------
    columns_ : list of str
        The fields that are written.
    n_features_in_ : int
        Number of columns of `X` seen during :term:`fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of `X` seen during :term:`fit`.

    See Also
    --------
    nest_events : Builds `X` from a long table of events.
    TextEnricher : The next step, which rewrites the texts for training.

    Notes
    -----
    This is the serialisation of LLM4ES (arXiv 2508.05688, section 3.1).

    Examples
    --------
    >>> import pandas as pd
    >>> from skllm4es import EventSerializer, nest_events
    >>> cards = pd.DataFrame({
    ...     "client": [3, 7, 7],
    ...     "date": pd.to_datetime(["2024-03-01", "2024-03-01", "2024-03-02"]).date,
    ...     "mcc": [5411, 4111, 5411],
    ...     "amount": [8.0, 2.5, 99.9],
    ... })
    >>> X = nest_events(cards, user="client", time="date")
    >>> names = {5411: "Grocery Stores, Supermarkets", 4111: "Local Commuter Transport"}
    >>> serializer = EventSerializer(labels={"mcc": names})
    >>> print(serializer.fit_transform(X)["text"].loc[7])
    date|mcc|amount
    2024-03-01, Local Commuter Transport, 2.5
    2024-03-02, "Grocery Stores, Supermarkets", 99.9
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "columns": ["array-like", None],
        "labels": [Mapping, None],
        "unlabelled": [str],
        "headers": [Mapping, None],
        "max_events": [Interval(Integral, 1, None, closed="left"), None],
        "missing": [str],
        "events": [str, "array-like"],
    }

    def __init__(
        self,
        columns: Sequence[str] | None = None,
        *,
        labels: Mapping[str, Mapping[Any, str] | pd.Series] | None = None,
        unlabelled: str = "keep",
        headers: Mapping[str, str] | None = None,
        max_events: int | None = None,
        missing: str = "",
        events: str | Sequence[str] = "events",
    ) -> None:
        self.columns = columns
        self.labels = labels
        self.unlabelled = unlabelled
        self.headers = headers
        self.max_events = max_events
        self.missing = missing
        self.events = events

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn which fields the events have.

        Parameters
        ----------
        X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
            One row per user, as `nest_events` gives it.
        y : None
            Ignored.

        Returns
        -------
        self : EventSerializer
            The fitted serializer.
        """
        flat = self._read(X, reset=True)
        columns = list(flat.columns) if self.columns is None else list(self.columns)
        problems = _missing_fields(columns, flat, "columns")
        problems += _missing_fields(self.labels or {}, flat, "labels")
        problems += _missing_fields(self.headers or {}, flat, "headers")
        if problems:
            raise ValueError(f"{'; '.join(problems)}. The events have the fields {list(flat.columns)}.")
        if not columns:
            raise ValueError("The events of X have no fields: there is nothing to write.")
        _check_labels(self.labels or {})
        _check_distinct([(self.headers or {}).get(name, name) for name in columns])
        self.columns_ = columns
        return self

    def transform(self, X: Any) -> Any:
        """Write the texts.

        Parameters
        ----------
        X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
            One row per user, with the fields seen during :term:`fit`. It is not changed.

        Returns
        -------
        texts : dataframe of shape (n_users, 1)
            The column ``text``, in a dataframe of the kind of `X` with its index. A user without events has the
            header line alone.
        """
        check_is_fitted(self)
        flat = self._read(X, reset=False)
        if not flat.lengths.any():
            # Users without events may come without fields as well.
            return self._frame({TEXT: [self._header()] * flat.n_users}, like=X)
        problems = _missing_fields(self.columns_, flat, "fit")
        if problems:
            raise ValueError(f"{'; '.join(problems)}. The events have the fields {list(flat.columns)}.")
        flat = FlatEvents({name: flat.columns[name] for name in self.columns_}, flat.offsets)
        if self.max_events is not None:
            flat = flat.latest(self.max_events)
        unlabelled: dict[str, tuple[list[Any], int]] = {}
        fields = [self._fields(name, column, unlabelled) for name, column in flat.columns.items()]
        self._report_unlabelled(unlabelled)
        return self._frame({TEXT: write_lines(fields, flat.offsets, self._header())}, like=X)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[Any]:
        """Names of the columns of the output.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        names : ndarray of shape (1,), dtype object
            ``["text"]``.
        """
        check_is_fitted(self)
        return np.array([TEXT], dtype=object)

    def _read(self, X: Any, *, reset: bool) -> FlatEvents:
        flat = flatten_events(X, self.events)
        validate_data(self, X, reset=reset, skip_check_array=True)
        return flat

    def _header(self) -> str:
        return format_header([(self.headers or {}).get(name, name) for name in self.columns_])

    def _fields(self, name: str, column: pa.ChunkedArray, unlabelled: dict[str, tuple[list[Any], int]]) -> Fields:
        labels = (self.labels or {}).get(name)
        alone = len(self.columns_) == 1
        try:
            if labels is None and not encoding_pays(column):
                format_values(column.slice(0, 0))  # Refuse what cannot be written before anything is.
                return PlainFields(column, self.missing, alone)
            values, numbers = encode_values(column)
            texts = format_values(values)
        except TypeError as error:
            raise TypeError(f"The field {name!r} of the events: {error}.") from error
        if labels is not None:
            unlabelled[name] = _unlabelled(values, numbers, labels)
            texts = self._label(values, texts, labels)
        clean = labels is None and needs_no_quotes(values.type)
        return EncodedFields(finish_fields(texts, missing=self.missing, clean=clean, alone=alone), numbers)

    def _label(self, codes: pa.Array, written: pa.Array, labels: Mapping[Any, str] | pd.Series) -> pa.Array:
        if self.unlabelled != "keep":
            written = pc.if_else(pc.is_null(written), written, pa.scalar(self.unlabelled, pa.large_string()))
        return pc.coalesce(label_values(codes, labels), written)

    def _report_unlabelled(self, found: Mapping[str, tuple[list[Any], int]]) -> None:
        """Tell of all codes that have no description, in one message."""
        problems = [
            f"{count} values of {name!r} ({len(codes)} different codes, such as {', '.join(map(repr, codes[:5]))})"
            for name, (codes, count) in found.items()
            if codes
        ]
        if not problems:
            return
        message = f"labels has no description for {' and '.join(problems)}"
        if self.unlabelled == "error":
            raise ValueError(f"{message}. Add them, or set unlabelled='keep' or to a text that stands for them.")
        done = "the codes themselves were written" if self.unlabelled == "keep" else f"{self.unlabelled!r} was written"
        warnings.warn(
            f"{message}; {done}. Check that the keys of labels have the type of the codes.", UserWarning, stacklevel=3
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _check_labels(labels: Mapping[str, Any]) -> None:
    for name, descriptions in labels.items():
        if not isinstance(descriptions, Mapping | pd.Series):
            raise TypeError(f"labels[{name!r}] must be a dict or a Series; got {type(descriptions).__name__}.")
        if isinstance(descriptions, pd.Series) and not descriptions.index.is_unique:
            repeated = descriptions.index[descriptions.index.duplicated()][0]
            raise ValueError(f"labels[{name!r}] has more than one description for the code {repeated}.")
        for code, text in descriptions.items():
            if not isinstance(text, str):
                raise TypeError(f"labels[{name!r}][{code!r}] must be a str; got {text!r} ({type(text).__name__}).")


def _check_distinct(header: list[str]) -> None:
    repeated = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if repeated:
        raise ValueError(f"The header line would name {repeated} more than once: check columns and headers.")


def _unlabelled(
    values: pa.Array, numbers: npt.NDArray[np.int32], labels: Mapping[Any, str] | pd.Series
) -> tuple[list[Any], int]:
    """Give the codes that have no description, and the number of events that have one of them."""
    known = set(labels.keys())
    codes = values.to_pylist()
    missing = [number for number, code in enumerate(codes) if not _is_known(code, known)]
    if not missing:
        return [], 0
    counts = np.bincount(numbers, minlength=len(codes))
    return [codes[number] for number in missing if counts[number]], int(counts[missing].sum())


def _is_known(code: Any, known: set[Any]) -> bool:
    return code is None or code != code or code in known


def _missing_fields(names: Any, flat: FlatEvents, source: str) -> list[str]:
    missing = [name for name in names if name not in flat.columns]
    verb = "saw" if source == "fit" else "names"
    return [f"{source} {verb} {missing}, which the events do not have"] if missing else []
