"""The data sets of the tables: what is fetched, what is predicted, and how the events are written.

To add a data set, add one entry to `DATA_SETS`. Its loader takes ``data_home`` and ``download_if_missing`` and returns
a Bunch with ``data`` (one row per user), ``target`` (indexed by user; absent, missing or, for classes, -1 without a
label) and, if there are any, ``groups`` (rows that a split must keep together, such as several admissions of a
patient), ``labels`` and ``headers`` for `EventSerializer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.utils import Bunch

from benchmarks.protocol import CLASSIFICATION
from skllm4es.datasets import (
    fetch_age,
    fetch_gender,
    fetch_movielens_1m,
    fetch_movielens_100k,
    fetch_rosbank,
    get_data_home,
    load_complete_journey,
    load_mimic_iv,
    make_transactions,
)
from skllm4es.vocabularies import load_mcc_names


@dataclass(frozen=True)
class Target:
    """What is predicted, by which metric it is scored, and the loader's arguments for it."""

    metric: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSet:
    """How a data set is read and written.

    Parameters
    ----------
    fetch : callable
        The loader.
    targets : mapping of str to Target
        What is predicted; splits are stratified by the first target.
    companion : str
        The second data set in the table of components.
    paper_epochs : float
        Epochs of the paper's language model.
    serializer : mapping
        Settings of `EventSerializer`, in addition to the labels and headers that the loader recommends.
    fields : mapping
        Settings of all baselines: which field is the time, which are numeric, ...
    aggregates, bag : mapping
        Further settings of `EventAggregator` and `BagOfEvents`.
    """

    fetch: Callable[..., Bunch]
    targets: Mapping[str, Target]
    companion: str
    paper_epochs: float = 2
    serializer: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    aggregates: Mapping[str, Any] = field(default_factory=dict)
    bag: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """A data set in memory: users, their targets (missing without a label), and the groups of rows."""

    name: str
    spec: DataSet
    X: pd.DataFrame
    y: pd.DataFrame
    groups: npt.NDArray[Any] | None
    serializer: Mapping[str, Any]

    @property
    def n_events(self) -> int:
        """Number of all events; a user without events has a null."""
        return pc.sum(pc.list_value_length(pa.array(self.X["events"].array))).as_py() or 0

    @property
    def labelled(self) -> npt.NDArray[np.intp]:
        """Rows of users with a label."""
        return np.flatnonzero(self.y.notna().all(axis=1).to_numpy())

    @property
    def strata(self) -> npt.NDArray[Any] | None:
        """The first target, by which splits are stratified, or None if it has no classes."""
        name, target = next(iter(self.spec.targets.items()))
        return self.y[name].to_numpy() if target.metric in CLASSIFICATION else None


def load(name: str, n_users: int | None = None, data_home: str | None = None, *, download: bool = True) -> Data:
    """Fetch a data set, or only its first users.

    Parameters
    ----------
    name : str
        One of `DATA_SETS`.
    n_users : int, default=None
        Number of users; all by default.
    data_home : str, default=None
        The folder of the data sets.
    download : bool, default=True
        Whether it may be downloaded; if not, an OSError says that it is missing.

    Returns
    -------
    Data
        The data set.
    """
    spec = DATA_SETS[name]
    where = {"data_home": data_home, "download_if_missing": download}
    bunches = {key: spec.fetch(**where, **target.arguments) for key, target in spec.targets.items()}
    first = next(iter(bunches.values()))
    X = first.data[:n_users]
    y = pd.DataFrame({key: bunch.target.reindex(X.index) for key, bunch in bunches.items()})
    for key, target in spec.targets.items():
        if target.metric in CLASSIFICATION:  # -1 stands for a missing label.
            y[key] = y[key].where(y[key] >= 0)
    groups = first.get("groups")
    recommended = {key: first[key] for key in ("labels", "headers") if key in first}
    return Data(
        name, spec, X, y, None if groups is None else np.asarray(groups)[:n_users], recommended | dict(spec.serializer)
    )


def _mimic_iv(folder: str) -> Callable[..., Bunch]:
    def load_from_home(data_home: str | None, **_: Any) -> Bunch:
        return load_mimic_iv(get_data_home(data_home) / folder)

    return load_from_home


def _complete_journey(target: str, data_home: str | None, **_: Any) -> Bunch:
    return load_complete_journey(target=target, data_home=data_home)  # type: ignore[call-overload]


def _transactions(**_: Any) -> Bunch:
    X, y = make_transactions(1000, mean_events=50, random_state=0)
    return Bunch(data=X, target=y, labels={"mcc": load_mcc_names()})


#: Users without a label help to learn representations.
_ALL = {"subset": "all"}

DATA_SETS: dict[str, DataSet] = {
    "movielens-100k": DataSet(
        fetch_movielens_100k,
        {"gender": Target("ROC-AUC", {"target": "gender"}), "age": Target("MAE", {"target": "age"})},
        companion="transactions",
        serializer={"columns": ["title", "genres", "rating"]},
        aggregates={"numeric": ["rating"]},
        bag={"columns": ["title"]},
    ),
    "movielens-1m": DataSet(
        fetch_movielens_1m,
        {"gender": Target("ROC-AUC", {"target": "gender"}), "age": Target("accuracy", {"target": "age"})},
        companion="movielens-100k",
        serializer={"columns": ["title", "genres", "rating"]},
        aggregates={"numeric": ["rating"]},
        bag={"columns": ["title"]},
    ),
    "complete-journey": DataSet(
        _complete_journey,
        {name: Target("ROC-AUC", {"target": name}) for name in ("kids", "age", "income")},
        companion="transactions",
        serializer={"formats": {"transaction_timestamp": "%m-%d %Hh"}},
    ),
    "rosbank": DataSet(
        fetch_rosbank,
        {"churn": Target("ROC-AUC", _ALL)},
        companion="gender",
        serializer={"formats": {"TRDATETIME": "days since 2016-01-01", "amount": ".0f"}},
        fields={"categorical": ["MCC", "currency"]},
    ),
    "gender": DataSet(
        fetch_gender,
        {"gender": Target("ROC-AUC", _ALL)},
        companion="rosbank",
        serializer={"time": "day", "formats": {"amount": ".0f"}},
        fields={
            "columns": ["day", "mcc_code", "tr_type", "amount"],
            "categorical": ["mcc_code", "tr_type"],
            "time": "day",
        },
    ),
    "age": DataSet(
        fetch_age,
        {"age": Target("accuracy", _ALL)},
        companion="rosbank",
        paper_epochs=30,
        serializer={"time": "trans_date", "formats": {"amount_rur": ".0f"}},
        fields={"categorical": ["small_group"], "time": "trans_date"},
    ),
    **{
        folder: DataSet(
            _mimic_iv(folder),
            {"mortality": Target("ROC-AUC")},
            companion="transactions",
            serializer={"formats": {"time": "%d %Hh"}},
        )
        for folder in ("mimic-iv", "mimic-iv-demo")
    },
    "transactions": DataSet(
        _transactions,
        {"leaves": Target("ROC-AUC")},
        companion="movielens-100k",
        serializer={
            "columns": ["event_time", "mcc", "type", "amount"],
            "formats": {"event_time": "%m-%d %Hh", "amount": ".0f"},
        },
    ),
}
