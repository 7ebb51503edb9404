"""Arrow types: which of them belong together, and what their values are called in messages."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa


def is_string(type_: pa.DataType) -> bool:
    """Whether a type is one of Arrow's three string types."""
    return pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)


def is_list(type_: pa.DataType) -> bool:
    """Whether a type is one of Arrow's list types."""
    t = pa.types
    views = t.is_list_view(type_) or t.is_large_list_view(type_)
    return t.is_list(type_) or t.is_large_list(type_) or t.is_fixed_size_list(type_) or views


def is_temporal(type_: pa.DataType) -> bool:
    """Whether values of a type are dates, times, times of day or durations, which Arrow stores as one integer."""
    return pa.types.is_temporal(type_) and not pa.types.is_interval(type_)


def is_time(kind: str) -> bool:
    """Whether values of a kind are points in time."""
    return kind == "dates" or (kind.startswith("times") and kind != "times of day")


def value_kind(type_: pa.DataType) -> str:
    """Name what the values of a type are, a dictionary by its values; equal values of one kind are written alike.

    The kinds are "numbers", "texts", "booleans", "dates", "times" (followed by their zone), "times of day",
    "durations", "lists of ...", and "nothing" for the type of nulls. Other types raise a TypeError.
    """
    types = pa.types
    if types.is_dictionary(type_):
        return value_kind(type_.value_type)
    if types.is_timestamp(type_):
        return "times" if type_.tz is None else f"times of {type_.tz}"
    if is_list(type_):
        return f"lists of {value_kind(type_.value_type)}"
    kinds: dict[str, Callable[[pa.DataType], bool]] = {
        "booleans": types.is_boolean,
        "numbers": lambda t: types.is_integer(t) or types.is_floating(t) or types.is_decimal(t),
        "texts": is_string,
        "dates": types.is_date,
        "times of day": types.is_time,
        "durations": types.is_duration,
        "nothing": types.is_null,
    }
    for kind, check in kinds.items():
        if check(type_):
            return kind
    raise TypeError(_no_text(type_))


def may_agree(kind: str, other: str) -> bool:
    """Whether two kinds may be of one field: values that are all missing, also in lists, are of any kind."""
    lists = "lists of "
    while kind.startswith(lists) and other.startswith(lists):
        kind, other = kind.removeprefix(lists), other.removeprefix(lists)
    return kind == other or "nothing" in (kind, other)


def kind_in_cells(type_: pa.DataType) -> str:
    """Name the kind of values that go together, as for Python objects; nothing if all are missing."""
    types = pa.types
    if types.is_dictionary(type_):
        return kind_in_cells(type_.value_type)
    if is_list(type_):
        return f"lists of {kind_in_cells(type_.value_type)}".removesuffix(" of ")
    if types.is_timestamp(type_):
        return f"times in {type_.tz}" if type_.tz else "times without a zone"
    kinds: dict[str, Callable[[pa.DataType], bool]] = {
        "": types.is_null,
        "integers": types.is_integer,
        "floats": types.is_float64,
        "decimals": types.is_decimal,
        "texts": is_string,
        "durations": types.is_duration,
        "times of day": types.is_time,
    }
    return next((kind for kind, check in kinds.items() if check(type_)), str(type_))


def unreadable(name: str, type_: pa.DataType) -> TypeError:
    """Return the error for a field of a type that cannot be read."""
    return TypeError(f"The field {name!r} of the events: {_no_text(type_)}.")


def _no_text(type_: pa.DataType) -> str:
    return f"values of type {type_} cannot be written as text; convert them to strings first"
