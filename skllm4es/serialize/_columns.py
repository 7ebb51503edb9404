"""The events of many texts, column by column: `parse_events` for whoever counts what occurs in them.

Arrow's CSV reader splits most texts as `parse_events` does, several times as fast: see `_as_csv`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from skllm4es.serialize._serialised import parse_events, read_head

Codes = npt.NDArray[np.int32]

#: Stands for the separator in what Arrow reads.
_MARK = "\x1f"
#: A field in quotes, from a separator or line break to the next.
_QUOTED = re.compile(f'(?<![^\n{_MARK}])"[^"]*+(?:""[^"]*+)*+"(?![^\n{_MARK}])')
#: About as many characters are read at once.
_PIECE = 1 << 24
#: So many strings are Python's at once.
_PART = 1 << 18
_EMPTY = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array([b""], pa.large_binary()))


@dataclass(frozen=True)
class _Piece:
    """Events of some of the texts: the texts' positions, how many events each has, and their values, as UTF-8."""

    positions: list[int]
    lengths: list[int]
    columns: Mapping[str, pa.DictionaryArray]


@dataclass(frozen=True)
class TextColumns:
    """The events of many texts, feature by feature, text by text, earliest event first.

    A feature such as the time can have as many values as there are events. So values stay in the pieces in which they
    were parsed, and only those of features that `codes` is asked for are compared with one another.

    Parameters
    ----------
    lengths : ndarray of shape (n_texts,), dtype int64
        The number of events of each text.
    pieces : list of _Piece
        The events.
    """

    lengths: npt.NDArray[np.int64]
    pieces: list[_Piece]
    _coded: dict[str, tuple[Codes, pa.LargeBinaryArray]] = field(default_factory=dict)

    @property
    def n_events(self) -> int:
        """The number of all events."""
        return int(self.lengths.sum())

    @property
    def names(self) -> list[str]:
        """The names of the features."""
        return list(dict.fromkeys(name for piece in self.pieces for name in piece.columns))

    @property
    def owners(self) -> npt.NDArray[np.int64]:
        """The text of each event, of shape (n_events,)."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def values(self, name: str) -> Iterator[list[str]]:
        """Yield the values of a feature, few at once so that they need little memory; one may come again."""
        for _, column in self._pieces_of(name):
            yield from _in_parts(column.dictionary)

    def numbers(self, name: str, read: Callable[[list[str]], npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        """Return what `read` makes of the values of all events; NaN where a text lacks the feature."""
        numbers = np.full(self.n_events, np.nan)
        for events, column in self._pieces_of(name):
            numbers[events] = np.concatenate([*map(read, _in_parts(column.dictionary))])[column.indices.to_numpy()]
        return numbers

    def codes(self, name: str) -> Codes:
        """Return a number for each event's value; 0 for the empty one, which a text has that lacks the feature."""
        return self._encoded(name)[0]

    def values_at(self, name: str, codes: Codes) -> list[str]:
        """Return the values that codes stand for."""
        return _strings(self._encoded(name)[1].take(pa.array(codes)))

    def _encoded(self, name: str) -> tuple[Codes, pa.LargeBinaryArray]:
        if name not in self._coded:
            events, columns = zip((np.empty(0, dtype=np.int64), _EMPTY), *self._pieces_of(name), strict=True)
            unified = pa.chunked_array(columns).unify_dictionaries()
            codes = np.zeros(self.n_events, dtype=np.int32)
            for own, column in zip(events[1:], unified.chunks[1:], strict=True):
                codes[own] = column.indices.to_numpy()
            self._coded[name] = codes, unified.chunk(0).dictionary
        return self._coded[name]

    def _pieces_of(self, name: str) -> Iterator[tuple[npt.NDArray[np.int64], pa.DictionaryArray]]:
        """Yield the events of each piece that has a feature, and their values."""
        starts = np.cumsum(self.lengths) - self.lengths
        for piece in self.pieces:
            if name in piece.columns:
                own = self.lengths[piece.positions]
                ends = np.cumsum(own)
                yield np.repeat(starts[piece.positions] - (ends - own), own) + np.arange(ends[-1]), piece.columns[name]


def _strings(values: pa.LargeBinaryArray) -> list[str]:
    """Decode values."""
    try:
        return values.cast(pa.large_string()).to_pylist()
    except pa.ArrowInvalid:  # Half of a surrogate pair.
        return [value.decode("utf-8", "surrogatepass") for value in values.to_pylist()]


def _in_parts(values: pa.LargeBinaryArray) -> Iterator[list[str]]:
    for start in range(0, len(values), _PART):
        yield _strings(values.slice(start, _PART))


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
    lengths = np.zeros(len(texts), dtype=np.int64)
    pieces = []
    for piece in _pieces(texts):
        lengths[piece.positions] = piece.lengths
        pieces.append(piece)
    return TextColumns(lengths, pieces)


def _pieces(texts: Sequence[str]) -> Iterator[_Piece]:
    """Parse texts, many at once where their heads are the same."""
    waiting: dict[_Head, list[_Body]] = {}
    sizes: dict[_Head, int] = {}
    for position, text in enumerate(texts):
        if (found := _as_csv(text)) is None:
            yield _parse_one(text, position)
            continue
        head, n_lines, lines = found
        waiting.setdefault(head, []).append(_Body(position, n_lines, lines))
        sizes[head] = sizes.get(head, 0) + len(lines)
        if sizes[head] > _PIECE:
            del sizes[head]
            yield from _parse_many(head, waiting.pop(head), texts)
    for head, bodies in waiting.items():
        yield from _parse_many(head, bodies, texts)


def _as_csv(text: str) -> tuple[_Head, int, str] | None:
    """Return the head of a text, the number of its lines, and these with a mark between fields; None if CSV differs.

    It differs in the compact form, where quotes are misplaced, and at a carriage return, which would end a line.
    """
    if not isinstance(text, str) or _MARK in text or "\r" in text:
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
    except (UnicodeEncodeError, pa.ArrowInvalid):
        pass  # A surrogate alone, or a line with more fields or fewer: whatever is wrong, `parse_events` says it.
    if table is None or table.num_rows != sum(lengths):
        yield from (_parse_one(texts[position], position) for position in positions)
        return
    columns = {}
    for name, column in zip(_distinct(head.header), table.columns, strict=True):
        coded = column.combine_chunks()
        values = pc.replace_substring(coded.dictionary.cast(pa.large_binary()), _MARK, head.separator)
        columns[name] = pa.DictionaryArray.from_arrays(coded.indices, values)
    yield _Piece(positions, lengths, columns)


def _parse_one(text: str, position: int) -> _Piece:
    try:
        table = parse_events(text)
    except ValueError as error:
        raise ValueError(f"Text {position} is not in the form that EventSerializer writes: {error}") from error
    columns = {}
    for name, column in zip(_distinct(table.header), zip(*table.rows, strict=True), strict=bool(table.rows)):
        encoded = [value.encode("utf-8", "surrogatepass") for value in column]
        columns[name] = pa.array(encoded, pa.large_binary()).dictionary_encode()
    return _Piece([position], [len(table.rows)], columns)


def _distinct(names: Sequence[str]) -> list[str]:
    """Add to names that occur again the first number that makes a new name."""
    given, result = set(names), dict[str, None]()
    for name in names:
        numbered = (f"{name}_{number}" for number in count(2))
        result[name if name not in result else next(new for new in numbered if new not in given | result.keys())] = None
    return [*result]
