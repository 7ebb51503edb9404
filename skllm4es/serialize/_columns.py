"""The events of many texts, column by column: what `parse_events` reads, for counting what occurs.

Arrow's CSV reader splits most texts as `parse_events` does, several times as fast: see `_as_csv`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from skllm4es.serialize._serialised import EventTable, parse_events, read_head

Codes = npt.NDArray[np.int32]
#: From values to numbers.
Read = Callable[[list[str]], npt.NDArray[np.float64]]

#: Stands for the separator in what Arrow reads.
_MARK = "\x1f"
#: A field in quotes, from a separator or line break to the next.
_QUOTED = re.compile(f'(?<![^\n{_MARK}])"[^"]*+(?:""[^"]*+)*+"(?![^\n{_MARK}])')
#: About as many characters are read at once.
_PIECE = 1 << 24
#: The number of values that are strings of Python at once.
_PART = 1 << 18
_EMPTY = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array([""], pa.large_string()))


@dataclass(frozen=True)
class _Piece:
    """Events of some of the texts: the texts' positions, how many events each has, and their values."""

    positions: list[int]
    lengths: list[int]
    columns: Mapping[str, pa.DictionaryArray]


class TextColumns:
    """The events of many texts, feature by feature, text by text, earliest event first.

    A feature such as the time can have as many values as there are events. So values stay in the pieces in which they
    were parsed, and only those of features that `codes` is asked for are compared with one another.

    Parameters
    ----------
    n_texts : int
        The number of texts.
    pieces : iterable of _Piece
        Their events.

    Attributes
    ----------
    lengths : ndarray of shape (n_texts,), dtype int64
        The number of events of each text.
    """

    def __init__(self, n_texts: int, pieces: Iterable[_Piece]) -> None:
        self.lengths = np.zeros(n_texts, dtype=np.int64)
        self._pieces: dict[str, list[tuple[list[int], pa.DictionaryArray]]] = {}
        for piece in pieces:
            self.lengths[piece.positions] = piece.lengths
            for name, column in piece.columns.items():
                self._pieces.setdefault(name, []).append((piece.positions, column))
        self.names = list(self._pieces)
        self._encoded: dict[str, pa.DictionaryArray] = {}
        self._numbers: dict[tuple[str, Read], npt.NDArray[np.float64]] = {}

    @property
    def n_events(self) -> int:
        """The number of all events."""
        return int(self.lengths.sum())

    @property
    def owners(self) -> npt.NDArray[np.int64]:
        """The text of each event, of shape (n_events,)."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def values(self, name: str) -> Iterator[list[str]]:
        """Yield the values of a feature, few at a time so that they need little memory; a value can recur."""
        for _, column in self._columns(name):
            yield from _in_parts(column.dictionary)

    def numbers(self, name: str, read: Read) -> npt.NDArray[np.float64]:
        """Return what `read` makes of the values of all events; NaN where the feature is lacking."""
        if (name, read) not in self._numbers:
            numbers = np.full(self.n_events, np.nan)
            for events, column in self._columns(name):
                numbers[events] = np.concatenate([*map(read, _in_parts(column.dictionary))])[column.indices.to_numpy()]
            self._numbers[name, read] = numbers
        return self._numbers[name, read]

    def codes(self, name: str) -> Codes:
        """Return a number for each event's value; 0 is that of the empty value, and where a text lacks the feature."""
        codes: Codes = self._encode(name).indices.to_numpy()
        return codes

    def values_at(self, name: str, codes: Codes) -> list[str]:
        """Return the values that codes stand for."""
        return self._encode(name).dictionary.take(pa.array(codes)).to_pylist()

    def _encode(self, name: str) -> pa.DictionaryArray:
        if name not in self._encoded:
            events, columns = zip((np.empty(0, dtype=np.int64), _EMPTY), *self._columns(name), strict=True)
            unified = pa.chunked_array(columns).unify_dictionaries()
            codes = np.zeros(self.n_events, dtype=np.int32)
            for own, column in zip(events[1:], unified.chunks[1:], strict=True):
                codes[own] = column.indices.to_numpy()
            self._encoded[name] = pa.DictionaryArray.from_arrays(pa.array(codes), unified.chunk(0).dictionary)
            self._pieces.pop(name, None)  # The same values again.
        return self._encoded[name]

    def _columns(self, name: str) -> Iterator[tuple[npt.NDArray[np.int64] | slice, pa.DictionaryArray]]:
        """Yield the events of each piece that has a feature, and their values."""
        if name in self._encoded:
            yield slice(None), self._encoded[name]
        starts = np.cumsum(self.lengths) - self.lengths
        for positions, column in self._pieces.get(name, []):
            own = self.lengths[positions]
            ends = np.cumsum(own)
            yield np.repeat(starts[positions] - (ends - own), own) + np.arange(ends[-1]), column


def _in_parts(values: pa.LargeStringArray) -> Iterator[list[str]]:
    for start in range(0, len(values), _PART):
        yield values.slice(start, _PART).to_pylist()


class _Head(NamedTuple):
    """What texts must share to be parsed at once: the names, and what stands between fields."""

    header: tuple[str, ...]
    separator: str


class _Body(NamedTuple):
    """The lines of a text, with a mark between fields."""

    position: int
    n_lines: int
    lines: str


def parse_columns(texts: Sequence[str]) -> TextColumns:
    """Parse texts in the serialised form.

    Parameters
    ----------
    texts : sequence of str
        The texts, in any variants of the form; their headers may differ.

    Returns
    -------
    TextColumns
        Their events. A feature that is named twice in one header is two features, ``name`` and ``name_2``.

    Raises
    ------
    ValueError
        If a text is not in the serialised form.
    """
    return TextColumns(len(texts), _pieces(texts))


def _pieces(texts: Sequence[str]) -> Iterator[_Piece]:
    """Parse texts, many at once where their heads are the same."""
    waiting: dict[_Head, list[_Body]] = {}
    sizes: dict[_Head, int] = {}
    others: list[int] = []
    n_characters = 0
    for position, text in enumerate(texts):
        if (found := _as_csv(text)) is None:
            others.append(position)
            n_characters += len(text)
            if n_characters > _PIECE:
                yield from _parse_one_by_one(others, texts)
                others, n_characters = [], 0
            continue
        head, n_lines, lines = found
        waiting.setdefault(head, []).append(_Body(position, n_lines, lines))
        sizes[head] = sizes.get(head, 0) + len(lines)
        if sizes[head] > _PIECE:
            del sizes[head]
            yield from _parse_many(head, waiting.pop(head), texts)
    yield from _parse_one_by_one(others, texts)
    for head, bodies in waiting.items():
        yield from _parse_many(head, bodies, texts)


def _as_csv(text: str) -> tuple[_Head, int, str] | None:
    """Return the head of a text, the number of its lines, and these with a mark between fields; None if CSV differs.

    It differs in the compact form, where quotes are misplaced, and at a carriage return, which would end a line.
    """
    if _MARK in text or "\r" in text:
        return None
    try:
        head = read_head(text)
    except ValueError:
        return None
    if head is None:
        return None
    header, separator, body = head
    marked = body.replace(separator, _MARK)
    bare = _QUOTED.sub("", marked) if '"' in marked else marked
    if '"' in bare:
        return None
    return _Head(tuple(header), separator), bare.count("\n") + 1 if body else 0, marked


def _parse_many(head: _Head, bodies: Sequence[_Body], texts: Sequence[str]) -> Iterator[_Piece]:
    positions, lengths = [body.position for body in bodies], [body.n_lines for body in bodies]
    if not any(lengths):
        yield _Piece(positions, lengths, {})
        return
    names = [str(i) for i in range(len(head.header))]
    # The names come first, so that no text begins the file: a byte order mark there would be lost.
    lines = [_MARK.join(names), *(body.lines for body in bodies if body.n_lines), ""]
    table = None
    try:
        data = "\n".join(lines).encode()
        table = csv.read_csv(
            pa.py_buffer(data),
            csv.ReadOptions(block_size=len(data) + 1, use_threads=False),
            csv.ParseOptions(delimiter=_MARK, newlines_in_values=True, ignore_empty_lines=False),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pa.dictionary(pa.int32(), pa.string()))),
        )
    except pa.ArrowInvalid:
        pass  # A line with more fields or fewer: whatever is wrong, `parse_events` says it.
    if table is None or table.num_rows != sum(lengths):
        yield from _parse_one_by_one(positions, texts)
        return
    columns = {}
    for name, column in zip(_distinct(head.header), table.columns, strict=True):
        coded = column.combine_chunks()
        values = pc.replace_substring(coded.dictionary.cast(pa.large_string()), _MARK, head.separator)
        columns[name] = pa.DictionaryArray.from_arrays(coded.indices, values)
    yield _Piece(positions, lengths, columns)


def _parse_one_by_one(positions: Sequence[int], texts: Sequence[str]) -> Iterator[_Piece]:
    """Parse texts by `parse_events`; those with the same names are one piece."""
    tables: dict[tuple[str, ...], list[tuple[int, EventTable]]] = {}
    for position in positions:
        try:
            table = parse_events(texts[position])
        except ValueError as error:
            raise ValueError(f"Text {position} is not in the form that EventSerializer writes: {error}") from error
        tables.setdefault(tuple(table.header), []).append((position, table))
    for header, of_header in tables.items():
        rows = [row for _, table in of_header for row in table.rows]
        columns = {}
        for name, column in zip(_distinct(header), zip(*rows, strict=True), strict=bool(rows)):
            columns[name] = pa.array(column, pa.large_string()).dictionary_encode()
        yield _Piece([position for position, _ in of_header], [len(table.rows) for _, table in of_header], columns)


def _distinct(names: Sequence[str]) -> list[str]:
    """Add to names that occur again the first number that makes a new name."""
    given, result = set(names), dict[str, None]()
    for name in names:
        numbered = (f"{name}_{number}" for number in count(2))
        result[name if name not in result else next(new for new in numbered if new not in given | result.keys())] = None
    return [*result]
