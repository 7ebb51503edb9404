"""How fast templates rewrite: events per second on one core, for each format and for all formats mixed.

The texts have 100 events of 5 fields each. Run: ``python -m benchmarks.bench_templates [n_texts]``.

Then `TextEnricher` is timed over the mixed formats, with (check="retry") and without (check="warn") comparing each
text with its original, in one process and in two; a call beforehand starts the processes.
"""

import random
import sys
from itertools import cycle, islice
from time import perf_counter

from skllm4es import TextEnricher
from skllm4es.rewriters import TemplateRewriter, available_formats
from skllm4es.serialize import format_events

N_EVENTS = 100
CATEGORIES = ["Grocery Stores, Supermarkets", "Fast Food", "Service Stations", "Drug Stores", "Airlines"]


def make_text(rng: random.Random) -> str:
    days = sorted(rng.randrange(28) for _ in range(N_EVENTS))
    rows = [
        [
            f"2017-03-{day + 1:02} {rng.randrange(24):02}:{rng.randrange(60):02}:00",
            rng.choice(CATEGORIES),
            f"{rng.randrange(-200_000, 200_000) / 100:.2f}",
            rng.choice(["RUB", "RUB", "EUR"]),
            rng.choice(["POS", "ATM", ""]),
        ]
        for day in days
    ]
    return format_events(["trans_date", "mcc", "amount", "currency", "channel_type"], rows)


def events_per_second(texts: list[str], formats: list[str]) -> float:
    start = perf_counter()
    TemplateRewriter().rewrite(texts, formats, range(len(texts)))
    return len(texts) * N_EVENTS / (perf_counter() - start)


def enriched_events_per_second(texts: list[str], **params: object) -> float:
    enricher = TextEnricher(random_state=0, **params)
    enricher.fit_transform(texts[:8])
    start = perf_counter()
    enricher.fit_transform(texts)
    return len(texts) * N_EVENTS * enricher.n_variants / (perf_counter() - start)


def main() -> None:
    n_texts = int(sys.argv[1]) if len(sys.argv) > 1 else 900
    rng = random.Random(0)
    texts = [make_text(rng) for _ in range(n_texts)]
    for name in available_formats():
        print(f"{name:10} {events_per_second(texts, [name] * n_texts):10,.0f} events/s")
    mixed = list(islice(cycle(available_formats()), n_texts))
    print(f"{'mixed':10} {events_per_second(texts, mixed):10,.0f} events/s")
    print("\nTextEnricher")
    for n_jobs in (1, 2):
        for check in ("warn", "retry"):
            for n_variants in (1, 7):
                speed = enriched_events_per_second(texts, n_jobs=n_jobs, check=check, n_variants=n_variants)
                print(f"{n_jobs=} {check=:5} {n_variants=} {speed:10,.0f} events/s")


if __name__ == "__main__":
    main()
