"""MovieLens 1M: film ratings as event sequences, the users' gender or age group as the target."""

import os
from io import BytesIO
from pathlib import Path
from typing import Literal, cast, overload

import pandas as pd
from sklearn.utils import Bunch

from skllm4es._compat import StrOptions, validate_parameter_constraints
from skllm4es.datasets._base import Archive, DataFile, damaged, fetch_folder, get_data_home, read_verified
from skllm4es.datasets._bunch import make_bunch
from skllm4es.datasets._movielens import HEADERS
from skllm4es.events._nesting import nest_events

_ARCHIVE = Archive(
    title="MovieLens 1M",
    url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
    sha256="a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    folder="ml-1m",
)
# Checksums are published for the archive, not for the files in it: of these, sizes, rows and values are compared.
_FILES = (
    DataFile("ratings.dat", 24_594_131, None),
    DataFile("movies.dat", 171_308, None, "latin-1"),
    DataFile("users.dat", 134_368, None),
)
_ROWS = {"ratings.dat": 1_000_209, "movies.dat": 3_883, "users.dat": 6_040}
_AGES = {
    1: "under 18",
    18: "18 to 24",
    25: "25 to 34",
    35: "35 to 44",
    45: "45 to 49",
    50: "50 to 55",
    56: "56 and over",
}
_OCCUPATIONS = (
    "other",
    "academic or educator",
    "artist",
    "clerk or administrator",
    "college or graduate student",
    "customer service",
    "health care",
    "executive or manager",
    "farmer",
    "homemaker",
    "school student",
    "lawyer",
    "programmer",
    "retired",
    "sales or marketing",
    "scientist",
    "self-employed",
    "technician or engineer",
    "tradesman or craftsman",
    "unemployed",
    "writer",
)
_CONSTRAINTS = {
    "target": [StrOptions({"gender", "age"})],
    "profile": ["boolean"],
    "data_home": [str, os.PathLike, None],
    "download_if_missing": ["boolean"],
    "return_X_y": ["boolean"],
}
_DESCRIPTION = """\
MovieLens 1M
============

1,000,209 ratings (1 to 5) that 6,040 users who joined the MovieLens web site in 2000 gave to 3,706 films. Every
user rated at least 20 films.

:Users: 6,040, of whom 1,709 are women
:Events: 1,000,209 ratings; 20 to 2,314 a user, 166 on average
:Event: timestamp, title, genres, rating
:Targets: gender (0 = M, 1 = F) or age, in seven groups (1 = under 18, 18 = 18 to 24, 25, 35, 45, 50, 56 = 56 and over)

Many ratings of a user share a second; those keep the order of the published file. Gender, age and occupation are
what users said of themselves.

Terms: for research; no redistribution without permission, no commercial use without permission, no
endorsement implied, and publications acknowledge the data set. The full terms are in the file README of the
data.

Reference: F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. ACM
Transactions on Interactive Intelligent Systems 5, 4, Article 19. https://doi.org/10.1145/2827872
"""


@overload
def fetch_movielens_1m(
    *,
    target: Literal["gender", "age"] = "gender",
    profile: bool = False,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    return_X_y: Literal[False] = False,
) -> Bunch: ...
@overload
def fetch_movielens_1m(
    *,
    target: Literal["gender", "age"] = "gender",
    profile: bool = False,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    return_X_y: Literal[True],
) -> tuple[pd.DataFrame, pd.Series]: ...
def fetch_movielens_1m(
    *,
    target: Literal["gender", "age"] = "gender",
    profile: bool = False,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Bunch | tuple[pd.DataFrame, pd.Series]:
    """Load MovieLens 1M: the films that each user rated, and the user's gender or age group.

    Downloads the data (6 MB) if it is not in the data home yet. The download is compared with the published checksum,
    the files on each call with their published sizes and numbers of rows. The data set is for research and may not be
    redistributed; see ``DESCR`` of the result for its terms.

    ==============  ==========================================
    Users           6,040 (4,331 men, 1,709 women)
    Events          1,000,209 (20 to 2,314 a user)
    Event           timestamp, title, genres, rating
    Target          gender (binary) or age group (seven)
    ==============  ==========================================

    Parameters
    ----------
    target : {"gender", "age"}, default="gender"
        What to predict: the user's gender, 1 for female and 0 for male, or the age group by its least age: 1 (under
        18), 18, 25, 35, 45, 50 or 56 (and over).
    profile : bool, default=False
        Whether `X` also has the users' other attributes: ``age`` (as above) or ``gender`` ("M", "F"), whichever is not
        the target, ``occupation`` (in words) and ``zip_code``. They are good predictors by themselves (students are
        young), so they are left out unless asked for.
    data_home : str or path-like, default=None
        Folder that holds, or will hold, the folder ``ml-1m``. If None, the environment variable ``SKLLM4ES_DATA``, else
        ``~/skllm4es_data``; see :func:`get_data_home`.
    download_if_missing : bool, default=True
        If False, raise an OSError if the data is not in the data home, instead of downloading it.
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes:

        data : pandas.DataFrame of shape (6040, 1), or (6040, 4) with ``profile=True``
            One row per user, indexed by ``user_id``. The column ``events`` lists the user's ratings in order of time,
            each with ``timestamp`` (UTC, without a time zone, to the second), ``title`` ("Toy Story (1995)"),
            ``genres`` (joined by spaces: "Animation Children's Comedy") and ``rating`` (1 to 5).
        target : pandas.Series of shape (6040,)
            int64, aligned with ``data``.
        feature_names : list of str
            The columns of ``data``.
        target_names : list of str
            The names of the classes in ascending order: ``["M", "F"]``, or the age groups in words.
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
    fetch_movielens_100k : Fewer users, with ages in years.

    References
    ----------
    .. [1] F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM Transactions on
       Interactive Intelligent Systems 5, 4, Article 19, 2015. https://doi.org/10.1145/2827872

    Examples
    --------
    >>> from skllm4es.datasets import fetch_movielens_1m
    >>> X, y = fetch_movielens_1m(target="age", return_X_y=True)  # doctest: +SKIP
    >>> X.shape, sorted(set(y))  # doctest: +SKIP
    ((6040, 1), [1, 18, 25, 35, 45, 50, 56])
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
        caller_name="fetch_movielens_1m",
    )
    folder = fetch_folder(_ARCHIVE, get_data_home(data_home), download_if_missing=download_if_missing)
    contents = read_verified(folder, _FILES, _ARCHIVE)
    ratings, users = _read_tables(contents, folder)
    X = cast(pd.DataFrame, nest_events(ratings, user="user_id", time="timestamp"))
    users = users.loc[X.index]
    if profile:
        X = X.join(users.drop(columns=target))
    y = (users["gender"] == "F").astype("int64") if target == "gender" else users["age"]
    if return_X_y:
        return X, y
    return make_bunch(
        X,
        y,
        target_names=["M", "F"] if target == "gender" else list(_AGES.values()),
        description=_DESCRIPTION,
        labels={},
        headers=HEADERS,
    )


def _read_tables(contents: dict[str, bytes], folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    seen = {name: content.count(b"\n") for name, content in contents.items()}
    if problems := [f"{name}: {seen[name]:,} rows, published {n:,}." for name, n in _ROWS.items() if seen[name] != n]:
        raise damaged(_ARCHIVE, folder, problems)
    try:
        ratings = _read_ratings(contents["ratings.dat"], contents["movies.dat"])
        users = _read_users(contents["users.dat"])
        if others := set(ratings["user_id"]) ^ set(users.index):
            raise ValueError(f"ratings.dat and users.dat differ in the users {sorted(others)[:5]}")
    except (ValueError, LookupError) as error:
        raise damaged(_ARCHIVE, folder, [f"the contents of the files were changed: {error}."]) from error
    return ratings, users


def _read_ratings(content: bytes, films: bytes) -> pd.DataFrame:
    """One row per rating, with the film's title and genres in place of its number."""
    ratings = _read_table(content, ["user_id", "item_id", "rating", "timestamp"]).astype("int64")
    if not ratings["rating"].between(1, 5).all():
        raise ValueError("ratings are not from 1 to 5")
    rated = _read_films(films).loc[ratings["item_id"]]
    return pd.DataFrame(
        {
            "user_id": ratings["user_id"],
            "timestamp": pd.to_datetime(ratings["timestamp"], unit="s").astype("datetime64[s]"),
            "title": rated["title"].array,
            "genres": rated["genres"].array,
            "rating": ratings["rating"],
        }
    )


def _read_films(content: bytes) -> pd.DataFrame:
    numbers, titles, genres = [], [], []
    for line in content.decode("latin-1").rstrip("\n").split("\n"):
        # A title may hold colons, so only the first and the last separator of a line count.
        number, rest = line.split("::", 1)
        title, genre = rest.rsplit("::", 1)
        numbers.append(int(number))
        titles.append(title)
        genres.append(genre.replace("|", " "))
    return pd.DataFrame({"title": titles, "genres": genres}, index=numbers)


def _read_users(content: bytes) -> pd.DataFrame:
    users = _read_table(content, ["user_id", "gender", "age", "occupation", "zip_code"])
    users = users.astype({"user_id": "int64", "age": "int64", "occupation": "int64"}).set_index("user_id")
    if unknown := (set(users["gender"]) - {"M", "F"}) | (set(users["age"]) - set(_AGES)):
        raise ValueError(f"users have the gender or age {sorted(map(str, unknown))}")
    users["occupation"] = [_OCCUPATIONS[code] for code in users["occupation"]]
    return users[["age", "gender", "occupation", "zip_code"]]


def _read_table(content: bytes, names: list[str]) -> pd.DataFrame:
    return pd.read_csv(
        BytesIO(content.replace(b"::", b"\t")), sep="\t", header=None, names=names, index_col=False, dtype="str"
    )
