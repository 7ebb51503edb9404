"""How time and memory grow with the number of users, and whether a thousand fits in a row leave anything behind.

    python -m benchmarks.bench_load texts [--users 3750 7500 15000 30000]
    python -m benchmarks.bench_load vectors [--users 3750 7500 15000 30000] [--overflow truncate]
    python -m benchmarks.bench_load events [--users 3750 7500 15000 30000]
    python -m benchmarks.bench_load fits [--fits 1000]

All but the last print a Markdown table for users with 900 events each, every size in a separate process. Peaks are the
kernel's high-water marks of the whole process's memory, including the events; the last column is the cost of each user
added since the line above.

``texts`` serialises all fields, with the names of codes, as in ``bench_serializer``. ``vectors`` also embeds the
texts. So that the largest size takes minutes on one core, the texts have only code and amount, and the model is tiny:
one layer, 16 wide, windows of 256 tokens, fitted on 100 of the users. With ``--overflow truncate``, all events are
tokenised and the model sees the latest; with ``chunk`` it sees all, which takes three times as long. ``events`` is what
is recommended: event features of all fields with frozen SmolLM2, from texts to the vectors of `fit_transform`.

``fits`` fits and transforms again and again, and prints the memory, files and threads of the process along the way.

At the end the promises are checked, and the exit status reports them: 24 GB are enough; the largest size needs at most
1.5 times the time and memory per user of the smaller ones; and the fits of the later half leave no open files and at
most 20 kB each behind.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.bench_serializer import (
    AMOUNT,
    LARGE_EVENTS,
    LARGE_SIZES,
    MCC,
    nest,
    write_large,
)
from benchmarks.memory import peak_bytes, resident_bytes
from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder
from skllm4es.datasets import make_transactions
from skllm4es.models import smollm2
from skllm4es.vocabularies import load_mcc_names

HIDDEN_SIZE = 16
TINY = FromScratch(
    config={
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
)
N_FITTED = 100
_ENOUGH_BYTES, _LINEAR, _LEFT_BY_A_FIT = 24e9, 1.5, 20e3


def measure_growth(what: str, sizes: list[int], overflow: str) -> list[str]:
    """Print the table, and return the promises that are broken."""
    print(f"| users | events | text GB | s to {what} | peak GB | kB per further user |\n|---|---|---|---|---|---|")
    seconds_a_user, bytes_a_user = [], []
    previous: tuple[int, float] | None = None
    for n_users in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "events.arrow"
            write_large(n_users, path)
            # In a new process, because memory freed while the events were drawn would hide later use.
            command = [sys.executable, "-m", "benchmarks.bench_load", what, "--overflow", overflow, "--measure", path]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        size, seconds, peak = map(float, output.split())
        if previous is not None:
            bytes_a_user.append((peak - previous[1]) / (n_users - previous[0]))
        further = f"{bytes_a_user[-1] / 1e3:.0f}" if bytes_a_user else ""
        seconds_a_user.append(seconds / n_users)
        previous = n_users, peak
        events = n_users * LARGE_EVENTS
        print(
            f"| {n_users:,} | {events:,} | {size / 1e9:.2f} | {seconds:.0f} | {peak / 1e9:.2f} | {further} |",
            flush=True,
        )
    broken = {
        f"the peak memory is {peak / 1e9:.1f} GB": peak > _ENOUGH_BYTES,
        "the time does not grow linearly with users": seconds_a_user[-1] > _LINEAR * min(seconds_a_user),
        "the memory does not grow linearly with users": bool(bytes_a_user)
        and bytes_a_user[-1] > _LINEAR * bytes_a_user[0],
    }
    return [promise for promise, is_broken in broken.items() if is_broken]


def measure_one(what: str, path: str, overflow: str) -> None:
    """Print the bytes of text, the seconds from events to texts or vectors, and the peak memory."""
    X = read(path)
    if what == "texts":
        start = perf_counter()
        texts = EventSerializer(labels={MCC: load_mcc_names()}).fit_transform(X)["text"]
    elif what == "events":
        texts = EventSerializer(labels={MCC: load_mcc_names()}).fit_transform(X)["text"]
        del X
        start = perf_counter()
        vectors = LLMEmbedder(smollm2(), finetune=None).fit_transform(texts)
        assert np.isfinite(vectors).all()
    else:
        serializer = EventSerializer([MCC, AMOUNT]).fit(X)
        embedder = LLMEmbedder(TINY, features="hidden", max_length=256, overflow=overflow, random_state=0)
        embedder.fit(serializer.transform(X.head(N_FITTED)))
        start = perf_counter()
        texts = serializer.transform(X)["text"]
        vectors = embedder.transform(texts)
        assert vectors.shape == (len(X), HIDDEN_SIZE)
        assert np.isfinite(vectors).all()
    seconds = perf_counter() - start
    print(sum(len(chunk.buffers()[2]) for chunk in texts.array.__arrow_array__().chunks), seconds, peak_bytes())


def read(path: str) -> pd.DataFrame:
    with pa.OSFile(path) as file:
        events = pa.ipc.open_file(file).read_all()
    return nest(events, np.full(len(events) // LARGE_EVENTS, LARGE_EVENTS))


def measure_fits(n_fits: int) -> list[str]:
    """Print the table, and return the promises that are broken."""
    X, _ = make_transactions(20, mean_events=5, random_state=0)
    print("| fits | s | resident MB | open files | threads |\n|---|---|---|---|---|")
    seen = []
    start = perf_counter()
    for number in range(n_fits + 1):
        if number % max(1, n_fits // 10) == 0:
            gc.collect()
            files, threads = (len(list(Path("/proc/self", kind).iterdir())) for kind in ("fd", "task"))
            resident = resident_bytes()
            seen.append((number, resident, files))
            row = f"| {number:,} | {perf_counter() - start:.0f} | {resident / 1e6:.1f} | {files} | {threads} |"
            print(row, flush=True)
        fit_once(X, number)
    (first, bytes_then, files_then), (last, bytes_now, files_now) = seen[len(seen) // 2], seen[-1]
    bytes_a_fit = (bytes_now - bytes_then) / (last - first)
    broken = {
        f"a fit leaves {bytes_a_fit / 1e3:.0f} kB behind": bytes_a_fit > _LEFT_BY_A_FIT,
        f"{files_now - files_then} files are left open": files_now > files_then,
    }
    return [promise for promise, is_broken in broken.items() if is_broken]


def fit_once(X: pd.DataFrame, seed: int) -> None:
    """Fit and embed, with a different model for each seed."""
    texts = EventSerializer().fit_transform(X)
    LLMEmbedder(TINY, finetune=FineTuning(epochs=1), random_state=seed).fit(texts).transform(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["texts", "vectors", "events", "fits"])
    parser.add_argument("--users", type=int, nargs="+", default=LARGE_SIZES)
    parser.add_argument("--overflow", choices=["chunk", "truncate"], default="chunk")
    parser.add_argument("--fits", type=int, default=1_000)
    parser.add_argument("--measure", metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure_one(arguments.what, arguments.measure, arguments.overflow)
    elif arguments.what == "fits":
        sys.exit("; ".join(measure_fits(arguments.fits)) or None)
    else:
        sys.exit("; ".join(measure_growth(arguments.what, arguments.users, arguments.overflow)) or None)


if __name__ == "__main__":
    main()
