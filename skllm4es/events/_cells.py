"""Cells of Python objects, lists of dicts or dataframes, as Arrow lists of structs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from skllm4es.events._arrow import combine_encoded, list_array, offsets_of
from skllm4es.events._frames import REMEDY, arrow_table, find_unfit, is_polars, row_label, to_arrow
from skllm4es.events._kinds import is_list


def read_cells(column: Any, name: str) -> pa.Array:
    """Convert a column of pandas or polars whose cells are lists of dicts, arrays, dataframes or missing."""
    cells = [None if _is_missing(cell) else cell for cell in column.to_list()]
    strange = [i for i, cell in enumerate(cells) if not (cell is None or _is_frame(cell) or _is_sequence(cell))]
    if strange:
        first, row = cells[strange[0]], row_label(column, strange[0])
        raise not_events(
            name,
            f"{len(strange)} of its cells are neither lists nor dataframes, first in row {row!r}, which "
            f"holds {first!r:.60} ({type(first).__name__})",
        )
    try:
        return convert_cells(cells)
    except MemoryError:
        raise
    except Exception as error:
        position = find_unfit(cells, convert_cells)
        why = _unfit_fields(cells[: position + 1], column) or str(error)
        raise TypeError(
            f"The cells of the column {name!r} cannot form one column: row {row_label(column, position)!r} does not "
            f"fit the rows before it: {why if REMEDY in why else f'{why}. {REMEDY}'}"
        ) from error


def convert_cells(cells: list[Any]) -> pa.Array:
    """Convert cells that are lists of dicts, dataframes or None, and keep the order of the fields."""
    if any(_is_frame(cell) for cell in cells):
        return _convert_frames(cells)
    lists = pa.array(cells, from_pandas=True)
    if not is_list(lists.type) or not pa.types.is_struct(lists.type.value_type):
        return lists
    # Older versions of pyarrow sort the keys.
    keys = dict.fromkeys(
        key for cell in cells if cell is not None for event in cell if isinstance(event, dict) for key in event
    )
    ordered = pa.list_(pa.struct([lists.type.value_type.field(key) for key in keys]))
    return lists if lists.type == ordered else pa.array(cells, ordered, from_pandas=True)


def not_events(name: str, seen: str) -> TypeError:
    """Return the error for a column that does not hold lists of events."""
    return TypeError(
        f"The column {name!r} must hold each user's events as a list; {seen}. Build X from a long table with "
        "nest_events(table, user=..., time=...), or name one list column per feature with events=[NAME, ...]."
    )


def _convert_frames(cells: list[Any]) -> pa.Array:
    tables = [to_arrow(cell if _is_frame(cell) else pd.DataFrame([] if cell is None else list(cell))) for cell in cells]
    events = pa.concat_tables(tables, promote_options="permissive")
    fields = [combine_encoded(column) for column in events.columns]
    offsets = offsets_of(np.array([len(table) for table in tables]))
    return list_array(pa.StructArray.from_arrays(fields, names=events.column_names), offsets)


def _unfit_fields(cells: list[Any], column: Any) -> str:
    """Name the fields of dicts that cannot be converted on their own, and say why."""
    events = [
        (row_label(column, position), event)
        for position, cell in enumerate(cells)
        if _is_sequence(cell)
        for event in cell
        if isinstance(event, dict)
    ]
    rows = [row for row, _ in events]
    keys = dict.fromkeys(key for _, event in events for key in event)
    columns = [pd.Series([event.get(key) for _, event in events], rows, dtype=object) for key in keys]
    try:
        arrow_table([str(key) for key in keys], columns)
    except TypeError as error:
        return str(error)
    return ""


def _is_missing(cell: Any) -> bool:
    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and cell != cell)


def _is_frame(cell: Any) -> bool:
    return isinstance(cell, pd.DataFrame | pa.Table) or is_polars(cell)


def _is_sequence(cell: Any) -> bool:
    return isinstance(cell, list | tuple) or (isinstance(cell, np.ndarray) and cell.ndim == 1)
