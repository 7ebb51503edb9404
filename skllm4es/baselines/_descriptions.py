"""Short descriptions of what users do, written from statistics, and a frozen language model's vectors of them.

The same events always have the same description. Language models read words better than numbers, so each number is
followed by its place among the users of `fit`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from sklearn.preprocessing import normalize

from skllm4es._store import directory_of
from skllm4es.baselines._features import Codes, EncodedEvents, EventFeatures, Floats
from skllm4es.events._kinds import is_time
from skllm4es.serialize._labels import Labels
from skllm4es.serialize._values import format_values

#: How many values of a categorical field are named.
N_VALUES = 5
#: A fifth of the users of `fit` each.
_LEVELS = ("very low", "low", "average", "high", "very high")
#: The last layers that are read, and the most tokens at once.
_DEPTH, _MAX_LENGTH = 8, 2048
_UNITS = (("day", 86_400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))


@dataclass(frozen=True)
class Describer:
    """Writes descriptions.

    Parameters
    ----------
    names : dict of str to list of str
        How the values of each categorical field are written, and first those that `fit` has not seen.
    in_seconds : bool
        Whether gaps are times in seconds, and not numbers of any unit.
    edges : dict of str to ndarray of shape (4,)
        The inner edges of the fifths of each statistic.
    """

    names: dict[str, list[str]]
    in_seconds: bool
    edges: dict[str, Floats]

    @classmethod
    def fit(cls, events: EncodedEvents, features: EventFeatures, labels: Mapping[str, Labels]) -> Self:
        """Learn the fifths of the statistics from users."""
        names = {
            name: ["other", *_written(values, labels.get(name, {}))] for name, values in features.categories.items()
        }
        in_seconds = features.time is not None and is_time(features.kinds[features.time])
        some = events.lengths > 0
        edges = {name: _fifths(values[some]) for name, values in _statistics(events).items()}
        return cls(names, in_seconds, edges)

    def __call__(self, events: EncodedEvents) -> list[str]:
        """Describe each user."""
        statistics = _statistics(events)
        levels = {name: _levels(self.edges[name], values) for name, values in statistics.items()}

        def write(name: str, form: Callable[[float], str]) -> list[str]:
            rows = zip(statistics[name].tolist(), levels[name].tolist(), strict=True)
            return ["" if value != value else f"{form(value)} ({_LEVELS[level]})" for value, level in rows]

        duration = _duration if self.in_seconds else _number
        parts = [[f"events: {text}" for text in write("n_events", _number)]]
        if events.gaps is not None:
            parts.append([text and f"over {text}" for text in write("span", duration)])
            parts.append([text and f"usually {text} apart" for text in write("gap", duration)])
        for name, codes in events.codes.items():
            parts.append([text and f"{name}: {text}" for text in _shares(codes, self.names[name], events)])
        for name in events.numbers:
            ends = [write(f"{name} {end}", _number) for end in ("median", "minimum", "maximum")]
            parts.append(
                [
                    middle and f"{name}: usually {middle}, from {low} to {high}"
                    for middle, low, high in zip(*ends, strict=True)
                ]
            )
        return ["; ".join(filter(None, user)) + "." for user in zip(*parts, strict=True)]


def _statistics(events: EncodedEvents) -> dict[str, Floats]:
    """Return statistics of each user; NaN if there is nothing to measure."""
    measured = {"n_events": events.lengths.astype(np.float64)}
    owners, users = pd.Series(events.owners), range(len(events.lengths))
    if events.gaps is not None:
        since_previous = events.gaps.copy()
        since_previous[events.offsets[:-1][events.lengths > 0]] = np.nan  # Those since events that are left out.
        gaps = pd.Series(since_previous).groupby(owners)
        measured |= _of_users({"span": gaps.sum(min_count=1), "gap": gaps.median()}, users)
    for name, numbers in events.numbers.items():
        grouped = pd.Series(numbers).groupby(owners)
        ends = {"median": grouped.median(), "minimum": grouped.min(), "maximum": grouped.max()}
        measured |= _of_users({f"{name} {end}": values for end, values in ends.items()}, users)
    return measured


def _of_users(statistics: Mapping[str, pd.Series[Any]], users: range) -> dict[str, Floats]:
    return {name: values.reindex(users).to_numpy(np.float64) for name, values in statistics.items()}


def _fifths(values: Floats) -> Floats:
    known = values[~np.isnan(values)]
    places = np.arange(1, len(_LEVELS)) / len(_LEVELS)
    return np.quantile(known, places) if len(known) else np.full(len(places), np.inf)


def _levels(edges: Floats, values: Floats) -> npt.NDArray[np.intp]:
    """Return the fifth of each value; a value that fills several fifths is in the middle one of these."""
    return (np.searchsorted(edges, values, side="left") + np.searchsorted(edges, values, side="right")) // 2


def _shares(codes: Codes, names: Sequence[str], events: EncodedEvents) -> list[str]:
    """Name the commonest values of each user with their shares; of equally common ones, the commonest in `fit`."""
    n_users = len(events.lengths)
    keys, counts = np.unique(events.owners[codes.rows] * len(names) + codes.values, return_counts=True)
    owners, values = np.divmod(keys, len(names))
    order = np.lexsort([values, -counts, owners])
    owners, values, counts = owners[order], values[order], counts[order]
    starts = np.searchsorted(owners, np.arange(n_users + 1))
    totals = np.bincount(owners, counts, minlength=n_users)
    texts = []
    for start, end, total in zip(starts[:-1].tolist(), starts[1:].tolist(), totals.tolist(), strict=True):
        top = slice(start, min(end, start + N_VALUES))
        shares = zip(values[top].tolist(), counts[top].tolist(), strict=True)
        texts.append(", ".join(f"{names[value]} ({_share(count / total)})" for value, count in shares))
    return texts


def _written(values: Sequence[str | None], labels: Labels) -> list[str]:
    """Write values, by their labels if they have any."""
    texts = {format_values(pa.chunked_array([[code]]))[0].as_py(): text for code, text in labels.items()}
    return ["missing" if value is None else texts.get(value, value) for value in values]


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "under 1%"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    name, size = next(((name, size) for name, size in _UNITS if abs(seconds) >= size), _UNITS[-1])
    amount = round(seconds / size)
    return f"{amount} {name}{'' if amount == 1 else 's'}"


def read_descriptions(
    texts: Sequence[str], model: str | os.PathLike[str], *, memory: Any, device: str | None, progress: bool
) -> npt.NDArray[np.float32]:
    """Return a frozen language model's vectors of texts, of shape (n_texts, hidden_size).

    They are the mean of the last layers, each of unit length, over all tokens but the first, as in the event features
    of `LLMEmbedder`; centred, and of unit length.
    """
    import torch

    from skllm4es.lm.cache import Cache
    from skllm4es.lm.devices import resolve_device
    from skllm4es.lm.embedding import TextEmbedder
    from skllm4es.lm.language_model import LanguageModel
    from skllm4es.lm.pooling import unit_mean
    from skllm4es.lm.processes import processes
    from skllm4es.lm.sources import source_of

    directory = directory_of(memory, make=True)
    language_model = LanguageModel(source_of(model, memory=directory))
    device, dtype = resolve_device(device, "auto")
    max_length = min(_MAX_LENGTH, language_model.n_positions or _MAX_LENGTH)
    embedder = TextEmbedder(
        language_model,
        getattr(torch, dtype),
        device,
        max_length,
        "chunk",
        "rest",
        processes(device),
        progress=progress,
    )
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    vectors = np.zeros((len(places), language_model.hidden_size))
    depth = min(_DEPTH, language_model.n_layers)
    for embedded in embedder.embed(texts, None if directory is None else Cache(directory)):
        vectors[places[embedded.text]] = unit_mean(embedded.layers[-depth:])
    vectors = vectors[[places[text] for text in texts]]
    return normalize(vectors - vectors.mean(axis=0)).astype(np.float32)
