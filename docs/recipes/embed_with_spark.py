"""Embed the users in parquet files with Spark.

Run it with `spark-submit embed_with_spark.py PIPELINE USERS VECTORS`.
"""

import sys
from collections.abc import Iterator

import joblib
import pandas as pd
from pyspark.sql import SparkSession

if __name__ == "__main__":
    path, users, vectors = sys.argv[1:]
    pipeline = joblib.load(path)

    def embed(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            yield pd.DataFrame(
                {
                    "user": batch["user"],
                    "embedding": list(pipeline.transform(batch.set_index("user"))),
                }
            )

    spark = SparkSession.builder.config(
        "spark.sql.execution.arrow.maxRecordsPerBatch", 256
    ).getOrCreate()
    embedded = spark.read.parquet(users).mapInPandas(
        embed, "user long, embedding array<float>"
    )
    embedded.write.parquet(vectors)
