"""How many tokens an event takes in each form of the serialised text.

    python -m benchmarks.bench_tokens [--users 1000]

prints a Markdown table for the paper's form and the compact one, with the same fields and values, on simulated
transactions and, if it is available, on MovieLens 100k. Tokens are counted by

- *own*: a byte-level BPE tokenizer of 4,096 tokens, trained on the form's own texts (that of ``LLMEmbedder()``);
- *Tekken*: the tokenizer of Mistral Nemo with 131,072 tokens, if ``mistral_common`` is installed;
- *TinyStories*: the tokenizer of ``tinystories-656k`` with 2,048 tokens, if the data home has it. It knows no
  brackets, bars or accents.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
from transformers import AutoTokenizer

from skllm4es import EventSerializer
from skllm4es.datasets import fetch_movielens_100k, get_data_home, make_transactions
from skllm4es.lm.from_scratch import train_tokenizer
from skllm4es.serialize import parse_events
from skllm4es.vocabularies import load_mcc_names

Count = Callable[[list[str]], int]


def count_own(texts: list[str]) -> int:
    return sum(map(len, train_tokenizer(texts, 4096)(texts)["input_ids"]))


def fixed_tokenizers() -> dict[str, Count]:
    counts: dict[str, Count] = {}
    if find_spec("mistral_common"):
        import mistral_common
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        tekken = Tekkenizer.from_file(Path(mistral_common.__file__).parent / "data" / "tekken_240911.json")
        counts["Tekken"] = lambda texts: sum(len(tekken.encode(text, bos=False, eos=False)) for text in texts)
    if (folder := get_data_home() / "tinystories-656k").is_dir():
        tiny = AutoTokenizer.from_pretrained(folder)
        counts["TinyStories"] = lambda texts: sum(map(len, tiny(texts)["input_ids"]))
    return counts


def compare(name: str, X: pd.DataFrame, counts: dict[str, Count], **params: object) -> None:
    tokens: dict[str, list[float]] = {}
    for compact in (False, True):
        texts = EventSerializer(compact=compact, **params).fit_transform(X)["text"].to_list()
        n_events = sum(len(parse_events(text).rows) for text in texts)
        tokens["compact" if compact else "paper's"] = [count(texts) / n_events for count in counts.values()]
    ratios = [compact / paper for paper, compact in zip(tokens["paper's"], tokens["compact"], strict=True)]
    for form, row in tokens.items():
        print(f"| {name} | {form} | {' | '.join(f'{value:.2f}' for value in row)} |")
    print(f"| | ratio | {' | '.join(f'{value:.3f}' for value in ratios)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000, help="number of simulated clients")
    arguments = parser.parse_args()
    counts = {"own": count_own, **fixed_tokenizers()}
    print(f"| events | form | {' | '.join(f'{name}, tokens per event' for name in counts)} |")
    print("|" + "---|" * (2 + len(counts)))
    X, _ = make_transactions(arguments.users, random_state=0)
    labels = {"mcc": load_mcc_names()}
    compare("transactions, exact", X, counts, labels=labels)
    rounded = {"event_time": "days since 2023-01-01", "amount": ".0f"}
    compare("transactions, whole days and amounts", X, counts, labels=labels, formats=rounded)
    if (get_data_home() / "ml-100k").is_dir():
        X, _ = fetch_movielens_100k(return_X_y=True)
        compare("MovieLens, exact", X, counts)
        compare("MovieLens, whole days", X, counts, formats={"timestamp": "days since 1997-09-01"})


if __name__ == "__main__":
    main()
