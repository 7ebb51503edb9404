"""MovieLens 100k: film ratings as event sequences, the users' gender or age as the target."""

import csv
import os
from io import BytesIO
from typing import Literal, cast, overload

import pandas as pd
from sklearn.utils import Bunch

from skllm4es._compat import StrOptions, validate_parameter_constraints
from skllm4es.datasets._base import Archive, DataFile, fetch_folder, get_data_home, read_verified
from skllm4es.datasets._bunch import make_bunch
from skllm4es.events._nesting import nest_events

_ARCHIVE = Archive(
    title="MovieLens 100k",
    url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
    sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    folder="ml-100k",
)
_FILES = (
    DataFile("u.data", 1_979_173, "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"),
    DataFile("u.item", 236_344, "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701", "latin-1"),
    DataFile("u.user", 22_628, "f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c"),
    DataFile("u.genre", 202, "9757e0d3e6b298159a80dd48eaf938114690e911e39af97a76949ef1663610bb"),
)
#: Names of the fields of a rating for the header line: what the numbers mean.
HEADERS = {"timestamp": "time", "rating": "rating (1 to 5)"}
_CONSTRAINTS = {
    "target": [StrOptions({"gender", "age"})],
    "profile": ["boolean"],
    "data_home": [str, os.PathLike, None],
    "download_if_missing": ["boolean"],
    "return_X_y": ["boolean"],
}
_DESCRIPTION = """\
MovieLens 100k
==============

100,000 ratings (1 to 5) that 943 users of the MovieLens web site gave to 1,682 films between September 1997
and April 1998. Every user rated at least 20 films.

:Users: 943, of whom 273 are women; ages 7 to 73
:Events: 100,000 ratings; 20 to 737 a user, 106 on average
:Event: timestamp, title, genres, rating
:Targets: gender (0 = M, 1 = F) or age (years)

Many ratings of a user share a second; those keep the order of the published file.

Terms: for research; no redistribution without permission, no commercial use without permission, no
endorsement implied, and publications acknowledge the data set. The full terms are in the file README of the
data.

Reference: F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. ACM
Transactions on Interactive Intelligent Systems 5, 4, Article 19. https://doi.org/10.1145/2827872
"""


@overload
def fetch_movielens_100k(
    *,
    target: Literal["gender", "age"] = "gender",
    profile: bool = False,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    return_X_y: Literal[False] = False,
) -> Bunch: ...
@overload
def fetch_movielens_100k(
    *,
    target: Literal["gender", "age"] = "gender",
    profile: bool = False,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    return_X_y: Literal[True],
) -> tuple[pd.DataFrame, pd.Series]: ...
def fetch_movielens_100k(
    *,
    target: Literal["gender", "age"] = "gender",
    profile: bool = False,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Bunch | tuple[pd.DataFrame, pd.Series]:
    """Load MovieLens 100k: the films that each user rated, and the user's gender or age.

    Downloads the data (5 MB) if it is not in the data home yet, and verifies it on each call. The data set is
    for research and may not be redistributed; see ``DESCR`` of the result for its terms.

    ==============  =====================================
    Users           943 (670 men, 273 women)
    Events          100,000 (20 to 737 a user)
    Event           timestamp, title, genres, rating
    Target          gender (binary) or age (regression)
    ==============  =====================================

    Parameters
    ----------
    target : {"gender", "age"}, default="gender"
        What to predict: the user's gender, 1 for female and 0 for male, or the age in years.
    profile : bool, default=False
        Whether `X` also has the users' other attributes: ``age`` or ``gender`` ("M", "F"), whichever is not
        the target, ``occupation`` and ``zip_code``. They are good predictors by themselves (students are
        young), so they are left out unless asked for.
    data_home : str or path-like, default=None
        Folder that holds, or will hold, the folder ``ml-100k``. If None, the environment variable
        ``SKLLM4ES_DATA``, else ``~/skllm4es_data``; see :func:`get_data_home`.
    download_if_missing : bool, default=True
        If False, raise an OSError if the data is not in the data home, instead of downloading it.
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes:

        data : pandas.DataFrame of shape (943, 1), or (943, 4) with ``profile=True``
            One row per user, indexed by ``user_id``. The column ``events`` lists the user's ratings in order
            of time, each with ``timestamp`` (UTC, without a time zone, to the second), ``title`` ("Toy Story
            (1995)"), ``genres`` (joined by spaces, in the order of the data set's list: "Animation Children's
            Comedy") and ``rating`` (1 to 5).
        target : pandas.Series of shape (943,)
            int64, aligned with ``data``.
        feature_names : list of str
            The columns of ``data``.
        target_names : list of str
            The names of the classes 0 and 1, ``["M", "F"]``, or the name of the regression target,
            ``["age"]``.
        labels : dict
            Empty: the events are in words.
        headers : dict of str to str
            Names for the header line, to pass to :class:`~skllm4es.EventSerializer`.
        DESCR : str
            Description of the data set, its terms and its reference.

    (data, target) : tuple if ``return_X_y`` is True
        The DataFrame and the Series above.

    Raises
    ------
    OSError
        If the data is absent and not downloaded, if the download fails, or if the files are not the published
        ones (truncated, re-encoded, incomplete). The message says which, and what to do.

    See Also
    --------
    fetch_movielens_1m : Six times the users, ten times the ratings.
    make_transactions : Simulated data, which needs no download.

    References
    ----------
    .. [1] F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM Transactions on
       Interactive Intelligent Systems 5, 4, Article 19, 2015. https://doi.org/10.1145/2827872

    Examples
    --------
    >>> from skllm4es.datasets import fetch_movielens_100k
    >>> X, y = fetch_movielens_100k(target="gender", return_X_y=True)  # doctest: +SKIP
    >>> X.shape, int(y.sum())  # doctest: +SKIP
    ((943, 1), 273)
    """
    validate_parameter_constraints(
        _CONSTRAINTS,
        {
            "target": target,
            "profile": profile,
            "data_home": data_home,
            "download_if_missing": download_if_missing,
            "return_X_y": return_X_y,
        },
        caller_name="fetch_movielens_100k",
    )
    folder = fetch_folder(_ARCHIVE, get_data_home(data_home), download_if_missing=download_if_missing)
    contents = read_verified(folder, _FILES, _ARCHIVE)
    X = cast(pd.DataFrame, nest_events(_read_ratings(contents), user="user_id", time="timestamp"))
    users = _read_users(contents["u.user"]).loc[X.index]
    if profile:
        X = X.join(users.drop(columns=target))
    y = (users["gender"] == "F").astype("int64") if target == "gender" else users["age"]
    if return_X_y:
        return X, y
    return make_bunch(
        X,
        y,
        target_names=["M", "F"] if target == "gender" else ["age"],
        description=_DESCRIPTION,
        labels={},
        headers=HEADERS,
    )


def _read_ratings(contents: dict[str, bytes]) -> pd.DataFrame:
    """One row per rating, with the film's title and genres in place of its number."""
    ratings = pd.read_csv(
        BytesIO(contents["u.data"]),
        sep="\t",
        header=None,
        names=["user_id", "item_id", "rating", "timestamp"],
    )
    films = _read_films(contents["u.item"], _read_genres(contents["u.genre"])).loc[ratings["item_id"]]
    return pd.DataFrame(
        {
            "user_id": ratings["user_id"],
            "timestamp": pd.to_datetime(ratings["timestamp"], unit="s").astype("datetime64[s]"),
            "title": films["title"].array,
            "genres": films["genres"].array,
            "rating": ratings["rating"],
        }
    )


def _read_genres(content: bytes) -> list[str]:
    # The file ends with an empty line.
    return [line.split("|")[0] for line in content.decode("ascii").split()]


def _read_films(content: bytes, genres: list[str]) -> pd.DataFrame:
    table = pd.read_csv(
        BytesIO(content),
        sep="|",
        encoding="latin-1",
        header=None,
        names=["item_id", "title", "released", "video_released", "url", *genres],
        index_col="item_id",
        quoting=csv.QUOTE_NONE,
        keep_default_na=False,
    )
    flags = table[genres].to_numpy(dtype=bool)
    joined = [" ".join(name for name, has in zip(genres, row, strict=True) if has) for row in flags]
    return table[["title"]].assign(genres=joined)


def _read_users(content: bytes) -> pd.DataFrame:
    return pd.read_csv(
        BytesIO(content),
        sep="|",
        header=None,
        names=["user_id", "age", "gender", "occupation", "zip_code"],
        index_col="user_id",
        dtype={"zip_code": "str"},
    )
