"""The order of values and of events."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skllm4es.events._arrow import combine_encoded, decode
from skllm4es.events._kinds import is_temporal


def factorize(column: pa.ChunkedArray, name: str) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Return the sorted distinct values of a column without nulls, and the position of each row's value among them.

    Values that compare equal are one, so zero has no sign.
    """
    values = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(values):  # Of a table without events; Arrow 22 cannot encode it.
        return pa.nulls(0), np.zeros(0, dtype=np.int64)
    try:
        column = _without_negative_zero(column)
        encoded = combine_encoded(column if pa.types.is_dictionary(column.type) else column.dictionary_encode())
        indices = encoded.indices.to_numpy()
        used = np.flatnonzero(np.bincount(indices, minlength=len(encoded.dictionary)))
        dictionary = encoded.dictionary.take(pa.array(used))
        order = np.arange(len(used)) if encoded.type.ordered else pc.array_sort_indices(dictionary).to_numpy()
    except pa.ArrowNotImplementedError as error:
        raise TypeError(
            f"The values of the column {name!r} cannot be put in order: they are of type {column.type}. "
            "Convert them to numbers, times or strings."
        ) from error
    rank = np.zeros(len(encoded.dictionary), dtype=np.int64)
    rank[used[order]] = np.arange(len(order))
    return dictionary.take(pa.array(order)), rank[indices]


def factorize_together(columns: dict[str, pa.ChunkedArray]) -> tuple[list[pa.Array], npt.NDArray[np.int64]]:
    """Return the sorted distinct rows of columns without nulls, column by column, and the position of each row."""
    (name, column), *others = columns.items()
    first, codes = factorize(column, name)
    distinct = [first]
    for name, column in others:
        values, own = factorize(column, name)
        pairs, codes = np.unique(codes * len(values) + own, return_inverse=True)
        before, last = np.divmod(pairs, max(len(values), 1))
        distinct = [known.take(pa.array(before)) for known in distinct] + [values.take(pa.array(last))]
    return distinct, codes


def _without_negative_zero(column: pa.ChunkedArray) -> pa.ChunkedArray:
    encoded = pa.types.is_dictionary(column.type)
    type_ = column.type.value_type if encoded else column.type
    if not (pa.types.is_float32(type_) or pa.types.is_float64(type_)) or (encoded and column.type.ordered):
        return column
    return pc.add(decode(column) if encoded else column, pa.scalar(0, type_))


#: What sorts in the order of time as a text: ISO 8601 without offsets, all digits written as zero.
_ISO_SHAPE = re.compile(r"(0000(-?00){0,2})?([T ]?00(:?00){1,2}([.,]0+)?)?Z?")


def sorts_like_time(texts: pa.Array) -> bool:
    """Whether the order of some texts is that of the times or numbers that they may stand for."""
    digits = pc.replace_substring_regex(texts.cast(pa.large_string()), pattern="[0-9]", replacement="0")
    shapes = pc.unique(digits).to_pylist()
    longest = max(shapes, key=len, default="")
    n_numbers = sum(set(shape) == {"0"} for shape in shapes)
    if "0" not in "".join(shapes) or len(shapes) == n_numbers == 1:
        return True  # Neither dates nor numbers, or numbers of as many digits.
    return n_numbers <= 1 and all(_ISO_SHAPE.fullmatch(shape) and longest.startswith(shape) for shape in shapes)


def sortable(column: pa.ChunkedArray, name: str) -> npt.NDArray[Any]:
    """Return numbers that have the order of a column's values, none of which is missing."""
    if is_temporal(column.type):
        return column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64()).to_numpy()
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column.to_numpy()
    return factorize(column, name)[1]


def order_of_events(users: npt.NDArray[np.int64], times: npt.NDArray[Any] | None) -> npt.NDArray[np.int64] | None:
    """Sort rows by user and time, if there is one, stably; return None if they are sorted already (30 times faster)."""
    if times is None:
        return None if np.all(users[1:] >= users[:-1]) else np.argsort(users, kind="stable")
    same_user = users[1:] == users[:-1]
    if np.all((users[1:] > users[:-1]) | (same_user & (times[1:] >= times[:-1]))):
        return None
    key = _single_key(users, times)
    return np.lexsort((times, users)) if key is None else np.argsort(key, kind="stable")


def _single_key(users: npt.NDArray[np.int64], times: npt.NDArray[Any]) -> npt.NDArray[np.int64] | None:
    """Put user and time into one integer, sorted in 1.9 s instead of 4.7 s (10M events); None if it overflows."""
    largest = np.iinfo(np.int64).max
    first, last = times.min(), times.max()
    if times.dtype.kind not in "iu" or int(last) > largest or int(last) - int(first) > largest:
        return None
    steps = times.astype(np.int64) - np.int64(first)
    unit = max(int(np.gcd.reduce(steps)), 1)  # Seconds stored as nanoseconds need 30 bits less.
    span = int(steps.max()) // unit + 1
    return users * span + steps // unit if (int(users.max()) + 1) * span <= largest else None
