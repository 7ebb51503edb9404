"""Columns of fields, written as texts block by block, for millions of events: what makes `EventSerializer` fast.

A column whose values repeat is encoded as its distinct fields, each labelled and quoted once, and the number of each
event's field; neighbours with few distinct fields become one column. Lines are written block by block, so that only the
texts are held for all events: each block takes its fields, formats what is not encoded, and joins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skllm4es.events._arrow import Column, combine
from skllm4es.serialize._compact import CompactColumn, format_compact
from skllm4es.serialize._values import WriteValues, format_values, join_strings, needs_no_quotes, quote_fields

Offsets = npt.NDArray[np.int64]

# A join costs 15 ns per event and field, a table of this many fields next to nothing.
_MAX_PAIRS = 4096


@dataclass(frozen=True)
class FillAndQuote:
    """Turns strings into fields: `missing` replaces nulls, and fields in which `special` is found are quoted.

    `special` is a regular expression; None quotes nothing.
    """

    missing: str
    special: str | None

    def __call__(self, texts: Column, *, clean: bool = False) -> pa.Array:
        """Return the fields; texts that are known to be clean are not searched for marks."""
        texts = combine(texts)
        if self.special is not None and not clean:
            texts = quote_fields(texts, self.special)
        if not texts.null_count:
            return texts
        missing = pa.array([self.missing], pa.large_string())
        return pc.fill_null(texts, (missing if self.special is None else quote_fields(missing, self.special))[0])


@dataclass(frozen=True)
class PlainFields:
    """A column whose values are formatted block by block."""

    column: pa.ChunkedArray
    write_values: WriteValues
    fill_and_quote: FillAndQuote

    def write(self, start: int, stop: int) -> pa.Array:
        """Write the fields of the events ``start:stop``."""
        texts = self.write_values(self.column.slice(start, stop - start))
        clean = self.write_values is format_values and needs_no_quotes(self.column.type)
        return self.fill_and_quote(texts, clean=clean)


@dataclass(frozen=True)
class EncodedFields:
    """A column as its distinct fields, ready to be written, and the number of each event's field."""

    fields: pa.Array
    numbers: npt.NDArray[np.int32]

    def write(self, start: int, stop: int) -> pa.Array:
        """Write the fields of the events ``start:stop``."""
        return pc.take(self.fields, pa.array(self.numbers[start:stop]), boundscheck=False)


Fields = PlainFields | EncodedFields


def write_lines(
    columns: Sequence[Fields], offsets: Offsets, header: str, separator: str, block: int = 100_000
) -> pa.ChunkedArray:
    """Write each user's events as lines under a header.

    About `block` events are written at a time, and no user is split. There is one chunk per block: combining them would
    double the memory.
    """
    columns = _pair_neighbours(columns, separator)
    chunks = [_write_block(columns, bounds, header, separator) for bounds in _blocks(offsets, block)]
    return pa.chunked_array(chunks, pa.large_string())


def write_compact(
    columns: Sequence[Fields], offsets: Offsets, plan: Sequence[CompactColumn], before: str, block: int = 100_000
) -> pa.ChunkedArray:
    """Write each user's events in the compact form, as planned, after the text `before`."""
    chunks = []
    for bounds in _blocks(offsets, block):
        start, stop = int(bounds[0]), int(bounds[-1])
        values = [column.write(start, stop).to_pylist() for column in columns]
        texts = [
            before + format_compact(plan, [column[a - start : b - start] for column in values])
            for a, b in pairwise(bounds.tolist())
        ]
        chunks.append(pa.array(texts, pa.large_string()))
    return pa.chunked_array(chunks, pa.large_string())


def _pair_neighbours(columns: Sequence[Fields], separator: str) -> list[Fields]:
    """Merge neighbours that have few distinct fields, so that both are taken and joined at once."""
    merged: list[Fields] = []
    for column in columns:
        last = merged[-1] if merged else None
        if (
            isinstance(last, EncodedFields)
            and isinstance(column, EncodedFields)
            and len(last.fields) * len(column.fields) <= _MAX_PAIRS
        ):
            merged[-1] = _pair(last, column, separator)
        else:
            merged.append(column)
    return merged


def _pair(left: EncodedFields, right: EncodedFields, separator: str) -> EncodedFields:
    n_left, n_right = len(left.fields), len(right.fields)
    fields = join_strings(
        left.fields.take(pa.array(np.repeat(np.arange(n_left), n_right))),
        right.fields.take(pa.array(np.tile(np.arange(n_right), n_left))),
        separator=separator,
    )
    return EncodedFields(fields, left.numbers * np.int32(n_right) + right.numbers)


def _blocks(offsets: Offsets, block: int) -> Iterator[Offsets]:
    """Split the users into blocks with about equally many events; yield the offsets of each block's users."""
    # A block begins with the first user at or after each multiple of `block` events.
    starts = np.searchsorted(offsets[:-1], np.arange(0, max(offsets[-1], 1), block))
    bounds = np.unique(np.concatenate([[0], starts, [len(offsets) - 1]]))
    return (offsets[a : b + 1] for a, b in pairwise(bounds))


def _write_block(columns: Sequence[Fields], offsets: Offsets, header: str, separator: str) -> pa.Array:
    start, stop = int(offsets[0]), int(offsets[-1])
    lines = join_strings(*(column.write(start, stop) for column in columns), separator=separator)
    users = pa.LargeListArray.from_arrays(pa.array(offsets - start), lines)
    bodies = pc.binary_join(users, pa.scalar("\n", pa.large_string()))
    line_break = pc.if_else(pa.array(np.diff(offsets) > 0), "\n", "").cast(pa.large_string())
    return join_strings(header, line_break, bodies)
