"""From texts to pooled layers: each distinct text once, and with a cache once and for all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm
from transformers import __version__ as transformers_version

from skllm4es._store import hash_of
from skllm4es.lm.cache import Cache
from skllm4es.lm.callbacks import speed_since
from skllm4es.lm.language_model import LanguageModel
from skllm4es.lm.pooling import LayerPooler
from skllm4es.lm.processes import Processes
from skllm4es.lm.windows import Window, groups_of, split, tokenize, truncate

#: Increased when the vector of a text changes, so that no older one is taken for it.
_VERSION = "4"
#: Texts that are read from the cache together.
_CACHE_BATCH = 256
#: Texts that each of several processes embeds before all of them share the results.
_GATHER_BATCH = 1024


class Embedded(NamedTuple):
    """One text, embedded.

    Parameters
    ----------
    text : str
        The text.
    layers : ndarray of shape (n_layers + 1, hidden_size), dtype float32
        Its pooled hidden states.
    scores : ndarray of shape (n_scored,), dtype float32
        The scores of the tokens that are scored.
    truncated : bool
        Whether it was cut.
    """

    text: str
    layers: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    truncated: bool


@dataclass(frozen=True)
class TextEmbedder:
    """Run a language model over texts.

    Parameters
    ----------
    language_model : LanguageModel
        The model.
    dtype : torch.dtype
        The type of its weights.
    device : str
        Where it runs.
    max_length : int
        The most tokens that the model sees at once.
    overflow : {"chunk", "truncate"}
        Whether a longer text is embedded in windows, or cut.
    pooling : {"mean", "rest", "events", "last", "max"}
        How tokens are pooled.
    group : Processes
        The processes that embed together.
    scored : ndarray of shape (n_scored,), default=None
        Tokens to score.
    progress : bool, default=False
        Whether to show a progress bar.
    """

    language_model: LanguageModel
    dtype: torch.dtype
    device: str
    max_length: int
    overflow: str
    pooling: str
    group: Processes
    scored: npt.NDArray[np.int64] | None = None
    progress: bool = False

    def embed(self, texts: Sequence[str], cache: Cache | None = None) -> Iterator[Embedded]:
        """Embed each distinct text once, in any order.

        Parameters
        ----------
        texts : sequence of str
            The texts.
        cache : Cache, default=None
            Where to look first, and to keep what was computed, group by group.

        Yields
        ------
        Embedded
            A text and its pooled layers.
        """
        # Sorted, so that the same texts share a batch in whatever order they come: vectors are equal to the last bit.
        distinct = sorted(set(texts))
        if cache is None:
            for group in self._compute(distinct):
                yield from group
            return
        n_values = (self.language_model.n_layers + 1) * self.language_model.hidden_size
        space, keys = self._space(), {text: hash_of(text) for text in distinct}
        first = self.group.rank == 0
        missing = []
        for start in range(0, len(distinct), _CACHE_BATCH):
            batch = distinct[start : start + _CACHE_BATCH]
            found = self.group.agree(cache.read(space, [keys[text] for text in batch]) if first else {})
            for text in batch:
                if keys[text] in found:
                    vector, truncated = found[keys[text]]
                    layers, scores = np.split(vector, [n_values])
                    yield Embedded(text, layers.reshape(-1, self.language_model.hidden_size), scores, truncated)
                else:
                    missing.append(text)
        for group in self._compute(missing):
            if first:
                vectors = {
                    keys[embedded.text]: (np.append(embedded.layers, embedded.scores), embedded.truncated)  # Flat.
                    for embedded in group
                }
                cache.write(space, vectors)
            yield from group

    def scorable(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Yield, for each text, the tokens that can be scored: those of the events that are embedded."""
        scoring = replace(self, scored=np.empty(0, dtype=np.int64))
        for start in range(0, len(texts), _CACHE_BATCH):
            for windows in scoring._windows(texts[start : start + _CACHE_BATCH])[0]:
                yield [
                    token for window in windows for token in window.ids[max(1, window.n_header, window.n_repeated) :]
                ]

    def _compute(self, texts: Sequence[str]) -> Iterator[list[Embedded]]:
        """Embed texts, each process its share; every process gets all results."""
        if self.group.size == 1:
            yield from self._compute_here(texts)
            return
        n_together = self.group.size * _GATHER_BATCH
        for start in range(0, len(texts), n_together):
            share = texts[start : start + n_together][self.group.rank :: self.group.size]
            yield self.group.gather([embedded for group in self._compute_here(share) for embedded in group])

    def _compute_here(self, texts: Sequence[str]) -> Iterator[list[Embedded]]:
        if not texts:  # No need to load the model.
            return
        with tqdm(
            total=len(texts),
            desc="loading the language model",
            unit="text",
            leave=None,
            disable=not self.progress or self.group.rank > 0,
        ) as bar:
            pooler = LayerPooler(self.language_model.load(self.dtype, self.device), self.pooling, scored=self.scored)
            bar.set_description("embedding")
            start, n_tokens = time.perf_counter(), 0
            for texts_group in groups_of(texts):  # The longest of a group are embedded first.
                windows, truncated = self._windows(texts_group)
                for positions, layers, scores in pooler.pool(windows):
                    yield [
                        Embedded(texts_group[i], text_layers, text_scores, truncated[i])
                        for i, text_layers, text_scores in zip(positions, layers, scores, strict=True)
                    ]
                    n_tokens += sum(len(window.ids) for i in positions for window in windows[i])
                    bar.set_postfix_str(speed_since(start, n_tokens), refresh=False)
                    bar.update(len(positions))

    def _windows(self, texts: Sequence[str]) -> tuple[list[list[Window]], list[bool]]:
        tokenizer, headers = self.language_model.tokenizer, self.pooling == "events" or self.scored is not None
        tokenized = tokenize(tokenizer, texts, self.max_length, headers=headers)
        if self.overflow == "chunk":
            return [split(tokens, self.max_length) for tokens in tokenized], [False] * len(texts)
        truncated = [len(tokens) > self.max_length for tokens in tokenized]
        return [[truncate(tokens, self.max_length)] for tokens in tokenized], truncated

    def _space(self) -> bytes:
        """Hash all that changes the vector of a text."""
        attention = self.language_model.attention(self.dtype, self.device)
        device = self.device.partition(":")[0]
        settings = (str(self.dtype), device, attention, self.max_length, self.overflow, self.pooling)
        scored = b"" if self.scored is None else self.scored.tobytes()
        return hash_of(_VERSION, transformers_version, self.language_model.fingerprint, repr(settings), scored)
