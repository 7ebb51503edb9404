"""EventSerializer: the first step of the flow, from events to one text per user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skllm4es._compat import Interval, StrOptions, fit_context
from skllm4es._fit import all_or_nothing
from skllm4es._messages import raise_if
from skllm4es._texts import TEXT, TextTransformerMixin
from skllm4es.events._arrow import unify_dictionaries
from skllm4es.events._checks import (
    changes_since_fit,
    disorder,
    kinds_of,
    missing_fields,
    read_events,
    resolve_time,
    without_types,
)
from skllm4es.events._encoding import encode_values, encoding_pays
from skllm4es.events._flat import FlatEvents
from skllm4es.events._frames import repeated
from skllm4es.events._kinds import is_list, is_time, value_kind
from skllm4es.serialize._compact import CompactColumn, is_whole, plan_columns
from skllm4es.serialize._fields import EncodedFields, Fields, FillAndQuote, PlainFields, write_compact, write_lines
from skllm4es.serialize._labels import Labeller, check_labels
from skllm4es.serialize._scaling import fit_scaler, scale
from skllm4es.serialize._serialised import (
    FIELD_SEPARATOR,
    HEADER_SEPARATOR,
    SEPARATORS,
    format_header,
    format_instruction,
    special_in_field,
)
from skllm4es.serialize._styles import Style, read_style
from skllm4es.serialize._values import WriteValues, format_lists, format_values, needs_no_quotes

#: The columns of the compact form are learned from about this many events.
_PLANNED_EVENTS = 100_000
#: A format fits one of these, if it is one.
_FORMATTED = [
    pa.float64(),
    pa.int64(),
    pa.timestamp("us"),
    pa.timestamp("us", "UTC"),
    pa.duration("us"),
    pa.time64("us"),
]


class EventSerializer(TextTransformerMixin, BaseEstimator):
    r"""Write each user's events as a text, one line per event.

    The text begins with a header line of feature names joined by ``|``. Each event is one line of fields joined by a
    comma and a space; a field that holds a comma, a quote or a line break is quoted as in CSV.
    :func:`~skllm4es.serialize.parse_events` reads the text back, whatever the parameters are.

    Parameters
    ----------
    columns : sequence of str, default=None
        The fields of the events to write, in this order; by default all of them, in their own order. The compact
        form chooses its own order.
    labels : mapping of str to (mapping or pandas.Series), default=None
        For each named field, the descriptions that replace its codes, for example
        ``{"mcc": {5411: "Grocery Stores, Supermarkets"}}``. In a field of lists they replace the elements.
    unlabelled : {"keep", "error"} or str, default="keep"
        What is written for a code without a description: the code itself, or the given text. `transform` issues one
        warning that counts and lists such codes; with "error" it raises instead.
    formats : mapping of str to str, default=None
        How the values of a field are written, if not as described in Notes:

        - numbers by a Python format such as ``".2f"`` (two decimals) or ``".0f"`` (whole numbers), or by
          ``"3 significant digits"``;
        - times and dates by a strftime pattern such as ``"%a %H"`` (weekday and hour) or ``"%Y-%m-%d"``, or as whole
          ``"days since 2016-01-01"`` or ``"hours since previous event"``; units are days, hours, minutes and seconds.
          The distance is missing for the first event that is written of a user, and after a missing time;
        - numbers that stand for times by their distance, ``"since previous event"``.

        The paper's form has ``".0f"`` for amounts and ``"days since ..."`` for times.
    scalers : mapping of str to transformer, default=None
        For each named field of numbers, durations or times, the scikit-learn transformer that scales its values, such
        as ``RobustScaler()`` or ``KBinsDiscretizer(encode="ordinal")``. :term:`fit` fits a clone on the values of the
        events that would be written, except missing ones; times are seconds since 1970. A distance from the previous
        event (`formats`) is taken between scaled values. Scaled values have two decimals unless `formats` says
        otherwise.
    headers : mapping of str to str, default=None
        Other names for fields in the header line, for example ``{"amount": "amount(rubles)"}``.
    instruction : str, default=""
        A text to begin with, followed by a blank line and the header.
    separator : {", ", ",", "; ", ";", " | ", "|", "\t"}, default=", "
        The separator between the fields of an event.
    header_separator : {"|", " | ", ", ", ",", "; ", ";", "\t"}, default="|"
        The separator between the names in the header line.
    compact : bool, default=False
        Write the same fields often in half the tokens: what an event shares with the previous one is left out, times
        are distances, and descriptions are shortened once they have been written. Fields of single words come
        first, beginning with those that repeat most. The compact form has its own separators and takes about seven
        times as long to write (5 us per event). See Notes.
    max_events : int, default=None
        Write only the latest `max_events` events of each user; by default all of them.
    missing : str, default=""
        What is written for a missing value (null, NaN, NaT).
    time : str, default="auto"
        The field by which each user's events are ordered: its values must not decrease, except missing ones. "auto"
        is the first field of times or dates that orders the events seen during :term:`fit`, if there is one; a field
        that is the same in all events of each user, such as a date of birth, only if there is no other. Pass None to
        ignore time.
    events : str or sequence of str, default="events"
        The column of `X` that holds the events: Arrow, polars or nested-pandas lists of structs, or object cells that
        are lists of dicts or dataframes (tens of times slower). Several names are columns with one list per feature.

    Attributes
    ----------
    columns_ : list of str
        The fields that are written, in the order of the text.
    kinds_ : dict of str to str
        What these fields, and the one named by `time`, hold: "numbers", "texts", "times", ...; "nothing" if all
        values are missing in :term:`fit`, which leaves open what they hold later.
    time_ : str or None
        The field that orders the events.
    scalers_ : dict of str to transformer
        The fitted scalers.
    n_features_in_ : int
        Number of columns of `X` that are read: those named by `events`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of `X` that are read; others may be absent, or be added, after :term:`fit`.

    See Also
    --------
    nest_events : Builds `X` from a long table of events.
    TextEnricher : The next step, which rewrites the texts for training.

    Notes
    -----
    This is the serialisation of LLM4ES (arXiv 2508.05688, section 3.1).

    **Values.** The text of a value depends on that value alone, and equal numbers have equal texts, whatever their
    type: 5411, 5411.0 and ``Decimal("5411.00")`` are ``5411``. A number is written in the shortest form that reads back
    to the same number, whole ones below 1e20 exactly; digits that only arise when a float32 is converted to a float64
    are left out (``12.99``, not ``12.989999771118164``). Decimals keep all their digits except zeros at the end. A time
    is written as ``2024-03-01 18:30:00``, in its own zone but without naming it (``%z`` writes the offset); a duration
    in seconds; a boolean as ``true`` or ``false``; a categorical as its value; a list inside an event as its elements
    joined by a semicolon and a space, quoted if they hold a semicolon. Structs inside an event raise an error: make
    columns of their fields.

    **Compact form.** A line looks like ``POS 3600 12.5 Grocery``. An empty field repeats the line above, a column
    marked ``+`` in the header holds distances, one marked ``~`` holds the first words of values that have been written
    in full, and quoted values stand for themselves (`skllm4es.serialize._compact` has all the rules). Limit its length
    by `max_events`, not by tokens, because a line needs those above it. Columns and marks are learned from the first
    100,000 events seen during :term:`fit`.

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

    As in the paper, with whole days and amounts:

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
    @all_or_nothing
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the fields of the events, the scales of numbers, and the columns of the compact form.

        Parameters
        ----------
        X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
            One row per user, as `nest_events` returns it.
        y : None
            Ignored.

        Returns
        -------
        self : EventSerializer
            The fitted serializer.
        """
        flat = read_events(self, X, reset=True)
        format_instruction(self.instruction)
        check_labels(self.labels or {})
        columns = list(flat.columns) if self.columns is None else list(self.columns)
        time = resolve_time(flat, self.time)
        self._check_parameters(flat, columns, time)
        raise_if(disorder(flat, time, X), "The events of X are not in order")
        written = self._select(flat, columns)
        scalers = {
            name: fit_scaler(name, scaler, written.columns[name])
            for name, scaler in (self.scalers or {}).items()
            if name in columns
        }
        kinds = kinds_of(flat, [*columns, time] if time is not None and time == self.time else columns)
        self.time_, self.kinds_, self.scalers_ = time, kinds, scalers
        plan = self._plan(without_types(written, {name: kinds[name] for name in columns})) if self.compact else None
        self.columns_ = columns if plan is None else [column.name for column in plan]
        self._compact_columns = plan
        return self

    def transform(self, X: Any) -> Any:
        """Write the texts.

        Parameters
        ----------
        X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
            One row per user, with the fields seen during :term:`fit`; other fields are ignored. It is not changed.

        Returns
        -------
        texts : dataframe of shape (n_users, 1)
            The column ``text``, in a dataframe of the same library as `X` and with its index. The text of a user
            without events is the header line alone.

        Raises
        ------
        ValueError
            If the events lack a field that :term:`fit` saw, if a field holds values of another kind, or if events are
            not in the order of `time`. One message lists all problems.
        """
        check_is_fitted(self)
        flat = read_events(self, X, reset=False)
        problems, same = changes_since_fit(flat, self.kinds_, self.time_, X)
        problems += _unfit_formats(self.formats or {}, self.scalers_, same)
        raise_if(problems, "The events of X differ from those that fit saw")
        flat = self._select(same, self.columns_)
        fields = self._fields(flat, self._fill_and_quote(), report=True)
        before = format_instruction(self.instruction)
        if self._compact_columns is not None:
            named = [replace(column, name=self._header(column.name)) for column in self._compact_columns]
            texts = write_compact(fields, flat.offsets, named, before)
        else:
            header = format_header([self._header(name) for name in self.columns_], self.header_separator)
            texts = write_lines(fields, flat.offsets, before + header, self.separator)
        return self._frame({TEXT: texts}, like=X)

    def _header(self, name: str) -> str:
        return (self.headers or {}).get(name, name)

    def _check_parameters(self, flat: FlatEvents, columns: list[str], time: str | None) -> None:
        """Raise one error for all parameters that do not fit the events."""
        if not columns:
            none = (
                "The events of X have no fields" if self.columns is None else f"columns={self.columns!r} names no field"
            )
            raise ValueError(f"{none}: there is nothing to write.")
        named = {name: getattr(self, name) or {} for name in ("labels", "formats", "scalers", "headers")}
        problems = missing_fields(columns, flat, "columns names")
        for parameter, fields in named.items():
            problems += missing_fields(fields, flat, f"{parameter} names")
        problems += missing_fields([] if time is None else [time], flat, "time names")
        problems += [
            f"labels and {parameter} both name {name!r}, but descriptions take no {parameter}"
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
            problems.append(
                "compact=True has its own separators: leave separator and header_separator at their defaults"
            )
        raise_if(problems, "The parameters do not fit the events", f"The events have the fields {list(flat.columns)}.")

    def _select(self, flat: FlatEvents, columns: Sequence[str]) -> FlatEvents:
        flat = flat.select(columns)
        return flat if self.max_events is None else flat.latest(self.max_events)

    def _plan(self, flat: FlatEvents) -> list[CompactColumn]:
        """Choose how the compact form writes the columns, and their order."""
        sample = flat.first(_PLANNED_EVENTS)
        n_events = int(sample.offsets[-1])
        fields = self._fields(sample, FillAndQuote(self.missing, None))
        texts = {
            name: column.write(0, n_events).to_pylist() for name, column in zip(sample.columns, fields, strict=True)
        }
        points = {name for name, column in sample.columns.items() if self._is_point(name, column.type, texts[name])}
        return plan_columns(texts, sample.offsets.tolist(), points)

    def _is_point(self, name: str, type_: pa.DataType, texts: list[str]) -> bool:
        """Whether the values of a field are written as points in time; whole numbers are, whatever their type."""
        if name in self.scalers_ or name in (self.labels or {}):
            return False
        if style := self._style(name, type_):
            return style.counts
        kind = value_kind(type_)
        return is_time(kind) or (
            name == self.time_ and kind == "numbers" and all(is_whole(text) or text == self.missing for text in texts)
        )

    def _style(self, name: str, type_: pa.DataType) -> Style | None:
        spec = (self.formats or {}).get(name, ".2f" if name in self.scalers_ else None)
        return None if spec is None or pa.types.is_null(type_) else read_style(spec, type_)

    def _fill_and_quote(self) -> FillAndQuote:
        if self._compact_columns is not None:
            return FillAndQuote(self.missing, None)
        # An empty field that is alone in its line is quoted, because a blank line ends an instruction.
        alone = "|^$" if len(self.columns_) == 1 else ""
        return FillAndQuote(self.missing, special_in_field(self.separator) + alone)

    def _fields(self, flat: FlatEvents, fill_and_quote: FillAndQuote, *, report: bool = False) -> list[Fields]:
        """Prepare the columns for writing, and report codes without a description if asked to."""
        labeller = Labeller(self.labels or {}, self.unlabelled)
        fields = [
            self._field(name, column, flat.offsets, fill_and_quote, labeller) for name, column in flat.columns.items()
        ]
        if report:
            labeller.report()
        return fields

    def _field(
        self,
        name: str,
        column: pa.ChunkedArray,
        offsets: npt.NDArray[np.int64],
        fill_and_quote: FillAndQuote,
        labeller: Labeller,
    ) -> Fields:
        labelled = name in labeller.labels
        write: WriteValues = format_values
        if name in self.scalers_ and not pa.types.is_null(column.type):
            column = scale(self.scalers_[name], column)
        if style := self._style(name, column.type):
            column = style.derive(column, offsets) if style.derive else column
            write = style.write
        if is_list(column.type):

            def write_elements(elements: pa.ChunkedArray) -> pa.Array:
                values, numbers = encode_values(unify_dictionaries(elements))
                texts = labeller.label(name, values, format_values(values), numbers)
                return texts.take(pa.array(numbers))

            column, labelled = format_lists(column, write_elements), False
        if not labelled and not encoding_pays(column):
            return PlainFields(column, write, fill_and_quote)
        values, numbers = encode_values(column)
        texts = write(values)
        if labelled:
            texts = labeller.label(name, values, texts, numbers)
        clean = not labelled and write is format_values and needs_no_quotes(values.type)
        return EncodedFields(fill_and_quote(texts, clean=clean), numbers)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _unfit_formats(formats: Mapping[str, str], scalers: Mapping[str, Any], flat: FlatEvents) -> list[str]:
    problems = []
    for name, column in flat.columns.items():
        if name not in {*formats, *scalers}:
            continue
        kind = kinds_of(flat, [name])[name]
        types = _FORMATTED if kind == "nothing" else [pa.float64() if name in scalers else column.type]
        if name in scalers and kind not in ("numbers", "durations", "nothing") and not is_time(kind):
            problems.append(f"scalers[{name!r}]: {kind} ({column.type}) cannot be scaled")
        elif name in formats:
            errors = [error for type_ in types if (error := _style_error(formats[name], type_))]
            if len(errors) == len(types):
                problems.append(f"formats[{name!r}]: {errors[0]}")
    return problems


def _style_error(spec: str, type_: pa.DataType) -> ValueError | None:
    try:
        read_style(spec, type_)
    except ValueError as error:
        return error
    return None
