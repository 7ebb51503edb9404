"""Rosbank: card transactions as event sequences, whether the client left as the target."""

import os
from typing import cast

import pandas as pd
import pyarrow as pa
from sklearn.utils import Bunch

from skllm4es.datasets._base import Collection, fetch_tables
from skllm4es.datasets._clients import Subset, check_labels, fetches_clients, select_users
from skllm4es.datasets._loading import make_bunch
from skllm4es.datasets._tables import Tables
from skllm4es.events._nesting import nest_events
from skllm4es.vocabularies import load_currency_names, load_mcc_names

_EVENTS = pa.schema(
    [
        pa.field("cl_id", pa.int64(), nullable=False),
        pa.field("TRDATETIME", pa.string(), nullable=False),
        pa.field("MCC", pa.int64()),
        pa.field("channel_type", pa.string()),
        pa.field("currency", pa.int64()),
        pa.field("amount", pa.float64()),
        pa.field("trx_category", pa.string()),
    ]
)
_LABELLED_EVENTS = _EVENTS.append(pa.field("target_flag", pa.int64(), nullable=False))
_SOURCE = Collection(
    title="Rosbank",
    url="https://huggingface.co/datasets/dllllb/rosbank-churn/resolve/main",
    tables={"train.csv.gz": _LABELLED_EVENTS, "test.csv.gz": _EVENTS},
    folder="rosbank-churn",
)
# What CAT means is not published.
_CATEGORIES = {
    "POS": "card payment",
    "DEPOSIT": "deposit",
    "C2C_IN": "transfer from a card",
    "C2C_OUT": "transfer to a card",
    "WD_ATM_ROS": "cash from the bank's own ATM",
    "WD_ATM_PARTNER": "cash from a partner's ATM",
    "WD_ATM_OTHER": "cash from another bank's ATM",
    "CASH_ADV": "cash advance",
    "BACK_TRX": "refund",
    "CAT": "CAT",
}
# The bank still uses the code of the ruble before 1998 for today's.
_RUBLE = {810: "Russian Ruble"}
_HEADERS = {
    "TRDATETIME": "time",
    "MCC": "merchant category",
    "channel_type": "channel",
    "trx_category": "type",
}
_DESCRIPTION = """\
Rosbank churn
=============

Card transactions of about 10,000 clients of a Russian bank, published for a competition. For half of
the clients, the file train.csv.gz says whether they stopped using their card in the following months; for the others,
in test.csv.gz, this is not known.

:Users: about 10,000, half of them with a label
:Events: about a million transactions
:Event: TRDATETIME, MCC, channel_type, currency, amount, trx_category
:Target: target_flag (1 = the client left)

MCC and currency are international codes. Channels are anonymous. Many transactions have a date without a time of day;
they keep the order of the published file within the day. The column target_sum, the sum that the client spent
afterwards, is not read: it gives the target away.

Terms: no licence is stated.

Source: https://huggingface.co/datasets/dllllb/rosbank-churn
"""


@fetches_clients(_SOURCE)
def fetch_rosbank(
    *,
    subset: Subset = "labelled",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Bunch | tuple[pd.DataFrame, pd.Series]:
    """Load Rosbank churn: a client's card transactions, and whether the client left.

    Downloads the data (9 MB) if it is not in the data home yet. No checksum is published; the files are
    gzip files, which hold a checksum of their own, and their columns and labels are checked on each call.

    ==============  =================================================================
    Users           about 10,000, half of them with a label
    Events          about a million
    Event           TRDATETIME, MCC, channel_type, currency, amount, trx_category
    Target          whether the client left (binary)
    ==============  =================================================================

    Parameters
    ----------
    {subset}
    {download}

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes:

        data : pandas.DataFrame of shape (n_users, 1)
            One row per user, indexed by ``cl_id``. The column ``events`` lists the user's transactions in
            order of time, each with ``TRDATETIME`` (to the second, often without a time of day), ``MCC``
            (merchant category code), ``channel_type`` (anonymous), ``currency`` (numeric ISO 4217 code), ``amount``
            (in that currency) and ``trx_category`` ("POS", "DEPOSIT", ...).
        target : pandas.Series of shape (n_users,)
            int64, aligned with ``data``: 1 if the client left, 0 if not; -1 without a label.
        feature_names : list of str
            The columns of ``data``.
        target_names : list of str
            The names of the classes 0 and 1, ``["stayed", "left"]``.
        {labels}

    {pair}

    See Also
    --------
    fetch_gender, fetch_age : Other card transactions.
    make_transactions : Simulated card transactions, which need no download.

    Examples
    --------
    >>> from skllm4es.datasets import fetch_rosbank
    >>> X, y = fetch_rosbank(return_X_y=True)  # doctest: +SKIP
    >>> more, _ = fetch_rosbank(subset="unlabelled", return_X_y=True)  # doctest: +SKIP
    """
    tables = fetch_tables(_SOURCE, data_home, download_if_missing=download_if_missing)
    labelled = tables.read("train.csv.gz", _LABELLED_EVENTS)
    labels = labelled.select(["cl_id", "target_flag"]).to_pandas().drop_duplicates().set_index("cl_id")["target_flag"]
    check_labels(tables, "train.csv.gz", labels, classes=(0, 1))
    parts = {"train.csv.gz": labelled.select(_EVENTS.names), "test.csv.gz": tables.read("test.csv.gz", _EVENTS)}
    events = pa.concat_tables([_parse_times(tables, name, part) for name, part in parts.items()])
    X = nest_events(events, user="cl_id", time="TRDATETIME")
    X, y = select_users(cast(pd.DataFrame, X), labels, subset)
    return make_bunch(
        X,
        y,
        return_X_y=return_X_y,
        target_names=["stayed", "left"],
        description=_DESCRIPTION,
        labels={"MCC": load_mcc_names(), "currency": {**load_currency_names(), **_RUBLE}, "trx_category": _CATEGORIES},
        headers=_HEADERS,
    )


def _parse_times(tables: Tables, name: str, events: pa.Table) -> pa.Table:
    """Read texts such as ``21OCT17:14:30:00`` as times."""
    texts = events["TRDATETIME"].combine_chunks().dictionary_encode()
    try:
        times = pd.to_datetime(texts.dictionary.to_pandas(), format="%d%b%y:%H:%M:%S").astype("datetime64[s]")
    except ValueError as error:
        raise tables.problem(name, f"has a TRDATETIME that is not like '21OCT17:14:30:00' ({error})") from error
    column = pa.array(times).take(texts.indices)
    return events.set_column(events.schema.get_field_index("TRDATETIME"), "TRDATETIME", column)
