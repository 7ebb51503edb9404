"""Cells of Python objects, lists of dicts or dataframes, as Arrow lists of structs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from skllm4es.events._arrow import combine_encoded, list_array, offsets_of
from skllm4es.events._frames import REMEDY, index_with_data, is_polars, row_label, to_arrow
from skllm4es.events._kinds import kind_in_cells
from skllm4es.events._objects import (
    Problem,
    UnfitError,
    convert_objects,
    elements_of,
    find_unfit,
    go_together,
    is_missing,
    mixture,
    shown,
)

#: As many digits as a 64-bit integer may have.
_DIGITS_OF_INTEGERS = 20


def read_cells(column: Any, name: str) -> pa.Array:
    """Convert a column of pandas or polars whose cells are lists of dicts, arrays, dataframes or missing."""
    cells = [None if is_missing(cell) else cell for cell in column.to_list()]
    _check_cells(cells, column, name)
    try:
        return _convert_frames(cells) if any(map(_is_frame, cells)) else convert_objects(cells)
    except UnfitError as error:
        problems = [
            problem.describe("" if problem.path else name, "object", partial(row_label, column))
            for problem in error.problems
        ]
    raise TypeError(f"The cells of the column {name!r} cannot form one column: {'; '.join(problems)}. {REMEDY}")


def not_events(name: str, seen: str) -> TypeError:
    """Return the error for a column that does not hold lists of events."""
    return TypeError(
        f"The column {name!r} must hold each user's events as a list; {seen}. Build X from a long table with "
        "nest_events(table, user=..., time=...), or name one list column per feature with events=[NAME, ...]."
    )


def _check_cells(cells: list[Any], column: Any, name: str) -> None:
    strange = [i for i, cell in enumerate(cells) if not (cell is None or _is_frame(cell) or _is_sequence(cell))]
    if strange:
        first, row = cells[strange[0]], row_label(column, strange[0])
        raise not_events(
            name,
            f"{len(strange)} of its cells are neither lists nor dataframes, first in row {row!r}, which "
            f"holds {shown(first)} ({type(first).__name__})",
        )


def _convert_frames(cells: list[Any]) -> pa.Array:
    """Convert cells that are dataframes, some of which may be lists of dicts instead."""
    tables = []
    for position, cell in enumerate(cells):
        _check_index(cell, position)
        try:
            tables.append(to_arrow(cell) if _is_frame(cell) else _table_of_dicts(cell or []))
        except UnfitError as error:
            raise error.moved(np.full(len(cell), position)) from error
        except TypeError as error:  # It names the columns, and the rows of this cell.
            raise UnfitError(Problem(str(error).removesuffix(f". {REMEDY}"), position, cell)) from error
        if cell is not None and len(cell) != len(tables[-1]):
            raise UnfitError(Problem("its events have no fields", position, cell))
    _check_kinds(tables)
    tables = _with_room_for_decimals(tables)

    def concat(tables: list[pa.Table]) -> pa.Table:
        return pa.concat_tables(tables, promote_options="permissive")

    try:
        events = concat(tables)
    except pa.ArrowException as error:
        position = find_unfit(tables, concat)
        raise UnfitError(Problem(str(error), position, cells[position])) from error
    fields = [combine_encoded(column) for column in events.columns]
    offsets = offsets_of(np.array([len(table) for table in tables]))
    return list_array(pa.StructArray.from_arrays(fields, names=events.column_names), offsets)


def _check_index(cell: Any, position: int) -> None:
    """Reject dataframes with data in their index, which would be lost."""
    if which := index_with_data(cell):
        why = f"its index{which} is no field; make it one with reset_index(), or drop it with reset_index(drop=True)"
        raise UnfitError(Problem(why, position, cell))


def _table_of_dicts(events: Any) -> pa.Table:
    structs = convert_objects(list(elements_of(events) or []))
    if not pa.types.is_struct(structs.type):  # Without events, or where all of them are missing.
        if structs.null_count < len(structs):
            raise UnfitError(Problem("it holds neither dicts nor a dataframe", 0, events))
        return pa.table({})
    return pa.Table.from_arrays(structs.flatten(), names=[field.name for field in structs.type])


def _check_kinds(tables: list[pa.Table]) -> None:
    """Check that the values of a field are of one kind in all tables: Arrow would make bytes of texts."""
    kinds: dict[str, dict[str, int]] = {}
    for position, table in enumerate(tables):
        for field in table.schema:
            if kind := kind_in_cells(field.type):
                kinds.setdefault(field.name, {}).setdefault(kind, position)
    problems = [
        replace(mixture(positions, list(positions), _first_values(tables, name)), path=(name,))
        for name, positions in kinds.items()
        if not go_together(positions)
    ]
    if problems:
        raise UnfitError(*problems)


def _with_room_for_decimals(tables: list[pa.Table]) -> list[pa.Table]:
    """Turn integers into decimals where other tables have these; Arrow makes room for the digits of the latter only."""
    decimals = {field.name for table in tables for field in table.schema if pa.types.is_decimal(field.type)}
    cast = []
    for table in tables:
        for position, field in enumerate(table.schema):
            if field.name in decimals and pa.types.is_integer(field.type):
                column = table.column(position).cast(pa.decimal128(_DIGITS_OF_INTEGERS))
                table = table.set_column(position, field.name, column)
        cast.append(table)
    return cast


def _first_values(tables: list[pa.Table], name: str) -> Callable[[int], Any]:
    def first(position: int) -> Any:
        values = tables[position][name].slice(0, 3)
        try:
            return values.to_pylist()
        except OverflowError:  # Python has no times after the year 9999.
            return values.cast(pa.string()).to_pylist()

    return first


def _is_frame(cell: Any) -> bool:
    return isinstance(cell, pd.DataFrame | pa.Table) or is_polars(cell)


def _is_sequence(cell: Any) -> bool:
    try:
        return elements_of(cell) is not None
    except Exception:  # Tensors that numpy cannot read, on another device or of a type that it lacks.
        return False
