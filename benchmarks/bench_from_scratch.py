"""Which settings train the small Llama from scratch best: the loss on texts of held-out users.

    SKLLM4ES_DATA=... python -m benchmarks.bench_from_scratch [--users 60 300] [--events 30] [--seeds 2]

changes one setting of `LLMEmbedder()` at a time, on serialised MovieLens ratings and simulated card transactions, and
prints the lowest loss on a fifth of the users, in nats per token, and the seconds of training. All settings of a
corpus have the same tokenizer, and so the same unit of loss.
"""

from __future__ import annotations

import argparse
import statistics

from benchmarks.settings import make_embedder
from skllm4es import EventSerializer
from skllm4es.datasets import fetch_movielens_100k, make_transactions
from skllm4es.vocabularies import load_mcc_names

SETTINGS: list[dict[str, object]] = [
    {},
    {"learning_rate": 3e-4},
    {"learning_rate": 3e-3},
    {"learning_rate": 1e-2},
    {"batch_tokens": 512},
    {"batch_tokens": 1024},
    {"batch_tokens": 4096},
    {"weight_decay": 0.0},
    {"weight_decay": 0.1},
    {"n_params": 400_000},
    {"n_params": 1_400_000},
    {"n_params": 4_000_000},
    {"epochs": 3},
    {"epochs": 10},
]


def corpora(n_users: int, n_events: int) -> dict[str, list[str]]:
    films, _ = fetch_movielens_100k(return_X_y=True)
    cards, _ = make_transactions(n_users, mean_events=n_events, random_state=0)
    films = films.sample(n_users, random_state=0)
    return {
        "films": EventSerializer(["title", "genres", "rating"], max_events=n_events)
        .fit_transform(films)["text"]
        .to_list(),
        "cards": EventSerializer(["mcc", "amount", "type"], labels={"mcc": load_mcc_names()}, max_events=n_events)
        .fit_transform(cards)["text"]
        .to_list(),
    }


def measure(texts: list[str], settings: dict[str, object], base: dict[str, object], seeds: int) -> str:
    losses, seconds = [], []
    for seed in range(seeds):
        embedder = make_embedder(**(base | settings), validation_fraction=0.2, patience=100, random_state=seed)
        fitted = embedder.fit(texts)
        losses.append(min(fitted.validation_loss_curve_))
        seconds.append(fitted.training_time_)
    n_params = fitted.load_model()[0].num_parameters()
    spread = f" ({min(losses):.3f}-{max(losses):.3f})" if seeds > 1 else ""
    return f"{statistics.mean(losses):.3f}{spread} | {statistics.mean(seconds):.0f} | {n_params:,} "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[60, 300])
    parser.add_argument("--events", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--base", type=eval, default={}, help="settings to start from, as a dict")
    parser.add_argument("--settings", type=eval, default=SETTINGS, help="changes to try, as a list of dicts")
    arguments = parser.parse_args()
    print("| corpus | users | change | validation loss | s | weights |\n|---|---|---|---|---|---|")
    for n_users in arguments.users:
        for name, texts in corpora(n_users, arguments.events).items():
            for settings in arguments.settings:
                row = measure(texts, settings, arguments.base, arguments.seeds)
                print(f"| {name} | {n_users} | {settings or 'none'} | {row}|", flush=True)


if __name__ == "__main__":
    main()
