"""MovieLens 1M: film ratings as event sequences, the users' gender or age group as the target."""

import os
from io import BytesIO

import pandas as pd
from sklearn.utils import Bunch

from skllm4es.datasets._base import Archive, DataFile, damaged, fetch_folder, read_verified
from skllm4es.datasets._ratings import Target, fetches_ratings, name_films, ratings_by_user

_SOURCE = Archive(
    title="MovieLens 1M",
    url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
    sha256="a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    folder="ml-1m",
    # A checksum is published for the archive, but not for its files: their sizes, rows and values are compared.
    files=(
        DataFile("ratings.dat", 24_594_131, n_rows=1_000_209),
        DataFile("movies.dat", 171_308, encoding="latin-1", n_rows=3_883),
        DataFile("users.dat", 134_368, n_rows=6_040),
    ),
)
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
"""


@fetches_ratings(_SOURCE)
def fetch_movielens_1m(
    *,
    target: Target = "gender",
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
    {download}

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
        {labels}

    {pair}

    See Also
    --------
    fetch_movielens_100k : Fewer users, with ages in years.

    References
    ----------
    {references}

    Examples
    --------
    >>> from skllm4es.datasets import fetch_movielens_1m
    >>> X, y = fetch_movielens_1m(target="age", return_X_y=True)  # doctest: +SKIP
    >>> X.shape, sorted(set(y))  # doctest: +SKIP
    ((6040, 1), [1, 18, 25, 35, 45, 50, 56])
    """
    folder = fetch_folder(_SOURCE, data_home, download_if_missing=download_if_missing)
    contents = read_verified(_SOURCE, folder)
    try:
        ratings, users = _read(contents)
    except (ValueError, LookupError) as error:
        raise damaged(_SOURCE, folder, [f"the contents of the files were changed: {error}."]) from error
    return ratings_by_user(
        ratings,
        users,
        target=target,
        profile=profile,
        return_X_y=return_X_y,
        ages=list(_AGES.values()),
        description=_DESCRIPTION,
    )


def _read(contents: dict[str, bytes]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return ratings and users; raise a ValueError or LookupError if they contradict what is published."""
    ratings = _read_table(contents["ratings.dat"], ["user_id", "item_id", "rating", "timestamp"]).astype("int64")
    if not ratings["rating"].between(1, 5).all():
        raise ValueError("ratings are not from 1 to 5")
    ratings = name_films(ratings, _read_films(contents["movies.dat"]))
    users = _read_users(contents["users.dat"])
    if others := set(ratings["user_id"]) ^ set(users.index):
        raise ValueError(f"ratings.dat and users.dat differ in the users {sorted(others)[:5]}")
    return ratings, users


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
