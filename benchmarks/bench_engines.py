"""Embedding a pretrained model on a CPU, against what a user would take instead, on the same weights and texts.

    python -m benchmarks.bench_engines DIRECTORY GGUF RESULTS.jsonl [--threads 1 2] [--repeats 3] [--ways NAME ...]
                                       [--python PEERS --python MORE_PEERS]

DIRECTORY holds the model as transformers reads it, GGUF the same one as llama.cpp reads it. Each way is the mean of the
last layer over all tokens, in a process of its own: seconds to the first vector, then tokens per second of two sets of
texts, by the clock and per second of CPU, the peak memory, and the smallest cosine to transformers in float32. "events"
are short texts, as event features read them; "histories" are card transactions of log-normal lengths. The ways take
turns, as often as `--repeats`. A line of the file is one process, which is not started again; the table has medians.

The peers need other versions of transformers than we do, and than one another. So a way runs in the first of the
environments of `--python`, before them ours, that has what it imports.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]
Load = Callable[[str, str], Embed]
SETS = ("events", "histories")


def write_texts(file: Path, n_events: int) -> None:
    from skllm4es import EventSerializer
    from skllm4es.datasets import make_transactions
    from skllm4es.vocabularies import load_mcc_names

    X, _ = make_transactions(200, mean_events=10, random_state=0)
    texts = EventSerializer(labels={"mcc": load_mcc_names()}).fit_transform(X)["text"].to_list()
    events = dict.fromkeys(line for text in texts for line in text.split("\n")[1:])
    file.write_text(json.dumps({"events": list(events)[:n_events], "histories": texts[:12]}))


def ours(dtype: str) -> Load:
    def load(directory: str, gguf: str) -> Embed:
        from skllm4es import LLMEmbedder

        settings = {"pooling_depth": 1, "token_pooling": "mean", "dtype": dtype}
        embedder = LLMEmbedder(directory, features="hidden", finetune=None, **settings).fit(["a"])
        return lambda texts: np.asarray(embedder.transform(texts), dtype=np.float32)

    return load


def sentence_transformers(dtype: str, backend: str = "torch", *, compiled: bool = False) -> Load:
    def load(directory: str, gguf: str) -> Embed:
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import Pooling, Transformer
        from transformers import AutoTokenizer

        plain = TemporaryDirectory()  # Without the chat template, in which texts would be wrapped.
        for file in Path(directory).iterdir():
            if "token" not in file.name and "template" not in file.name:
                Path(plain.name, file.name).symlink_to(file.resolve())
        tokenizer = AutoTokenizer.from_pretrained(directory)
        tokenizer.chat_template = None
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        tokenizer.save_pretrained(plain.name)
        kwargs = {"dtype": getattr(torch, dtype)} if backend == "torch" else {}
        transformer = Transformer(plain.name, max_seq_length=8192, model_args=kwargs, backend=backend)
        pooling = Pooling(transformer.get_word_embedding_dimension(), "mean")
        model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
        if compiled:
            model[0].auto_model.forward = torch.compile(model[0].auto_model.forward, dynamic=True)
        return lambda texts: np.asarray(model.encode(texts, batch_size=32, show_progress_bar=False), dtype=np.float32)

    return load


def llama_cpp(directory: str, gguf: str) -> Embed:
    import llama_cpp

    n_threads = int(os.environ["OMP_NUM_THREADS"])
    model = llama_cpp.Llama(
        gguf, embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN, n_ctx=8192, n_batch=8192, n_ubatch=8192,
        n_threads=n_threads, n_threads_batch=n_threads, verbose=False,
    )  # fmt: skip
    return lambda texts: np.array([model.embed(text, normalize=False) for text in texts], dtype=np.float32)


def transformers_way(directory: str, gguf: str) -> Embed:
    """Embed texts one by one in float32: the reference."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)

    @torch.inference_mode()
    def embed(texts: list[str]) -> Vectors:
        rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for text in texts]
        return torch.stack(rows).numpy()

    return embed


REFERENCE = "transformers, float32, one by one"
#: What each way imports, and how it loads.
WAYS: dict[str, tuple[str, Load]] = {
    REFERENCE: ("transformers", transformers_way),
    "skllm4es, float32": ("skllm4es", ours("float32")),
    "skllm4es, bfloat16": ("skllm4es", ours("bfloat16")),
    "sentence-transformers, float32": ("sentence_transformers", sentence_transformers("float32")),
    "sentence-transformers, bfloat16": ("sentence_transformers", sentence_transformers("bfloat16")),
    "sentence-transformers, torch.compile": (
        "sentence_transformers",
        sentence_transformers("float32", compiled=True),
    ),
    "sentence-transformers, ONNX": ("optimum.onnxruntime", sentence_transformers("float32", "onnx")),
    "sentence-transformers, OpenVINO": ("optimum.intel.openvino", sentence_transformers("float32", "openvino")),
    "llama.cpp": ("llama_cpp", llama_cpp),
}


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its children, on all cores."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def run_one(way: str, directory: str, gguf: str, folder: Path) -> None:
    """Time one way in this process, and print a line of JSON."""
    sets = json.loads((folder / "texts.json").read_text())
    start = time.perf_counter()
    embed = WAYS[way][1](directory, gguf)
    embed(["a"])
    line: dict[str, Any] = {"first_s": time.perf_counter() - start}
    found = {}
    for name in SETS:
        embed(sets[name][:2])
        start, cpu = time.perf_counter(), cpu_seconds()
        found[name] = embed(sets[name])
        line |= {f"{name}_s": time.perf_counter() - start, f"{name}_cpu_s": cpu_seconds() - cpu}
    line["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    np.savez(folder / f"{list(WAYS).index(way)}.npz", **found)
    print(json.dumps({name: round(value, 3) for name, value in line.items()}))


def run(arguments: argparse.Namespace, folder: Path, n_threads: int, way: str) -> dict[str, Any]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OV_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(n_threads)), "HF_HUB_OFFLINE": "1"}
    if n_threads == 1:  # Not all engines heed the variables.
        environment["ONE_CORE"] = "1"
    for python in [sys.executable, *arguments.python]:
        here = subprocess.run([python, "-c", f"import {WAYS[way][0]}"], capture_output=True, check=False)
        if here.returncode == 0:
            break
    else:
        return {"error": f"{WAYS[way][0]} is not installed"}
    command = [python, "-W", "ignore", "-m", "benchmarks.bench_engines", arguments.directory, arguments.gguf,
               str(arguments.file), "--one", way]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:200]}
    line: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    found, expected = (np.load(folder / f"{list(WAYS).index(name)}.npz") for name in (way, REFERENCE))
    line["cosine"] = round(min(float(_cosines(found[name], expected[name]).min()) for name in SETS), 5)
    return line


def _cosines(found: Vectors, expected: Vectors) -> npt.NDArray[np.float64]:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    cosines: npt.NDArray[np.float64] = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosines


def table(file: Path) -> str:
    """Return the medians of a file as Markdown, the fastest with short events first."""
    lines: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for line in _read(file):
        lines[line["threads"], line["way"]].append(line)
    rows = []
    for (n_threads, way), of_way in lines.items():
        if "error" in of_way[0]:
            rows.append((n_threads, 0.0, f"| {n_threads} | {way} | {of_way[0]['error']} | | | | | |"))
            continue
        median = {name: statistics.median(line[name] for line in of_way) for name in of_way[0] if name != "way"}
        rates = [median[f"{name}_tokens"] / median[f"{name}{of}"] for of in ("_s", "_cpu_s") for name in SETS]
        cells = [f"{n_threads}", way, *[f"{rate:,.0f}" for rate in rates], f"{median['first_s']:.1f}"]
        cells += [f"{median['peak_mb']:,.0f}", f"{min(line['cosine'] for line in of_way):.5f}"]
        rows.append((n_threads, -rates[0], f"| {' | '.join(cells)} |"))
    head = (
        "| threads | | events, tokens/s | histories, tokens/s | events, tokens/CPU s | histories, tokens/CPU s "
        "| first vector, s | peak, MB | lowest cosine |\n|" + "---|" * 9
    )
    return "\n".join([head, *[row for *_, row in sorted(rows)]])


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("gguf")
    parser.add_argument("file", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--events", type=int, default=1664, help="number of short texts")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--python", action="append", default=[], help="interpreter of another environment")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.file.with_suffix("")
    if arguments.one:
        if "ONE_CORE" in os.environ:
            os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
        run_one(arguments.one, arguments.directory, arguments.gguf, folder)
        return
    folder.mkdir(exist_ok=True)
    write_texts(folder / "texts.json", arguments.events)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.directory)
    sets = json.loads((folder / "texts.json").read_text())
    n_tokens = {f"{name}_tokens": sum(map(len, tokenizer(sets[name])["input_ids"])) for name in SETS}
    for repeat in range(arguments.repeats):
        for n_threads in arguments.threads:
            for way in arguments.ways:
                about = {"way": way, "threads": n_threads, "repeat": repeat} | n_tokens
                if not any(about.items() <= line.items() for line in _read(arguments.file)):
                    line = about | run(arguments, folder, n_threads, way)
                    with arguments.file.open("a") as file:
                        file.write(json.dumps(line) + "\n")
    print(table(arguments.file))


if __name__ == "__main__":
    main()
