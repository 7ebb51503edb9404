"""Write users to a parquet file, and read them with pandas, polars or DuckDB."""

from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq


def write(X: pd.DataFrame, path: Path) -> None:
    table = pa.Table.from_pandas(
        X.rename_axis("user").reset_index(), preserve_index=False
    )
    pq.write_table(
        table,
        path,
        row_group_size=1000,
        compression="zstd",
        coerce_timestamps="us",
        allow_truncated_timestamps=True,
    )


def read_with_pandas(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path, dtype_backend="pyarrow").set_index("user")


def read_with_polars(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path)


def read_with_duckdb(path: Path) -> pd.DataFrame:
    table = duckdb.from_parquet(str(path)).to_arrow_table()
    return table.to_pandas(types_mapper=pd.ArrowDtype).set_index("user")
