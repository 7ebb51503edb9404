"""MovieLens 100k: film ratings as event sequences, the users' gender or age as the target."""

import csv
import os
from io import BytesIO

import pandas as pd
from sklearn.utils import Bunch

from skllm4es.datasets._base import Archive, DataFile, fetch_folder, read_verified
from skllm4es.datasets._ratings import Target, fetches_ratings, name_films, ratings_by_user

_SOURCE = Archive(
    title="MovieLens 100k",
    url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
    sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    folder="ml-100k",
    files=(
        DataFile("u.data", 1_979_173, "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"),
        DataFile("u.item", 236_344, "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701", "latin-1"),
        DataFile("u.user", 22_628, "f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c"),
        DataFile("u.genre", 202, "9757e0d3e6b298159a80dd48eaf938114690e911e39af97a76949ef1663610bb"),
    ),
)
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
"""


@fetches_ratings(_SOURCE)
def fetch_movielens_100k(
    *,
    target: Target = "gender",
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
    {download}

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
        {labels}

    {pair}

    See Also
    --------
    fetch_movielens_1m : Six times the users, ten times the ratings.
    make_transactions : Simulated data, which needs no download.

    References
    ----------
    {references}

    Examples
    --------
    >>> from skllm4es.datasets import fetch_movielens_100k
    >>> X, y = fetch_movielens_100k(target="gender", return_X_y=True)  # doctest: +SKIP
    >>> X.shape, int(y.sum())  # doctest: +SKIP
    ((943, 1), 273)
    """
    contents = read_verified(_SOURCE, fetch_folder(_SOURCE, data_home, download_if_missing=download_if_missing))
    return ratings_by_user(
        _read_ratings(contents),
        _read_users(contents["u.user"]),
        target=target,
        profile=profile,
        return_X_y=return_X_y,
        ages=["age"],
        description=_DESCRIPTION,
    )


def _read_ratings(contents: dict[str, bytes]) -> pd.DataFrame:
    columns = ["user_id", "item_id", "rating", "timestamp"]
    ratings = pd.read_csv(BytesIO(contents["u.data"]), sep="\t", header=None, names=columns)
    return name_films(ratings, _read_films(contents["u.item"], _read_genres(contents["u.genre"])))


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
