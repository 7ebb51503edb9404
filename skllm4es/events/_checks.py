"""Checks of the events before they are used: their time and its order, their fields and the kinds of values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sklearn.utils.validation import validate_data

from skllm4es.events._flat import FlatEvents, flatten_events
from skllm4es.events._frames import row_label
from skllm4es.events._kinds import is_list, is_temporal, is_time, may_agree, value_kind


def read_events(estimator: Any, X: Any, *, reset: bool) -> FlatEvents:
    """Read the columns that an estimator's `events` names, and learn or compare their names; others are never read."""
    events = estimator.events
    flat = flatten_events(X, events)
    validate_data(
        estimator, X[[events] if isinstance(events, str) else list(events)], reset=reset, skip_check_array=True
    )
    return flat


def resolve_time(flat: FlatEvents, time: str | None) -> str | None:
    """Return the field that the parameter `time` names; "auto" is the one that orders the events."""
    return find_time(flat) if time == "auto" and "auto" not in flat.columns else time


def find_time(flat: FlatEvents) -> str | None:
    """Return the first field of times or dates that orders the events; if none does, the first such field.

    A field that is the same in all events of each user, such as a date of birth, orders them only if no other does.
    """
    names = fields_of_times(flat)
    ordered = (name for name in names if not len(flat.unsorted_users(name)))
    found = first_varying(flat, ordered)
    return next(iter(names), None) if found is None else found


def first_varying(flat: FlatEvents, names: Iterable[str]) -> str | None:
    """Return the first of some fields that differs between events of a user; if none does, the first of all."""
    first = None
    for name in names:
        if flat.varies(name):
            return name
        first = name if first is None else first
    return first


def fields_of_times(flat: FlatEvents) -> list[str]:
    """Return the names of the fields that hold times or dates."""
    return [name for name, column in flat.columns.items() if is_temporal(column.type) and is_time(_kind(column))]


def disorder(flat: FlatEvents, time: str | None, X: Any) -> list[str]:
    """Describe where in `X` the values of the field `time` decrease, if they do."""
    if time not in flat.columns or not len(users := flat.unsorted_users(time)):
        return []
    return [
        f"{time!r} decreases within {len(users)} of {flat.n_users} users, first in row {row_label(X, users[0])!r}; "
        f"sort the events, as nest_events(table, user=..., time={time!r}) does; or set time to the field that orders "
        "them, or to None to ignore time"
    ]


def kinds_of(flat: FlatEvents, names: Iterable[str]) -> dict[str, str]:
    """Name what the values of some fields are: "nothing" if all are missing, whatever their type."""
    kinds = {}
    for name in names:
        try:
            kinds[name] = _kind(flat.columns[name])
        except TypeError as error:
            raise TypeError(f"The field {name!r} of the events: {error}.") from error
    return kinds


def _kind(column: pa.ChunkedArray) -> str:
    return _kind_of_values(column) if len(column) else value_kind(column.type)  # No event says that it has none.


def _kind_of_values(column: pa.ChunkedArray) -> str:
    kind = value_kind(column.type)
    if column.null_count == len(column):
        return "nothing"
    if is_list(column.type):
        return f"lists of {_kind_of_values(pc.list_flatten(column))}"
    # Most columns of floats begin with a number, and need not be searched for one.
    if pa.types.is_floating(column.type) and _is_missing(column[:1]) and _is_missing(column):
        return "nothing"
    return kind


def _is_missing(column: pa.ChunkedArray) -> bool:
    missing: bool = pc.all(pc.is_null(column, nan_is_null=True)).as_py()
    return missing


def missing_fields(names: Iterable[str], flat: FlatEvents, source: str) -> list[str]:
    """Describe which of the named fields the events lack, if any."""
    missing = [name for name in names if name not in flat.columns]
    return [f"{source} {missing}, which the events do not have"] if missing else []


def without_types(flat: FlatEvents, kinds: Mapping[str, str]) -> FlatEvents:
    """Return the events with the type of nulls for fields of the kind "nothing"."""
    nulls = pa.chunked_array([pa.nulls(int(flat.offsets[-1]))])
    return replace(flat, columns=flat.columns | {name: nulls for name, kind in kinds.items() if kind == "nothing"})


def changes_since_fit(
    flat: FlatEvents, kinds: Mapping[str, str], time: str | None, X: Any
) -> tuple[list[str], FlatEvents]:
    """Describe how the events differ from those seen in fit, and return them with only the unchanged fields.

    A field without values, or with empty lists, is of any kind, and users without events may lack fields. Fields
    without values are returned with the type of nulls, since another type may be one that fit did not see.
    """
    if not flat.lengths.any():  # Users without events may lack fields.
        nulls = pa.chunked_array([pa.nulls(0)])
        return [], replace(flat, columns=dict.fromkeys(kinds, nulls))
    problems = missing_fields(kinds, flat, "fit saw")
    seen = kinds_of(flat, [name for name in kinds if name in flat.columns])
    flat = without_types(flat, seen)
    changed = [name for name, kind in seen.items() if not may_agree(kind, kinds[name])]
    problems += [
        f"{name!r} holds {seen[name]} ({_type_name(flat.columns[name].type)}), where fit saw {kinds[name]}"
        f"{_zone_remedy(seen[name], kinds[name])}"
        for name in changed
    ]
    problems += [] if time in changed else disorder(flat, time, X)
    return problems, flat.select([name for name in seen if name not in changed])


def _zone_remedy(seen: str, expected: str) -> str:
    if not is_time(seen) or not is_time(expected) or "dates" in (seen, expected):
        return ""
    if expected == "times":
        return "; convert them to the zone whose clock those of fit show, and drop it with dt.tz_localize(None)"
    convert = "tz_localize" if seen == "times" else "tz_convert"
    return f"; convert them with dt.{convert}({expected.removeprefix('times of ')!r})"


def _type_name(type_: pa.DataType) -> str:
    """Name a type as users do, who do not choose how wide the offsets of strings are."""
    return str(type_).removeprefix("large_")
