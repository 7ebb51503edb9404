"""What all baselines share: the parameters that say how events are read, and the reading.

The estimators are dataclasses: their `__init__` assigns its arguments and does nothing else, as scikit-learn demands,
and a subclass states only the parameters that it adds and the defaults that it changes. What a parameter means is
written once, in `_documents`, and put into each docstring in the place of ``{parameters}``.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from skllm4es._compat import Interval
from skllm4es._messages import raise_if
from skllm4es.baselines._features import EncodedEvents, EventFeatures, learn_features
from skllm4es.events._flat import FlatEvents, flatten_events

_PARAGRAPHS = {
    "attributes": """\
categories_ : dict of str to list of (str or None)
    The values of each categorical field, written as text, the most frequent first; None is the missing value.
numeric_ : list of str
    The numeric fields.
time_ : str or None
    The field with the time of the events.
n_features_in_ : int
    Number of columns of `X` seen during :term:`fit`.
feature_names_in_ : ndarray of shape (`n_features_in_`,)
    Names of the columns of `X` seen during :term:`fit`.""",
    "training": """\
loss_curve_ : list of float
    The mean loss of each epoch.
validation_loss_curve_ : list of float
    The loss on the users held out after each epoch; empty without `validation_fraction`.
n_iter_ : int
    How many epochs were run.
device_ : str
    Where the encoder runs.""",
    "fields": """\
**Fields.** Floats, decimals, durations, and times other than `time` are numbers (in seconds, times since 1970). Texts,
booleans and dictionaries are categories. Integers are categories if they have at most 20 distinct values in
:term:`fit`, or at most 1,000 that occur ten times on average; else they are numbers. Name them to be sure. A field
that is missing in all events of :term:`fit` is left out, with a warning. Infinity and numbers beyond 1e30 are
errors.""",
    "encoding": """\
**Encoder.** An event is the embeddings of its categories beside its numbers, among them the time since the previous
event; the numbers are signed logarithms of one plus the number, standardised, and a missing one is 0 with a mark beside
it. Lists of categories are an error. A user's embedding does not depend on the other rows of `X`.""",
}


@dataclass(eq=False, repr=False, kw_only=True)
class EventTransformer(TransformerMixin, BaseEstimator):
    """Base of the transformers of events to vectors.

    Parameters
    ----------
    {parameters}
    """

    columns: Sequence[str] | None = None
    numeric: Sequence[str] | None = None
    categorical: Sequence[str] | None = None
    time: str | None = "auto"
    max_categories: int | None = None
    max_events: int | None = None
    events: str | Sequence[str] = "events"

    _documents: ClassVar[str] = """\
columns : sequence of str, default={columns}
    The fields of the events that are used; all of them by default.
numeric : sequence of str, default={numeric}
    The fields that are numbers, where not as below in Notes.
categorical : sequence of str, default={categorical}
    The fields that are categories, where not as below in Notes.
time : str, default={time}
    The field with the time of the events: times, dates or numbers that do not decrease from event to event of a user.
    "auto" is the first field of times or dates that does not in :term:`fit`, if there are such fields; None goes
    without time.
max_categories : int, default={max_categories}
    How many values of a categorical field are told apart, the most frequent ones; the others are as values that
    :term:`fit` has not seen. None is all.
max_events : int, default={max_events}
    Use only the latest `max_events` events of each user; all of them by default.
events : str or sequence of str, default={events}
    The column of `X` that holds the events, or the columns that hold one list per feature, as in `EventSerializer`.
"""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "columns": ["array-like", None],
        "numeric": ["array-like", None],
        "categorical": ["array-like", None],
        "time": [str, None],
        "max_categories": [Interval(Integral, 1, None, closed="left"), None],
        "max_events": [Interval(Integral, 1, None, closed="left"), None],
        "events": [str, "array-like"],
    }

    #: Whether a field may hold lists of categories.
    _reads_lists: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        texts = [vars(base)["_documents"] for base in reversed(cls.__mro__) if "_documents" in vars(base)]
        parameters = "".join(texts).rstrip()
        for name in cls._parameter_constraints:
            parameters = parameters.replace(f"={{{name}}}", f"={_written(getattr(cls, name, None))}")
        document = inspect.cleandoc(cls.__doc__ or "").replace("{parameters}", parameters)
        for name, text in _PARAGRAPHS.items():
            document = document.replace(f"{{{name}}}", text)
        cls.__doc__ = document

    def _learn(self, X: Any) -> tuple[EventFeatures, EncodedEvents]:
        """Read the events in fit."""
        flat = self._flatten(X, reset=True)
        features = learn_features(
            flat,
            X,
            columns=self.columns,
            numeric=self.numeric,
            categorical=self.categorical,
            time=self.time,
            max_events=self.max_events,
            max_categories=self.max_categories,
            lists=self._reads_lists,
        )
        return features, features.encode(flat, self.max_events)

    def _keep(self, features: EventFeatures) -> None:
        """Become fitted: the last that fit does."""
        self._features = features
        self.categories_, self.numeric_, self.time_ = features.categories, features.numeric, features.time

    def _read(self, X: Any) -> EncodedEvents:
        """Read the events in transform."""
        check_is_fitted(self)
        flat = self._flatten(X, reset=False)
        raise_if(self._features.changes(flat, X), "The events of X differ from those that fit saw")
        return self._features.encode(flat, self.max_events)

    def _flatten(self, X: Any, *, reset: bool) -> FlatEvents:
        flat = flatten_events(X, self.events)
        validate_data(self, X, reset=reset, skip_check_array=True)
        return flat

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_features")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _written(default: Any) -> str:
    return f'"{default}"' if isinstance(default, str) else repr(default)
