"""Users with and without a label: how labels are read, and how a part of the users is taken."""

import os
from collections.abc import Collection
from typing import Literal

import pandas as pd
import pyarrow as pa

from skllm4es._compat import StrOptions
from skllm4es.datasets._tables import Tables

#: The target of a user without a label, as scikit-learn's semi-supervised estimators have it.
UNLABELLED = -1

Subset = Literal["labelled", "unlabelled", "all"]

#: What the parameters of the functions that fetch labelled and unlabelled users may be.
CONSTRAINTS = {
    "subset": [StrOptions({"labelled", "unlabelled", "all"})],
    "data_home": [str, os.PathLike, None],
    "download_if_missing": ["boolean"],
    "return_X_y": ["boolean"],
}


def read_labels(
    tables: Tables, name: str, schema: pa.Schema, *, classes: Collection[int], n_users: int | None = None
) -> pd.Series:
    """Read the file that holds the labels of some users, one a row.

    Parameters
    ----------
    tables : Tables
        The folder of the file.
    name : str
        The file.
    schema : pyarrow.Schema
        Its two columns: the user and the label.
    classes : collection of int
        What the labels may be.
    n_users : int, default=None
        How many users the published file has; not compared if None.

    Returns
    -------
    pandas.Series of shape (n_users,), dtype int64
        The labels by user.

    Raises
    ------
    OSError
        If the file is not such a one: cut off, with users twice or labels of another kind.
    """
    users, label = schema.names
    labels = tables.read(name, schema).to_pandas().set_index(users)[label]
    if n_users is not None and len(labels) != n_users:
        raise tables.problem(name, f"has {len(labels):,} rows, published {n_users:,}: it is truncated or was changed")
    check_labels(tables, name, labels, classes=classes)
    return labels


def check_labels(tables: Tables, name: str, labels: pd.Series, *, classes: Collection[int]) -> None:
    """Raise an error if a user has two labels, or a label is none of the classes; `read_labels` explains."""
    if labels.index.has_duplicates:
        twice = labels.index[labels.index.duplicated()][0]
        raise tables.problem(name, f"has several labels of {labels.index.name} {twice}")
    if unknown := sorted(set(labels) - set(classes)):
        raise tables.problem(name, f"has the labels {unknown[:5]} in {labels.name!r}, expected {sorted(classes)}")


def select_users(X: pd.DataFrame, labels: pd.Series, subset: Subset) -> tuple[pd.DataFrame, pd.Series]:
    """Take the users with a label, those without, or all.

    Parameters
    ----------
    X : pandas.DataFrame of shape (n_users, n_columns)
        One row per user who has events.
    labels : pandas.Series of shape (n_labelled,)
        The labels of some users, who need not have events.
    subset : {"labelled", "unlabelled", "all"}
        The users to take.

    Returns
    -------
    X : pandas.DataFrame
        The rows of these users, ordered by user. Those of users with a label but no events have a null.
    y : pandas.Series
        int64, aligned with `X`: the labels, -1 for users without one.
    """
    users = X.index.union(labels.index).rename(X.index.name)
    y = labels.reindex(users, fill_value=UNLABELLED).astype("int64")
    if subset != "all":
        y = y[(y == UNLABELLED) == (subset == "unlabelled")]
    return X.reindex(y.index), y
