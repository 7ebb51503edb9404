"""Film ratings: what the loaders of the MovieLens data sets share."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, cast, overload

import pandas as pd
from sklearn.utils import Bunch

from skllm4es._compat import StrOptions
from skllm4es.datasets._base import Archive
from skllm4es.datasets._loading import fetcher, make_bunch
from skllm4es.events._nesting import nest_events

Target = Literal["gender", "age"]

_HEADERS = {"timestamp": "time", "rating": "rating (1 to 5)"}
_TERMS = """
Terms: for research; no redistribution without permission, no commercial use without permission, no
endorsement implied, and publications acknowledge the data set. The full terms are in the file README of the
data.

Reference: F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. ACM
Transactions on Interactive Intelligent Systems 5, 4, Article 19. https://doi.org/10.1145/2827872
"""

_LABELS = """\
dict
    Empty: the events are in words."""
_REFERENCES = """\
.. [1] F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM Transactions on
   Interactive Intelligent Systems 5, 4, Article 19, 2015. https://doi.org/10.1145/2827872"""


class FetchRatings(Protocol):
    """Signature of the functions that fetch ratings."""

    @overload
    def __call__(
        self,
        *,
        target: Target = "gender",
        profile: bool = False,
        data_home: str | os.PathLike[str] | None = None,
        download_if_missing: bool = True,
        return_X_y: Literal[False] = False,
    ) -> Bunch: ...
    @overload
    def __call__(
        self,
        *,
        target: Target = "gender",
        profile: bool = False,
        data_home: str | os.PathLike[str] | None = None,
        download_if_missing: bool = True,
        return_X_y: Literal[True],
    ) -> tuple[pd.DataFrame, pd.Series]: ...


def fetches_ratings(source: Archive) -> Callable[[Callable[..., Any]], FetchRatings]:
    """Decorate a function that fetches ratings; see `fetcher`."""
    constraints = {"target": [StrOptions({"gender", "age"})], "profile": ["boolean"]}
    decorate = fetcher(source, constraints, labels=_LABELS, references=_REFERENCES)
    return cast(Callable[[Callable[..., Any]], FetchRatings], decorate)


def name_films(ratings: pd.DataFrame, films: pd.DataFrame) -> pd.DataFrame:
    """Replace the numbers of films, the column ``item_id`` of `ratings`, by title and genres; date the timestamps."""
    films = films.loc[ratings["item_id"]]
    return pd.DataFrame(
        {
            "user_id": ratings["user_id"],
            "timestamp": pd.to_datetime(ratings["timestamp"], unit="s").astype("datetime64[s]"),
            "title": films["title"].array,
            "genres": films["genres"].array,
            "rating": ratings["rating"],
        }
    )


def ratings_by_user(
    ratings: pd.DataFrame,
    users: pd.DataFrame,
    *,
    target: Target,
    profile: bool,
    return_X_y: bool,
    ages: Sequence[str],
    description: str,
) -> Bunch | tuple[pd.DataFrame, pd.Series]:
    """Return what the public functions return; `ages` are the names of the target ``age``."""
    X = cast(pd.DataFrame, nest_events(ratings, user="user_id", time="timestamp"))
    users = users.loc[X.index]
    if profile:
        X = X.join(users.drop(columns=target))
    return make_bunch(
        X,
        (users["gender"] == "F").astype("int64") if target == "gender" else users["age"],
        return_X_y=return_X_y,
        target_names=["M", "F"] if target == "gender" else ages,
        description=description + _TERMS,
        labels={},
        headers=_HEADERS,
    )
