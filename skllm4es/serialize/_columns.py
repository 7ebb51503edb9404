"""The events of many texts, column by column: `parse_events` for whoever counts what occurs in them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skllm4es.serialize._serialised import parse_events


@dataclass(frozen=True)
class TextColumns:
    """The events of many texts, one array per feature.

    Parameters
    ----------
    lengths : ndarray of shape (n_texts,), dtype int64
        The number of events of each text.
    codes : dict of str to ndarray of shape (n_events,), dtype int64
        For each feature the places of the events' values in `values`, text by text, earliest event first.
    values : dict of str to list of str
        For each feature its distinct values; the first is the empty one, which a text has that lacks the feature.
    """

    lengths: npt.NDArray[np.int64]
    codes: dict[str, npt.NDArray[np.int64]]
    values: dict[str, list[str]]

    @property
    def owners(self) -> npt.NDArray[np.int64]:
        """The text of each event, of shape (n_events,)."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


class _Places(dict[str, int]):
    """The places of values, in the order in which they were first asked for."""

    def __missing__(self, value: str) -> int:
        self[value] = len(self)
        return self[value]


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
    places: dict[str, _Places] = {}
    codes: dict[str, array[int]] = {}
    n_events = 0
    for position, text in enumerate(texts):
        try:
            table = parse_events(text)
        except ValueError as error:
            raise ValueError(f"Text {position} is not in the form that EventSerializer writes: {error}") from error
        lengths[position] = len(table.rows)
        for name, column in zip(_distinct(table.header), zip(*table.rows, strict=True), strict=bool(table.rows)):
            if name not in codes:
                places[name], codes[name] = _Places({"": 0}), array("q", bytes(8 * n_events))
            codes[name].extend(map(places[name].__getitem__, column))
        n_events += len(table.rows)
        for column_codes in codes.values():
            if len(column_codes) < n_events:
                column_codes.extend([0] * (n_events - len(column_codes)))
    return TextColumns(
        lengths,
        {name: np.frombuffer(column, dtype=np.int64) for name, column in codes.items()},
        {name: list(column) for name, column in places.items()},
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """Add a number to names that occur again."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result
