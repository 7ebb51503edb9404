"""Clients of banks, with and without a label: what the loaders of card transactions share."""

import os
from collections.abc import Callable
from collections.abc import Collection as Container
from typing import Any, Literal, Protocol, cast, overload

import pandas as pd
import pyarrow as pa
from sklearn.utils import Bunch

from skllm4es._compat import StrOptions
from skllm4es.datasets._base import Collection
from skllm4es.datasets._loading import fetcher
from skllm4es.datasets._tables import Tables

#: The target of a user without a label, as in scikit-learn's semi-supervised estimators.
UNLABELLED = -1

Subset = Literal["labelled", "unlabelled", "all"]

_SUBSET = """\
subset : {"labelled", "unlabelled", "all"}, default="labelled"
    The users to load: those with a label, those without, or all. Users without a label help to learn a representation
    (``LLMEmbedder``, the baselines), but not a classifier. Their target is -1, as in scikit-learn's semi-supervised
    estimators; it is not a class, so leave these users out of a classifier."""
_LABELS = """\
dict of str to (dict or pandas.Series)
    Words for codes, to pass to :class:`~skllm4es.EventSerializer`."""


class FetchClients(Protocol):
    """Signature of the functions that fetch clients."""

    @overload
    def __call__(
        self,
        *,
        subset: Subset = "labelled",
        data_home: str | os.PathLike[str] | None = None,
        download_if_missing: bool = True,
        return_X_y: Literal[False] = False,
    ) -> Bunch: ...
    @overload
    def __call__(
        self,
        *,
        subset: Subset = "labelled",
        data_home: str | os.PathLike[str] | None = None,
        download_if_missing: bool = True,
        return_X_y: Literal[True],
    ) -> tuple[pd.DataFrame, pd.Series]: ...


def fetches_clients(source: Collection) -> Callable[[Callable[..., Any]], FetchClients]:
    """Decorate a function that fetches clients; see `fetcher`."""
    constraints = {"subset": [StrOptions({"labelled", "unlabelled", "all"})]}
    decorate = fetcher(source, constraints, subset=_SUBSET, labels=_LABELS)
    return cast(Callable[[Callable[..., Any]], FetchClients], decorate)


def read_labels(tables: Tables, name: str, schema: pa.Schema, *, classes: Container[int]) -> pd.Series:
    """Read a file with the columns user and label; return the labels by user, int64, after `check_labels`."""
    users, label = schema.names
    labels = tables.read(name, schema).to_pandas().set_index(users)[label]
    check_labels(tables, name, labels, classes=classes)
    return labels


def check_labels(tables: Tables, name: str, labels: pd.Series, *, classes: Container[Any]) -> None:
    """Raise an OSError if a user has two labels, or a label is not one of the classes."""
    if labels.index.has_duplicates:
        repeated = labels.index[labels.index.duplicated()][0]
        raise tables.problem(name, f"has several labels of {labels.index.name} {repeated}")
    if unknown := sorted(set(labels) - set(classes)):
        raise tables.problem(name, f"has the labels {unknown[:5]} in {labels.name!r}, expected {sorted(classes)}")


def select_users(X: pd.DataFrame, labels: pd.Series, subset: Subset) -> tuple[pd.DataFrame, pd.Series]:
    """Select the users with a label, those without, or all.

    Parameters
    ----------
    X : pandas.DataFrame of shape (n_users, n_columns)
        One row per user who has events.
    labels : pandas.Series of shape (n_labelled,)
        The labels of some users, who need not have events.
    subset : {"labelled", "unlabelled", "all"}
        The users to select.

    Returns
    -------
    X : pandas.DataFrame
        The rows of these users, ordered by user. A user with a label but no events has a null.
    y : pandas.Series
        int64, aligned with `X`: the labels, -1 for users without one.
    """
    users = X.index.union(labels.index).rename(X.index.name)
    y = labels.reindex(users, fill_value=UNLABELLED).astype("int64")
    if subset != "all":
        y = y[(y == UNLABELLED) == (subset == "unlabelled")]
    return X.reindex(y.index), y
