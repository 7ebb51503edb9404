"""MIMIC-IV: on a few admissions that these tests write in its layout, and on the real demo."""

import gzip
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from skllm4es import EventSerializer, unnest_events
from skllm4es.datasets import load_mimic_iv

# Patient 1 is admitted in January (admission 10) and in March (11); patient 2 (20) is discharged on the second day,
# patient 3 (30) dies in hospital on the tenth.
TABLES = {
    "admissions": """\
subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admission_location,discharge_location,hospital_expire_flag
1,11,2150-03-01 08:00:00,2150-03-09 12:00:00,,URGENT,CLINIC REFERRAL,HOME,0
1,10,2150-01-01 08:00:00,2150-01-05 12:00:00,,EW EMER.,EMERGENCY ROOM,HOME,0
2,20,2160-05-01 08:00:00,2160-05-02 12:00:00,,URGENT,CLINIC REFERRAL,HOME,0
3,30,2170-07-01 08:00:00,2170-07-10 12:00:00,2170-07-10 11:00:00,EW EMER.,EMERGENCY ROOM,DIED,1
""",
    "patients": """\
subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod
1,F,60,2149,2011 - 2013,
2,M,30,2160,2011 - 2013,
3,M,80,2170,2011 - 2013,2170-07-10
""",
    "labevents": """\
labevent_id,subject_id,hadm_id,itemid,charttime,storetime,value,valuenum,valueuom,flag,comments
1,1,10,1,2150-01-01 07:00:00,2150-01-01 07:40:00,5.5,5.5,mmol/L,abnormal,seen in the emergency department
2,1,10,1,2150-01-03 07:00:00,2150-01-03 08:00:00,4.1,4.1,mmol/L,,in time
3,1,10,1,2150-01-03 07:30:00,2150-01-03 08:01:00,4.2,4.2,mmol/L,,stored too late
4,1,10,2,2150-01-02 07:30:00,,NEG,,,,"no time of storage, and
two lines"
5,1,10,2,2150-01-02 07:31:00,2150-01-02 08:00:00,___,,,abnormal,
6,1,,1,2150-01-02 09:00:00,2150-01-02 09:30:00,9.9,9.9,mmol/L,,of no admission
7,3,30,7,2170-07-01 09:00:00,2170-07-01 09:30:00,1,1.0,,,not in the table of items
8,1,10,1,,2150-01-02 10:00:00,4.3,4.3,mmol/L,,no time of the sample
9,1,10,1,,,4.4,4.4,mmol/L,,no time at all
10,1,10,1,2150-01-03 08:30:00,2150-01-03 07:00:00,4.5,4.5,mmol/L,,stored before the sample
""",
    "d_labitems": "itemid,label,fluid,category\n1,Potassium,Blood,Chemistry\n2,Nitrite,Urine,Hematology\n",
    "prescriptions": """\
subject_id,hadm_id,pharmacy_id,starttime,stoptime,drug,dose_val_rx,dose_unit_rx,route
1,10,1,2150-01-01 12:00:00,2150-01-02 12:00:00,Heparin,"5,000",UNIT,SC
1,10,9,2150-01-01 13:00:00,2150-01-09 12:00:00,Fentanyl,50-100,mcg,IV
1,10,2,2150-01-03 08:00:01,2150-01-09 12:00:00,Morphine,2,mg,IV
1,10,3,2150-01-03 07:00:00,2150-01-09 12:00:00,Insulin,2,UNIT,SC
""",
    # Insulin is entered after it was begun; of Fentanyl, nothing is known.
    "pharmacy": """\
subject_id,hadm_id,pharmacy_id,entertime
1,10,1,2150-01-01 11:00:00
1,10,2,2150-01-01 11:00:00
1,10,3,2150-01-03 08:00:01
""",
    "transfers": """\
subject_id,hadm_id,transfer_id,eventtype,careunit,intime,outtime
1,10,5,ED,Emergency Department,2150-01-01 05:00:00,2150-01-01 08:00:00
1,10,6,admit,Medicine,2150-01-01 08:00:00,2150-01-05 12:00:00
1,10,7,discharge,,2150-01-02 12:00:00,
1,10,8,transfer,Surgery,2150-01-04 12:00:00,
""",
    "procedures_icd": """\
subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version
1,10,2,2150-01-02,0331,9
1,10,1,2150-01-02,5491,9
1,10,3,2150-01-03,3995,9
""",
    "d_icd_procedures": "icd_code,icd_version,long_title\n0331,9,Spinal tap\n5491,9,Abdominal drainage\n",
    "diagnoses_icd": """\
subject_id,hadm_id,seq_num,icd_code,icd_version
1,10,2,I10,10
1,10,1,0090,9
1,11,1,I10,10
3,30,1,R99,10
""",
    "d_icd_diagnoses": "icd_code,icd_version,long_title\n0090,9,Infectious colitis\nI10,10,Hypertension\n",
}


def _write(path, tables):
    (path / "hosp").mkdir(parents=True)
    for name, text in tables.items():
        (path / "hosp" / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
    return path


@pytest.fixture
def path(tmp_path):
    """The folder of a MIMIC-IV with four admissions."""
    return _write(tmp_path / "mimic", TABLES)


def _events(path, hadm_id, **parameters):
    X, _ = load_mimic_iv(path, return_X_y=True, **parameters)
    return unnest_events(X.loc[[hadm_id]]).drop(columns="hadm_id")


# ------------------------------------------------------------------------------------------- admissions and targets


def test_there_is_one_row_per_admission_that_has_not_ended(path):
    bunch = load_mimic_iv(path)
    assert bunch.data.index.tolist() == [10, 11, 30]
    assert bunch.data.index.name == "hadm_id"
    assert bunch.target.tolist() == [0, 0, 1]
    assert bunch.target.dtype == "int64"
    assert "3, of which 1 end in death; 1 that ended within 48h are left out" in bunch.DESCR


def test_an_earlier_question_is_asked_of_more_admissions(path):
    _, y = load_mimic_iv(path, horizon="24h", return_X_y=True)
    assert y.index.tolist() == [10, 11, 20, 30]


def test_patients_who_died_before_are_left_out_even_if_discharged_later(path):
    text = TABLES["admissions"].replace("2170-07-10 11:00:00", "2170-07-03 08:00:00")
    (path / "hosp" / "admissions.csv.gz").write_bytes(gzip.compress(text.encode()))
    _, y = load_mimic_iv(path, return_X_y=True)
    assert y.index.tolist() == [10, 11]


def test_groups_are_the_patients(path):
    bunch = load_mimic_iv(path)
    assert bunch.groups.to_dict() == {10: 1, 11: 1, 30: 3}


def test_bunch_follows_scikit_learn(path):
    bunch = load_mimic_iv(path)
    entries = ["DESCR", "data", "feature_names", "groups", "headers", "labels", "target", "target_names"]
    assert sorted(bunch) == entries
    assert bunch.feature_names == ["events"]
    assert bunch.target_names == ["survived", "died"]


def test_the_profile_is_what_is_known_at_admission(path):
    X, _ = load_mimic_iv(path, profile=True, return_X_y=True)
    assert list(X.columns) == ["events", "gender", "age", "admission_type", "admission_location"]
    assert X.loc[11].drop("events").tolist() == ["F", 61, "URGENT", "CLINIC REFERRAL"]


# -------------------------------------------------------------------------------------------------------- events


def test_events_are_those_known_when_the_question_is_asked(path):
    events = _events(path, 10)
    assert list(events.columns) == ["time", "event", "name", "value", "unit", "note"]
    assert events.fillna({"value": -1}).fillna("").astype({"time": "str"}).to_numpy().tolist() == [
        ["2150-01-01 05:00:00", "transfer", "Emergency Department", -1, "", "ED"],
        ["2150-01-01 07:00:00", "lab", "Potassium", 5.5, "mmol/L", "abnormal"],
        ["2150-01-01 08:00:00", "transfer", "Medicine", -1, "", "admit"],
        ["2150-01-01 12:00:00", "prescription", "Heparin", 5000, "UNIT", "SC"],
        ["2150-01-01 13:00:00", "prescription", "Fentanyl", -1, "mcg", "50-100 IV"],
        ["2150-01-02 07:30:00", "lab", "Nitrite (Urine)", -1, "", "NEG"],
        ["2150-01-02 07:31:00", "lab", "Nitrite (Urine)", -1, "", "abnormal"],
        ["2150-01-02 10:00:00", "lab", "Potassium", 4.3, "mmol/L", ""],
        ["2150-01-02 23:59:59", "procedure", "Abdominal drainage", -1, "", ""],
        ["2150-01-02 23:59:59", "procedure", "Spinal tap", -1, "", ""],
        ["2150-01-03 07:00:00", "lab", "Potassium", 4.1, "mmol/L", ""],
    ]


def test_a_later_question_has_more_events(path):
    names = _events(path, 10, horizon="76h")["name"].tolist()
    assert names[-7:] == ["Insulin", "Potassium", "Potassium", "Morphine", "Potassium", "ICD-9 3995", "Surgery"]


def test_diagnoses_are_those_of_earlier_admissions_when_they_ended(path):
    events = _events(path, 11)
    assert events["event"].tolist() == ["diagnosis", "diagnosis"]
    assert events["name"].tolist() == ["Infectious colitis", "Hypertension"]
    assert events["time"].astype("str").tolist() == ["2150-01-05 12:00:00"] * 2


def test_a_lab_test_without_a_name_is_called_by_its_number(path):
    (path / "hosp" / "d_labitems.csv.gz").write_bytes(gzip.compress(b"itemid,label,fluid\n7,,Blood\n"))
    assert _events(path, 30)["name"].tolist() == ["Lab test 7"]


def test_an_admission_without_events_is_a_row(path):
    text = TABLES["labevents"].replace("7,3,30", "7,3,")
    (path / "hosp" / "labevents.csv.gz").write_bytes(gzip.compress(text.encode()))
    X, _ = load_mimic_iv(path, return_X_y=True)
    assert X["events"].isna().tolist() == [False, False, True]
    assert EventSerializer().fit_transform(X)["text"].loc[30] == "time|event|name|value|unit|note"


def test_unpacked_tables_are_read_too(path):
    expected, _ = load_mimic_iv(path, return_X_y=True)
    for packed in (path / "hosp").iterdir():
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    X, _ = load_mimic_iv(path, return_X_y=True)
    pd.testing.assert_frame_equal(X, expected)


def test_the_bunch_serialises_with_its_own_headers(path):
    bunch = load_mimic_iv(path)
    texts = EventSerializer(labels=bunch.labels, headers=bunch.headers).fit_transform(bunch.data)["text"]
    assert texts.loc[11] == (
        "time|kind|name|value|unit|note\n"
        "2150-01-05 12:00:00, diagnosis, Infectious colitis, , , \n"
        "2150-01-05 12:00:00, diagnosis, Hypertension, , , "
    )


# ---------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", list(TABLES))
def test_a_missing_table_is_named(path, name):
    (path / "hosp" / f"{name}.csv.gz").unlink()
    with pytest.raises(OSError, match=rf"MIMIC-IV: .*hosp/{name}\.csv\.gz is missing(?s:.*)SHA256SUMS"):
        load_mimic_iv(path, profile=True)


@pytest.mark.parametrize("name", list(TABLES))
def test_a_truncated_table_is_named(path, name):
    table = path / "hosp" / f"{name}.csv.gz"
    table.write_bytes(table.read_bytes()[:-6])
    with pytest.raises(OSError, match=rf"{name}\.csv\.gz cannot be .*Truncated"):
        load_mimic_iv(path, profile=True)


def test_a_table_of_another_version_says_which_column_it_lacks(path):
    text = TABLES["labevents"].replace("storetime", "storedate")
    (path / "hosp" / "labevents.csv.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(OSError, match=r"labevents\.csv\.gz has no column 'storetime': its first line is 'labevent_id"):
        load_mimic_iv(path)


@pytest.mark.parametrize("flag", ["2", ""])
def test_an_invalid_flag_of_death_is_an_error(path, flag):
    text = TABLES["admissions"].replace("DIED,1", f"DIED,{flag}")
    (path / "hosp" / "admissions.csv.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(OSError, match=r"admissions\.csv\.gz has .*'hospital_expire_flag'"):
        load_mimic_iv(path)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("admissions", "1,10,2150", "1,11,2150", "has several labels of hadm_id 11"),
        ("patients", "2,M", "1,M", "has subject_id 1 twice"),
        ("diagnoses_icd", "R99,10", "R99,", "has no value of 'icd_version' in 1 of 4 rows"),
        ("procedures_icd", "5491", "", "has no value of 'icd_code' in 1 of 3 rows"),
        ("labevents", "5.5,5.5", "5.5,high", "cannot be read to its end.*high"),
    ],
)
def test_impossible_values_are_an_error(path, name, old, new, message):
    text = TABLES[name].replace(old, new)
    assert text != TABLES[name]
    (path / "hosp" / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(OSError, match=rf"MIMIC-IV: .*{name}\.csv\.gz {message}"):
        load_mimic_iv(path, profile=True)


@pytest.mark.parametrize("horizon", ["soon", "-3h", "0h", "nat"])
def test_an_invalid_horizon_is_an_error(path, horizon):
    with pytest.raises(ValueError, match=f"horizon must be a .*length of time.*'{horizon}'"):
        load_mimic_iv(path, horizon=horizon)


@pytest.mark.parametrize("horizon", ["48", " 48 ", "48.5", "+48", "1 day 48", "1h30", "48,0h"])
def test_a_horizon_whose_number_has_no_unit_is_an_error(path, horizon):
    with pytest.raises(ValueError, match="horizon must be a length of time with a unit, such as '48h'"):
        load_mimic_iv(path, horizon=horizon)


@pytest.mark.parametrize(
    "horizon", ["48h", "48 hours", "2D", "2 days 00:00:00", "48:00:00", "1 day 24h", "P2D", "PT48H", "2.0 days"]
)
def test_a_horizon_may_be_written_in_many_ways(path, horizon):
    pd.testing.assert_frame_equal(load_mimic_iv(path, horizon=horizon).data, load_mimic_iv(path).data)


def test_a_horizon_beyond_all_admissions_says_how_long_they_are(path):
    with pytest.raises(ValueError, match=r"None of the 4 admissions lasts .*the longest one takes 9 days 03:00:00"):
        load_mimic_iv(path, horizon="30 days")


# ---------------------------------------------------------------------------------------------------- the real demo


@pytest.fixture(scope="module")
def demo(data_home):
    return load_mimic_iv(data_home / "mimic-iv-demo")


@pytest.mark.real_data
def test_the_demo_has_220_admissions_of_two_days_with_13_deaths(demo):
    assert demo.data.shape == (220, 1)
    assert demo.target.sum() == 13
    assert demo.groups.nunique() == 99
    counts = unnest_events(demo.data)["event"].value_counts()
    assert set(counts.index) == {"lab", "prescription", "diagnosis", "transfer", "procedure"}


@pytest.mark.real_data
def test_events_of_the_demo_are_in_order_and_named(demo):
    events = unnest_events(demo.data)
    assert events.groupby("hadm_id")["time"].is_monotonic_increasing.all()
    assert events["name"].notna().all()
    assert not events["note"].eq("discharge").any()
    assert not events["note"].eq("").any()


@pytest.mark.real_data
def test_the_demo_goes_through_the_serializer_and_keeps_patients_apart(demo):
    texts = EventSerializer(headers=demo.headers).fit_transform(demo.data)["text"]
    assert texts.str.startswith("time|kind|name|value|unit|note\n").all()
    for train, test in StratifiedGroupKFold(3).split(demo.data, demo.target, demo.groups):
        assert not set(demo.groups.iloc[train]) & set(demo.groups.iloc[test])


@pytest.mark.real_data
def test_nothing_that_comes_after_the_question_changes_the_events(demo, data_home, tmp_path):
    source, hosp = data_home / "mimic-iv-demo" / "hosp", tmp_path / "hosp"
    hosp.mkdir()
    for name in TABLES:
        shutil.copyfile(source / f"{name}.csv.gz", hosp / f"{name}.csv.gz")
    admissions = pd.read_csv(source / "admissions.csv.gz", parse_dates=["admittime", "dischtime"])
    asked = admissions.set_index("hadm_id")["admittime"] + pd.Timedelta("48h")
    latest = admissions.sort_values("admittime").drop_duplicates("subject_id", keep="last")["hadm_id"]
    open_end = admissions["hadm_id"].isin(latest) & admissions["hadm_id"].isin(demo.data.index)
    assert open_end.sum() > 50
    admissions.loc[open_end, "dischtime"] += pd.Timedelta("30D")
    admissions["deathtime"] = pd.NaT
    admissions["discharge_location"] = "DIED"
    admissions["hospital_expire_flag"] = 1 - admissions["hospital_expire_flag"]
    admissions.to_csv(hosp / "admissions.csv.gz", index=False)

    def rewrite(name, change):
        table = pd.read_csv(source / f"{name}.csv.gz", dtype="str")
        before = len(table)
        table = change(table, table["hadm_id"].astype("float").map(asked) if "hadm_id" in table else None)
        table.to_csv(hosp / f"{name}.csv.gz", index=False)
        return before - len(table)

    def until(times):
        return lambda table, asked: table[~(pd.to_datetime(table[times]) > asked)]

    entered = pd.read_csv(source / "pharmacy.csv.gz", usecols=["pharmacy_id", "entertime"], dtype="str")
    entered = entered.set_index("pharmacy_id")["entertime"]

    def without_later_prescriptions(table, asked):
        known = table[["starttime"]].assign(entered=table["pharmacy_id"].map(entered)).max(axis=1)
        return table[~(pd.to_datetime(known) > asked)].assign(stoptime="")

    def without_later_procedures(table, asked):
        return table[~(pd.to_datetime(table["chartdate"]) + pd.Timedelta("1D") > asked + pd.Timedelta("1s"))]

    def other_codes(table, asked):
        last = table["hadm_id"].astype("int").isin(latest)
        return table.assign(icd_code=np.where(last, "R99", table["icd_code"]), icd_version=table["icd_version"])

    n_dropped = {
        "patients": rewrite("patients", lambda table, _: table.assign(dod="2100-01-01")),
        "labevents": rewrite("labevents", until("storetime")),
        "prescriptions": rewrite("prescriptions", without_later_prescriptions),
        "pharmacy": rewrite("pharmacy", until("entertime")),
        "transfers": rewrite("transfers", lambda *rows: until("intime")(*rows).assign(outtime="")),
        "procedures_icd": rewrite("procedures_icd", without_later_procedures),
        "diagnoses_icd": rewrite("diagnoses_icd", other_codes),
    }
    assert n_dropped["labevents"] > 10_000
    assert n_dropped["prescriptions"] > 1_000
    changed = load_mimic_iv(tmp_path)
    pd.testing.assert_frame_equal(changed.data, demo.data)
    pd.testing.assert_series_equal(changed.target, 1 - demo.target)
