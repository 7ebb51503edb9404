"""Score the users in a folder of parquet files.

python score_lakehouse.py PIPELINE USERS SCORES
"""

import sys
from collections.abc import Iterator

import joblib
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

BATCH = 1000


def schema_of(users: ds.Dataset) -> pa.Schema:
    return pa.schema([users.schema.field("user"), ("score", pa.float64())])


def score(pipeline_path: str, users: ds.Dataset) -> Iterator[pa.RecordBatch]:
    pipeline = joblib.load(pipeline_path)
    for batch in users.to_batches(
        columns=["user", "events"], batch_size=BATCH, batch_readahead=1
    ):
        if len(batch):
            X = batch.to_pandas(types_mapper=pd.ArrowDtype).set_index("user")
            columns = [batch["user"], pa.array(pipeline.predict_proba(X)[:, 1])]
            yield pa.RecordBatch.from_arrays(columns, schema=schema_of(users))


if __name__ == "__main__":
    pipeline_path, users_path, scores_path = sys.argv[1:]
    users = ds.dataset(users_path, partitioning="hive")
    ds.write_dataset(
        score(pipeline_path, users),
        scores_path,
        schema=schema_of(users),
        format="parquet",
    )
