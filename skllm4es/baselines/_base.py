"""What all baselines share: the parameters that say how events are read, the reading, and the documentation of both.

The estimators are dataclasses: their `__init__` only assigns its arguments, as scikit-learn requires, and a subclass
states only the parameters that it adds and the defaults that it changes. Parameters are documented once, in
`_documents`, which replaces ``{parameters}`` in each docstring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skllm4es._compat import Interval, fit_context
from skllm4es._docstrings import fill
from skllm4es._fit import all_or_nothing
from skllm4es._messages import raise_if
from skllm4es.baselines._features import EncodedEvents, EventFeatures, learn_features
from skllm4es.events._checks import read_events
from skllm4es.events._flat import FlatEvents

_PARAGRAPHS = {
    "attributes": """\
categories_ : dict of str to list of (str or None)
    The values of each categorical field, written as text, the most frequent first; None is the missing value.
numeric_ : list of str
    The numeric fields.
time_ : str or None
    The field with the time of the events.
n_features_in_ : int
    Number of columns of `X` that are read: those named by `events`.
feature_names_in_ : ndarray of shape (`n_features_in_`,)
    Names of the columns of `X` that are read; others may be absent, or be added, after :term:`fit`.""",
    "training": """\
loss_curve_ : list of float
    The mean loss of each epoch.
validation_loss_curve_ : list of float
    The loss on the users held out after each epoch; empty without `validation_fraction`.
n_iter_ : int
    Number of epochs run.
device_ : str
    Where the encoder runs.
{attributes}""",
    "fields": """\
**Fields.** Floats, decimals, durations, and times other than `time` are numbers (in seconds, times since 1970). Texts,
booleans and dictionaries are categories. Integers are categories if they have at most 20 distinct values in
:term:`fit`, or at most 1,000 that occur ten times on average; otherwise they are numbers. To be sure, name them. A
field that is missing in all events of :term:`fit` is left out, with a warning. Infinity and numbers beyond 1e30 are
errors.""",
    "encoding": """\
**Encoder.** An event is encoded as the embeddings of its categories and its numbers, including the time since the
previous event. Numbers are signed logarithms of one plus the number, standardised; a missing one is 0, with a mark.
Lists of categories are an error. A user's embedding does not depend on the other rows of `X`.

{fields}""",
    "example": """\
>>> from skllm4es.baselines import {name}
>>> from skllm4es.datasets import make_transactions
>>> X, y = make_transactions(n_users=20, random_state=0)
>>> {name}(hidden_size=8, epochs=2, random_state=0).fit_transform(X).shape
(20, 8)""",
}


class Seen(NamedTuple):
    """What `fit` sees: the events as arrays, how their fields are read, and where they are from."""

    events: EncodedEvents
    features: EventFeatures
    X: Any


@dataclass(eq=False, repr=False, kw_only=True)
class EventTransformer(TransformerMixin, BaseEstimator):
    """Base of the transformers of events to vectors."""

    columns: Sequence[str] | None = None
    numeric: Sequence[str] | None = None
    categorical: Sequence[str] | None = None
    time: str | None = "auto"
    max_categories: int | None = None
    max_events: int | None = None
    events: str | Sequence[str] = "events"

    _documents: ClassVar[str] = """\
columns : sequence of str, default={columns}
    The fields of the events to use; all by default.
numeric : sequence of str, default={numeric}
    The fields that are numbers, if they differ from the rules in Notes.
categorical : sequence of str, default={categorical}
    The fields that are categories, if they differ from the rules in Notes.
time : str, default={time}
    The field with the time of the events: times, dates or numbers that do not decrease from event to event of a user.
    "auto" is the first field of times or dates that does not decrease in :term:`fit`, if there is one; a field that is
    the same in all events of each user, such as a date of birth, only if there is no other. Pass None to ignore time.
max_categories : int, default={max_categories}
    The number of values of a categorical field to keep, the most frequent ones; the others are treated like values
    that :term:`fit` has not seen. None keeps all.
max_events : int, default={max_events}
    Use only the latest `max_events` events of each user; all by default.
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
        documents = [vars(base)["_documents"] for base in reversed(cls.__mro__) if "_documents" in vars(base)]
        parameters = "".join(documents)
        for name in cls._parameter_constraints:
            default = repr(getattr(cls, name, None)).replace("'", '"')
            parameters = parameters.replace(f"={{{name}}}", f"={default}")
        example = _PARAGRAPHS["example"].format(name=cls.__name__)
        paragraphs = {**_PARAGRAPHS, "parameters": parameters, "example": example}
        # Twice, because paragraphs have paragraphs in them.
        cls.__doc__ = fill(fill(cls.__doc__, paragraphs), paragraphs)

    @fit_context(prefer_skip_nested_validation=True)
    @all_or_nothing
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from the events of users.

        Parameters
        ----------
        X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
            One row per user, as returned by `nest_events`.
        y : None
            Ignored.

        Returns
        -------
        self : estimator
            The fitted transformer.
        """
        flat = self._flatten(X, reset=True)
        features = learn_features(
            flat,
            X,
            columns=self.columns,
            numeric=self.numeric,
            categorical=self._categorical,
            time=self.time,
            max_events=self.max_events,
            max_categories=self.max_categories,
            lists=self._reads_lists,
        )
        self._fit(Seen(features.encode(flat, self.max_events), features, X))
        self._features = features
        self.categories_, self.numeric_, self.time_ = features.categories, features.numeric, features.time
        return self

    @property
    def _categorical(self) -> Sequence[str] | None:
        """The fields that are categories, whatever they hold."""
        return self.categorical

    def _fit(self, seen: Seen) -> None:
        """Learn what else `transform` needs."""
        raise NotImplementedError

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Return the vectors of users.

        Parameters
        ----------
        X : pandas.DataFrame or polars.DataFrame of shape (n_users, n_columns)
            One row per user, with the fields seen during :term:`fit`.

        Returns
        -------
        vectors : ndarray of shape (n_users, n_features_out), dtype float32
            One row per user, in the order of `X`. `BagOfEvents` returns a sparse matrix with ``n_components=None``.
        """
        return self._transform(self._encode(X))

    def _encode(self, X: Any) -> EncodedEvents:
        """Read events as :term:`fit` read them."""
        check_is_fitted(self)
        flat = self._flatten(X, reset=False)
        problems, same = self._features.changes(flat, X)
        raise_if(problems, "The events of X differ from those that fit saw")
        return self._features.encode(same, self.max_events)

    def _transform(self, events: EncodedEvents) -> Any:
        raise NotImplementedError

    def _flatten(self, X: Any, *, reset: bool) -> FlatEvents:
        return read_events(self, X, reset=reset)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_features")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags


@dataclass(eq=False, repr=False, kw_only=True)
class CountingTransformer(EventTransformer):
    """Base of the transformers whose columns have names."""

    _reads_lists = True

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[Any]:
        """Return the names of the columns of the output.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        names : ndarray of shape (n_features_out,), dtype object
            Unique names, such as ``"amount_mean"`` or ``"film_Alien"``. A name means the same value in every fit.
            Letters of any alphabet are kept; characters that LightGBM, XGBoost or JSON forbid, spaces among them, are
            escaped as in URLs: ``"film_Pulp%20Fiction"``.
        """
        check_is_fitted(self)
        return np.array(self._names, dtype=object)
