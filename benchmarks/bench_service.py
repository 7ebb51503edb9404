"""How long a scoring service takes for one user: the recipe of the guide, with SmolLM2, on a CPU.

    python -m benchmarks.bench_service [--users 400] [--requests 200]

fits events of simulated cards, saves and loads the pipeline, and asks for the scores of users whose events `fit` has
seen, of users with one event that it has not, and of these again, which the cache then knows. Prints the median and the
95th percentile of milliseconds a request, and the median of CPU milliseconds, which other programs do not lengthen.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import joblib
import numpy as np
from fastapi.testclient import TestClient
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from skllm4es import EventSerializer, LLMEmbedder, unnest_events
from skllm4es.datasets import make_transactions
from skllm4es.models import smollm2
from skllm4es.vocabularies import load_mcc_names

RECIPE = Path(__file__).parents[1] / "docs" / "recipes" / "serve_with_fastapi.py"


def service(pipeline: Pipeline, home: Path) -> TestClient:
    pipeline["embed"].save_pretrained(home / "model")
    pipeline.steps[1] = ("embed", LLMEmbedder.from_pretrained(home / "model"))
    joblib.dump(pipeline, home / "pipeline.joblib")
    spec = importlib.util.spec_from_file_location("serve_with_fastapi", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return TestClient(recipe.make_app(joblib.load(home / "pipeline.joblib"), memory=str(home)))


def measure(name: str, client: TestClient, users: Sequence[list[dict[str, Any]]]) -> None:
    wall, cpu = [], []
    for events in users:
        start, start_cpu = time.perf_counter(), time.process_time()
        answer = client.post("/score", json={"events": events})
        wall.append(1000 * (time.perf_counter() - start))
        cpu.append(1000 * (time.process_time() - start_cpu))
        assert answer.status_code == 200, answer.text
    p50, p95 = np.percentile(wall, [50, 95])
    print(
        f"| {name} | {len(users)} | {np.mean([*map(len, users)]):.0f} | {p50:.1f} | {p95:.1f} | {np.median(cpu):.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=400)
    parser.add_argument("--requests", type=int, default=200)
    arguments = parser.parse_args()
    X, y = make_transactions(arguments.users, mean_events=30, random_state=0)
    serializer = EventSerializer(labels={"mcc": load_mcc_names()}, max_events=100)
    steps = [("serialize", serializer), ("embed", LLMEmbedder(smollm2(), finetune=None))]
    with TemporaryDirectory() as home:
        pipeline = Pipeline([*steps, ("classify", LogisticRegression())]).fit(X, y)
        client = service(pipeline, Path(home))
        some = X[[len(events) > 0 for events in X["events"]]].iloc[: arguments.requests]
        tables = [unnest_events(some.iloc[[row]]).drop(columns="user_id") for row in range(len(some))]
        known = [json.loads(table.to_json(orient="records", date_format="iso")) for table in tables]
        new = [[*events[:-1], {**events[-1], "type": f"kind {row}"}] for row, events in enumerate(known)]
        print("| events | requests | events a user | p50 ms | p95 ms | p50 CPU ms |\n|---|---|---|---|---|---|")
        measure("all known to fit", client, known)
        measure("one new to the language model", client, new)
        measure("the same again, from the cache", client, new)


if __name__ == "__main__":
    main()
