"""EventSerializer: the first step of the flow, from events to one text per user."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from skllm4es._compat import Interval, StrOptions, fit_context
from skllm4es._messages import raise_if
from skllm4es._texts import TEXT, TextTransformerMixin
from skllm4es.events._checks import changes_since_fit, disorder, find_time, kinds_of, missing_fields
from skllm4es.events._encoding import encode_values, encoding_pays
from skllm4es.events._flat import FlatEvents, flatten_events
from skllm4es.events._frames import repeated
from skllm4es.events._kinds import is_list, is_time, value_kind
from skllm4es.events._numbers import to_floats
from skllm4es.serialize._compact import CompactColumn, plan_columns
from skllm4es.serialize._fields import (
    EncodedFields,
    Fields,
    Finish,
    PlainFields,
    write_compact,
    write_lines,
)
from skllm4es.serialize._serialised import (
    FIELD_SEPARATOR,
    HEADER_SEPARATOR,
    SEPARATORS,
    format_header,
    format_instruction,
    special_in_field,
)
from skllm4es.serialize._styles import Style, read_style
from skllm4es.serialize._values import WriteValues, format_lists, format_values, label_values, needs_no_quotes

#: From how many events the columns of the compact form are learned.
PLANNED_EVENTS = 100_000


class EventSerializer(TextTransformerMixin, BaseEstimator):
    r"""Write each user's events as a text, one line an event.

    The text begins with a header line of feature names joined by ``|``; each event is one line of fields joined by a
    comma and a space; a field that holds a comma, a quote or a line break is quoted as in CSV.
    :func:`~skllm4es.serialize.parse_events` reads it back, whatever the parameters are.

    Parameters
    ----------
    columns : sequence of str, default=None
        The fields of the events to write, in this order; all of them, in their own order, by default. The compact
        form has an order of its own.
    labels : mapping of str to (mapping or pandas.Series), default=None
        For each named field, the descriptions that replace its codes, for example
        ``{"mcc": {5411: "Grocery Stores, Supermarkets"}}``. In a field of lists they replace the elements.
    unlabelled : {"keep", "error"} or str, default="keep"
        What is written for a code without a description: the code itself, or the given text. Each `transform` tells
        in one warning how many there were, and which; with "error" it is an error.
    formats : mapping of str to str, default=None
        How the values of a field are written, where not as below in Notes:

        - numbers by a format of Python, ``".2f"`` (two decimals), ``".0f"`` (whole numbers), or by
          ``"3 significant digits"``;
        - times and dates by a pattern of strftime, ``"%a %H"`` (weekday and hour) or ``"%Y-%m-%d"``, or as whole
          ``"days since 2016-01-01"``, or whole ``"hours since previous event"``; the units are days, hours, minutes and
          seconds. The first event, and one after a missing time, has a missing distance;
        - numbers that are times by their distance, ``"since previous event"``.

        The paper's form has ``".0f"`` for amounts and ``"days since ..."`` for times.
    scalers : mapping of str to transformer, default=None
        For each named field of numbers, durations or times, the scikit-learn transformer that scales its values, such
        as ``RobustScaler()`` or ``KBinsDiscretizer(encode="ordinal")``. A clone is fitted on the values that are
        written in :term:`fit`, missing ones left out; times are seconds since 1970. Scaled values have two decimals
        unless `formats` says otherwise.
    headers : mapping of str to str, default=None
        Other names for fields in the header line, for example ``{"amount": "amount(rubles)"}``.
    instruction : str, default=""
        A text to begin with. A blank line stands between it and the header.
    separator : {", ", ",", "; ", ";", " | ", "|", "\t"}, default=", "
        What stands between the fields of an event.
    header_separator : {"|", " | ", ", ", ",", "; ", ";", "\t"}, default="|"
        What stands between the names in the header line.
    compact : bool, default=False
        Write the same fields in half the tokens or less: what an event shares with the one before is left out, times
        are distances, descriptions are shortened once they have been written. The fields of single words then come
        first, those that repeat most at the head. The separators are its own. Takes about seven times as long (5 us
        an event). See Notes.
    max_events : int, default=None
        Write only the latest `max_events` events of each user; all of them by default.
    missing : str, default=""
        What is written for a missing value (null, NaN, NaT).
    time : str, default="auto"
        The field whose values must not decrease from event to event of a user; missing ones are passed over. "auto" is
        the first field of times or dates that does not in :term:`fit`, if there are such fields; None allows any
        order.
    events : str or sequence of str, default="events"
        The column of `X` that holds the events: Arrow, polars or nested-pandas lists of structs, or object cells that
        are lists of dicts or dataframes (tens of times slower). Several names are columns with one list per feature.

    Attributes
    ----------
    columns_ : list of str
        The fields that are written, in the order of the text.
    kinds_ : dict of str to str
        What these fields, and the one that `time` names, hold: "numbers", "texts", "times", ...
    time_ : str or None
        The field that orders the events.
    scalers_ : dict of str to transformer
        The fitted scalers.
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

    **Values.** A number is written in the shortest form that reads back to the same number, whole ones without a
    point; a decimal with all its digits; a time as ``2024-03-01 18:30:00``, in its own zone and without it (``%z``
    writes the offset); a duration in seconds; a boolean as ``true`` or ``false``; a categorical as its value; a list
    inside an event as its elements with a semicolon and a space between them, quoted where they hold a semicolon.
    Structs inside an event are an error: make columns of their fields.

    **Compact form.** A line looks like ``POS 3600 12.5 Grocery``. Its rules are those of
    `skllm4es.serialize._compact`: an empty field repeats the line above, a column marked ``+`` holds distances, one
    marked ``~`` holds first words of values that have been written in full, and what is quoted stands for itself. Cut
    its length by `max_events`, not by tokens: a line needs those above it. Its columns and marks are learned from the
    first 100,000 events seen during :term:`fit`.

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

    The same as in the paper, whole days and amounts:

    >>> paper = {"date": "days since 2024-01-01", "amount": ".0f"}
    >>> print(serializer.set_params(formats=paper).fit_transform(X)["text"].loc[7])
    date|mcc|amount
    60, Local Commuter Transport, 2
    61, "Grocery Stores, Supermarkets", 100
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "columns": ["array-like", None],
        "labels": [Mapping, None],
        "unlabelled": [str],
        "formats": [Mapping, None],
        "scalers": [Mapping, None],
        "headers": [Mapping, None],
        "instruction": [str],
        "separator": [StrOptions(set(SEPARATORS))],
        "header_separator": [StrOptions(set(SEPARATORS))],
        "compact": ["boolean"],
        "max_events": [Interval(Integral, 1, None, closed="left"), None],
        "missing": [str],
        "time": [str, None],
        "events": [str, "array-like"],
    }

    def __init__(
        self,
        columns: Sequence[str] | None = None,
        *,
        labels: Mapping[str, Mapping[Any, str] | pd.Series] | None = None,
        unlabelled: str = "keep",
        formats: Mapping[str, str] | None = None,
        scalers: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        instruction: str = "",
        separator: str = FIELD_SEPARATOR,
        header_separator: str = HEADER_SEPARATOR,
        compact: bool = False,
        max_events: int | None = None,
        missing: str = "",
        time: str | None = "auto",
        events: str | Sequence[str] = "events",
    ) -> None:
        self.columns = columns
        self.labels = labels
        self.unlabelled = unlabelled
        self.formats = formats
        self.scalers = scalers
        self.headers = headers
        self.instruction = instruction
        self.separator = separator
        self.header_separator = header_separator
        self.compact = compact
        self.max_events = max_events
        self.missing = missing
        self.time = time
        self.events = events

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn which fields the events have, the scales of numbers, and the columns of the compact form.

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
        format_instruction(self.instruction)
        _check_labels(self.labels or {})
        columns = list(flat.columns) if self.columns is None else list(self.columns)
        time = find_time(flat) if self.time == "auto" and "auto" not in flat.columns else self.time
        self._check_parameters(flat, columns, time)
        raise_if(disorder(flat, time, X), "The events of X are not in order")
        written = self._select(flat, columns)
        scalers = {
            name: _fit_scaler(name, scaler, written.columns[name])
            for name, scaler in (self.scalers or {}).items()
            if name in columns
        }
        kinds = kinds_of(flat, [*columns, time] if time is not None and time == self.time else columns)
        self.time_, self.kinds_, self.scalers_ = time, kinds, scalers
        plan = self._plan(written) if self.compact else None
        self.columns_ = columns if plan is None else [column.name for column in plan]
        self._compact_columns = plan
        return self

    def transform(self, X: Any) -> Any:
        """Write the texts.

        Parameters
        ----------
        X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
            One row per user, with the fields seen during :term:`fit`; other fields are left out. It is not changed.

        Returns
        -------
        texts : dataframe of shape (n_users, 1)
            The column ``text``, in a dataframe of the kind of `X` with its index. A user without events has the
            header line alone.

        Raises
        ------
        ValueError
            If the events lack a field that :term:`fit` saw, one holds values of another kind, or events are not in
            order of `time`: one message tells all.
        """
        check_is_fitted(self)
        flat = self._read(X, reset=False)
        problems, same = changes_since_fit(flat, self.kinds_, self.time_, X)
        problems += _unfit_formats(self.formats or {}, self.scalers_, same)
        raise_if(problems, "The events of X differ from those that fit saw")
        if flat.lengths.any():
            flat = self._select(flat, self.columns_)
        else:
            flat = FlatEvents({name: pa.chunked_array([pa.nulls(0)]) for name in self.columns_}, flat.offsets)
        unlabelled: dict[str, tuple[list[Any], int]] = {}
        finish = self._finish()
        fields = [self._fields(name, column, flat.offsets, finish, unlabelled) for name, column in flat.columns.items()]
        self._report_unlabelled(unlabelled)
        before = format_instruction(self.instruction)
        if self._compact_columns is not None:
            named = [replace(column, name=self._header(column.name)) for column in self._compact_columns]
            texts = write_compact(fields, flat.offsets, named, before)
        else:
            header = format_header([self._header(name) for name in self.columns_], self.header_separator)
            texts = write_lines(fields, flat.offsets, before + header, self.separator)
        return self._frame({TEXT: texts}, like=X)

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

    def _header(self, name: str) -> str:
        return (self.headers or {}).get(name, name)

    def _check_parameters(self, flat: FlatEvents, columns: list[str], time: str | None) -> None:
        """Raise unless all parameters fit the events, in one message."""
        if not columns:
            raise ValueError("The events of X have no fields: there is nothing to write.")
        named = {name: getattr(self, name) or {} for name in ("labels", "formats", "scalers", "headers")}
        problems = missing_fields(columns, flat, "columns names")
        for parameter, fields in named.items():
            problems += missing_fields(fields, flat, f"{parameter} names")
        problems += missing_fields([] if time is None else [time], flat, "time names")
        problems += [
            f"labels and {parameter} both name {name!r}, whose descriptions have no {parameter}"
            for parameter in ("formats", "scalers")
            for name in named[parameter]
            if name in named["labels"]
        ]
        problems += [
            f"headers[{name!r}] must be a str; got {header!r}"
            for name, header in named["headers"].items()
            if not isinstance(header, str)
        ]
        problems += _unfit_formats(named["formats"], named["scalers"], flat)
        header = [self._header(name) for name in columns]
        if twice := repeated(header):
            problems.append(f"the header line would name {twice} more than once: check columns and headers")
        if self.compact and (self.separator, self.header_separator) != (FIELD_SEPARATOR, HEADER_SEPARATOR):
            problems.append("compact=True has separators of its own: leave separator and header_separator as they are")
        raise_if(problems, "The parameters do not fit the events", f"The events have the fields {list(flat.columns)}.")

    def _select(self, flat: FlatEvents, columns: Sequence[str]) -> FlatEvents:
        flat = flat.select(columns)
        return flat if self.max_events is None else flat.latest(self.max_events)

    def _plan(self, flat: FlatEvents) -> list[CompactColumn]:
        """Choose how the compact form writes the columns, and put them in its order."""
        sample = flat.first(PLANNED_EVENTS)
        bare = Finish(self.missing, None)
        texts = {
            name: self._fields(name, column, sample.offsets, bare, {}).write(0, len(column)).to_pylist()
            for name, column in sample.columns.items()
        }
        points = {name for name, column in sample.columns.items() if self._is_point(name, column.type)}
        return plan_columns(texts, sample.offsets.tolist(), points)

    def _is_point(self, name: str, type_: pa.DataType) -> bool:
        """Tell whether the values of a field are written as points in time."""
        if name in self.scalers_ or name in (self.labels or {}):
            return False
        if style := self._style(name, type_):
            return style.counts
        kind = value_kind(type_)
        return is_time(kind) or (name == self.time_ and pa.types.is_integer(type_))

    def _style(self, name: str, type_: pa.DataType) -> Style | None:
        spec = (self.formats or {}).get(name, ".2f" if name in self.scalers_ else None)
        return None if spec is None or pa.types.is_null(type_) else read_style(spec, type_)

    def _finish(self) -> Finish:
        if self._compact_columns is not None:
            return Finish(self.missing, None)
        # The empty string is quoted where it is alone in its line, which would be empty.
        alone = "|^$" if len(self.columns_) == 1 else ""
        return Finish(self.missing, special_in_field(self.separator) + alone)

    def _fields(
        self,
        name: str,
        column: pa.ChunkedArray,
        offsets: npt.NDArray[np.int64],
        finish: Finish,
        unlabelled: dict[str, tuple[list[Any], int]],
    ) -> Fields:
        labels = (self.labels or {}).get(name)
        write: WriteValues = format_values
        if name in self.scalers_ and not pa.types.is_null(column.type):
            column = _scale(self.scalers_[name], column)
        if style := self._style(name, column.type):
            column = style.derive(column, offsets) if style.derive else column
            write = style.write
        if is_list(column.type):

            def write_elements(elements: pa.ChunkedArray) -> pa.Array:
                values, numbers = encode_values(elements.unify_dictionaries())
                texts = self._label(name, values, format_values(values), numbers, unlabelled)
                return texts.take(pa.array(numbers))

            column, labels = format_lists(column, write_elements), None
        if labels is None and not encoding_pays(column):
            return PlainFields(column, write, finish)
        values, numbers = encode_values(column)
        texts = write(values)
        if labels is not None:
            texts = self._label(name, values, texts, numbers, unlabelled)
        clean = labels is None and write is format_values and needs_no_quotes(values.type)
        return EncodedFields(finish(texts, clean=clean), numbers)

    def _label(
        self,
        name: str,
        codes: pa.Array,
        written: pa.Array,
        numbers: npt.NDArray[np.int32],
        unlabelled: dict[str, tuple[list[Any], int]],
    ) -> pa.Array:
        """Put descriptions in the place of codes, and note those that have none."""
        labels = (self.labels or {}).get(name)
        if labels is None:
            return written
        unlabelled[name] = _unlabelled(codes, numbers, labels)
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
            raise TypeError(f"labels[{name!r}] must be a dict or a pandas Series; got {type(descriptions).__name__}.")
        if isinstance(descriptions, pd.Series) and not descriptions.index.is_unique:
            repeated = descriptions.index[descriptions.index.duplicated()][0]
            raise ValueError(f"labels[{name!r}] has more than one description for the code {repeated}.")
        for code, text in descriptions.items():
            if not isinstance(text, str):
                raise TypeError(f"labels[{name!r}][{code!r}] must be a str; got {text!r} ({type(text).__name__}).")


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


def _unfit_formats(formats: Mapping[str, str], scalers: Mapping[str, Any], flat: FlatEvents) -> list[str]:
    problems = []
    for name, column in flat.columns.items():
        if pa.types.is_null(column.type) or name not in {*formats, *scalers}:
            continue
        kind = kinds_of(flat, [name])[name]
        if name in scalers and kind not in ("numbers", "durations") and not is_time(kind):
            problems.append(f"scalers[{name!r}]: {kind} ({column.type}) cannot be scaled")
        elif name in formats:
            try:
                read_style(formats[name], pa.float64() if name in scalers else column.type)
            except ValueError as error:
                problems.append(f"formats[{name!r}]: {error}")
    return problems


def _fit_scaler(name: str, scaler: Any, column: pa.ChunkedArray) -> Any:
    numbers = to_floats(column)
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        raise ValueError(f"scalers[{name!r}]: the field has no values in X to learn from.")
    if isinstance(scaler, type) or not hasattr(scaler, "fit") or not hasattr(scaler, "transform"):
        raise TypeError(f"scalers[{name!r}] must be a transformer of scikit-learn; got {scaler!r}.")
    try:
        fitted = clone(scaler).fit(known.reshape(-1, 1))
    except ValueError as error:
        raise ValueError(f"scalers[{name!r}]: {error}") from error
    _apply_scaler(fitted, known[:1], name)
    return fitted


def _scale(scaler: Any, column: pa.ChunkedArray) -> pa.ChunkedArray:
    numbers = to_floats(column)
    missing = np.isnan(numbers)
    if not missing.all():
        numbers[~missing] = _apply_scaler(scaler, numbers[~missing])
    return pa.chunked_array([pa.array(numbers, pa.float64(), mask=missing)])


def _apply_scaler(scaler: Any, numbers: npt.NDArray[np.float64], name: str = "") -> npt.NDArray[np.float64]:
    scaled = np.asarray(scaler.transform(numbers.reshape(-1, 1)))
    if scaled.shape != (len(numbers), 1):
        raise ValueError(
            f"scalers[{name!r}]: {scaler} must give one dense column; it gives an array of shape {scaled.shape}."
        )
    return scaled[:, 0].astype(np.float64)
