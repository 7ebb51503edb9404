"""How well an instruct model rewrites, format by format: recall, precision, unusable texts, and CPU seconds per text.

    SKLLM4ES_DATA=... python -m benchmarks.bench_rewriting MODEL RESULTS.jsonl [--data movielens cards groceries]
                      [--users 50] [--events 10] [--set temperature=0.2 context_length=1500] [--label NAME]

MODEL is a directory, a name on the hub or a GGUF file. Each of the users is rewritten into one format, in turn, from
their latest events, on one thread, once: a text that `TextEnricher` would rewrite again, or replace by a template,
counts as unusable. It failed (no end, or no text) or is unfaithful (recall below 0.85, or not in the form of the
format). Recall and precision are means over the texts that did not fail.

Each text is a line of the file as soon as it is done, and is not rewritten again, so that an interrupted run continues
with the next text. The table is printed at the end, or alone with --users 0.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.json_lines import Record, append, read
from skllm4es import EventSerializer, nest_events
from skllm4es.datasets import fetch_movielens_100k, get_data_home, make_transactions
from skllm4es.enrich._rewriting import Request, check
from skllm4es.rewriters import RewritingError, TransformersRewriter, available_formats
from skllm4es.vocabularies import load_mcc_names


def movielens(n_events: int) -> tuple[pd.DataFrame, EventSerializer]:
    return fetch_movielens_100k().data, EventSerializer(max_events=n_events)


def cards(n_events: int) -> tuple[pd.DataFrame, EventSerializer]:
    X, _ = make_transactions(200, mean_events=50, random_state=0)
    return X, EventSerializer(labels={"mcc": load_mcc_names()}, max_events=n_events)


def groceries(n_events: int) -> tuple[pd.DataFrame, EventSerializer]:
    """Households of The Complete Journey; prompts and settings were not chosen on it."""
    folder = Path(get_data_home()) / "complete-journey"
    lines = pd.read_parquet(folder / "transactions_801_households.parquet")
    products = pd.read_parquet(folder / "products.parquet")[["product_id", "department", "product_type"]]
    lines = lines.merge(products, on="product_id").sort_values("transaction_timestamp", kind="stable")
    X = nest_events(lines, user="household_id", time="transaction_timestamp")
    fields = ["transaction_timestamp", "department", "product_type", "quantity", "sales_value"]
    return X, EventSerializer(fields, max_events=n_events)


DATA: dict[str, Callable[[int], tuple[pd.DataFrame, EventSerializer]]] = {
    "movielens": movielens,
    "cards": cards,
    "groceries": groceries,
}


def texts_of(data: str, n_users: int, n_events: int) -> list[str]:
    X, serializer = DATA[data](n_events)
    drawn = np.random.default_rng(0).choice(len(X), n_users, replace=False)
    texts: list[str] = serializer.fit_transform(X.iloc[np.sort(drawn)])["text"].to_list()
    return texts


def run(data: str, n_users: int, n_events: int, rewriter: TransformersRewriter, label: str, file: Path) -> None:
    about = {"label": label, "data": data, "events": n_events}
    done = {line["user"] for line in read(file) if about.items() <= line.items()}
    formats = available_formats()
    requests = {
        user: Request(text, formats[user % len(formats)], 0)
        for user, text in enumerate(texts_of(data, n_users, n_events))
        if user not in done
    }
    users, start = list(requests), time.process_time()
    for position, text in rewriter.iter_rewrites(*map(list, zip(*requests.values(), strict=True))) if users else ():
        user, seconds = users[position], time.process_time() - start
        append(file, [about | {"user": user, "s": round(seconds, 2)} | _scores(requests[user], text)])
        start = time.process_time()


def _scores(request: Request, text: str | RewritingError) -> Record:
    rewriting = check(request, text, 0.85)
    return {
        "format": request.format,
        "fault": rewriting.fault,
        "reason": rewriting.reason[:60],
        **{
            name: None if math.isnan(value) else round(value, 3)
            for name, value in (("recall", rewriting.recall), ("precision", rewriting.precision))
        },
    }


def table(file: Path) -> str:
    """Return a table with a row per run, data set and format, and one for all formats."""
    groups = defaultdict(list)
    for line in read(file):
        for name in (line["format"], "all"):
            groups[line["data"], line["label"], name].append(line)
    text = (
        "| data | run | format | texts | recall | precision | failed | unfaithful | s per text |\n" + "|---" * 9 + "|\n"
    )
    for (data, label, name), lines in groups.items():
        means = [_mean(line[score] for line in lines) for score in ("recall", "precision")]
        faults = [sum(line["fault"] == fault for line in lines) for fault in ("failed", "unfaithful")]
        text += (
            f"| {data} | {label} | {name} | {len(lines)} | {means[0]} | {means[1]} | {faults[0]} | {faults[1]} "
            f"| {np.mean([line['s'] for line in lines]):.1f} |\n"
        )
    return text


def _mean(values: Any) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.2f}" if known else "-"


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, json.loads(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--events", type=int, default=10)
    parser.add_argument("--set", nargs="+", type=_setting, default=[], dest="settings")
    parser.add_argument("--label", default="default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rewriter = TransformersRewriter(arguments.model, **dict(arguments.settings))
    for data in arguments.data if arguments.users else []:
        run(data, arguments.users, arguments.events, rewriter, arguments.label, arguments.file)
    print(table(arguments.file))


if __name__ == "__main__":
    main()
