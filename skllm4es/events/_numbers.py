"""Columns as floats, with times in seconds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skllm4es.events._arrow import Column

#: How many units of a time make a second.
UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def seconds_of(column: Column) -> Column:
    """Convert durations, times of day or times since 1970 to seconds, as floats."""
    stored = pa.int32() if column.type.bit_width == 32 else pa.int64()
    units = column.cast(stored).cast(pa.float64(), safe=False)
    return pc.divide(units, float(UNITS_PER_SECOND[column.type.unit]))


def decimals_to_floats(column: Column) -> Column:
    """Convert decimals to the nearest floats: Arrow's own cast is off in the last digit of every fourth."""
    return column.cast(pa.large_string()).cast(pa.float64())


def to_floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Return numbers as they are, times and dates as seconds since 1970, durations as seconds; NaN is missing."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(column.type) or pa.types.is_duration(column.type) or pa.types.is_time(column.type):
        column = seconds_of(column)
    if pa.types.is_decimal(column.type):
        column = decimals_to_floats(column)
    return pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy().copy()
