"""Event features: each distinct event is read once by itself, and a user is the weighted sum of the events.

Three blocks stand side by side, each centred and of a length of its own. What *identifies*: TF-IDF weights of the
distinct events, and of each event with a low or high number in it, reduced by an SVD. What *means*: the mean of the
language model's vectors of the events, with the same weights; new events count here, too. What *measures*: statistics
of numbers and times (`_measures`). So the cost follows the distinct events, not the events.

The first two are the same sum over events, with an indicator of the event and with a vector of it: two users are alike
if their events are the same, or mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from skllm4es._messages import warn
from skllm4es.embed._fields import Fields, Floats, Integers, numbers_of, texts_of
from skllm4es.embed._measures import Measures
from skllm4es.serialize._columns import TextColumns, parse_columns

#: From the distinct texts of events to their vectors, of shape (n_texts, hidden_size).
Read = Callable[[list[str]], npt.NDArray[np.float32]]

#: A number in an event is one of these: quarters of what the same event has in `fit`.
_BINS = ("lowest", "low", "high", "highest")
#: Rarer events share the quarters of all events.
_OFTEN = 20
#: Vectors that are shorter once they are centred are no more than rounding.
_SAME = 1e-6
#: The lengths of the blocks. With few labels a longer second block costs where words mean little, as on groceries, a
#: shorter one where they mean much, as on films; measures are few and noisy.
_LENGTHS = (1.0, 0.7, 0.5)


@dataclass(frozen=True)
class EventVectors:
    """Turn serialised events into vectors.

    A *token* is a distinct text of an event, or such a text with a quarter of a number: token ``i`` is text ``i``, and
    the quarter ``q`` of the number ``m`` in text ``i`` is token ``n + (m * n + i) * 4 + q`` for ``n`` texts.

    Parameters
    ----------
    fields : Fields
        What each feature is.
    measures : Measures
        The statistics of numbers and times.
    texts : list of str
        The distinct texts of events in `fit`.
    n_read : int
        How many of these, the first ones, are read; the others are codes.
    idf : ndarray of shape (n_texts + 1,), dtype float64
        Their weights, and that of a text that is new.
    edges : ndarray of shape (n_numbers, n_texts, 3), dtype float64
        The inner edges of the quarters.
    tokens : ndarray of shape (n_tokens,), dtype int64
        The tokens that several users share, in ascending order.
    token_idf : ndarray of shape (n_tokens,), dtype float64
        Their weights.
    directions : ndarray of shape (n_components, n_tokens), dtype float32
        The principal directions of the users.
    vectors : ndarray of shape (n_read, hidden_size), dtype float32
        The language model's vectors of the texts that are read.
    origin : ndarray of shape (hidden_size,), dtype float32
        Their mean.
    center : ndarray of shape (n_features,), dtype float64
        The mean of the users, block by block.
    """

    fields: Fields
    measures: Measures
    texts: list[str]
    n_read: int
    idf: Floats
    edges: Floats
    tokens: Integers
    token_idf: Floats
    directions: npt.NDArray[np.float32]
    vectors: npt.NDArray[np.float32]
    origin: npt.NDArray[np.float32]
    center: Floats

    @classmethod
    def fit(cls, columns: TextColumns, n_components: int, read: Read) -> EventVectors:
        """Learn from the texts of users which events there are, what they weigh, and what they mean.

        Parameters
        ----------
        columns : TextColumns
            The events of users.
        n_components : int
            How many directions identify a user; there are no more than users or tokens.
        read : callable
            Returns the language model's vectors of texts.
        """
        fields = Fields.find(columns)
        events = _Events.of(columns, fields, [])
        known, n_users = events.texts, len(columns.lengths)
        counts = events.counts()
        edges = events.edges()
        tokens = sparse.hstack([counts, events.quarters(edges)], format="csr")
        n_owners = tokens.getnnz(axis=0)
        shared = np.flatnonzero(n_owners > min(1, n_owners.max(initial=0) - 1))
        vectors = read(known[: events.n_read])
        fitted = cls(
            fields,
            Measures.fit(fields, columns),
            known,
            events.n_read,
            _idf(np.append(counts.getnnz(axis=0), 0), n_users),
            edges,
            shared,
            _idf(n_owners[shared], n_users),
            np.empty((0, len(shared)), dtype=np.float32),
            vectors,
            vectors.mean(axis=0) if len(vectors) else np.zeros(vectors.shape[1], dtype=np.float32),
            np.empty(0),
        )
        weights = fitted._identity(events)
        if weights.nnz:
            _, _, directions = randomized_svd(weights, min(n_components, *weights.shape), random_state=0)
            fitted = replace(fitted, directions=np.ascontiguousarray(directions, dtype=np.float32))
        some = columns.lengths > 0
        blocks = fitted._blocks(columns, events, vectors)
        center = [block[some].mean(axis=0) if some.any() else block.sum(axis=0) for block in blocks]
        return replace(fitted, center=np.concatenate(center))

    def saved(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Return arrays and what JSON holds, from which `from_saved` makes the same again."""
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        measures = {f"measures.{name}": v for name, v in vars(self.measures).items() if isinstance(v, np.ndarray)}
        return arrays | measures, {"texts": self.texts, "n_read": self.n_read, "fields": vars(self.fields)}

    @classmethod
    def from_saved(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> EventVectors:
        """Undo `saved`; raise a ValueError for what it cannot have returned."""
        own = {name: array for name, array in arrays.items() if "." not in name}
        measures = {name.removeprefix("measures."): array for name, array in arrays.items() if "." in name}
        try:
            fields = Fields(**settings["fields"])
            named = (fields.codes, fields.numbers, fields.times, fields.clocks, fields.units, *fields.units)
            for names in (settings["texts"], *named):
                kind = list if names is fields.units else str
                if not isinstance(names, list) or not all(isinstance(name, kind) for name in names):
                    raise TypeError(f"{names!r:.60} is not a list of {kind.__name__}")
            measured = Measures(fields, **measures)
            saved = cls(fields=fields, measures=measured, texts=settings["texts"], n_read=settings["n_read"], **own)
            saved._check()
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"event features are missing or of another form ({error})") from error
        return saved

    def _check(self) -> None:
        """Raise a ValueError for arrays that do not belong together."""
        n_texts, n_tokens, n_components = len(self.texts), len(self.tokens), len(self.directions)
        n_numbers, n_statistics, hidden_size = len(self.fields.numbers), len(self.measures.names), len(self.origin)
        n_slots = n_numbers * max(1, n_texts)
        shapes = {
            "idf": (n_texts + 1,),
            "edges": (n_numbers, max(1, n_texts), len(_BINS) - 1),
            "tokens": (n_tokens,),
            "token_idf": (n_tokens,),
            "directions": (n_components, n_tokens),
            "vectors": (self.n_read, hidden_size),
            "origin": (hidden_size,),
            "center": (n_components + hidden_size + n_statistics,),
        }
        arrays = {name: (getattr(self, name), shape) for name, shape in shapes.items()}
        arrays |= {f"measures.{name}": pair for name, pair in self.measures.expected().items()}
        for name, (array, shape) in arrays.items():
            if array.shape != shape or array.dtype.kind != ("i" if name == "tokens" else "f"):
                raise ValueError(f"{name} has the shape {array.shape} and the type {array.dtype}, not {shape}")
        if not isinstance(self.n_read, int) or not 0 <= self.n_read <= n_texts:
            raise ValueError(f"n_read={self.n_read} is not a number of the {n_texts} texts")
        ends = np.array([-1, *self.tokens, n_texts + n_slots * len(_BINS)])
        if not (np.diff(ends) > 0).all():
            raise ValueError("tokens are not in ascending order, or there are no such tokens")

    def _parse(self, texts: Sequence[str]) -> TextColumns:
        columns = parse_columns(texts)
        known = self.fields.names
        if known and columns.n_events and not set(known) & set(columns.names):  # Of two data sets, one may come alone.
            warn(
                f"The texts have the features {columns.names}, and none of {known}, which fit saw, so all of these "
                "count as missing. Write the texts with the fitted serializer, or fit again."
            )
        return columns

    @property
    def n_features(self) -> int:
        """The length of a vector."""
        return len(self.center)

    def __call__(self, texts: Sequence[str], read: Read) -> npt.NDArray[np.float32]:
        """Return the vectors of users, of shape (n_texts, n_features); zeros for a user without events."""
        columns = self._parse(texts)
        events = _Events.of(columns, self.fields, self.texts)
        blocks = self._blocks(columns, events, self._all_vectors(events, read))
        vectors = np.hstack(blocks) - self.center
        return (vectors * np.repeat(self._scales(blocks), [block.shape[1] for block in blocks], axis=1)).astype(
            np.float32
        )

    def explain(self, texts: Sequence[str], coef: npt.NDArray[Any], read: Read) -> pd.DataFrame:
        """Return what each event and statistic of each user adds to the product of its vector and `coef`.

        Returns
        -------
        pandas.DataFrame
            With the columns ``user`` (its position), ``event`` (a text, or the name of a statistic) and
            ``contribution``. What no event adds, because vectors are centred, is the row "(average user)".
        """
        columns = self._parse(texts)
        events = _Events.of(columns, self.fields, self.texts)
        vectors = self._all_vectors(events, read)
        blocks = self._blocks(columns, events, vectors)
        scales = self._scales(blocks)
        ends = np.cumsum([block.shape[1] for block in blocks])
        identity, meaning, measures = np.split(np.asarray(coef, dtype=np.float64), ends[:-1])
        names = [*map(self._name, self.tokens)]
        parts = [
            (self._identity(events), self.directions.T @ identity, names),
            (self._meaning(events), self._centred(vectors) @ meaning, self._read_texts(events)),
            (sparse.csr_matrix(blocks[2]), measures, self.measures.names),
        ]
        users, described, values = [], [], []
        for (weights, worth, what), scale in zip(parts, scales.T, strict=True):
            added = weights.multiply(scale[:, None]).multiply(worth).tocoo()
            users.append(added.row)
            described.append(np.array(what, dtype=object)[added.col])
            values.append(added.data)
        constant = [
            -scales[:, i] * (center @ c)
            for i, (center, c) in enumerate(
                zip(np.split(self.center, ends[:-1]), (identity, meaning, measures), strict=True)
            )
        ]
        users.append(np.arange(len(texts)))
        described.append(np.full(len(texts), "(average user)", dtype=object))
        values.append(np.sum(constant, axis=0))
        frame = pd.DataFrame(
            {"user": np.concatenate(users), "event": np.concatenate(described), "contribution": np.concatenate(values)}
        )
        return frame.groupby(["user", "event"], as_index=False, sort=False).sum()

    def _blocks(self, columns: TextColumns, events: _Events, vectors: npt.NDArray[np.float32]) -> list[Floats]:
        """Return what identifies, means and measures, before it is centred."""
        return [
            self._identity(events) @ self.directions.T.astype(np.float64),
            self._meaning(events) @ self._centred(vectors),
            self.measures(columns) * (columns.lengths > 0)[:, None],
        ]

    def _identity(self, events: _Events) -> sparse.csr_matrix:
        """Return the weights of tokens, of shape (n_users, n_tokens); texts, and texts with numbers, count the same."""
        n_texts = len(self.texts)
        counts = sparse.hstack([events.counts()[:, :n_texts], events.quarters(self.edges)], format="csr")
        weights = _sublinear(counts[:, self.tokens], self.token_idf)
        n_plain = int(np.searchsorted(self.tokens, n_texts))
        return sparse.hstack([_unit_rows(weights[:, :n_plain]), _unit_rows(weights[:, n_plain:])], format="csr")

    def _meaning(self, events: _Events) -> sparse.csr_matrix:
        """Return the weights of the texts that are read, known and new, of shape (n_users, n_read + n_new)."""
        counts, n_read, n_known = events.counts(), self.n_read, len(self.texts)
        read = sparse.hstack([counts[:, :n_read], counts[:, n_known:]], format="csr")
        n_new = read.shape[1] - n_read
        return _unit_rows(_sublinear(read, np.append(self.idf[:n_read], np.full(n_new, self.idf[-1]))))

    def _read_texts(self, events: _Events) -> list[str]:
        return events.texts[: self.n_read] + events.texts[len(self.texts) :]

    def _all_vectors(self, events: _Events, read: Read) -> npt.NDArray[np.float32]:
        new = events.texts[len(self.texts) :]
        return np.vstack([self.vectors, read(new)]) if new else self.vectors

    def _centred(self, vectors: npt.NDArray[np.float32]) -> Floats:
        return _unit(vectors.astype(np.float64) - self.origin)

    def _scales(self, blocks: Sequence[Floats]) -> Floats:
        """Return the factors that bring each centred block of each user to its length, of shape (n_users, 3)."""
        centers = np.split(self.center, np.cumsum([block.shape[1] for block in blocks])[:-1])
        scales = []
        for block, center, length in zip(blocks, centers, _LENGTHS, strict=True):
            norms = np.linalg.norm(block - center, axis=1)
            present = (norms > _SAME) & block.any(axis=1)
            scales.append(np.divide(length, norms, out=np.zeros_like(norms), where=present))
        return np.stack(scales, axis=1)

    def _name(self, token: int) -> str:
        n_texts = max(1, len(self.texts))
        if token < len(self.texts):
            return self.texts[token]
        slot, quarter = divmod(int(token) - len(self.texts), len(_BINS))
        number, text = divmod(slot, n_texts)
        name = f"{self.fields.numbers[number]}: {_BINS[quarter]}"
        return f"{self.texts[text]}, {name}" if self.texts else name


@dataclass(frozen=True)
class _Events:
    """The events of users: their texts, and the numbers in them.

    `codes` has a row for each unit of words and each code, with the place of each event's text in `texts`, or -1 where
    there is none. The first row is what the numbers of an event belong to. Of the texts that `fit` finds, the first
    `n_read` are words.
    """

    texts: list[str]
    n_read: int
    n_known: int
    codes: Integers
    numbers: list[Floats]
    owners: Integers
    n_users: int

    @classmethod
    def of(cls, columns: TextColumns, fields: Fields, known: Sequence[str]) -> _Events:
        """Read the events; new words come after known ones, and new codes do not count."""
        places = {text: place for place, text in enumerate(known)}

        def find(unit: list[str], *, add: bool) -> Integers:
            texts, inverse = texts_of(columns, unit)
            if add:
                for text in filter(None, texts):
                    places.setdefault(text, len(places))
            return np.array([places.get(text, -1) for text in texts], dtype=np.int64)[inverse]

        rows = [find(unit, add=True) for unit in fields.units]
        n_read = len(places)
        rows += [find([name], add=not known) for name in fields.codes]
        codes = np.array(rows, dtype=np.int64).reshape(len(rows), columns.n_events)
        numbers = numbers_of(columns, fields)
        n_known = len(known) or len(places)
        return cls(list(places), n_read, n_known, codes, numbers, columns.owners, len(columns.lengths))

    def counts(self) -> sparse.csr_matrix:
        """Count the texts of each user, of shape (n_users, n_texts)."""
        rows, owners = self.codes, np.broadcast_to(self.owners, self.codes.shape)
        present = rows >= 0
        return _count(owners[present], rows[present], (self.n_users, len(self.texts)))

    def _slots(self) -> Integers:
        """Return the known text that the numbers of each event belong to, or -1; 0 if there are no words at all."""
        if not len(self.codes):
            return np.zeros(len(self.owners), dtype=np.int64)
        return np.where(self.codes[0] < self.n_known, self.codes[0], -1)

    def edges(self) -> Floats:
        """Find the quarters of each number in each text."""
        n_slots = max(1, self.n_known)
        edges = np.empty((len(self.numbers), n_slots, len(_BINS) - 1))
        all_slots, places = self._slots(), np.arange(1, len(_BINS)) / len(_BINS)
        for values, number_edges in zip(self.numbers, edges, strict=True):
            known = ~np.isnan(values) & (all_slots >= 0)
            ordered = np.lexsort([values[known], all_slots[known]])
            slots, values_ = all_slots[known][ordered], values[known][ordered]
            number_edges[:] = np.quantile(values_, places) if len(values_) else np.nan
            for start, end in zip(*_runs(slots), strict=True):
                if end - start >= _OFTEN:
                    number_edges[slots[start]] = np.quantile(values_[start:end], places)
        return edges

    def quarters(self, edges: Floats) -> sparse.csr_matrix:
        """Count the quarters of the numbers in each text, of shape (n_users, n_numbers * n_texts * 4)."""
        n_slots, all_slots = max(1, self.n_known), self._slots()
        rows, tokens = [], []
        for number, (values, number_edges) in enumerate(zip(self.numbers, edges, strict=True)):
            known = ~np.isnan(values) & (all_slots >= 0)
            slots = all_slots[known]
            quarter = (values[known, None] > number_edges[slots]).sum(axis=1)
            rows.append(self.owners[known])
            tokens.append((number * n_slots + slots) * len(_BINS) + quarter)
        shape = (self.n_users, len(self.numbers) * n_slots * len(_BINS))
        empty = np.empty(0, dtype=np.int64)
        return _count(np.concatenate([empty, *rows]), np.concatenate([empty, *tokens]), shape)


def _runs(ordered: Integers) -> tuple[Integers, Integers]:
    """Return where each run of equal values begins and ends."""
    bounds = np.append(np.flatnonzero(np.diff(ordered, prepend=-1)), len(ordered))
    return bounds[:-1], bounds[1:]


def _count(rows: Integers, columns: Integers, shape: tuple[int, int]) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)


def _idf(n_owners: Integers, n_users: int) -> Floats:
    """Weigh what few users have, as `TfidfTransformer` does."""
    weights: Floats = np.log((1 + n_users) / (1 + n_owners)) + 1
    return weights


def _sublinear(counts: sparse.csr_matrix, weights: Floats) -> sparse.csr_matrix:
    """Weigh 1 + log(count), as `TfidfTransformer` does with `sublinear_tf`."""
    logs = counts.tocsr(copy=True)
    logs.data = 1 + np.log(logs.data)
    return sparse.csr_matrix(logs.multiply(weights))


def _unit_rows(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags(np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)) @ matrix)


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > _SAME)
