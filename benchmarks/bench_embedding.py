"""How fast `LLMEmbedder.transform` is, compared with the authors' inference and sentence-transformers.

    python -m benchmarks.bench_embedding [--users 16] [--events 40] [--repeats 3] [--sizes small medium large]

prints Markdown tables. All ways run the same random weights on the same texts, simulated card transactions of
log-normal lengths, and take turns within one run; times are medians of wall time. Sentence-transformers takes part if
it is installed. The rest of the output shows where our time goes: how long the model's matrix products take at the
rate that this machine reaches for their shapes, and what else torch's profiler sees.

``--shape llama-3.2-3b`` uses a Llama of that shape in bfloat16 instead, for a GPU, and reports tokens per second, the
share of the measured matrix rate, and peak memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from skllm4es import EventSerializer, LLMEmbedder
from skllm4es.datasets import make_transactions
from skllm4es.lm.from_scratch import train_tokenizer
from skllm4es.lm.windows import tokenize
from skllm4es.vocabularies import load_mcc_names

MAX_LENGTH = 16_384
SIZES = {
    "small": {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8},
    "medium": {"vocab_size": 32_000, "hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6},
    "large": {"vocab_size": 32_000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12},
}
HEADS = {"small": 8, "medium": 6, "large": 12}
LLAMA_3B = {
    "vocab_size": 128_256,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
}

Way = Callable[[], np.ndarray]


def make_texts(n_users: int, mean_events: int) -> list[str]:
    X, _ = make_transactions(n_users, mean_events=mean_events, random_state=0)
    return EventSerializer(labels={"mcc": load_mcc_names()}).fit_transform(X)["text"].to_list()


def make_model(directory: Path, texts: list[str], config: dict[str, object], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=MAX_LENGTH, **config)).to(dtype)
    model.save_pretrained(directory)
    train_tokenizer(texts, 4096).save_pretrained(directory)


def authors_way(directory: Path, texts: list[str], dtype: torch.dtype, device: str, depth: int) -> Way:
    """Embed padded batches of 4 in the given order, through the head, keeping all hidden states."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.padding_side = "right"

    @torch.inference_mode()
    def embed() -> np.ndarray:
        vectors = []
        for start in range(0, len(texts), 4):
            batch = tokenizer(
                texts[start : start + 4], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
            )
            batch = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
            hidden = torch.stack(model(**batch, output_hidden_states=True).hidden_states[-depth:]).float().mean(dim=0)
            mask = batch["attention_mask"][:, :, None]
            vectors.append(((hidden * mask).sum(dim=1) / mask.sum(dim=1)).cpu().numpy())
        return np.concatenate(vectors)

    return embed


def our_way(directory: Path, texts: list[str], dtype: str, device: str, depth: int) -> Way:
    embedder = LLMEmbedder(
        directory, finetune=None, pooling_depth=depth, max_length=MAX_LENGTH, dtype=dtype, device=device
    ).fit(texts)
    embedder.transform(texts[:1])
    return lambda: embedder.transform(texts)


def sentence_transformers_way(directory: Path, texts: list[str], dtype: torch.dtype, device: str) -> Way:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    transformer = Transformer(str(directory), max_seq_length=MAX_LENGTH, model_args={"dtype": dtype})
    transformer.tokenizer.pad_token = "<pad>"
    pooling = Pooling(transformer.get_word_embedding_dimension(), "mean")
    model = SentenceTransformer(modules=[transformer, pooling], device=device)
    return lambda: model.encode(texts, show_progress_bar=False)


def seconds_of(way: Way) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def compare(name: str, texts: list[str], repeats: int, device: str) -> None:
    config = {**SIZES[name], "num_attention_heads": HEADS[name]}
    depth = min(8, int(SIZES[name]["num_hidden_layers"]))
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "model"
        make_model(directory, texts, config, torch.float32)
        ways = {
            "authors, float32": authors_way(directory, texts, torch.float32, device, depth),
            "**ours, float32**": our_way(directory, texts, "float32", device, depth),
            "**ours, bfloat16**": our_way(directory, texts, "bfloat16", device, depth),
        }
        if find_spec("sentence_transformers"):
            for dtype in (torch.float32, torch.bfloat16):
                ways[f"sentence-transformers, {str(dtype)[6:]}"] = sentence_transformers_way(
                    directory, texts, dtype, device
                )
        check(ways["authors, float32"](), ways["**ours, float32**"](), ways["**ours, bfloat16**"]())
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for way in ways:
            if way.startswith("sentence"):
                ways[way]()  # Warm up; the others have just run.
        for _ in range(repeats):
            for way, embed in ways.items():
                seconds[way].append(seconds_of(embed))
        n_tokens = sum(
            len(tokens.ids) for tokens in tokenize(AutoTokenizer.from_pretrained(directory), texts, MAX_LENGTH)
        )
        print_comparison(name, config, len(texts), n_tokens, seconds)
        for dtype in ("float32", "bfloat16"):
            print_shares(directory, texts, dtype, device, statistics.median(seconds[f"**ours, {dtype}**"]))


def check(reference: np.ndarray, exact: np.ndarray, rounded: np.ndarray) -> None:
    """Raise unless our vectors equal those of the authors' way."""
    norms = np.linalg.norm(reference, axis=1)
    error = (np.linalg.norm(exact - reference, axis=1) / norms).max()
    cosine = ((rounded * reference).sum(axis=1) / norms / np.linalg.norm(rounded, axis=1)).min()
    print(f"\nLargest relative error in float32: {error:.1e}; smallest cosine in bfloat16: {cosine:.6f}.")
    assert error < 1e-5, error
    assert cosine > 0.9999, cosine


def print_comparison(
    name: str, config: dict[str, object], n_users: int, n_tokens: int, seconds: dict[str, list[float]]
) -> None:
    print(f"\n{name}: {config}; {n_users} users, {n_tokens:,} tokens\n")
    print("| way | s, median (min-max) | tokens/s | times authors, float32 |\n|---|---|---|---|")
    authors = seconds["authors, float32"]
    for way, times in seconds.items():
        ratio = statistics.median(a / t for a, t in zip(authors, times, strict=True))
        median = statistics.median(times)
        print(f"| {way} | {median:.2f} ({min(times):.2f}-{max(times):.2f}) | {n_tokens / median:,.0f} | {ratio:.2f} |")
    for dtype in ("float32", "bfloat16"):
        theirs = seconds.get(f"sentence-transformers, {dtype}")
        if theirs:
            ratio = statistics.median(t / o for t, o in zip(theirs, seconds[f"**ours, {dtype}**"], strict=True))
            print(f"\nOurs is {ratio:.2f} times as fast as sentence-transformers in {dtype}.")


def print_shares(directory: Path, texts: list[str], dtype: str, device: str, total: float) -> None:
    """Print the share of our time that matrix products need, and what else the profiler sees."""
    products = seconds_of_products(directory, texts, getattr(torch, dtype), device)
    print(f"\n{dtype}: products with weights alone take {products:.2f} s of {total:.2f} s, {products / total:.0%}.")
    embed = our_way(directory, texts, dtype, device, 1)
    with torch.profiler.profile() as profile:
        embed()
    events = profile.key_averages()
    on_gpu = device != "cpu"
    times = {event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total for event in events}
    whole = sum(times.values())
    largest = sorted(times.items(), key=lambda item: -item[1])[:10]
    kernels = sum(value for key, value in times.items() if "mm" in key.lower() or "dot_product" in key)
    print(
        f"Profiler: {1 - kernels / whole:.0%} outside matrix products and attention. "
        + ", ".join(f"{key} {value / whole:.0%}" for key, value in largest)
    )


def seconds_of_products(directory: Path, texts: list[str], dtype: torch.dtype, device: str) -> float:
    """Time only the products with the layers' weights, on the batches that our way runs.

    The products inside attention are left out: as plain products they take longer than the whole fused kernel.
    """
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).to(device)
    weights = [w for w in model.base_model.layers.parameters() if w.dim() == 2]
    batches = shapes_of_batches(our_way(directory, texts, str(dtype)[6:], device, 1))
    most, widest = max(n * width for n, width in batches), max(w.shape[1] for w in weights)
    inputs = torch.randn(most * widest, dtype=dtype, device=device)

    @torch.inference_mode()
    def multiply() -> np.ndarray:
        for n, width in batches:
            for w in weights:
                torch.nn.functional.linear(inputs[: n * width * w.shape[1]].view(-1, w.shape[1]), w)
        synchronize(device)
        return np.empty(0)

    multiply()
    return statistics.median(seconds_of(multiply) for _ in range(3))


def shapes_of_batches(way: Way) -> list[tuple[int, int]]:
    """Return the number of rows and the padded length of each batch that the model sees."""
    shapes: list[tuple[int, int]] = []

    def record(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Embedding):
            shapes.append((inputs[0].shape[0], inputs[0].shape[1]))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(record)
    try:
        way()
    finally:
        handle.remove()
    return shapes


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def measure_3b(texts: list[str]) -> None:
    """Measure a Llama in the shape of Llama 3.2 3B on a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "model"
        make_model(directory, texts, LLAMA_3B, torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        n_tokens = sum(len(tokens.ids) for tokens in tokenize(tokenizer, texts, MAX_LENGTH))
        embed = our_way(directory, texts, "bfloat16", "cuda", 8)
        embed()
        torch.cuda.reset_peak_memory_stats()
        seconds = statistics.median(seconds_of(embed) for _ in range(3))
        peak = torch.cuda.max_memory_allocated() / 2**30
        products = seconds_of_products(directory, texts, torch.bfloat16, "cuda")
    print(
        "| users | tokens | s | tokens/s | matrix products alone, s | share | peak GiB |\n|---|---|---|---|---|---|---|"
    )
    share = products / seconds
    print(
        f"| {len(texts):,} | {n_tokens:,} | {seconds:.2f} | {n_tokens / seconds:,.0f} | {products:.2f} "
        f"| {share:.0%} | {peak:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--events", type=int, default=40, help="mean number of events per user")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=["llama-3.2-3b"], help="shape of a pretrained model, for a GPU")
    arguments = parser.parse_args()
    texts = make_texts(arguments.users, arguments.events)
    if arguments.shape:
        measure_3b(texts)
        return
    for name in arguments.sizes:
        compare(name, texts, arguments.repeats, arguments.device)


if __name__ == "__main__":
    main()
