"""Embed the users in parquet files with Ray Data.

Run it with `python embed_with_ray.py PIPELINE USERS VECTORS`.
"""

import sys

import joblib
import pandas as pd
import pyarrow as pa
import ray


class Embed:
    def __init__(self, pipeline: str) -> None:
        self.pipeline = joblib.load(pipeline)  # Once per worker.

    def __call__(self, users: pa.Table) -> pa.Table:
        vectors = self.pipeline.transform(
            users.to_pandas(types_mapper=pd.ArrowDtype).set_index("user")
        )
        return pa.table({"user": users["user"], "embedding": list(vectors)})


if __name__ == "__main__":
    pipeline, users, vectors = sys.argv[1:]
    workers = ray.data.ActorPoolStrategy(size=2)
    embedded = ray.data.read_parquet(users).map_batches(
        Embed,
        fn_constructor_args=[pipeline],
        batch_format="pyarrow",
        batch_size=256,
        compute=workers,
    )
    embedded.write_parquet(vectors)
