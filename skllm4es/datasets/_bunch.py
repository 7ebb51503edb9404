"""What the functions that load a data set return: the users asked for, and everything that describes them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
from sklearn.utils import Bunch

#: The target of a user without a label, as scikit-learn's semi-supervised estimators have it.
UNLABELLED = -1

Subset = Literal["labelled", "unlabelled", "all"]


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


def make_bunch(
    X: pd.DataFrame,
    y: pd.Series,
    *,
    target_names: Sequence[str],
    description: str,
    labels: Mapping[str, Mapping[Any, str] | pd.Series],
    headers: Mapping[str, str],
    **others: Any,
) -> Bunch:
    """Make the Bunch of a data set.

    Parameters
    ----------
    X : pandas.DataFrame of shape (n_users, n_columns)
        One row per user.
    y : pandas.Series of shape (n_users,)
        The target.
    target_names : sequence of str
        The names of the classes, or of the target.
    description : str
        What the data set is.
    labels, headers : mapping
        What to pass to `EventSerializer`.
    **others
        Further entries.

    Returns
    -------
    Bunch
        The entries that every data set has, and the further ones.
    """
    return Bunch(
        data=X,
        target=y,
        feature_names=list(X.columns),
        target_names=list(target_names),
        labels=dict(labels),
        headers=dict(headers),
        DESCR=description,
        **others,
    )
