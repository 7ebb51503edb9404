"""How fast and how lean `EventSerializer` is, compared with the authors' way and each library's own.

    python -m benchmarks.bench_serializer [--users 5000] [--repeats 5] [--authors-users 1000] [--large]

prints Markdown tables. The first compares ways to write the same texts: they take turns within one run, each round
times each way once, and the times are CPU times of all threads, so that other work on the machine affects all alike.
The authors' way is slow, so it writes only the first users, and its time is scaled to the events of all users.

``--large`` measures how time and memory grow with the number of users instead, each size in a separate process.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.memory import peak_bytes, reset_peak, resident_bytes
from benchmarks.serializing_references import (
    AMOUNT,
    CURRENCY,
    MCC,
    TIME,
    TYPE,
    USER,
    Way,
    as_list,
    authors_way,
    reference_ways,
)
from skllm4es import EventSerializer
from skllm4es.vocabularies import load_mcc_names

OURS = "**EventSerializer**"
AUTHORS = "authors: pandas `apply` by row"
TYPES = ["purchase", "cash withdrawal", "transfer", "refund"]
CURRENCIES = ["RUB", "EUR", "USD"]
START = np.datetime64("2016-01-01", "s").astype(np.int64)
YEAR = 365 * 24 * 3600
LARGE_SIZES = [3_750, 7_500, 15_000, 30_000]
LARGE_EVENTS = 900


def make_events(lengths: np.ndarray, seed: int = 0) -> pa.Table:
    """Draw a long table of card events, sorted by user and time; user ``i`` has ``lengths[i]`` events."""
    rng = np.random.default_rng(seed)
    # Drawn first, so that the frequent codes, and so the length of a line, do not depend on the number of users.
    codes = rng.permutation(load_mcc_names().index.to_numpy(np.int32))
    n_events, n_users = int(lengths.sum()), len(lengths)
    users = np.repeat(np.arange(n_users, dtype=np.int32), lengths)
    # Users are a year apart, so that one plain sort orders each user's events without mixing users.
    times = np.sort(rng.integers(0, YEAR, n_events) + users * np.int64(YEAR)) - users * np.int64(YEAR) + START
    return pa.table(
        {
            USER: users,
            TIME: (times * 1_000_000).view("datetime64[us]"),
            MCC: codes[np.minimum(rng.zipf(1.3, n_events) - 1, len(codes) - 1)],
            AMOUNT: _draw_amounts(rng, n_events),
            TYPE: _draw(rng, TYPES, n_events),
            CURRENCY: _draw(rng, CURRENCIES, n_events),
        }
    )


def draw_lengths(n_users: int, seed: int = 0) -> np.ndarray:
    """Draw log-normal lengths, 100 on average."""
    drawn = np.random.default_rng(seed).lognormal(np.log(100) - 0.5, 1.0, n_users)
    return np.maximum(drawn.astype(np.int64), 1)


def nest(events: pa.Table, lengths: np.ndarray) -> pd.DataFrame:
    """Build what `nest_events` returns for a sorted table, without sorting."""
    fields = events.drop_columns(USER).combine_chunks()
    structs = pa.StructArray.from_arrays([fields[name].chunk(0) for name in fields.column_names], fields.column_names)
    offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int32())
    return pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(pa.ListArray.from_arrays(offsets, structs))})


def our_way(X: pd.DataFrame) -> Way:
    serializer = EventSerializer(labels={MCC: load_mcc_names()}).fit(X)
    return lambda: serializer.transform(X)["text"]


def compare(n_users: int, repeats: int, authors_users: int) -> None:
    lengths = draw_lengths(n_users)
    events = make_events(lengths)
    n_first = int(lengths[:authors_users].sum())
    ways = {AUTHORS: authors_way(events.slice(0, n_first))}
    ways |= {name: prepare(events) for name, prepare in reference_ways().items()}
    ways |= {OURS: our_way(nest(events, lengths))}
    check_same_texts(ways)
    seconds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, write in ways.items():
            seconds[name].append(cpu_seconds(write))
    seconds[AUTHORS] = [second * len(events) / n_first for second in seconds[AUTHORS]]
    print(f"{n_users:,} users, {len(events):,} events, {repeats} rounds.")
    print(f"The authors' way is timed on {n_first:,} of the events and scaled up.\n")
    print_comparison(seconds)


def check_same_texts(ways: dict[str, Way]) -> None:
    """Raise unless all ways write the same texts, each for as many users as it writes."""
    expected = as_list(ways[OURS]())
    for name, write in ways.items():
        for user, (theirs, ours) in enumerate(zip(as_list(write()), expected, strict=False)):
            if theirs != ours:
                lines = zip_longest(theirs.split("\n"), ours.split("\n"))
                differing = next((line, other) for line, other in lines if line != other)
                raise AssertionError(f"User {user}: {name} writes {differing[0]!r}, {OURS} {differing[1]!r}.")


def cpu_seconds(write: Way) -> float:
    gc.collect()
    start = process_time()
    result = write()
    seconds = process_time() - start
    del result
    return seconds


def print_comparison(seconds: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print("| way | CPU s, median (min-max) | times faster than the authors' |\n|---|---|---|")
    for name, times in seconds.items():
        ratio = medians[AUTHORS] / medians[name]
        print(f"| {name} | {medians[name]:.3f} ({min(times):.3f}-{max(times):.3f}) | {ratio:.1f} |")
    best = min((name for name in medians if name != OURS), key=medians.__getitem__)
    # The machine's state changes least within a round, so ratios are taken per round.
    ratios = [theirs / ours for theirs, ours in zip(seconds[best], seconds[OURS], strict=True)]
    print(f"\nEventSerializer is {statistics.median(ratios):.2f} times as fast as the best reference ({best}).")


def measure_growth() -> None:
    print("| users | events | text MB | CPU s | CPU s per million events | peak memory / text |")
    print("|---|---|---|---|---|---|")
    for n_users in LARGE_SIZES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "events.arrow"
            write_large(n_users, path)
            # In a new process, because memory freed while the events were drawn would hide what the serializer uses.
            subprocess.run([sys.executable, "-m", "benchmarks.bench_serializer", "--measure", str(path)], check=True)


def write_large(n_users: int, path: Path) -> None:
    lengths = np.full(n_users, LARGE_EVENTS)
    events = make_events(lengths)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, events.schema) as writer:
        writer.write_table(events)


def measure_one(path: str) -> None:
    """Print one line of the growth table for the events in a file."""
    with pa.OSFile(path) as file:
        events = pa.ipc.open_file(file).read_all()
    lengths = np.full(len(events) // LARGE_EVENTS, LARGE_EVENTS)
    X = nest(events, lengths)
    del events
    serializer = EventSerializer(labels={MCC: load_mcc_names()}).fit(X)
    serializer.transform(X.head(10))
    pa.default_memory_pool().release_unused()
    before = resident_bytes()
    reset_peak()
    start = process_time()
    texts = serializer.transform(X)["text"]
    seconds = process_time() - start
    peak = peak_bytes() - before
    size = sum(len(chunk.buffers()[2]) for chunk in texts.array.__arrow_array__().chunks)
    millions = lengths.sum() / 1e6
    print(
        f"| {len(lengths):,} | {lengths.sum():,} | {size / 1e6:,.0f} | {seconds:.2f} | {seconds / millions:.3f} "
        f"| {peak / size:.2f} |"
    )


def _draw_amounts(rng: np.random.Generator, n_events: int) -> np.ndarray:
    # Never a whole number, which some libraries write as "51" and others as "51.0".
    cents = (rng.lognormal(3, 1.5, n_events) * 100).astype(np.int64)
    return (cents + (cents % 100 == 0)) / 100


def _draw(rng: np.random.Generator, values: list[str], n_events: int) -> pa.Array:
    # Dictionary-encoded, as `nest_events` keeps strings.
    codes = rng.integers(0, len(values), n_events, dtype=np.int8).astype(np.int32)
    return pa.DictionaryArray.from_arrays(codes, values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--authors-users", type=int, default=1_000, help="how many users the authors' way writes")
    parser.add_argument("--large", action="store_true", help="measure growth up to 30,000 users x 900 events")
    parser.add_argument("--measure", metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure_one(arguments.measure)
    elif arguments.large:
        measure_growth()
    else:
        compare(arguments.users, arguments.repeats, arguments.authors_users)


if __name__ == "__main__":
    main()
