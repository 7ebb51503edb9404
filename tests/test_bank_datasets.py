"""Rosbank, Gender and Age: on files of the published layout that these tests write, some from real clients."""

import gzip
import json
import re
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from benchmarks.data import load
from benchmarks.presets import PRESETS
from benchmarks.representations import Context, aggregates, bag
from skllm4es import EventSerializer, unnest_events
from skllm4es.datasets import _age, _gender, _rosbank, fetch_age, fetch_gender, fetch_rosbank

ROSBANK = {
    "train.csv.gz": """\
PERIOD,cl_id,MCC,channel_type,currency,TRDATETIME,amount,trx_category,target_flag,target_sum
01/10/2017,7,5411,type1,810,21OCT17:14:30:00,500.5,POS,1,0.0
01/10/2017,3,6011,,840,01SEP17:00:00:00,20.0,WD_ATM_ROS,0,99.0
01/02/2017,7,5812,type1,810,28FEB17:23:59:59,1200.0,POS,1,0.0
""",
    "test.csv.gz": """\
PERIOD,cl_id,MCC,channel_type,currency,TRDATETIME,amount,trx_category
01/05/2017,5,4111,type2,978,05MAY17:08:00:00,2.4,C2C_OUT
""",
}
GENDER = {
    "gender_train.csv": "customer_id,gender\n11,1\n22,0\n",
    "transactions.csv.gz": """\
customer_id,tr_datetime,mcc_code,tr_type,amount,term_id
11,1 00:00:05,5411,1010,-2245.92,111A
11,0 23:59:60,6011,2010,-500.0,
33,12 08:15:00,4814,1030,-5614.79,
22,456 10:00:00,4829,2370,44918.32,77
""",
}
AGE = {
    "train_target.csv": "client_id,bins\n4,2\n9,0\n",
    "transactions_train.csv.gz": """\
client_id,trans_date,small_group,amount_rur
4,12,1,71.463
9,3,25,5.5
4,2,203,9.0
""",
    "transactions_test.csv.gz": "client_id,trans_date,small_group,amount_rur\n6,1,4,3.25\n",
}


def _encode(files):
    return {
        name: gzip.compress(text.encode()) if name.endswith(".gz") else text.encode() for name, text in files.items()
    }


class Case:
    """A data set, its module and its name."""

    def __init__(self, fetch, module, files):
        self.fetch, self.module, self.files = fetch, module, _encode(files)
        self.folder, self.title = module._SOURCE.folder, module._SOURCE.title


CASES = {
    "rosbank": Case(fetch_rosbank, _rosbank, ROSBANK),
    "gender": Case(fetch_gender, _gender, GENDER),
    "age": Case(fetch_age, _age, AGE),
}


def _write(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A data home with the three data sets, each with a few users."""
    for case in CASES.values():
        _write(tmp_path / case.folder, case.files)
    for module in (_gender, _age):
        monkeypatch.setattr(module, "_SOURCE", replace(module._SOURCE, n_rows=dict.fromkeys(module._SOURCE.n_rows, 2)))
    return tmp_path


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


# ------------------------------------------------------------------------------------------------ what they hold


@pytest.mark.parametrize("name", CASES)
def test_benchmarks_have_settings_that_fit_its_fields(name, home):
    data = load(name, data_home=home)
    context = Context(data, PRESETS["paper"], PRESETS["paper"].few, 0, home)
    assert 0 < len(data.labelled) < len(data.X)
    for build in (aggregates, bag):
        assert len(build(context).fit_transform(data.X)) == len(data.X)
    assert EventSerializer(**data.serializer).fit_transform(data.X)["text"].str.len().min() > 0


def test_rosbank_events_are_in_order_of_time_and_do_not_reveal_the_target(home):
    X, y = fetch_rosbank(data_home=home, return_X_y=True)
    assert X.index.tolist() == [3, 7]
    assert X.index.name == "cl_id"
    assert y.tolist() == [0, 1]
    events = unnest_events(X)
    fields = ["cl_id", "TRDATETIME", "MCC", "channel_type", "currency", "amount", "trx_category"]
    assert list(events.columns) == fields
    assert events["TRDATETIME"].astype(str).tolist() == [
        "2017-09-01 00:00:00",
        "2017-02-28 23:59:59",
        "2017-10-21 14:30:00",
    ]
    assert events["channel_type"].isna().tolist() == [True, False, False]


def test_gender_times_are_days_and_times_of_day_even_with_sixty_seconds(home):
    X, y = fetch_gender(data_home=home, return_X_y=True)
    assert X.index.tolist() == [11, 22]
    assert y.tolist() == [1, 0]
    events = unnest_events(X)
    assert list(events.columns) == ["customer_id", "day", "time", "mcc_code", "tr_type", "amount", "term_id"]
    assert events["day"].tolist() == [1, 1, 456]
    assert events["time"].astype(str).tolist() == ["00:00:00", "00:00:05", "10:00:00"]
    assert events["term_id"].fillna("").tolist() == ["", "111A", "77"]


def test_age_events_are_in_order_of_days(home):
    X, y = fetch_age(data_home=home, return_X_y=True)
    assert y.to_dict() == {4: 2, 9: 0}
    events = unnest_events(X)
    assert list(events.columns) == ["client_id", "trans_date", "small_group", "amount_rur"]
    assert events["trans_date"].tolist() == [2, 12, 3]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "rosbank",
            "time|merchant category|channel|currency|amount|type\n"
            '2017-02-28 23:59:59, "Eating Places, Restaurants", type1, Russian Ruble, 1200, card payment'
            '\n2017-10-21 14:30:00, "Grocery Stores, Supermarkets", type1, Russian Ruble, 500.5, '
            "card payment",
        ),
        (
            "gender",
            "day|time|merchant category|type|amount|terminal\n"
            "1, 00:00:00, Financial Institutions - Automated Cash Disbursements, Cash from a Sberbank ATM, -500, \n"
            '1, 00:00:05, "Grocery Stores, Supermarkets", Purchase at a POS terminal of a Sberbank merchant, '
            "-2245.92, 111A",
        ),
        ("age", "day|category|amount\n2, Concrete work, 9\n12, Supermarket and grocery chains, 71.463"),
    ],
)
def test_the_bunch_serialises_with_its_own_labels_and_headers(home, name, expected):
    bunch = CASES[name].fetch(data_home=home)
    serializer = EventSerializer(labels=bunch.labels, headers=bunch.headers, unlabelled="error")
    texts = serializer.fit_transform(bunch.data)["text"]
    assert texts.loc[{"rosbank": 7, "gender": 11, "age": 4}[name]] == expected


def test_bunches_follow_scikit_learn(home, case):
    bunch = case.fetch(data_home=home)
    assert sorted(bunch) == ["DESCR", "data", "feature_names", "headers", "labels", "target", "target_names"]
    assert bunch.feature_names == ["events"]
    assert bunch.target.dtype == "int64"
    assert bunch.target.max() < len(bunch.target_names)
    assert bunch.DESCR.startswith(case.title)


# ---------------------------------------------------------------------------------------- users without a label


def test_users_without_a_label_are_left_out_by_default(home, case):
    X, y = case.fetch(data_home=home, return_X_y=True)
    assert len(X) == 2
    assert (y >= 0).all()


def test_users_without_a_label_come_alone_with_the_target_minus_one(home, case):
    X, y = case.fetch(subset="unlabelled", data_home=home, return_X_y=True)
    assert len(X) == 1
    assert y.tolist() == [-1]
    assert X.index.equals(y.index)


def test_all_users_are_those_with_and_those_without_a_label(home, case):
    X, y = case.fetch(subset="all", data_home=home, return_X_y=True)
    parts = [case.fetch(subset=subset, data_home=home, return_X_y=True)[1] for subset in ("labelled", "unlabelled")]
    pd.testing.assert_series_equal(y, pd.concat(parts).sort_index())
    assert X["events"].list.len().min() >= 1


def test_a_labelled_user_without_events_is_not_lost(home):
    (home / "transactions-gender" / "gender_train.csv").write_text("customer_id,gender\n11,1\n99,0\n")
    X, _ = fetch_gender(data_home=home, return_X_y=True)
    assert X.index.tolist() == [11, 99]
    assert X["events"].isna().tolist() == [False, True]
    texts = EventSerializer().fit_transform(X)["text"]
    assert texts.loc[99] == "day|time|mcc_code|tr_type|amount|term_id"


def test_an_unknown_subset_is_an_error(tmp_path, case):
    with pytest.raises(ValueError, match=rf"'subset' parameter of {case.fetch.__name__} must be .*'test'"):
        case.fetch(subset="test", data_home=tmp_path)


# ------------------------------------------------------------------------------------------------------ downloads


def test_the_files_are_downloaded_once(home, case, server, monkeypatch):
    server.files = case.files
    monkeypatch.setattr(case.module, "_SOURCE", replace(case.module._SOURCE, url=server.url))
    new = home / "new"
    X, _ = case.fetch(data_home=new, return_X_y=True)
    assert len(X) == 2
    assert [path.name for path in new.iterdir()] == [case.folder]
    case.fetch(data_home=new)
    assert server.n_requests == len(case.files)


def test_downloaded_files_may_be_read_by_others(home, case, server, monkeypatch):
    server.files = case.files
    monkeypatch.setattr(case.module, "_SOURCE", replace(case.module._SOURCE, url=server.url))
    case.fetch(data_home=home / "new")
    for name in case.files:
        assert (home / "new" / case.folder / name).stat().st_mode == (home / case.folder / name).stat().st_mode


@pytest.mark.parametrize("damage", ["login page", "truncated", "renamed column"])
def test_a_download_that_is_not_the_data_set_leaves_nothing(home, case, server, monkeypatch, damage):
    last = list(case.files)[-1]
    content = {
        "login page": b"<html>Please log in</html>",
        "truncated": case.files[last][:-9],
        "renamed column": gzip.compress(gzip.decompress(case.files[last]).replace(b"_id", b"_number")),
    }[damage]
    server.files = {**case.files, last: content}
    monkeypatch.setattr(case.module, "_SOURCE", replace(case.module._SOURCE, url=server.url))
    with pytest.raises(OSError, match=rf"What http.* sent is not {case.title}: .*{last}(?s:.*)login page may have"):
        case.fetch(data_home=home / "new")
    assert list((home / "new").iterdir()) == []


def test_absent_data_says_how_to_get_it(tmp_path, case):
    with pytest.raises(OSError, match=rf"{case.title} was not found: .*{case.folder}(?s:.*)3\. .*download .*csv"):
        case.fetch(data_home=tmp_path, download_if_missing=False)


# ------------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda old: old[:-9], r"cannot be .*Truncated compressed stream"),
        (lambda old: old[: len(old) // 2], r"cannot be "),
        (lambda old: old[:-5] + b"\0" + old[-4:], r"incorrect"),
        (gzip.decompress, "cannot be decompressed: truncated, changed or unpacked"),
        (lambda old: b"", r"has no column|cannot be"),
        (lambda old: gzip.compress(gzip.decompress(old).replace(b"amount", b"sum")), r"has no column 'amount"),
        (lambda old: gzip.compress(gzip.decompress(old).replace(b",", b";")), r"has no column .*first line is '"),
        (lambda old: gzip.compress(gzip.decompress(old).decode().encode("utf-16")), r"has no column .*re-encoded"),
        (lambda old: gzip.compress(gzip.decompress(old)[:-6]), r"cannot be read to its end.*Expected \d+ columns"),
        (lambda old: gzip.compress(gzip.decompress(old) + b"x\n"), "Expected"),
        (lambda old: gzip.compress(gzip.decompress(old).split(b"\n")[0] + b"\n"), "has no rows: it is truncated"),
        (lambda old: gzip.compress(re.sub(rb"(amount\w*)", rb"\1,\1", gzip.decompress(old))), "'amount.*' twice"),
    ],
)
def test_damaged_events_are_an_error_with_file_and_reason(home, case, change, message):
    name = list(case.files)[1 if case.folder != "rosbank-churn" else 0]
    path = home / case.folder / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(OSError, match=rf"{case.title}: .*{name} .*({message})(?s:.*)1\. Move or delete"):
        case.fetch(data_home=home)


def test_a_missing_file_is_named(home, case):
    (home / case.folder / list(case.files)[-1]).unlink()
    with pytest.raises(OSError, match=rf"{list(case.files)[-1]} is missing"):
        case.fetch(data_home=home)


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
def test_other_line_ends_and_a_byte_order_mark_are_read(home, case, line_end):
    expected, _ = case.fetch(data_home=home, return_X_y=True)
    for name, content in case.files.items():
        text = gzip.decompress(content) if name.endswith(".gz") else content
        text = b"\xef\xbb\xbf" + text.replace(b"\n", line_end)
        (home / case.folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    X, _ = case.fetch(data_home=home, return_X_y=True)
    pd.testing.assert_frame_equal(X, expected)


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        ("rosbank", "train.csv.gz", "21OCT17:14:30:00", "2017-10-21", r"has a TRDATETIME that is not like '21OCT17"),
        ("rosbank", "train.csv.gz", "POS,1,0.0", "POS,2,0.0", r"has the labels \[2\] in 'target_flag'"),
        ("rosbank", "train.csv.gz", "1200.0,POS,1", "1200.0,POS,0", "has several labels of cl_id 7"),
        ("rosbank", "test.csv.gz", ",5,4111", ",,4111", "has no value of 'cl_id' in 1 of 1 rows"),
        ("gender", "transactions.csv.gz", "456 10:00:00", "10:00:00", "has the tr_datetime '10:00:00'"),
        ("gender", "transactions.csv.gz", "456 10:00:00", "9" * 20 + " 10:00:00", "has the tr_datetime '9999"),
        ("gender", "gender_train.csv", "22,0\n", "", "has 1 rows, published 2: it is truncated"),
        ("gender", "gender_train.csv", "22,0", "22,", "has no value of 'gender' in 1 of 2"),
        ("gender", "gender_train.csv", "22,0", "11,0", "has several labels of customer_id 11"),
        ("age", "train_target.csv", "4,2", "4,4", r"has the labels \[4\] in 'bins', expected \[0, 1, 2, 3\]"),
        ("age", "transactions_train.csv.gz", "71.463", "much", "cannot be read to its end.*much"),
    ],
)
def test_impossible_values_are_an_error(home, name, file, old, new, message):
    case = CASES[name]
    content = case.files[file]
    text = gzip.decompress(content).decode() if file.endswith(".gz") else content.decode()
    changed = text.replace(old, new).encode()
    assert changed != text.encode()
    (home / case.folder / file).write_bytes(gzip.compress(changed) if file.endswith(".gz") else changed)
    with pytest.raises(OSError, match=rf"{case.title}: .*{file} {message}"):
        case.fetch(data_home=home)


# --------------------------------------------------------------------------------------------- 32 real clients


def _samples(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.real_data
def test_real_labels_of_gender_are_read_and_checked_in_full(data_home, tmp_path):
    clients = _samples(data_home / "sber-gender" / "sample_32_clients.jsonl")
    types = pd.read_csv(data_home / "sber-gender" / "tr_types.csv", sep=";")["tr_type"].tolist()
    mccs = pd.read_csv(data_home / "sber-gender" / "tr_mcc_codes.csv", sep=";")["mcc_code"].tolist()
    # The sample holds one number for what a transaction was, and no times: the layout's columns are made from them.
    rows = [
        f"{client['client_id']},{i} 10:00:00,{mccs[code % len(mccs)]},{types[code % len(types)]},{amount},"
        for client in clients
        for i, (code, amount) in enumerate(zip(client["transactions"], client["amounts"], strict=True))
    ]
    text = "\n".join(["customer_id,tr_datetime,mcc_code,tr_type,amount,term_id", *rows, ""])
    folder = tmp_path / "transactions-gender"
    _write(folder, {"transactions.csv.gz": gzip.compress(text.encode())})
    shutil.copyfile(data_home / "sber-gender" / "gender_train.csv", folder / "gender_train.csv")
    bunch = fetch_gender(data_home=tmp_path)
    assert len(bunch.target) == 8400
    sampled = bunch.target.loc[[client["client_id"] for client in clients]]
    assert sampled.tolist() == [client["label"] for client in clients]
    X = bunch.data.loc[sampled.index]
    serializer = EventSerializer(labels=bunch.labels, headers=bunch.headers, unlabelled="error")
    assert serializer.fit_transform(X)["text"].str.count("\n").tolist() == [len(c["amounts"]) for c in clients]


@pytest.mark.real_data
def test_real_clients_of_age_go_through_with_words_for_all_their_groups(data_home, tmp_path, monkeypatch):
    clients = _samples(data_home / "sirius-age" / "sample_32_clients.jsonl")
    labels = {client["client_id"]: client["label"] for client in clients}  # one client is there in two parts
    # The sample has no times: the order of the transactions stands for the days.
    rows = [
        f"{client['client_id']},{day},{group},{amount}"
        for client in clients
        for day, (group, amount) in enumerate(zip(client["transactions"], client["amounts"], strict=True))
    ]
    header = "client_id,trans_date,small_group,amount_rur"
    files = {
        "train_target.csv": "\n".join(["client_id,bins", *(f"{user},{label}" for user, label in labels.items()), ""]),
        "transactions_train.csv.gz": "\n".join([header, *rows, ""]),
        "transactions_test.csv.gz": f"{header}\n1,1,1,1\n",
    }
    _write(tmp_path / "age-group-prediction", _encode(files))
    with pytest.raises(OSError, match=r"train_target\.csv has 31 rows, published 30,000"):
        fetch_age(data_home=tmp_path)
    monkeypatch.setattr(_age, "_SOURCE", replace(_age._SOURCE, n_rows={"train_target.csv": 31}))
    bunch = fetch_age(data_home=tmp_path)
    assert bunch.target.to_dict() == labels
    assert len(unnest_events(bunch.data)) == 3029
    serializer = EventSerializer(labels=bunch.labels, headers=bunch.headers, unlabelled="error")
    assert "Supermarket and grocery chains" in serializer.fit_transform(bunch.data)["text"].iloc[0]


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("fetched", "field", "file", "sep", "column"),
    [
        ("gender", "tr_type", "sber-gender/tr_types.csv", ";", "tr_type"),
        ("age", "small_group", "sirius-age/small_group_description.csv", ",", "small_group_code"),
    ],
)
def test_every_code_with_a_russian_description_has_an_english_one(home, data_home, fetched, field, file, sep, column):
    labels = CASES[fetched].fetch(data_home=home).labels[field]
    assert set(labels.index) == set(pd.read_csv(data_home / file, sep=sep)[column])
    assert labels.is_unique
    assert all(map(str.isascii, labels))
