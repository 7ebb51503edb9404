"""MIMIC-IV: hospital admissions as event sequences, death in hospital as the target.

The question is asked some time after admission, of those who are still in hospital. An event counts only if it was
known by then; the functions below say when that was for each table.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast, overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.utils import Bunch

from skllm4es._compat import validate_params
from skllm4es.datasets._clients import check_labels
from skllm4es.datasets._loading import make_bunch, read_horizon
from skllm4es.datasets._tables import Tables
from skllm4es.events._nesting import nest_events

_TIME, _TEXT = pa.timestamp("s"), pa.string()
_ADMISSIONS = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("hadm_id", pa.int64(), nullable=False),
        pa.field("admittime", _TIME, nullable=False),
        pa.field("dischtime", _TIME, nullable=False),
        pa.field("deathtime", _TIME),
        pa.field("hospital_expire_flag", pa.int64(), nullable=False),
        pa.field("admission_type", _TEXT),
        pa.field("admission_location", _TEXT),
    ]
)
_PATIENTS = pa.schema(
    [("subject_id", pa.int64()), ("gender", _TEXT), ("anchor_age", pa.int64()), ("anchor_year", pa.int64())]
)
_LABS = pa.schema(
    [
        ("hadm_id", pa.int64()),
        ("itemid", pa.int64()),
        ("charttime", _TIME),
        ("storetime", _TIME),
        ("value", _TEXT),
        ("valuenum", pa.float64()),
        ("valueuom", _TEXT),
        ("flag", _TEXT),
    ]
)
_PHARMACY = pa.schema([("hadm_id", pa.int64()), ("pharmacy_id", pa.int64()), ("entertime", _TIME)])
_PRESCRIPTIONS = pa.schema(
    [
        ("hadm_id", pa.int64()),
        ("pharmacy_id", pa.int64()),
        ("starttime", _TIME),
        ("drug", _TEXT),
        ("dose_val_rx", _TEXT),
        ("dose_unit_rx", _TEXT),
        ("route", _TEXT),
    ]
)
_TRANSFERS = pa.schema([("hadm_id", pa.int64()), ("eventtype", _TEXT), ("careunit", _TEXT), ("intime", _TIME)])
_CODED = pa.schema(
    [
        ("hadm_id", pa.int64()),
        ("seq_num", pa.int64()),
        pa.field("icd_code", _TEXT, nullable=False),
        pa.field("icd_version", pa.int64(), nullable=False),
    ]
)
_DATED = _CODED.append(pa.field("chartdate", pa.date32()))
_TITLES = pa.schema([("icd_code", _TEXT), ("icd_version", pa.int64()), ("long_title", _TEXT)])
_LAB_ITEMS = pa.schema([("itemid", pa.int64()), ("label", _TEXT), ("fluid", _TEXT)])

_WORDS = pa.dictionary(pa.int32(), _TEXT)
_EVENTS = pa.schema(
    [
        ("hadm_id", pa.int64()),
        ("time", _TIME),
        ("event", _WORDS),
        ("name", _WORDS),
        ("value", pa.float64()),
        ("unit", _WORDS),
        ("note", _WORDS),
    ]
)
_CONSTRAINTS = {
    "path": [str, os.PathLike],
    "horizon": [str, pd.Timedelta],
    "profile": ["boolean"],
    "return_X_y": ["boolean"],
}
_REMEDY = """\
1. Pass the folder of MIMIC-IV that holds the folder hosp/ with the csv files, compressed (.csv.gz) or not.
2. Compare the file with the SHA256SUMS.txt of the release, and download it again if it differs: from
   https://physionet.org/content/mimiciv/ (with credentials) or https://physionet.org/content/mimic-iv-demo/ (open)."""
_DESCRIPTION = """\
MIMIC-IV, in-hospital mortality
===============================

Admissions to the Beth Israel Deaconess Medical Center, from a local copy of MIMIC-IV or of its demo. The question is
asked {horizon} after admission, of the patients who are in hospital then: will they die before they leave?

:Admissions: {n_admissions:,}, of which {n_deaths:,} end in death; {n_ended:,} that ended within {horizon} are left out
:Patients: {n_patients:,}; the entry groups says whose admission it is
:Events: {n_events:,}, all known {horizon} after admission
:Event: time, event, name, value, unit, note
:Target: hospital_expire_flag (1 = died in hospital)

Dates are shifted patient by patient, as published.

Terms: those of the data use agreement of PhysioNet for MIMIC-IV; the Open Database License for the demo.

Reference: A. E. W. Johnson et al. 2023. MIMIC-IV, a freely accessible electronic health record dataset. Scientific Data
10, 1. https://doi.org/10.1038/s41597-022-01899-x
"""


@overload
def load_mimic_iv(
    path: str | os.PathLike[str],
    *,
    horizon: str | pd.Timedelta = "48h",
    profile: bool = False,
    return_X_y: Literal[False] = False,
) -> Bunch: ...
@overload
def load_mimic_iv(
    path: str | os.PathLike[str],
    *,
    horizon: str | pd.Timedelta = "48h",
    profile: bool = False,
    return_X_y: Literal[True],
) -> tuple[pd.DataFrame, pd.Series]: ...
@validate_params(_CONSTRAINTS, prefer_skip_nested_validation=True)
def load_mimic_iv(
    path: str | os.PathLike[str],
    *,
    horizon: str | pd.Timedelta = "48h",
    profile: bool = False,
    return_X_y: bool = False,
) -> Bunch | tuple[pd.DataFrame, pd.Series]:
    """Load MIMIC-IV from a local copy: a hospital admission's events, and whether it ends in death.

    Nothing is downloaded: MIMIC-IV [1]_ is for credentialed users, its demo of 100 patients [2]_ is open. Large tables
    are read block by block; only the events that are kept are held in memory.

    The question is asked `horizon` after admission, of those who are in hospital then. Admissions that ended before, by
    discharge or death, are left out, since their outcome is known; ``DESCR`` says how many. All events of an admission
    were known by the time of the question:

    ==============  ======================================================================================
    Event           Known, and shown, at
    ==============  ======================================================================================
    lab             known when the result was stored (at the sample's time if that is missing, as it is
                    for notes that a sample is held); shown at the time of the sample. Results without
                    an admission (``hadm_id``) or a time are left out
    prescription    known when it has started and was entered at the pharmacy; shown at the start. Its end
                    is not read
    transfer        the entry to the unit, from the emergency department on. Discharges are not read
    procedure       the end of its day: MIMIC-IV has only a date. The code is that of the bill, written
                    after discharge, but it was known that the procedure was done
    diagnosis       coded after discharge, so those of the admission itself would reveal its outcome: only
                    those of earlier admissions are included, at the time of that discharge
    ==============  ======================================================================================

    Parameters
    ----------
    path : str or path-like
        The folder of MIMIC-IV or of its demo, which holds the folder ``hosp`` with its csv files, compressed
        (``.csv.gz``) or not.
    horizon : str or pandas.Timedelta, default="48h"
        How long after admission the question is asked, with a unit.
    profile : bool, default=False
        Whether `X` also has what is known of the patient at admission: ``gender``, ``age`` (years; above 89 as MIMIC-IV
        changes it), ``admission_type`` and ``admission_location``.
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch. The groups come with the Bunch only.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes:

        data : pandas.DataFrame of shape (n_admissions, 1), or (n_admissions, 5) with ``profile=True``
            One row per admission, indexed by ``hadm_id``. The column ``events`` lists its events in order of time, each
            with ``time``, ``event`` ("lab", "prescription", ...), ``name`` (of the test, drug, unit, procedure or
            diagnosis), ``value`` (of the result or dose, if it is a number), ``unit`` and ``note`` (a result that is
            not a number, whether it is abnormal, the route of a drug, the kind of a transfer). An admission without
            events has a null.
        target : pandas.Series of shape (n_admissions,)
            int64, aligned with ``data``: 1 if the patient died in hospital.
        groups : pandas.Series of shape (n_admissions,)
            int64, aligned with ``data``: the patient (``subject_id``). Admissions of one patient are not independent:
            pass the groups to :class:`~sklearn.model_selection.StratifiedGroupKFold` and the like.
        feature_names : list of str
            The columns of ``data``.
        target_names : list of str
            The names of the classes 0 and 1, ``["survived", "died"]``.
        labels : dict
            Empty: the events are in words.
        headers : dict of str to str
            Names for the header line, to pass to :class:`~skllm4es.EventSerializer`.
        DESCR : str
            Description of the data set, its terms and its reference.

    (data, target) : tuple if ``return_X_y`` is True
        The DataFrame and the first Series above.

    Raises
    ------
    OSError
        If a table is missing, truncated or changed, or lacks columns. The message says which, and what to do.
    ValueError
        If `horizon` is not a positive length of time, or no admission lasts that long.

    References
    ----------
    .. [1] A. E. W. Johnson et al., "MIMIC-IV, a freely accessible electronic health record dataset", Scientific Data
       10, 1, 2023. https://doi.org/10.1038/s41597-022-01899-x
    .. [2] A. Johnson et al., "MIMIC-IV Clinical Database Demo", version 2.2, PhysioNet, 2023.
       https://physionet.org/content/mimic-iv-demo/2.2/

    Examples
    --------
    >>> from sklearn.model_selection import StratifiedGroupKFold
    >>> from skllm4es.datasets import load_mimic_iv
    >>> stays = load_mimic_iv("mimic-iv-demo", horizon="24h")  # doctest: +SKIP
    >>> splitter = StratifiedGroupKFold(5)
    >>> folds = splitter.split(
    ...     stays.data, stays.target, stays.groups
    ... )  # doctest: +SKIP
    """
    tables = Tables("MIMIC-IV", Path(path).expanduser() / "hosp", _REMEDY)
    admissions = _read_admissions(tables)
    stays = _still_in_hospital(admissions, read_horizon(horizon))
    events = _read_events(tables, stays, admissions)
    X = cast(pd.DataFrame, nest_events(events, user="hadm_id", time="time")).reindex(stays.index)
    if profile:
        X = X.join(_read_profile(tables, stays))
    y = stays["hospital_expire_flag"]
    return make_bunch(
        X,
        y,
        return_X_y=return_X_y,
        target_names=["survived", "died"],
        description=_DESCRIPTION.format(
            horizon=horizon,
            n_admissions=len(y),
            n_deaths=y.sum(),
            n_ended=len(admissions) - len(y),
            n_patients=stays["subject_id"].nunique(),
            n_events=len(events),
        ),
        labels={},
        headers={"event": "kind"},
        groups=stays["subject_id"],
    )


def _read_admissions(tables: Tables) -> pd.DataFrame:
    name = _file(tables, "admissions")
    admissions = tables.read(name, _ADMISSIONS).to_pandas().set_index("hadm_id").sort_index()
    check_labels(tables, name, admissions["hospital_expire_flag"], classes=(0, 1))
    return admissions


def _still_in_hospital(admissions: pd.DataFrame, horizon: pd.Timedelta) -> pd.DataFrame:
    """Return the admissions about which the question is asked, with its time as the column ``asked``."""
    # For some deaths, the time of discharge is hours away from that of death.
    end = admissions[["dischtime", "deathtime"]].min(axis=1)
    asked = (admissions["admittime"] + horizon).astype("datetime64[s]")
    stays = admissions.assign(asked=asked)[end > asked]
    if stays.empty:
        longest = (end - admissions["admittime"]).max()
        raise ValueError(
            f"None of the {len(admissions)} admissions lasts longer than horizon={str(horizon)!r}; the longest one "
            f"takes {longest}. Lower horizon."
        )
    return stays


def _read_events(tables: Tables, stays: pd.DataFrame, admissions: pd.DataFrame) -> pa.Table:
    # Events at equal times keep this order.
    blocks = [
        *_diagnoses(tables, stays, admissions),
        *_transfers(tables, stays),
        *_procedures(tables, stays),
        *_prescriptions(tables, stays),
        *_labs(tables, stays),
    ]
    return pa.Table.from_batches(blocks, _EVENTS)


def _labs(tables: Tables, stays: pd.DataFrame) -> Iterator[pa.RecordBatch]:
    items = tables.read(_file(tables, "d_labitems"), _LAB_ITEMS).to_pandas()
    fluid = items["fluid"].where(items["fluid"] != "Blood")
    names = items["label"].where(fluid.isna(), items["label"] + " (" + fluid + ")")
    names = names.where(items["label"].notna(), "Lab test " + items["itemid"].astype("str"))
    for block in tables.blocks(_file(tables, "labevents"), _LABS):
        labs = _known(block, pc.max_element_wise(block["charttime"], block["storetime"]), stays)
        # A result in words is in the column value; ___ where it was removed.
        in_words = pc.and_(pc.is_null(labs["valuenum"]), pc.not_equal(labs["value"], "___"))
        words = pc.if_else(in_words, labs["value"], None)
        yield _events(
            labs["hadm_id"],
            pc.coalesce(labs["charttime"], labs["storetime"]),
            "lab",
            _named(labs["itemid"], items["itemid"], names),
            value=labs["valuenum"],
            unit=labs["valueuom"],
            note=_joined(words, labs["flag"]),
        )


def _prescriptions(tables: Tables, stays: pd.DataFrame) -> Iterator[pa.RecordBatch]:
    entered_late = _entered_late(tables, stays)
    for block in tables.blocks(_file(tables, "prescriptions"), _PRESCRIPTIONS):
        drugs = _known(block, block["starttime"], stays)
        drugs = drugs.filter(pc.invert(pc.is_in(drugs["pharmacy_id"], value_set=entered_late)))
        doses = pc.replace_substring(drugs["dose_val_rx"], ",", "")  # "25,000"
        # A dose may be a range, "50-100": not a number, so it goes with the route.
        numbers = pc.match_substring_regex(doses, r"^\d*\.?\d+$")
        yield _events(
            drugs["hadm_id"],
            drugs["starttime"],
            "prescription",
            drugs["drug"],
            value=pc.if_else(numbers, doses, None).cast(pa.float64()),
            unit=drugs["dose_unit_rx"],
            note=_joined(pc.if_else(numbers, None, doses), drugs["route"]),
        )


def _entered_late(tables: Tables, stays: pd.DataFrame) -> pa.ChunkedArray:
    """Return the prescriptions entered after the question is asked, some of which are dated before it."""
    blocks = tables.blocks(_file(tables, "pharmacy"), _PHARMACY)
    return pa.chunked_array(
        [block["pharmacy_id"].filter(pc.greater(block["entertime"], _asked(block, stays))) for block in blocks]
    )


def _transfers(tables: Tables, stays: pd.DataFrame) -> Iterator[pa.RecordBatch]:
    for block in tables.blocks(_file(tables, "transfers"), _TRANSFERS):
        moves = _known(block, block["intime"], stays)
        moves = moves.filter(pc.not_equal(moves["eventtype"], "discharge"))
        yield _events(moves["hadm_id"], moves["intime"], "transfer", moves["careunit"], note=moves["eventtype"])


def _procedures(tables: Tables, stays: pd.DataFrame) -> Iterator[pa.RecordBatch]:
    done = tables.read(_file(tables, "procedures_icd"), _DATED).to_pandas().sort_values(["hadm_id", "seq_num"])
    done = done[done["hadm_id"].isin(stays.index)]
    end_of_day = pd.to_datetime(done["chartdate"]).astype("datetime64[s]") + pd.Timedelta("1D") - pd.Timedelta("1s")
    known = end_of_day.to_numpy() <= stays["asked"].loc[done["hadm_id"]].to_numpy()
    titles = _titles(tables, "d_icd_procedures", done)
    yield _events(pa.array(done["hadm_id"]), pa.array(end_of_day), "procedure", titles).filter(pa.array(known))


def _diagnoses(tables: Tables, stays: pd.DataFrame, admissions: pd.DataFrame) -> Iterator[pa.RecordBatch]:
    codes = tables.read(_file(tables, "diagnoses_icd"), _CODED).to_pandas().sort_values(["hadm_id", "seq_num"])
    codes = codes.assign(title=np.arange(len(codes)))[["hadm_id", "title", "icd_code", "icd_version"]]
    titles = _titles(tables, "d_icd_diagnoses", codes)
    now = stays[["subject_id", "admittime"]].rename_axis("now").reset_index()
    before = admissions[["subject_id", "dischtime"]].rename_axis("hadm_id").reset_index()
    pairs = now.merge(before, on="subject_id")
    pairs = pairs[(pairs["dischtime"] <= pairs["admittime"]) & (pairs["hadm_id"] != pairs["now"])]
    past = pairs.merge(codes[["hadm_id", "title"]], on="hadm_id")
    yield _events(pa.array(past["now"]), pa.array(past["dischtime"]), "diagnosis", titles.take(pa.array(past["title"])))


def _known(block: pa.RecordBatch, known: pa.Array, stays: pd.DataFrame) -> pa.RecordBatch:
    """Keep the rows of these admissions that were known when the question is asked."""
    # This drops nulls: other admissions and unknown times.
    return block.filter(pc.less_equal(known, _asked(block, stays)))


def _asked(block: pa.RecordBatch, stays: pd.DataFrame) -> pa.Array:
    """Return the time of the question for each row; null for other admissions."""
    position = pc.index_in(block["hadm_id"], value_set=pa.array(stays.index))
    return pa.array(stays["asked"]).take(position)


def _events(
    hadm_id: pa.Array,
    time: pa.Array,
    event: str,
    name: pa.Array,
    *,
    value: pa.Array | None = None,
    unit: pa.Array | None = None,
    note: pa.Array | None = None,
) -> pa.RecordBatch:
    columns = [hadm_id, time, pa.repeat(event, len(hadm_id)), name, value, unit, note]
    columns = [pa.nulls(len(hadm_id)) if column is None else column for column in columns]
    return pa.RecordBatch.from_arrays(
        [column.cast(field.type) for column, field in zip(columns, _EVENTS, strict=True)], schema=_EVENTS
    )


def _joined(first: pa.Array, second: pa.Array) -> pa.Array:
    """Join two texts by a space; either may be missing."""
    # Not by null_handling="skip", which drops the rows where both are missing (pyarrow 26).
    joined = pc.binary_join_element_wise(pc.fill_null(first, ""), pc.fill_null(second, ""), " ")
    joined = pc.utf8_trim_whitespace(joined)
    return pc.if_else(pc.equal(joined, ""), None, joined)


def _named(codes: pa.Array, known: pd.Series, names: pd.Series) -> pa.DictionaryArray:
    position = pc.index_in(codes, value_set=pa.array(known))
    return pa.DictionaryArray.from_arrays(position, pa.array(names, _TEXT))


def _titles(tables: Tables, name: str, coded: pd.DataFrame) -> pa.DictionaryArray:
    """Return the titles of ICD codes; a code that the table lacks is its own title."""
    titles = tables.read(_file(tables, name), _TITLES).to_pandas()
    by_code = dict(zip(_icd(titles), titles["long_title"], strict=True))
    positions, codes = pd.factorize(_icd(coded))
    return pa.DictionaryArray.from_arrays(
        pa.array(positions.astype(np.int32)), pa.array([by_code.get(code, code) for code in codes], _TEXT)
    )


def _icd(table: pd.DataFrame) -> pd.Series:
    return "ICD-" + table["icd_version"].astype("str") + " " + table["icd_code"].str.strip()


def _read_profile(tables: Tables, stays: pd.DataFrame) -> pd.DataFrame:
    name = _file(tables, "patients")
    patients = tables.read(name, _PATIENTS).to_pandas().set_index("subject_id")
    if patients.index.has_duplicates:
        raise tables.problem(name, f"has subject_id {patients.index[patients.index.duplicated()][0]} twice")
    patients = patients.reindex(stays["subject_id"]).set_axis(stays.index)
    age = patients["anchor_age"] + stays["admittime"].dt.year - patients["anchor_year"]
    return pd.DataFrame(
        {
            "gender": patients["gender"],
            "age": age,
            "admission_type": stays["admission_type"],
            "admission_location": stays["admission_location"],
        }
    )


def _file(tables: Tables, name: str) -> str:
    """Return the name of a table's file: compressed, as published, unless only an unpacked one exists."""
    published, unpacked = f"{name}.csv.gz", f"{name}.csv"
    only_unpacked = (tables.folder / unpacked).is_file() and not (tables.folder / published).is_file()
    return unpacked if only_unpacked else published
