"""The neural baselines: each adds parameters, and an objective from `objectives` that its encoder is trained for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from skllm4es._compat import HasMethods, Interval, StrOptions
from skllm4es._messages import raise_if
from skllm4es._texts import TEXT, read_texts
from skllm4es.baselines._base import Seen
from skllm4es.baselines._neural import SequenceEmbedder, TrainedEmbedder
from skllm4es.events._checks import missing_fields
from skllm4es.events._flat import FlatEvents
from skllm4es.models import smollm2
from skllm4es.serialize._labels import check_labels

if TYPE_CHECKING:
    from skllm4es.baselines._encoder import EventEncoder
    from skllm4es.baselines._sequences import SequenceData
    from skllm4es.baselines.objectives._base import Objective

_AT_LEAST_1 = [Interval(Integral, 1, None, closed="left")]


@dataclass(eq=False, repr=False, kw_only=True)
class RandomEmbedder(SequenceEmbedder):
    """Embed users with an untrained encoder, to measure what training adds.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    device_ : str
        Where the encoder runs.
    {attributes}

    See Also
    --------
    CoLESEmbedder : The same encoder, trained.

    Notes
    -----
    {encoding}

    Examples
    --------
    >>> from skllm4es.baselines import RandomEmbedder
    >>> from skllm4es.datasets import make_transactions
    >>> X, y = make_transactions(n_users=20, random_state=0)
    >>> RandomEmbedder(hidden_size=8, random_state=0).fit_transform(X).shape
    (20, 8)
    """

    def _train(self, encoder: EventEncoder, data: SequenceData, seen: Seen, seed: int) -> None:
        pass


@dataclass(eq=False, repr=False, kw_only=True)
class CoLESEmbedder(TrainedEmbedder):
    """Embed users by contrastive learning: slices of one history are similar, those of different users are not.

    Parameters
    ----------
    {parameters}
    n_slices : int, default=5
        Number of slices per user and epoch.
    margin : float, default=0.5
        The distance that slices of different users should have; at most 2.
    n_negatives : int, default=5
        The number of slices of other users, the nearest ones in the batch, that each slice is compared with.

    Attributes
    ----------
    {training}

    See Also
    --------
    NSPEmbedder : Learns which slices follow each other.

    Notes
    -----
    CoLES (arXiv 2002.08232) minimises a contrastive loss: ``|u_i - u_j|^2`` for pairs of slices of one user, and
    ``max(0, margin - |u_i - u_j|)^2`` for the hardest pairs of slices of two users, the mean over all pairs; ``u`` are
    the embeddings of the slices, by `pooling`, scaled to length 1.

    {encoding}

    Examples
    --------
    {example}
    """

    pooling: str = "last"
    epochs: int = 40
    learning_rate: float = 0.002
    max_length: int = 75
    n_slices: int = 5
    margin: float = 0.5
    n_negatives: int = 5

    _parameter_constraints = {
        **TrainedEmbedder._parameter_constraints,
        "n_slices": [Interval(Integral, 2, None, closed="left")],
        "margin": [Interval(Real, 0, 2, closed="right")],
        "n_negatives": _AT_LEAST_1,
    }

    def _objective(self, encoder: EventEncoder, seen: Seen) -> Objective:
        from skllm4es.baselines.objectives.coles import CoLES

        return CoLES(self.n_slices, self.min_length, self.max_length, self.margin, self.n_negatives, self.pooling)


@dataclass(eq=False, repr=False, kw_only=True)
class LATTEEmbedder(TrainedEmbedder):
    """Embed users by agreement with a frozen language model, which reads a short description of each user in fit.

    :term:`transform` runs only the encoder, so it needs neither the language model nor descriptions.

    Parameters
    ----------
    {parameters}
    model : str, path or None, default=None
        The language model: a name on the model hub, a local directory, or a GGUF file. None is
        :func:`skllm4es.models.smollm2`, which pip installs.
    labels : mapping of str to (mapping or pandas.Series), default=None
        Words for the codes of fields, for the descriptions, as in `EventSerializer`. These fields are categories.
    descriptions : str, default=None
        The column of `X` that holds a description of each user, such as one that a language model wrote; needed only in
        :term:`fit`. By default, `describe` writes them from statistics.
    temperature : float, default=0.1
        The temperature of the softmax: the lower it is, the more the nearest descriptions of other users count.
    memory : str, path or joblib.Memory, default=None
        Directory that keeps the vector of each description, as in `LLMEmbedder`, so that later fits do not run the
        language model on it again.

    Attributes
    ----------
    {training}

    See Also
    --------
    CoLESEmbedder : Compares slices of histories with each other, without a language model.
    skllm4es.LLMEmbedder : Runs the language model over the events themselves.

    Notes
    -----
    LATTE (arXiv 2508.10021) summarises the behaviour of each user in a short prompt, which a frozen language model
    embeds, and trains an encoder of the events by a contrastive loss to agree with it. We have its abstract, which says
    no more than this, and no code of the authors. So these are our choices:

    - the prompt: number and distance of events, and how long they last; the five commonest values of each
      categorical field, with their shares; median, minimum and maximum of each number; behind each statistic, its fifth
      among the users of :term:`fit`, such as "(very high)";
    - the language model; the mean of its last 8 layers, each of unit length, over all tokens but the first, centred on
      the users of :term:`fit`;
    - the loss of CLIP (arXiv 2103.00020): with ``z`` a linear layer on the embedding of one slice per user and epoch,
      and ``t`` the vector of the user's description, both of length 1, ``-log softmax_j(z_i . t_j / temperature)[i]``,
      the mean of both directions over the users of a batch. Users with the same description are not contrasted;
    - a user's vector is the embedding of the whole history before that layer.

    {encoding}

    Examples
    --------
    >>> from skllm4es.baselines import LATTEEmbedder
    >>> from skllm4es.datasets import make_transactions
    >>> from skllm4es.vocabularies import load_mcc_names
    >>> X, y = make_transactions(n_users=20, random_state=0)
    >>> labels = {"mcc": load_mcc_names()}
    >>> embedder = LATTEEmbedder(labels=labels, hidden_size=8, epochs=2, random_state=0)
    >>> embedder.fit_transform(X).shape  # doctest: +SKIP
    (20, 8)
    >>> embedder.describe(X)[0]  # doctest: +SKIP
    """

    epochs: int = 30
    learning_rate: float = 0.002
    model: str | os.PathLike[str] | None = None
    labels: Mapping[str, Any] | None = None
    descriptions: str | None = None
    temperature: float = 0.1
    memory: Any = None

    _parameter_constraints = {
        **TrainedEmbedder._parameter_constraints,
        "model": [str, os.PathLike, None],
        "labels": [Mapping, None],
        "descriptions": [str, None],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "memory": [str, os.PathLike, HasMethods(["cache"]), None],
    }

    def describe(self, X: Any) -> list[str]:
        """Return descriptions of users as :term:`fit` writes them by default.

        Parameters
        ----------
        X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
            One row per user, with the fields seen during :term:`fit`.

        Returns
        -------
        descriptions : list of str
            One per user, in the order of `X`.
        """
        events = self._encode(X)
        return self._describer(events)

    @property
    def _categorical(self) -> Sequence[str] | None:
        check_labels(self.labels or {})
        labelled = [name for name in self.labels or {} if self.columns is None or name in self.columns]
        return [*([] if self.categorical is None else self.categorical), *labelled]

    def _flatten(self, X: Any, *, reset: bool) -> FlatEvents:
        flat = super()._flatten(X, reset=reset)
        if reset:
            problems = missing_fields(self.labels or {}, flat, "labels names")
            problems += [
                f"labels and numeric both name {name!r}, but fields with labels are categories; remove one"
                for name in self.labels or {}
                if self.numeric is not None and name in self.numeric
            ]
            raise_if(
                problems, "The parameters do not fit the events", f"The events have the fields {list(flat.columns)}."
            )
        return flat

    def _objective(self, encoder: EventEncoder, seen: Seen) -> Objective:
        import torch

        from skllm4es.baselines._descriptions import Describer, read_descriptions
        from skllm4es.baselines.objectives.latte import LATTE

        self._describer = Describer.fit(seen.events, seen.features, self.labels or {})
        texts = self._describer(seen.events) if self.descriptions is None else self._given(seen.X)
        if len(texts) > 1 and len(set(texts)) == 1:
            raise ValueError(
                f"All {len(texts)} users have the same description, so there is nothing to tell them apart by: "
                f"{texts[0]!r}. Pass users who differ, or other descriptions."
            )
        vectors = read_descriptions(
            texts,
            smollm2() if self.model is None else self.model,
            memory=self.memory,
            device=self.device,
            progress=bool(self.verbose),
        )
        lengths = self.min_length, self.max_length
        return LATTE(*lengths, self.temperature, self.pooling, torch.from_numpy(vectors), encoder)

    def _given(self, X: Any) -> list[str]:
        if self.descriptions not in X.columns:
            raise ValueError(
                f"descriptions={self.descriptions!r} names no column of X, which has {list(X.columns)}. Add a column "
                "with a text for each user, or leave descriptions=None."
            )
        return read_texts(X[[self.descriptions]], caller="LATTEEmbedder")[TEXT]


@dataclass(eq=False, repr=False, kw_only=True)
class CPCEmbedder(TrainedEmbedder):
    """Embed users by contrastive predictive coding: a state tells the next events apart from random ones.

    Parameters
    ----------
    {parameters}
    n_steps : int, default=6
        Number of events ahead to recognise.
    n_negatives : int, default=40
        Number of events, drawn from the batch, among which each next event is recognised.

    Attributes
    ----------
    {training}

    See Also
    --------
    IFTPPEmbedder : Predicts the fields of the next event instead of recognising it.

    Notes
    -----
    CPC (arXiv 1807.03748) minimises ``-log(exp(z_{t+k} . W_k c_t) / sum_z exp(z . W_k c_t))``, the mean over events
    ``t`` and steps ``k``; ``z_t`` is the vector of an event, ``c_t`` the state after it, and the sum goes over
    ``z_{t+k}`` and the vectors of `n_negatives` events. These are drawn once per slice, for all its events and steps,
    uniformly and with replacement from all events of the batch, so the next event itself is sometimes among them.

    {encoding}

    Examples
    --------
    {example}
    """

    epochs: int = 30
    learning_rate: float = 0.002
    lr_step: int = 5
    lr_decay: float = 0.5
    n_steps: int = 6
    n_negatives: int = 40

    _parameter_constraints = {
        **TrainedEmbedder._parameter_constraints,
        "n_steps": _AT_LEAST_1,
        "n_negatives": _AT_LEAST_1,
    }

    def _objective(self, encoder: EventEncoder, seen: Seen) -> Objective:
        from skllm4es.baselines.objectives.cpc import CPC

        return CPC(self.min_length, self.max_length, self.n_steps, self.n_negatives, encoder)


@dataclass(eq=False, repr=False, kw_only=True)
class RTDEmbedder(TrainedEmbedder):
    """Embed users by replaced token detection: a state shows whether its event was replaced.

    Parameters
    ----------
    {parameters}
    replaced : float, default=0.15
        The share of events that are replaced.

    Attributes
    ----------
    {training}

    See Also
    --------
    CPCEmbedder : Recognises the next events among others.

    Notes
    -----
    RTD (arXiv 2003.10555) minimises the logistic loss of detecting replaced events from the state after them. Each
    event except the first of a slice is replaced, with probability `replaced`, by an event of the batch.

    {encoding}

    Examples
    --------
    {example}
    """

    epochs: int = 30
    replaced: float = 0.15

    _parameter_constraints = {
        **TrainedEmbedder._parameter_constraints,
        "replaced": [Interval(Real, 0, 1, closed="neither")],
    }

    def _objective(self, encoder: EventEncoder, seen: Seen) -> Objective:
        from skllm4es.baselines.objectives.rtd import RTD

        return RTD(self.min_length, self.max_length, self.replaced, encoder)


@dataclass(eq=False, repr=False, kw_only=True)
class NSPEmbedder(TrainedEmbedder):
    """Embed users by next sequence prediction: two embeddings show whether one slice follows the other.

    Parameters
    ----------
    {parameters}
    n_slices : int, default=5
        Number of slices per user and epoch; each is cut in two.
    head_size : int, default=512
        Size of the hidden layer of the network on the two embeddings.
    dropout : float, default=0.5
        The share of that layer to drop in training.

    Attributes
    ----------
    {training}

    See Also
    --------
    CoLESEmbedder : Compares slices by their distance.

    Notes
    -----
    NSP (arXiv 1810.04805) minimises the logistic loss of a network on the embeddings of two parts, by `pooling`, which
    tells the two parts of one slice apart from the first part of one and the second part of another user's.

    {encoding}

    Examples
    --------
    {example}
    """

    pooling: str = "last"
    epochs: int = 30
    learning_rate: float = 0.002
    max_length: int = 75
    n_slices: int = 5
    head_size: int = 512
    dropout: float = 0.5

    _parameter_constraints = {
        **TrainedEmbedder._parameter_constraints,
        "n_slices": _AT_LEAST_1,
        "head_size": _AT_LEAST_1,
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def _objective(self, encoder: EventEncoder, seen: Seen) -> Objective:
        from skllm4es.baselines.objectives.nsp import NSP

        return NSP(self.n_slices, self.min_length, self.max_length, self.head_size, self.dropout, self.pooling, encoder)


@dataclass(eq=False, repr=False, kw_only=True)
class NPPREmbedder(TrainedEmbedder):
    """Embed users by next event prediction and past reconstruction.

    Parameters
    ----------
    {parameters}
    alpha : float, default=0.5
        The weight of the past; the next event has the rest.
    n_past : int, default=8
        Number of past events to reconstruct.
    decay : float or "auto", default="auto"
        The time after which a past event has the weight ``1/e``: in seconds, or in the units of a time that is a
        number, or in events if there is no time. "auto" is `n_past` times the mean time from event to event.

    Attributes
    ----------
    decay_ : float
        The time after which a past event has the weight ``1/e``.
    {training}

    See Also
    --------
    IFTPPEmbedder : Next event prediction alone.

    Notes
    -----
    NPPR (arXiv 2401.01641) minimises ``(1 - alpha) L_NP + alpha L_PR``. ``L_NP`` is the loss of predicting an event
    from the state before it, and ``L_PR`` the sum of ``exp(-gap / decay)`` times the loss of predicting each of the
    `n_past` past events from a state and the time since. The loss of an event is the cross-entropy of its categories
    plus the absolute errors of its scaled numbers. The paper does not publish `alpha`, `n_past` and `decay`: choose
    them by validation.

    {encoding}

    Examples
    --------
    {example}
    """

    epochs: int = 30
    alpha: float = 0.5
    n_past: int = 8
    decay: float | str = "auto"

    _parameter_constraints = {
        **TrainedEmbedder._parameter_constraints,
        "alpha": [Interval(Real, 0, 1, closed="both")],
        "n_past": _AT_LEAST_1,
        "decay": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
    }

    def _objective(self, encoder: EventEncoder, seen: Seen) -> Objective:
        from skllm4es.baselines._sequences import mean_gap
        from skllm4es.baselines.objectives.nppr import NPPR

        self.decay_ = self.n_past * mean_gap(seen.events) if isinstance(self.decay, str) else float(self.decay)
        return NPPR(self.min_length, self.max_length, self.alpha, self.n_past, self.decay_, encoder)


@dataclass(eq=False, repr=False, kw_only=True)
class IFTPPEmbedder(TrainedEmbedder):
    """Embed users by next event prediction; IFTPP-T with ``encoder="transformer"``.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {training}

    See Also
    --------
    NPPREmbedder : Also reconstructs past events.

    Notes
    -----
    IFTPP (arXiv 1909.12127, in the form of arXiv 2406.14341) minimises the loss of predicting an event, and the time
    until it, from the state before it: the cross-entropy of its categories plus the absolute errors of its scaled
    numbers, the mean over events. The published learning rate is 0.001, which suits the Transformer; on the 943 users
    of MovieLens, where an epoch has 15 steps, it is too low for the GRU. With the default of 0.004, its embeddings are
    still no better than those of an untrained encoder there, by a linear model (ROC-AUC for the gender .709 and .716,
    error of the age 8.69 and 8.53 years).

    {encoding}

    Examples
    --------
    {example}
    """

    learning_rate: float = 0.004
    lr_decay: float = 0.8

    def _objective(self, encoder: EventEncoder, seen: Seen) -> Objective:
        from skllm4es.baselines.objectives.iftpp import IFTPP

        return IFTPP(self.min_length, self.max_length, encoder)


@dataclass(eq=False, repr=False, kw_only=True)
class DeTPPEmbedder(TrainedEmbedder):
    """Embed users by detecting the events within a horizon.

    Needs hotpp-benchmark: ``pip install "skllm4es[tpp]"``.

    Parameters
    ----------
    {parameters}
    n_candidates : int, default=16
        Number of candidates for the events within the horizon of each state.
    horizon : float or "auto", default="auto"
        The time after an event: in seconds, or in the units of a time that is a number, or in events if there is no
        time. "auto" is the time with half as many events as candidates, on average.
    share : float, default=0.25
        The share of the positions of a slice for which the loss is computed.

    Attributes
    ----------
    horizon_ : float
        The horizon.
    {training}

    See Also
    --------
    IFTPPEmbedder : Predicts only the next event.

    Notes
    -----
    DeTPP (arXiv 2408.13131) matches candidates with the events within the horizon so that the loss is smallest. The
    loss is the cross-entropy of the categories of matched pairs, plus the absolute errors of their scaled numbers and
    of their times, in sevenths of the horizon, plus the logistic loss of detecting matched candidates. The matching is
    that of hotpp-benchmark; on MovieLens an epoch takes several times the time of IFTPP, and twice the memory. Here,
    unknown categories are a class of their own, and missing numbers count as the mean; the other methods leave them
    out. The published learning rate is 0.001; on the 943 users of MovieLens, 8 epochs with it gave embeddings, ours and
    the library's own, that predicted less than those of an untrained encoder. With the default of 0.004 they still do,
    by a linear model (ROC-AUC for the gender .634 and .716, error of the age 9.14 and 8.53 years).

    {encoding}

    Examples
    --------
    >>> from skllm4es.baselines import DeTPPEmbedder
    >>> from skllm4es.datasets import make_transactions
    >>> X, y = make_transactions(n_users=20, random_state=0)
    >>> embedder = DeTPPEmbedder(hidden_size=8, epochs=2, random_state=0)
    >>> embedder.fit_transform(X).shape  # doctest: +SKIP
    (20, 8)
    """

    epochs: int = 8
    batch_size: int = 16
    learning_rate: float = 0.004
    lr_step: int = 5
    lr_decay: float = 0.8
    max_length: int = 100
    n_candidates: int = 16
    horizon: float | str = "auto"
    share: float = 0.25

    _parameter_constraints = {
        **TrainedEmbedder._parameter_constraints,
        "n_candidates": _AT_LEAST_1,
        "horizon": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "share": [Interval(Real, 0, 1, closed="right")],
    }

    def _objective(self, encoder: EventEncoder, seen: Seen) -> Objective:
        from skllm4es.baselines._sequences import mean_gap
        from skllm4es.baselines.objectives.detpp import DeTPP

        horizon = (
            self.n_candidates / 2 * mean_gap(seen.events) if isinstance(self.horizon, str) else float(self.horizon)
        )
        self.horizon_ = horizon
        lengths, n_numbers = (self.min_length, self.max_length), len(seen.events.numbers)
        try:
            return DeTPP(*lengths, self.n_candidates, horizon, self.share, n_numbers, encoder)
        except ImportError as error:
            raise ImportError(
                f"DeTPPEmbedder needs hotpp-benchmark 0.7, which cannot be imported here: {error}. Install it with "
                'pip install "skllm4es[tpp]", or without its unused dependencies, as requirements-tpp.txt says.'
            ) from error
