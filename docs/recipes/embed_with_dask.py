"""Embed the users in parquet files with Dask.

Run it with `python embed_with_dask.py PIPELINE USERS VECTORS`.
"""

import sys
from typing import Any

import dask.dataframe as dd
import joblib
import pandas as pd
import pyarrow as pa
from dask.distributed import Client

SCHEMA = pa.schema({"user": pa.int64(), "embedding": pa.list_(pa.float32())})


def embed(users: pd.DataFrame, pipeline: Any) -> pd.DataFrame:
    vectors = pipeline.transform(users.set_index("user"))
    return pd.DataFrame(
        {"user": users["user"].astype("int64"), "embedding": list(vectors)}
    )


if __name__ == "__main__":
    path, users, vectors = sys.argv[1:]
    with Client():
        table = dd.read_parquet(users, dtype_backend="pyarrow", split_row_groups=True)
        embedded = table.map_partitions(
            embed, joblib.load(path), meta=SCHEMA.empty_table().to_pandas()
        )
        embedded.to_parquet(vectors, schema=SCHEMA, write_index=False)
