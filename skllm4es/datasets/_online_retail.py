"""Online Retail: two years of a shop's invoices as event sequences, whether a customer buys again as the target."""

import importlib.util
import itertools
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, overload

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.utils import Bunch

from skllm4es.datasets._base import download, fetch_folder, remedies_for_damage
from skllm4es.datasets._loading import fetcher, make_bunch, read_horizon
from skllm4es.datasets._tables import DataSetError, Tables
from skllm4es.events._nesting import nest_events

_LINES = pa.schema(
    [
        pa.field("InvoiceNo", pa.string(), nullable=False),
        pa.field("StockCode", pa.string(), nullable=False),
        pa.field("Description", pa.string()),
        pa.field("Quantity", pa.int64(), nullable=False),
        pa.field("InvoiceDate", pa.timestamp("s"), nullable=False),
        pa.field("UnitPrice", pa.float64(), nullable=False),
        pa.field("CustomerID", pa.int64()),
        pa.field("Country", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class _Year:
    """One of the two published tables: an Excel workbook in a zip archive, and the Parquet file it is kept as."""

    url: str
    sha256: str
    workbook: str
    table: str
    n_rows: int
    names: tuple[str, ...] = ()  # where they differ from `_LINES`

    @property
    def schema(self) -> pa.Schema:
        """The columns by the names of this table."""
        return _renamed(_LINES, self.names or _LINES.names)


def _renamed(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    return pa.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])


@dataclass(frozen=True)
class _Workbooks:
    """The workbooks of the UCI repository, which become Parquet files in the data home."""

    title: str
    url: str
    folder: str
    years: tuple[_Year, ...]

    @property
    def by_hand(self) -> str:
        """How to obtain the files without a network."""
        files = ", ".join(year.table for year in self.years)
        return f"call fetch_online_retail on another machine and copy its {self.folder}/ ({files}) into the data home."

    @property
    def replacement(self) -> str:
        """How to replace a damaged folder by hand."""
        return f"Copy {' and '.join(year.table for year in self.years)} there from another machine."

    def download(self, workspace: Path) -> Path:
        """Download both workbooks and write their tables; return the folder of the data set."""
        _check_reader()
        folder = workspace / self.folder
        folder.mkdir()
        for year in self.years:
            with zipfile.ZipFile(download(self, year.url, workspace, year.sha256)) as archive:
                archive.extract(year.workbook, workspace)
            table = pa.Table.from_batches(_read_workbook(workspace / year.workbook, year), year.schema)
            pq.write_table(table, folder / year.table, compression="zstd")
        return folder


_SOURCE = _Workbooks(
    title="Online Retail",
    url="https://archive.ics.uci.edu/dataset/502/online+retail+ii",
    folder="online-retail",
    # UCI publishes no checksums; these are recorded by many who downloaded the archives. The second table of the first
    # workbook is the second workbook with one line more, so it is not read.
    years=(
        _Year(
            "https://archive.ics.uci.edu/static/public/502/online+retail+ii.zip",
            "572e36277c2390fbfde10664750731e0a86f55e33470d91919085f0408e67bfb",
            "online_retail_II.xlsx",
            "online_retail_2009_2010.parquet",
            525_461,
            ("Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID", "Country"),
        ),
        _Year(
            "https://archive.ics.uci.edu/static/public/352/online+retail.zip",
            "f5385cbb54bbebf7196389109c6b0621faab0c304e3702548165e71c84aede8b",
            "Online Retail.xlsx",
            "online_retail_2010_2011.parquet",
            541_909,
        ),
    ),
)
_HEADERS = {
    "InvoiceDate": "time",
    "Description": "product",
    "Quantity": "quantity",
    "UnitPrice": "price",
    "Country": "country",
}
_DESCRIPTION = """\
Online Retail
=============

Invoice lines of a shop in the United Kingdom that sells gifts by mail order, many of them to wholesalers, from December
2009 to December 2011. The question is asked at {cut}, of the customers who bought something before: will they buy
again within {horizon}?

:Users: {n_users:,} customers, of whom {n_again:,} buy again
:Events: {n_events:,} invoice lines before {cut}, of which {n_returned:,} are cancellations
:Event: InvoiceDate, Description, Quantity, UnitPrice, Country
:Target: buys_again (1 = buys within {horizon})

Of {n_published:,} published lines, {n_repeated:,} are left out because they stand in both years' tables (1 to 9
December 2010), {n_anonymous:,} because they have no customer, {n_later:,} because they are not before {cut}, and
{n_unbought:,} because they are of {n_strangers:,} customers who cancelled but bought nothing before {cut}.

A cancellation (its invoice number begins with C) is an event with a negative quantity, and is no purchase. Equal lines
of an invoice are kept. Spaces around descriptions are removed. Times are to the minute, prices in pounds sterling.
Invoice numbers and stock codes are not kept.

Terms: Creative Commons Attribution 4.0 (CC BY 4.0).

References: D. Chen, S. L. Sain and K. Guo. 2012. Data mining for the online retail industry. Journal of Database
Marketing and Customer Strategy Management 19, 3. https://doi.org/10.1057/dbm.2012.17. D. Chen. 2015 and 2019. Online
Retail, and Online Retail II. UCI Machine Learning Repository. https://doi.org/10.24432/C5BW33,
https://doi.org/10.24432/C5CG6D
"""


class _FetchOnlineRetail(Protocol):
    @overload
    def __call__(
        self,
        *,
        cut: str | pd.Timestamp = "2011-09-10",
        horizon: str | pd.Timedelta = "90 days",
        data_home: str | os.PathLike[str] | None = None,
        download_if_missing: bool = True,
        return_X_y: Literal[False] = False,
    ) -> Bunch: ...
    @overload
    def __call__(
        self,
        *,
        cut: str | pd.Timestamp = "2011-09-10",
        horizon: str | pd.Timedelta = "90 days",
        data_home: str | os.PathLike[str] | None = None,
        download_if_missing: bool = True,
        return_X_y: Literal[True],
    ) -> tuple[pd.DataFrame, pd.Series]: ...


_fetches = cast(
    Callable[[Callable[..., Any]], _FetchOnlineRetail],
    fetcher(
        _SOURCE,
        {"cut": [str, pd.Timestamp], "horizon": [str, pd.Timedelta]},
        labels="dict\n    Empty: the events are in words.",
    ),
)


@_fetches
def fetch_online_retail(
    *,
    cut: str | pd.Timestamp = "2011-09-10",
    horizon: str | pd.Timedelta = "90 days",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Bunch | tuple[pd.DataFrame, pd.Series]:
    """Load Online Retail: what a shop's customers bought before a day, and whether they buy again.

    Downloads both years [1]_ [2]_ (68 MB) if they are not in the data home yet, compares the archives with checksums,
    and keeps the tables as Parquet files. Reading the workbooks, once, needs openpyxl (``pip install
    'skllm4es[excel]'``) and takes some minutes. Columns and numbers of rows are checked on each call.

    ==============  ==========================================================================
    Users           5,283 customers who bought something before 10 September 2011
    Events          640,000 invoice lines
    Event           InvoiceDate, Description, Quantity, UnitPrice, Country
    Target          whether the customer buys again within 90 days (binary; 2,290 do)
    ==============  ==========================================================================

    Parameters
    ----------
    cut : str or pandas.Timestamp, default="2011-09-10"
        When the question is asked. Events are those before it.
    horizon : str or pandas.Timedelta, default="90 days"
        How long after `cut` a purchase counts, with a unit. The data end on 9 December 2011, 90 days after the default
        `cut`.
    {download}

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes:

        data : pandas.DataFrame of shape (n_customers, 1)
            One row per customer who bought something before `cut`, indexed by ``CustomerID``. The column ``events``
            lists the customer's invoice lines before `cut` in order of time, each with ``InvoiceDate`` (to the minute),
            ``Description`` of the product, ``Quantity`` (negative: cancelled), ``UnitPrice`` (pounds) and ``Country``.
        target : pandas.Series of shape (n_customers,)
            int64, aligned with ``data``: 1 if the customer buys something from `cut` until `horizon` later.
            Cancellations are no purchases.
        feature_names : list of str
            The columns of ``data``.
        target_names : list of str
            The names of the classes 0 and 1, ``["did not buy again", "bought again"]``.
        {labels}
            It says how many of the published lines are left out, and why: those without a customer, those that stand in
            both years, and those from `cut` on.

    {pair}
    ImportError
        If a download is needed and openpyxl is not installed.
    ValueError
        If `cut` is not a time, has a time zone, or leaves nothing before it or less than `horizon` after it; or if
        `horizon` is not a positive length of time.

    See Also
    --------
    load_complete_journey : A year of groceries, which come with a Python package.

    References
    ----------
    .. [1] D. Chen, "Online Retail II", UCI Machine Learning Repository, 2019. https://doi.org/10.24432/C5CG6D
    .. [2] D. Chen, "Online Retail", UCI Machine Learning Repository, 2015. https://doi.org/10.24432/C5BW33

    Examples
    --------
    >>> from skllm4es.datasets import fetch_online_retail
    >>> X, y = fetch_online_retail(return_X_y=True)  # doctest: +SKIP
    >>> X.shape, int(y.sum())  # doctest: +SKIP
    ((5283, 1), 2290)
    """
    asked, length = _read_cut(cut), read_horizon(horizon)
    folder = fetch_folder(_SOURCE, data_home, download_if_missing=download_if_missing)
    lines, n_published = _read_lines(folder)
    _check_span(lines["InvoiceDate"], asked, length)

    known = lines.filter(pc.is_valid(lines["CustomerID"]))
    past = known.filter(pc.less(known["InvoiceDate"], _at(asked)))
    later = known.filter(
        pc.and_(pc.greater_equal(known["InvoiceDate"], _at(asked)), pc.less(known["InvoiceDate"], _at(asked + length)))
    )
    customers = _buyers(past)
    events = past.filter(pc.is_in(past["CustomerID"], customers))
    X = cast(pd.DataFrame, nest_events(events, user="CustomerID", time="InvoiceDate", columns=list(_HEADERS)))
    y = pd.Series(X.index.isin(_buyers(later).to_numpy()).astype("int64"), X.index, name="buys_again")
    return make_bunch(
        X,
        y,
        return_X_y=return_X_y,
        target_names=["did not buy again", "bought again"],
        description=_DESCRIPTION.format(
            cut=cut,
            horizon=horizon,
            n_users=len(X),
            n_again=y.sum(),
            n_events=len(events),
            n_returned=pc.sum(_is_cancelled(events)).as_py(),
            n_published=n_published,
            n_repeated=n_published - len(lines),
            n_anonymous=len(lines) - len(known),
            n_later=len(known) - len(past),
            n_unbought=len(past) - len(events),
            n_strangers=len(past["CustomerID"].unique()) - len(customers),
        ),
        labels={},
        headers=_HEADERS,
    )


def _read_cut(cut: str | pd.Timestamp) -> pd.Timestamp:
    try:
        asked = pd.Timestamp(cut)
    except ValueError as error:
        raise ValueError(f"cut must be a time such as '2011-09-10', got {cut!r}.") from error
    if pd.isna(asked) or asked.tzinfo is not None:
        raise ValueError(f"cut must be a time without a time zone, such as '2011-09-10', got {cut!r}.")
    return asked


def _read_lines(folder: Path) -> tuple[pa.Table, int]:
    """Return the invoice lines of both years, each once, and the number of lines that are published."""
    remedy = remedies_for_damage(_SOURCE, folder)
    tables = Tables(_SOURCE.title, folder, remedy, {year.table: year.n_rows for year in _SOURCE.years})
    first, second = (tables.read(year.table, year.schema).rename_columns(_LINES.names) for year in _SOURCE.years)
    begin = pc.min(second["InvoiceDate"])
    lines = pa.concat_tables([first.filter(pc.less(first["InvoiceDate"], begin)), second])
    description = pc.utf8_trim_whitespace(lines["Description"])
    lines = lines.set_column(lines.schema.get_field_index("Description"), "Description", description)
    return lines, len(first) + len(second)


def _check_span(times: pa.ChunkedArray, asked: pd.Timestamp, length: pd.Timedelta) -> None:
    """Raise a ValueError unless there are lines before the question is asked, and until its answer is known."""
    begin, end = (pd.Timestamp(time.as_py()) for time in (pc.min(times), pc.max(times)))
    if asked <= begin:
        raise ValueError(f"There are no events before cut={str(asked)!r}: the data begin at {begin}. Use a later cut.")
    if asked + length > end:
        raise ValueError(
            f"Who buys again within horizon={str(length)!r} of cut={str(asked)!r} is not known: the data end at {end}. "
            "Use an earlier cut or a shorter horizon."
        )


def _at(time: pd.Timestamp) -> pa.Scalar:
    return pa.scalar(time.to_pydatetime(), pa.timestamp("us"))


def _is_cancelled(lines: pa.Table) -> pa.ChunkedArray:
    return pc.starts_with(lines["InvoiceNo"], "C")


def _buyers(lines: pa.Table) -> pa.Array:
    """Return the customers who have a line that is not cancelled."""
    return lines["CustomerID"].filter(pc.invert(_is_cancelled(lines))).unique()


def _check_reader() -> None:
    if importlib.util.find_spec("openpyxl") is None:
        raise ImportError(
            "Online Retail is published as Excel workbooks, and openpyxl, which reads them, is not installed. Install "
            "it for the download: pip install 'skllm4es[excel]'."
        )


def _read_workbook(path: Path, year: _Year) -> Iterator[pa.RecordBatch]:
    """Read the first sheet of a workbook: codes and descriptions that look like numbers become texts again."""
    import openpyxl

    workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
    rows = workbook.worksheets[0].iter_rows(values_only=True)
    names = next(rows, ())
    if tuple(names) != tuple(year.schema.names):
        raise DataSetError(f"{year.workbook} from {year.url} has the columns {names}, expected {year.schema.names}.")
    while block := list(itertools.islice(rows, 50_000)):
        columns = zip(*block, strict=True)
        yield pa.RecordBatch.from_arrays(
            [_to_arrow(values, field.type) for values, field in zip(columns, year.schema, strict=True)],
            schema=year.schema,
        )
    workbook.close()


def _to_arrow(values: Sequence[Any], data_type: pa.DataType) -> pa.Array:
    if pa.types.is_string(data_type):
        values = [None if value is None else str(value) for value in values]
    return pa.array(values, data_type)
