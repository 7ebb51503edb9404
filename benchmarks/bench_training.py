"""How fast `LLMEmbedder.fit` trains, compared with the authors' way and with Trainer on texts grouped by length.

    python -m benchmarks.bench_training [--users 8] [--events 20] [--repeats 3] [--sizes small medium]

prints Markdown tables. All ways train the same random weights for one epoch on the same texts, simulated card
transactions of log-normal lengths, with the Trainer of transformers, and take turns within one run. Speeds are in real
tokens per second, without padding. Each way sees each text whole.

    python -m benchmarks.bench_training --model DIRECTORY [--against CHECKOUT] [--repeats 1] [--tokens 2500]

prints the throughput of fine-tuning a pretrained model on one core instead: all weights and LoRA, in float32 and
bfloat16, in tokens per CPU second, as a share of what the model's products of matrices alone allow in the same process,
and the peak memory. With a checkout of another commit the two take turns, and the losses are compared.

``--shape llama-3.2-3b`` trains all weights of a Llama of that shape in bfloat16 instead, for a GPU, and reports tokens
per second, the share of the measured matrix rate, and peak memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from benchmarks.bench_embedding import HEADS, LLAMA_3B, SIZES, make_model, make_texts
from skllm4es import FineTuning, LLMEmbedder

MAX_LENGTH = 4096

Way = Callable[[], float]


def trainer_way(directory: Path, texts: list[str], dtype: str, device: str, **arguments: object) -> Way:
    """Train with the plain Trainer, and return the seconds."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    to_the_limit = arguments.pop("pad_to_max_length", False)
    encoded = [
        tokenizer(text, truncation=True, max_length=MAX_LENGTH, padding="max_length" if to_the_limit else False)
        for text in texts
    ]
    columns = ("input_ids", "attention_mask")
    dataset = [{column: text[column] for column in columns} | {"length": len(text["input_ids"])} for text in encoded]

    def train() -> float:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).to(device)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                model,
                TrainingArguments(
                    folder,
                    num_train_epochs=1,
                    learning_rate=1e-5,
                    bf16=dtype == "bfloat16",
                    use_cpu=device == "cpu",
                    dataloader_pin_memory=device != "cpu",
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    seed=0,
                    **arguments,  # type: ignore[arg-type]
                ),
                data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
                train_dataset=dataset,  # type: ignore[arg-type]
            )
            trainer.remove_callback(PrinterCallback)
            start = time.perf_counter()
            trainer.train()
            return time.perf_counter() - start

    return train


def our_way(directory: Path, texts: list[str], dtype: str, device: str) -> Way:
    def train() -> float:
        embedder = LLMEmbedder(
            directory,
            finetune=FineTuning(epochs=1, batch_tokens=MAX_LENGTH, training_args={"bf16": dtype == "bfloat16"}),
            max_length=MAX_LENGTH,
            device=device,
            random_state=0,
        ).fit(texts)
        return embedder.training_time_

    return train


def compare(size: str, dtype: str, texts: list[str], repeats: int, device: str) -> None:
    config = {**SIZES[size], "num_attention_heads": HEADS[size]}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "model"
        make_model(directory, texts, config, torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        lengths = sorted(len(ids) for ids in tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"])
        ways = {
            "authors: padded to max_length, batch 1": trainer_way(
                directory, texts, dtype, device, per_device_train_batch_size=1, pad_to_max_length=True
            ),
            "Trainer: dynamic padding, grouped by length, batch 4": trainer_way(
                directory, texts, dtype, device, per_device_train_batch_size=4, **_grouped_by_length()
            ),
            "**LLMEmbedder.fit**": our_way(directory, texts, dtype, device),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, train in ways.items():
                seconds[name].append(train())
    print(f"\n{size}, {dtype}: {config}")
    print(f"{len(texts)} texts of {lengths[0]} to {lengths[-1]}, {sum(lengths):,} tokens\n")
    print("| way | s, median (min-max) | real tokens/s | times authors |\n|---|---|---|---|")
    authors, grouped, ours = seconds.values()
    for name, times in seconds.items():
        median = statistics.median(times)
        print(
            f"| {name} | {median:.1f} ({min(times):.1f}-{max(times):.1f}) | {sum(lengths) / median:,.0f} "
            f"| {ratio(authors, times):.2f} |"
        )
    print(f"\nOurs is {ratio(grouped, ours):.2f} times as fast as Trainer grouped by length.", flush=True)


def _grouped_by_length() -> dict[str, object]:
    if "train_sampling_strategy" in TrainingArguments.__dataclass_fields__:
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}


def ratio(theirs: list[float], ours: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def measure_3b(texts: list[str]) -> None:
    """Train a Llama in the shape of Llama 3.2 3B on a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "model"
        make_model(directory, texts, LLAMA_3B, torch.bfloat16)
        rate = matrix_rate()
        print("| batch | tokens/s | share of the matrix rate | peak GiB |\n|---|---|---|---|")
        for batch_tokens in (16_384, 65_536):
            torch.cuda.reset_peak_memory_stats()
            embedder = LLMEmbedder(
                directory,
                finetune=FineTuning(epochs=1, batch_tokens=batch_tokens, gradient_checkpointing=True),
                max_length=8192,
                device="cuda",
                random_state=0,
            ).fit(texts)
            speed = embedder.n_tokens_seen_ / embedder.training_time_
            n_weights = sum(weights.numel() for weights in embedder.load_model()[0].parameters())
            peak = torch.cuda.max_memory_allocated() / 2**30
            print(f"| {batch_tokens:,} | {speed:,.0f} | {6 * n_weights * speed / rate:.0%} | {peak:.1f} |", flush=True)


def compare_throughput(arguments: argparse.Namespace) -> None:
    """Train a pretrained model in processes of their own, by this version and by that of another checkout in turn."""
    here = Path(__file__).parents[1]
    versions = {"this": here} | ({"other": Path(arguments.against)} if arguments.against else {})
    print(
        "| trained | type | version | tokens/s, median (min-max) | share of products | peak MiB | times other | loss |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for kind, dtype in itertools.product(arguments.kinds, arguments.dtypes):
        records: dict[str, list[dict[str, Any]]] = {version: [] for version in versions}
        for _ in range(arguments.repeats):
            for version, checkout in versions.items():
                records[version].append(train_in_process(checkout, arguments, kind, dtype))
        for version, runs in records.items():
            compared = records.get("other", runs)
            speeds, others = ([run["tokens_per_second"] for run in some] for some in (runs, compared))
            spread = f"{statistics.median(speeds):.0f} ({min(speeds):.0f}-{max(speeds):.0f})"
            share = statistics.median(run["tokens_per_second"] / run["attainable"] for run in runs)
            peak = statistics.median(run["peak_bytes"] for run in runs) / 2**20
            losses = zip(runs[0]["losses"], compared[0]["losses"], strict=True)
            print(
                f"| {kind} | {dtype} | {version} | {spread} "
                f"| {share:.0%} | {peak:,.0f} | {ratio(speeds, others):.2f} "
                f"| {runs[0]['losses'][-1]:.4f}, differs by {max(abs(a - b) for a, b in losses):.0e} |",
                flush=True,
            )


def train_in_process(checkout: Path, arguments: argparse.Namespace, kind: str, dtype: str) -> dict[str, Any]:
    numbers = (arguments.tokens, arguments.batch_tokens, arguments.window)
    command = [sys.executable, Path(__file__).with_name("train_once.py"), arguments.model, kind, dtype, *numbers]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    output = subprocess.run(list(map(str, command)), env=environment, check=True, stdout=subprocess.PIPE, text=True)
    record: dict[str, Any] = json.loads(output.stdout.splitlines()[-1])
    return record


def matrix_rate() -> float:
    """Return the floating-point operations per second of a large product in bfloat16."""
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    for n_products in (5, 50):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(n_products):
            a @ b
        torch.cuda.synchronize()
    return n_products * 2 * 8192**3 / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--events", type=int, default=20, help="mean number of events per user")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "medium"])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", help="directory of a pretrained model, whose throughput is measured on one core")
    parser.add_argument("--against", help="checkout of another commit, measured in turn")
    parser.add_argument("--kinds", nargs="+", choices=["full", "lora"], default=["full", "lora"])
    parser.add_argument("--tokens", type=int, default=2500, help="about how many tokens --model trains on")
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--shape", choices=["llama-3.2-3b"], help="shape of a pretrained model, for a GPU")
    arguments = parser.parse_args()
    if arguments.model:
        compare_throughput(arguments)
        return
    texts = make_texts(arguments.users, arguments.events)
    if arguments.shape:
        measure_3b(texts)
        return
    for size in arguments.sizes:
        for dtype in arguments.dtypes:
            compare(size, dtype, texts, arguments.repeats, arguments.device)


if __name__ == "__main__":
    main()
