"""Train a pretrained model once, in a process of its own, and print the speed as JSON; `bench_training` runs this.

    python benchmarks/train_once.py DIRECTORY full|lora float32|bfloat16 N_TOKENS BATCH_TOKENS MAX_LENGTH

It imports nothing else from the benchmarks, so that PYTHONPATH may name another version of the package.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from skllm4es import EventSerializer, FineTuning, LLMEmbedder, LoRA
from skllm4es.datasets import make_transactions
from skllm4es.lm import training
from skllm4es.vocabularies import load_mcc_names


class Clock(TrainerCallback):
    """CPU seconds and tokens of all steps but the first, in which much is prepared."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, int]] = []

    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        """Note the end of a step."""
        self.ends.append((time.process_time(), state.num_input_tokens_seen))  # type: ignore[attr-defined]

    def seconds_per_token(self) -> float:
        """Return the mean."""
        (start, before), (end, after) = self.ends[0], self.ends[-1]
        return (end - start) / (after - before)


def make_texts(directory: str, n_tokens: int) -> list[str]:
    X, _ = make_transactions(n_tokens // 20, mean_events=20, random_state=0)
    texts = EventSerializer(labels={"mcc": load_mcc_names()}).fit_transform(X)["text"].to_list()
    lengths = [len(ids) for ids in AutoTokenizer.from_pretrained(directory)(texts)["input_ids"]]
    n_texts = next(n for n in range(1, len(texts) + 1) if sum(lengths[:n]) >= n_tokens)
    return texts[:n_texts]


def product_seconds_per_token(directory: str, dtype: torch.dtype, n_tokens: int, with_weights: bool) -> float:
    """Return how long the products alone take: forward, for inputs, and for weights if these are trained."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    shapes = [tuple(module.weight.shape) for module in model.modules() if isinstance(module, torch.nn.Linear)]
    seconds = 0.0
    for shape in sorted(set(shapes)):
        weights = torch.randn(shape, dtype=dtype)
        inputs, gradients = (torch.randn(n_tokens, width, dtype=dtype) for width in reversed(shape))
        times = []
        for _ in range(4):
            start = time.process_time()
            inputs @ weights.T
            gradients @ weights
            if with_weights:
                gradients.T @ inputs
            times.append(time.process_time() - start)
        seconds += shapes.count(shape) * min(times[1:])
    return seconds / n_tokens


def main() -> None:
    directory, kind, dtype, *numbers = sys.argv[1:]
    n_tokens, batch_tokens, max_length = map(int, numbers)
    torch.set_num_threads(1)
    clock, train = Clock(), training.finetune
    training.finetune = lambda *args, callbacks=(), **kwargs: train(*args, callbacks=[*callbacks, clock], **kwargs)
    finetuning = {"full": FineTuning, "lora": LoRA}[kind](
        epochs=1,
        batch_tokens=batch_tokens,
        learning_rate=1e-4,
        training_args={"bf16": dtype == "bfloat16", "logging_steps": 1},
    )
    embedder = LLMEmbedder(directory, finetune=finetuning, max_length=max_length, device="cpu", random_state=0)
    embedder.fit(make_texts(directory, n_tokens))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    products = product_seconds_per_token(directory, getattr(torch, dtype), max_length, kind == "full")
    record = {
        "tokens_per_second": 1 / clock.seconds_per_token(),
        "attainable": 1 / products,
        "peak_bytes": peak,
        "losses": embedder.loss_curve_,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
