"""What the functions that load a data set return: the users, their target, and everything that describes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from sklearn.utils import Bunch


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
