"""Age: card transactions of a bank's clients as event sequences, the client's age group as the target."""

import os
from typing import cast

import pandas as pd
import pyarrow as pa
from sklearn.utils import Bunch

from skllm4es.datasets._base import Collection, fetch_tables
from skllm4es.datasets._clients import Subset, fetches_clients, read_labels, select_users
from skllm4es.datasets._loading import make_bunch
from skllm4es.events._nesting import nest_events
from skllm4es.vocabularies._tables import read_table

_EVENTS = pa.schema(
    [
        pa.field("client_id", pa.int64(), nullable=False),
        pa.field("trans_date", pa.int32(), nullable=False),
        pa.field("small_group", pa.int32()),
        pa.field("amount_rur", pa.float64()),
    ]
)
_LABELS = pa.schema([pa.field("client_id", pa.int64(), nullable=False), pa.field("bins", pa.int64(), nullable=False)])
_SOURCE = Collection(
    title="Age",
    url="https://huggingface.co/datasets/dllllb/age-group-prediction/resolve/main",
    tables={"train_target.csv": _LABELS, "transactions_train.csv.gz": _EVENTS, "transactions_test.csv.gz": _EVENTS},
    folder="age-group-prediction",
    n_rows={"train_target.csv": 30_000},
)
_HEADERS = {"trans_date": "day", "small_group": "category", "amount_rur": "amount"}
_DESCRIPTION = """\
Age
===

Card transactions of about 50,000 clients of a Russian bank, published for a competition of the Sirius
centre. The age group is known for 30,000 of them.

:Users: about 50,000, of whom 30,000 have a label
:Events: 44 million transactions
:Event: trans_date, small_group, amount_rur
:Target: bins, the age group (0 to 3; their bounds are not published)

Days are counted from an unpublished one; transactions of a day keep the order of the published file. Amounts were
transformed for anonymity. small_group is one of 204 kinds of shops and services, whose Russian descriptions are
translated into English here.

Terms: no licence is stated.

Source: https://huggingface.co/datasets/dllllb/age-group-prediction
"""


@fetches_clients(_SOURCE)
def fetch_age(
    *,
    subset: Subset = "labelled",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Bunch | tuple[pd.DataFrame, pd.Series]:
    """Load Age: a client's card transactions, and the client's age group.

    Downloads the data (about 250 MB) if it is not in the data home yet. No checksum is published; the transactions
    are in gzip files, which hold a checksum of their own, and columns and labels are checked on each call.

    ==============  ===================================================
    Users           about 50,000, of whom 30,000 have a label
    Events          44 million
    Event           trans_date, small_group, amount_rur
    Target          age group (four classes)
    ==============  ===================================================

    Parameters
    ----------
    {subset}
    {download}

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes:

        data : pandas.DataFrame of shape (n_users, 1)
            One row per user, indexed by ``client_id``. The column ``events`` lists the user's transactions in
            order of time, each with ``trans_date`` (number of the day), ``small_group`` (kind of shop or service,
            0 to 203) and ``amount_rur`` (transformed for anonymity).
        target : pandas.Series of shape (n_users,)
            int64, aligned with ``data``: the age group, 0 to 3, as published; -1 without a label.
        feature_names : list of str
            The columns of ``data``.
        target_names : list of str
            The names of the classes 0 to 3, ``["0", "1", "2", "3"]``; their meaning is not published.
        {labels}

    {pair}

    See Also
    --------
    fetch_rosbank, fetch_gender : Other card transactions.
    make_transactions : Simulated card transactions, which need no download.

    Examples
    --------
    >>> from skllm4es.datasets import fetch_age
    >>> X, y = fetch_age(return_X_y=True)  # doctest: +SKIP
    >>> more, _ = fetch_age(subset="unlabelled", return_X_y=True)  # doctest: +SKIP
    """
    tables = fetch_tables(_SOURCE, data_home, download_if_missing=download_if_missing)
    labels = read_labels(tables, "train_target.csv", _LABELS, classes=range(4))
    files = ("transactions_train.csv.gz", "transactions_test.csv.gz")
    events = pa.concat_tables([tables.read(name, _EVENTS) for name in files])
    X = nest_events(events, user="client_id", time="trans_date")
    X, y = select_users(cast(pd.DataFrame, X), labels, subset)
    return make_bunch(
        X,
        y,
        return_X_y=return_X_y,
        target_names=["0", "1", "2", "3"],
        description=_DESCRIPTION,
        labels={"small_group": read_table("sirius_groups.csv", index="small_group")},
        headers=_HEADERS,
    )
