"""Embedding a pretrained model on a CPU, against what a user would take instead, on the same weights and texts.

    python -m benchmarks.bench_engines DIRECTORY GGUF RESULTS.jsonl [--threads 1 2] [--repeats 3] [--ways NAME ...]

DIRECTORY holds the model as transformers reads it, GGUF the same one as llama.cpp reads it. Each way is the mean of the
last layer over all tokens, in a process of its own: seconds from its start to the first vector, then tokens per second
of two sets of texts, its peak memory, and the smallest and mean cosine to transformers in float32. "events" are short
texts, as event features read them; "histories" are card transactions of log-normal lengths. The ways take turns, as
often as `--repeats`; a line of the file is one process, which is not started again, and the table has medians. A way
whose library is missing, or that cannot run, is a line that says why.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.json_lines import append, read
from benchmarks.memory import peak_bytes

Vectors = npt.NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]


def texts() -> dict[str, list[str]]:
    from skllm4es import EventSerializer
    from skllm4es.datasets import make_transactions
    from skllm4es.vocabularies import load_mcc_names

    X, _ = make_transactions(8, mean_events=40, random_state=0)
    histories = EventSerializer(labels={"mcc": load_mcc_names()}).fit_transform(X)["text"].to_list()
    events = dict.fromkeys(line for text in histories for line in text.split("\n")[1:])
    return {"events": list(events)[:200], "histories": histories}


def ours(dtype: str) -> Callable[[str, str], Embed]:
    def load(directory: str, gguf: str) -> Embed:
        from skllm4es import LLMEmbedder

        embedder = LLMEmbedder(
            directory, features="hidden", finetune=None, pooling_depth=1, token_pooling="mean", dtype=dtype
        )
        embedder.fit(["a"])
        return lambda texts: np.asarray(embedder.transform(texts), dtype=np.float32)

    return load


def sentence_transformers(dtype: str, backend: str = "torch", *, compiled: bool = False) -> Callable[[str, str], Embed]:
    def load(directory: str, gguf: str) -> Embed:
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import Pooling, Transformer

        kwargs = {"dtype": getattr(torch, dtype)} if backend == "torch" else {}
        transformer = Transformer(directory, max_seq_length=8192, model_args=kwargs, backend=backend)
        tokenizer = transformer.tokenizer
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        pooling = Pooling(transformer.get_word_embedding_dimension(), "mean")
        model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
        if compiled:
            model[0].auto_model.forward = torch.compile(model[0].auto_model.forward, dynamic=True)
        return lambda texts: model.encode(texts, batch_size=32, show_progress_bar=False)

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
WAYS: dict[str, Callable[[str, str], Embed]] = {
    REFERENCE: transformers_way,
    "ours, float32": ours("float32"),
    "ours, bfloat16": ours("bfloat16"),
    "sentence-transformers, float32": sentence_transformers("float32"),
    "sentence-transformers, bfloat16": sentence_transformers("bfloat16"),
    "sentence-transformers, torch.compile, bfloat16": sentence_transformers("bfloat16", compiled=True),
    "sentence-transformers, ONNX": sentence_transformers("float32", "onnx"),
    "sentence-transformers, OpenVINO": sentence_transformers("float32", "openvino"),
    "llama.cpp": llama_cpp,
}


def run_one(way: str, directory: str, gguf: str, vectors_file: Path) -> None:
    """Time one way in this process, and print a line of JSON."""
    start = time.perf_counter()
    embed = WAYS[way](directory, gguf)
    sets = texts()
    begin = time.perf_counter()
    embed(["a"])
    first = time.perf_counter() - begin
    line = {"load_s": round(begin - start, 2), "first_s": round(first, 2)}
    found = {}
    for name, some in sets.items():
        embed(some[:2])
        begin = time.perf_counter()
        found[name] = embed(some)
        line[f"{name}_s"] = round(time.perf_counter() - begin, 3)
    line["peak_mb"] = round(peak_bytes() / 1e6)
    np.savez(vectors_file, **found)
    print(json.dumps(line))


def run(arguments: argparse.Namespace, repeat: int, n_threads: int, way: str) -> None:
    about = {"way": way, "threads": n_threads, "repeat": repeat}
    if any(about.items() <= line.items() for line in read(arguments.file)):
        return
    vectors = arguments.file.with_suffix(f".{list(WAYS).index(way)}.npz")
    command = [sys.executable, "-m", "benchmarks.bench_engines", arguments.directory, arguments.gguf,
               str(arguments.file), "--one", way, "--vectors", str(vectors)]  # fmt: skip
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(n_threads)), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        append(arguments.file, [{**about, "error": done.stderr.strip().splitlines()[-1][:200]}])
        return
    line = json.loads(done.stdout.strip().splitlines()[-1])
    reference = arguments.file.with_suffix(".0.npz")
    if reference.exists():
        cosines = [_cosines(np.load(vectors)[name], np.load(reference)[name]) for name in ("events", "histories")]
        line["cosine_min"], line["cosine_mean"] = (
            round(float(of(np.concatenate(cosines))), 5) for of in (np.min, np.mean)
        )
    append(arguments.file, [about | line])


def _cosines(found: Vectors, expected: Vectors) -> npt.NDArray[np.float64]:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    cosines: npt.NDArray[np.float64] = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosines


def table(file: Path, directory: str) -> str:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    n_tokens = {name: sum(map(len, tokenizer(some)["input_ids"])) for name, some in texts().items()}
    groups = defaultdict(list)
    for line in read(file):
        groups[line["threads"], line["way"]].append(line)
    text = (
        f"{n_tokens['events']:,} tokens of short events, {n_tokens['histories']:,} of histories; medians.\n\n"
        "| threads | way | events, tokens/s | histories, tokens/s | load, s | first, s | peak, MB | cosine, min |\n"
        + "|---" * 8
        + "|\n"
    )
    for (n_threads, way), lines in sorted(groups.items(), key=lambda item: item[0][0]):
        if "error" in lines[0]:
            text += f"| {n_threads} | {way} | {lines[0]['error']} | | | | | |\n"
            continue
        median = {key: statistics.median(line[key] for line in lines) for key in lines[0] if key.endswith(("_s", "mb"))}
        rates = " | ".join(f"{n_tokens[name] / median[f'{name}_s']:,.0f}" for name in n_tokens)
        text += (
            f"| {n_threads} | {way} | {rates} | {median['load_s']:.1f} | {median['first_s']:.2f} "
            f"| {median['peak_mb']:.0f} | {lines[-1].get('cosine_min', '')} |\n"
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("gguf")
    parser.add_argument("file", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--vectors", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments.one, arguments.directory, arguments.gguf, arguments.vectors)
        return
    for repeat in range(arguments.repeats):
        for n_threads in arguments.threads:
            for way in arguments.ways:
                run(arguments, repeat, n_threads, way)
    print(table(arguments.file, arguments.directory))


if __name__ == "__main__":
    main()
