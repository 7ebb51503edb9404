"""What training adds to a pretrained model: SmolLM2 frozen, and trained on serialised and on enriched texts.

    SKLLM4ES_DATA=... python -m benchmarks.bench_finetuning RESULTS.jsonl [--data movielens cards] [--rows NAME ...]
                      [--tokens 300000] [--events 10]

Each row trains once, on the texts of all users and without labels (transductive, as in the paper), on the same number
of tokens; rows that train on two data sets share them. The last `--events` events of each user are read. One model
makes the vectors of both kinds, those of event features and the hidden states of the paper, pooled over 8 layers. The
heads are those of `bench_quality`, and users are divided into five folds. A row is a line of the file, and is not run
again; it takes about as long as its tokens take to train, and half as long again to read.

The learning rates were set once and not tuned: 5e-5 for all weights, 2e-4 for adapters, with 2,048 tokens a step.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from benchmarks.bench_quality import score, table
from benchmarks.development import DATA
from benchmarks.json_lines import append, read
from skllm4es import EventSerializer, FineTuning, LLMEmbedder, LoRA, TextEnricher
from skllm4es.lm.language_model import LanguageModel
from skllm4es.lm.sources import source_of
from skllm4es.models import smollm2
from skllm4es.vocabularies import load_mcc_names

COMPANIONS = {"movielens": "cards", "cards": "movielens", "groceries": "movielens"}
ROWS: dict[str, dict[str, Any]] = {
    "frozen": {"way": None},
    "full, serialised": {"way": "full"},
    "full, enriched": {"way": "full", "enriched": True},
    "full, enriched, both data sets": {"way": "full", "enriched": True, "companion": True},
    "LoRA, serialised": {"way": "lora"},
}


def texts_of(data: str, n_events: int, *, enriched: bool) -> Any:
    X, _, _ = DATA[data]()
    labels = {"mcc": load_mcc_names()} if data == "cards" else None
    texts = EventSerializer(labels=labels, max_events=n_events).fit_transform(X)
    return TextEnricher(random_state=0).fit_transform(texts) if enriched else texts


def run(data: str, row: str, n_tokens: int, n_events: int, file: Path) -> None:
    about = {"data": data, "development": False, "seed": 0, "tokens": n_tokens, "events": n_events}
    if any((about | {"of": row}).items() <= line.items() for line in read(file)):
        return
    settings = ROWS[row]
    texts = texts_of(data, n_events, enriched=settings.get("enriched", False))
    embedder = LLMEmbedder(smollm2(), features=["events", "hidden"], finetune=None, random_state=0)
    if settings["way"]:
        learned = list(texts.iloc[:, -1])
        if settings.get("companion"):
            other = texts_of(COMPANIONS[data], n_events, enriched=True)
            embedder.set_params(extra_texts=other.reset_index(drop=True))
            learned += list(other.iloc[:, -1])
        in_all = sum(map(len, LanguageModel(source_of(smollm2())).tokenizer(learned)["input_ids"]))
        kind, rate = {"full": (FineTuning, 5e-5), "lora": (LoRA, 2e-4)}[settings["way"]]
        embedder.set_params(finetune=kind(epochs=n_tokens / in_all, learning_rate=rate, batch_tokens=2048))
    start = time.process_time()
    vectors = np.asarray(embedder.fit_transform(texts))
    seconds = time.process_time() - start
    n_event_features = embedder._events_.n_features
    blocks = {"events": vectors[:, :n_event_features], "hidden": vectors[:, n_event_features:]}
    _, targets, _ = DATA[data]()
    strata = np.asarray(next(iter(targets.values())))
    records = []
    for fold, (train, test) in enumerate(StratifiedKFold(5, shuffle=True, random_state=0).split(strata, strata)):
        for name, Z in blocks.items():
            spread = Z[train].std(axis=0) if name == "hidden" else np.ones(Z.shape[1])
            scaled = (Z - Z[train].mean(axis=0)) / np.where(spread > 0, spread, 1)
            if name == "hidden":  # Their dimensions differ by orders of magnitude.
                scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
            scores = {target: score(scaled, np.asarray(y), train, test) for target, y in targets.items()}
            line = {"of": row, "row": f"{row}; {name}", "fold": fold, "s": round(seconds, 1), "scores": scores}
            losses = getattr(embedder, "loss_curve_", [])
            if losses:
                line |= {"loss": [round(float(losses[0]), 3), round(float(losses[-1]), 3)]}
            records.append(about | line)
    append(file, records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", nargs="+", choices=list(COMPANIONS), default=["movielens", "cards"])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--events", type=int, default=10)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    for data in arguments.data:
        for row in arguments.rows:
            run(data, row, arguments.tokens, arguments.events, arguments.file)
    print(table(arguments.file))


if __name__ == "__main__":
    main()
