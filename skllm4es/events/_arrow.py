"""Arrow columns: combining, decoding and rebuilding them where pyarrow itself fails or is slow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from skllm4es.events._kinds import is_list, is_string

Column: TypeAlias = pa.ChunkedArray | pa.Array


def combine(column: Column) -> pa.Array:
    """Return a column as one array."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def combine_encoded(column: pa.ChunkedArray) -> pa.Array:
    """Return a column, whose chunks may have different dictionaries, as one array."""
    return combine(unify_dictionaries(column))


def encode_strings(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, strings as a dictionary."""
    # Plain Arrow strings overflow their 32-bit offsets at 2 GB; with dictionaries, labels cost one lookup per value.
    return combine_encoded(column.dictionary_encode() if is_string(column.type) else column)


def decode_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decode a dictionary, strings to large strings; return other columns as they are."""
    if not pa.types.is_dictionary(column.type):
        return column
    return column.cast(pa.large_string()) if is_string(column.type.value_type) else decode(column)


def decode(column: Column) -> pa.ChunkedArray:
    """Decode a dictionary of values of any type; Arrow's casts support only a few."""
    chunks = [chunk.dictionary.take(chunk.indices) for chunk in _chunks(column)]
    return pa.chunked_array(chunks, column.type.value_type)


def decode_irregular(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decode a dictionary that repeats a value or holds a null, as Arrow allows: its codes do not identify values."""
    if not pa.types.is_dictionary(column.type):
        return column
    dictionaries = [chunk.dictionary for chunk in column.chunks]
    regular = all(len(values.unique()) == len(values) and not values.null_count for values in dictionaries)
    return column if regular else decode_strings(column)


def is_offset(zone: str) -> bool:
    """Whether a time zone is a mere offset from UTC, such as "+01:00"."""
    return re.fullmatch(r"[+-]\d\d:?\d\d", zone) is not None


def to_plain(column: Column) -> Column:
    """Convert views to plain strings or bytes, dictionaries of lists to lists, and times with a mere offset to UTC.

    Arrow cannot take rows of the former; offsets change with the seasons, and one column may have only one of them.
    """
    encoded = pa.types.is_dictionary(column.type)
    values = column.type.value_type if encoded else column.type
    if encoded and pa.types.is_nested(values):
        return decode(column)
    plain = _plain_type(values)
    if plain == values:
        return column
    if not encoded:
        return column.cast(plain)
    chunks = [
        pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.cast(plain), ordered=column.type.ordered)
        for chunk in _chunks(column)
    ]
    return pa.chunked_array(chunks, pa.dictionary(column.type.index_type, plain, column.type.ordered))


def regularise(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert what Arrow cannot compute with: dictionaries of anything but strings, string views, 16-bit floats."""
    column = to_plain(column)
    type_ = _regular_type(column.type)
    if pa.types.is_dictionary(column.type) and not pa.types.is_dictionary(type_):
        column = decode(column)
    return unify_dictionaries(column if type_ == column.type else column.cast(type_))


def _regular_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return type_ if is_string(type_.value_type) else _regular_type(type_.value_type)
    if is_list(type_):
        regular = _regular_type(type_.value_type)
        return type_ if regular == type_.value_type else pa.large_list(regular)
    return pa.float32() if pa.types.is_float16(type_) else _plain_type(type_)


def _plain_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(type_):
        return pa.large_string()
    if pa.types.is_binary_view(type_):
        return pa.large_binary()
    if pa.types.is_timestamp(type_) and type_.tz and is_offset(type_.tz):
        return pa.timestamp(type_.unit, "UTC")
    return type_


def unify_dictionaries(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Make all chunks share one dictionary."""
    if pa.types.is_dictionary(column.type) and pa.types.is_null(column.type.value_type):  # Arrow cannot unify these.
        return pa.chunked_array([pa.nulls(len(column))])
    if pa.types.is_dictionary(column.type) and column.type.index_type.bit_width < 32:
        # The chunks' dictionaries together may need more codes than a narrow index has.
        type_ = pa.dictionary(pa.int32(), column.type.value_type, column.type.ordered)
        chunks = [
            pa.DictionaryArray.from_arrays(chunk.indices.cast(pa.int32()), chunk.dictionary, ordered=type_.ordered)
            for chunk in column.chunks
        ]
        column = pa.chunked_array(chunks, type_)
    return column.unify_dictionaries()


def list_array(values: pa.Array, offsets: npt.NDArray[np.int64], missing: Sequence[bool] = ()) -> pa.Array:
    """Cut values into lists at the offsets; those that are missing become null."""
    mask = pa.array(missing) if any(missing) else None
    if offsets[-1] <= np.iinfo(np.int32).max:
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=mask)
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values, mask=mask)


def offsets_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where lists of the given lengths begin and end when they stand end to end."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _chunks(column: Column) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]
