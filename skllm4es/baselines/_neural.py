"""What the neural baselines share: an encoder of sequences, trained or not, that returns one vector per user."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.utils import check_random_state

from skllm4es._compat import Interval, StrOptions
from skllm4es._messages import raise_if
from skllm4es.baselines._base import EventTransformer, Seen
from skllm4es.baselines._features import EncodedEvents, EventFeatures
from skllm4es.baselines._scaling import NumberScaler

if TYPE_CHECKING:
    from skllm4es.baselines._encoder import EventEncoder, Schema
    from skllm4es.baselines._sequences import SequenceData
    from skllm4es.baselines.objectives._base import Objective


@dataclass(eq=False, repr=False, kw_only=True)
class SequenceEmbedder(ClassNamePrefixFeaturesOutMixin, EventTransformer):
    """Base of the transformers that run an encoder over the events."""

    max_categories: int | None = 10_000
    encoder: str = "gru"
    hidden_size: int = 128
    n_layers: int | None = None
    embedding_sizes: Mapping[str, int] | None = None
    pooling: str = "mean"
    device: str | None = None
    random_state: int | np.random.RandomState | None = None
    verbose: int = 0

    _documents: ClassVar[str] = """\
encoder : {"gru", "lstm", "transformer"}, default={encoder}
    The network over the events. The Transformer attends to past events only; its time grows with the square of their
    number, which `max_events` bounds.
hidden_size : int, default={hidden_size}
    Size of the embedding; a multiple of 4 for the Transformer.
n_layers : int, default={n_layers}
    Number of layers. If None, 1 for recurrent networks and 2 for the Transformer.
embedding_sizes : mapping of str to int, default={embedding_sizes}
    Sizes of the embeddings of categorical fields. By default, the smallest power of two, from 8 to 32, that is at least
    the square root of the number of categories.
pooling : {"mean", "last"}, default={pooling}
    How the states after each event become the embedding of a user: their mean, or the last one.
device : str, default={device}
    Where the encoder runs, as in torch; by default a GPU if there is one.
random_state : int, RandomState instance or None, default={random_state}
    Determines the initial weights, and the draws of the training.
verbose : int, default={verbose}
    Whether to show progress bars.
"""

    _parameter_constraints = {
        **EventTransformer._parameter_constraints,
        "encoder": [StrOptions({"gru", "lstm", "transformer"})],
        "hidden_size": [Interval(Integral, 1, None, closed="left")],
        "n_layers": [Interval(Integral, 1, None, closed="left"), None],
        "embedding_sizes": [Mapping, None],
        "pooling": [StrOptions({"mean", "last"})],
        "device": [str, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def _fit(self, seen: Seen) -> None:
        events, features, _ = seen
        self._check_sizes(features)
        # Importing torch takes seconds, so wait until it is needed.
        from skllm4es.baselines._encoder import EventEncoder
        from skllm4es.baselines._sequences import to_sequences
        from skllm4es.lm.devices import device_here
        from skllm4es.lm.seeding import isolated_seed

        device = device_here(self.device)
        scaler = NumberScaler.fit(events)
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        with isolated_seed(seed):
            n_layers = self.n_layers or (2 if self.encoder == "transformer" else 1)
            encoder = EventEncoder(self._schema(features, scaler), self.encoder, self.hidden_size, n_layers).to(device)
            self._train(encoder, to_sequences(events, scaler, device), seen, seed)
        self._encoder, self._scaler, self.device_ = encoder.eval(), scaler, device

    def _transform(self, events: EncodedEvents) -> npt.NDArray[np.float32]:
        from skllm4es.baselines._sequences import embed_users, to_sequences

        data = to_sequences(events, self._scaler, self.device_)
        return embed_users(self._encoder, data, self.pooling, progress=bool(self.verbose))

    def _train(self, encoder: EventEncoder, data: SequenceData, seen: Seen, seed: int) -> None:
        """Train the encoder in place."""
        raise NotImplementedError

    def _schema(self, features: EventFeatures, scaler: NumberScaler) -> Schema:
        from skllm4es.baselines._encoder import Schema

        n_categories = {name: len(values) for name, values in features.categories.items()}
        sizes = {name: _embedding_size(n) for name, n in n_categories.items()} | dict(self.embedding_sizes or {})
        return Schema(tuple(n_categories.values()), tuple(sizes[name] for name in n_categories), scaler.has_missing)

    def _check_sizes(self, features: EventFeatures) -> None:
        problems = []
        for name, size in (self.embedding_sizes or {}).items():
            if name not in features.categories:
                problems.append(
                    f"embedding_sizes names {name!r}, which is not among the categorical fields "
                    f"{list(features.categories)}"
                )
            elif not isinstance(size, Integral) or size < 1:
                problems.append(f"embedding_sizes[{name!r}] must be an int of at least 1; got {size!r}")
        if self.encoder == "transformer" and self.hidden_size % 4:
            problems.append(
                f"hidden_size={self.hidden_size} must be a multiple of 4, the Transformer's number of heads"
            )
        raise_if(problems, "The parameters do not fit the events")

    @property
    def _n_features_out(self) -> int:
        return self._encoder.hidden_size

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_encoder" in state:  # Weights on a GPU could be read only on a machine that has one.
            state["_encoder"] = deepcopy(state["_encoder"]).cpu()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_encoder" in state:
            from skllm4es.lm.devices import device_here

            self.device_ = device_here(self.device, fall_back=True)
            self._encoder.to(self.device_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = self.random_state is None
        return tags


@dataclass(eq=False, repr=False, kw_only=True)
class TrainedEmbedder(SequenceEmbedder):
    """Base of the embedders whose encoder is trained."""

    epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 0.001
    lr_step: int = 10
    lr_decay: float = 0.9025
    min_length: int = 15
    max_length: int = 200
    validation_fraction: float | None = None
    n_iter_no_change: int = 5

    _documents: ClassVar[str] = """\
epochs : int, default={epochs}
    Number of times that training draws slices of each user's events; the maximum with a validation fraction.
batch_size : int, default={batch_size}
    Number of users per training step.
learning_rate : float, default={learning_rate}
    The learning rate of Adam.
lr_step : int, default={lr_step}
    Number of epochs after which the learning rate is multiplied by `lr_decay`.
lr_decay : float, default={lr_decay}
    See `lr_step`.
min_length : int, default={min_length}
    The minimum number of events in a slice; shorter histories are used in full.
max_length : int, default={max_length}
    The maximum number of events in a slice.
validation_fraction : float, default={validation_fraction}
    The share of users to hold out: training stops when their loss has not fallen for `n_iter_no_change` epochs, and
    keeps the weights of the best epoch. If None, train on all users for all epochs.
n_iter_no_change : int, default={n_iter_no_change}
    See `validation_fraction`.
"""

    _parameter_constraints = {
        **SequenceEmbedder._parameter_constraints,
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "lr_step": [Interval(Integral, 1, None, closed="left")],
        "lr_decay": [Interval(Real, 0, 1, closed="right")],
        "min_length": [Interval(Integral, 2, None, closed="left")],
        "max_length": [Interval(Integral, 2, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    }

    def _train(self, encoder: EventEncoder, data: SequenceData, seen: Seen, seed: int) -> None:
        from skllm4es.baselines._training import Schedule, train

        if self.min_length > self.max_length:
            raise ValueError(
                f"min_length={self.min_length} is more than max_length={self.max_length}: lower it, or raise the other."
            )
        schedule = Schedule(**{parameter.name: getattr(self, parameter.name) for parameter in fields(Schedule)})
        objective = self._objective(encoder, seen).to(data.codes.device)
        rng = np.random.default_rng(seed)
        losses = train(encoder, objective, data, schedule, rng, progress=bool(self.verbose))
        self.loss_curve_, self.validation_loss_curve_ = losses
        self.n_iter_ = len(self.loss_curve_)

    def _objective(self, encoder: EventEncoder, seen: Seen) -> Objective:
        """Return what the encoder is trained for."""
        raise NotImplementedError


def _embedding_size(n_categories: int) -> int:
    return int(np.clip(2 ** np.ceil(np.log2(n_categories) / 2), 8, 32))
