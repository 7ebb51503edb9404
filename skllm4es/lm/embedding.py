"""From texts to pooled layers: each distinct text once, and once for all where there is a cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from skllm4es._store import hash_of
from skllm4es.lm.cache import Cache
from skllm4es.lm.language_model import LanguageModel
from skllm4es.lm.packing import Window, groups_of, split, tokenize, truncate
from skllm4es.lm.pooling import LayerPooler, TokenPooling
from skllm4es.lm.processes import Processes

#: Changes whenever the vector of a text does, so that older ones are not taken for it.
_VERSION = "2"
#: Texts that are read from the cache at once.
_READ_AT_ONCE = 256
#: Texts that each of several processes embeds before all of them tell the others.
_GATHERED_AT_ONCE = 1024


class Embedded(NamedTuple):
    """One text.

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
    """Runs a language model over texts.

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
        What is embedded of a text that has more.
    pooling : TokenPooling
        How tokens are pooled.
    group : Processes
        Those that embed together.
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
    pooling: TokenPooling
    group: Processes
    scored: npt.NDArray[np.int64] | None = None
    progress: bool = False

    def embed(self, texts: Sequence[str], cache: Cache | None = None) -> Iterator[Embedded]:
        """Embed texts, in an order of their own.

        Parameters
        ----------
        texts : sequence of str
            The texts; each distinct one is given once.
        cache : Cache, default=None
            Where to look first, and to keep what was computed, group by group.

        Yields
        ------
        Embedded
            A text and its pooled layers.
        """
        # Sorted, so that in whatever order texts come, the same ones share a batch: vectors are equal to the last bit.
        distinct = sorted(set(texts))
        if cache is None:
            for group in self._compute(distinct):
                yield from group
            return
        n_values = (self.language_model.n_layers + 1) * self.language_model.hidden_size
        space, keys = self._space(), {text: hash_of(text) for text in distinct}
        first = self.group.rank == 0
        missing = []
        for start in range(0, len(distinct), _READ_AT_ONCE):
            some = distinct[start : start + _READ_AT_ONCE]
            found = self.group.agree(cache.read(space, [keys[text] for text in some]) if first else {})
            for text in some:
                if keys[text] in found:
                    vector, truncated = found[keys[text]]
                    layers, scores = np.split(vector, [n_values])
                    yield Embedded(text, layers.reshape(-1, self.language_model.hidden_size), scores, truncated)
                else:
                    missing.append(text)
        for group in self._compute(missing):
            if first:
                vectors = {
                    keys[each.text]: (np.append(each.layers, each.scores), each.truncated)  # Flat.
                    for each in group
                }
                cache.write(space, vectors)
            yield from group
        if missing and first:
            cache.evict()

    def scorable(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Give the tokens of texts that can be scored: those of events, as far as they are embedded.

        Parameters
        ----------
        texts : sequence of str
            The texts.

        Yields
        ------
        list of int
            The tokens of a text.
        """
        scoring = replace(self, scored=np.empty(0, dtype=np.int64))
        for start in range(0, len(texts), _READ_AT_ONCE):
            for windows in scoring._windows(texts[start : start + _READ_AT_ONCE])[0]:
                yield [token for window in windows for token in window.ids[max(1, window.n_header) :]]

    def _compute(self, texts: Sequence[str]) -> Iterator[list[Embedded]]:
        """Embed texts, each process its share of them; all have the results of all."""
        if self.group.size == 1:
            yield from self._compute_here(texts)
            return
        at_once = self.group.size * _GATHERED_AT_ONCE
        for start in range(0, len(texts), at_once):
            share = texts[start : start + at_once][self.group.rank :: self.group.size]
            yield self.group.gather([embedded for group in self._compute_here(share) for embedded in group])

    def _compute_here(self, texts: Sequence[str]) -> Iterator[list[Embedded]]:
        if not texts:  # Nothing for which to load the model.
            return
        pooler = LayerPooler(self.language_model.load(self.dtype, self.device), self.pooling, scored=self.scored)
        start, n_tokens = perf_counter(), 0
        with tqdm(
            total=len(texts),
            desc="embedding",
            unit="user",
            leave=None,
            disable=not self.progress or self.group.rank > 0,
        ) as bar:
            for some in groups_of(texts):  # The longest of a group are embedded first.
                windows, truncated = self._windows(some)
                for positions, layers, scores in pooler.pool(windows):
                    yield [
                        Embedded(some[i], of_text, scored, truncated[i])
                        for i, of_text, scored in zip(positions, layers, scores, strict=True)
                    ]
                    n_tokens += sum(len(window.ids) for i in positions for window in windows[i])
                    bar.set_postfix_str(f"{n_tokens / (perf_counter() - start):,.0f} tokens/s", refresh=False)
                    bar.update(len(positions))

    def _windows(self, texts: Sequence[str]) -> tuple[list[list[Window]], list[bool]]:
        tokenizer, headers = self.language_model.tokenizer, self.pooling.kind == "events" or self.scored is not None
        tokenized = tokenize(tokenizer, texts, self.max_length, headers=headers)
        if self.overflow == "chunk":
            return [split(tokens, self.max_length) for tokens in tokenized], [False] * len(texts)
        truncated = [len(tokens.ids) > self.max_length for tokens in tokenized]
        return [[truncate(tokens, self.max_length)] for tokens in tokenized], truncated

    def _space(self) -> bytes:
        """Hash all that changes the vector of a text."""
        half_life = self.pooling.half_life if self.pooling.kind == "recency" else None
        settings = (str(self.dtype), self.max_length, self.overflow, self.pooling.kind, half_life)
        scored = b"" if self.scored is None else self.scored.tobytes()
        return hash_of(_VERSION, self.language_model.fingerprint, repr(settings), scored)
