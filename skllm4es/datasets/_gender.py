"""Gender: card transactions of Sberbank's clients as event sequences, the client's gender as the target."""

import os
from typing import cast

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.utils import Bunch

from skllm4es.datasets._base import Collection, fetch_tables
from skllm4es.datasets._clients import Subset, fetches_clients, read_labels, select_users
from skllm4es.datasets._loading import make_bunch
from skllm4es.datasets._tables import Tables
from skllm4es.events._nesting import nest_events
from skllm4es.vocabularies import load_mcc_names
from skllm4es.vocabularies._tables import read_table

_EVENTS = pa.schema(
    [
        pa.field("customer_id", pa.int64(), nullable=False),
        pa.field("tr_datetime", pa.string(), nullable=False),
        pa.field("mcc_code", pa.int64()),
        pa.field("tr_type", pa.int64()),
        pa.field("amount", pa.float64()),
        pa.field("term_id", pa.string()),
    ]
)
_LABELS = pa.schema(
    [pa.field("customer_id", pa.int64(), nullable=False), pa.field("gender", pa.int64(), nullable=False)]
)
_FIELDS = ["day", "time", "mcc_code", "tr_type", "amount", "term_id"]
_PARSED = pa.schema(
    [("customer_id", pa.int64()), ("seconds", pa.int64()), ("day", pa.int64()), ("time", pa.time32("s"))]
    + [(field.name, field.type) for field in list(_EVENTS)[2:]]
)
_SOURCE = Collection(
    title="Gender",
    url="https://huggingface.co/datasets/dllllb/transactions-gender/resolve/main",
    tables={"gender_train.csv": _LABELS, "transactions.csv.gz": _EVENTS},
    folder="transactions-gender",
    n_rows={"gender_train.csv": 8_400},
)
_HEADERS = {"mcc_code": "merchant category", "tr_type": "type", "term_id": "terminal"}
_DESCRIPTION = """\
Gender
======

Card transactions of about 15,000 clients of Sberbank, published for a competition. The gender is known for
8,400 of them.

:Users: about 15,000, of whom 8,400 have a label
:Events: 6.8 million transactions
:Event: day, time, mcc_code, tr_type, amount, term_id
:Target: gender (0 or 1; which is which is not published)

Days are counted from the first day of the data, whose date is not published. Amounts are on an unknown scale; those
that the client receives are positive. mcc_code is the international merchant category code; tr_type is a code of the
bank, whose Russian descriptions are translated into English here.

Terms: no licence is stated.

Source: https://huggingface.co/datasets/dllllb/transactions-gender
"""


@fetches_clients(_SOURCE)
def fetch_gender(
    *,
    subset: Subset = "labelled",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Bunch | tuple[pd.DataFrame, pd.Series]:
    """Load Gender: a client's card transactions, and the client's gender.

    Downloads the data (about 100 MB) if it is not in the data home yet. No checksum is published; the transactions
    are in a gzip file, which holds a checksum of its own, and columns and labels are checked on each call.

    ==============  ===================================================
    Users           about 15,000, of whom 8,400 have a label
    Events          6.8 million
    Event           day, time, mcc_code, tr_type, amount, term_id
    Target          gender (binary)
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
            One row per user, indexed by ``customer_id``. The column ``events`` lists the user's transactions in
            order of time, each with ``day`` (from 0, the first day of the data), ``time`` (of day), ``mcc_code``
            (merchant category code), ``tr_type`` (type of transaction), ``amount`` (positive: received) and
            ``term_id`` (terminal, often missing).
        target : pandas.Series of shape (n_users,)
            int64, aligned with ``data``: the gender, 0 or 1, as published; -1 without a label.
        feature_names : list of str
            The columns of ``data``.
        target_names : list of str
            The names of the classes 0 and 1, ``["0", "1"]``: which is which is not published.
        {labels}

    {pair}

    See Also
    --------
    fetch_rosbank, fetch_age : Other card transactions.
    make_transactions : Simulated card transactions, which need no download.

    Examples
    --------
    >>> from skllm4es.datasets import fetch_gender
    >>> X, y = fetch_gender(return_X_y=True)  # doctest: +SKIP
    >>> more, _ = fetch_gender(subset="unlabelled", return_X_y=True)  # doctest: +SKIP
    """
    tables = fetch_tables(_SOURCE, data_home, download_if_missing=download_if_missing)
    labels = read_labels(tables, "gender_train.csv", _LABELS, classes=(0, 1))
    blocks = [_parse_times(tables, block) for block in tables.blocks("transactions.csv.gz", _EVENTS)]
    events = pa.Table.from_batches(blocks, _PARSED)
    X = nest_events(events, user="customer_id", time="seconds", columns=_FIELDS)
    X, y = select_users(cast(pd.DataFrame, X), labels, subset)
    return make_bunch(
        X,
        y,
        return_X_y=return_X_y,
        target_names=["0", "1"],
        description=_DESCRIPTION,
        labels={
            "mcc_code": load_mcc_names(),
            "tr_type": read_table("sber_transaction_types.csv", index="tr_type"),
        },
        headers=_HEADERS,
    )


def _parse_times(tables: Tables, block: pa.RecordBatch) -> pa.RecordBatch:
    """Read texts such as ``12 23:59:60``: a day and a time of day, whose seconds may be 60."""
    texts = block["tr_datetime"]
    parts = pc.extract_regex(texts, r"^(?P<day>\d{1,6}) (?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)$")
    if parts.null_count:
        unreadable = texts.filter(parts.is_null())[0].as_py()
        raise tables.problem(
            "transactions.csv.gz", f"has the tr_datetime {unreadable!r}, expected one like '12 23:59:59'"
        )
    day, hour, minute, second = (part.cast(pa.int64()).to_numpy() for part in parts.flatten())
    seconds = ((day * 24 + hour) * 60 + minute) * 60 + second
    columns = {
        "customer_id": block["customer_id"],
        "seconds": pa.array(seconds),
        "day": pa.array(seconds // 86_400),
        "time": pa.array(seconds % 86_400, pa.int32()).cast(pa.time32("s")),
        **{name: block[name] for name in _EVENTS.names[2:]},
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=_PARSED)
