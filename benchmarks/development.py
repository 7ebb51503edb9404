"""Data sets on which defaults are chosen: users' events, and what is predicted of the users.

They are read from ``SKLLM4ES_DATA``. Choose on folds of other seeds than those that final results are made with.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import data
from skllm4es import nest_events
from skllm4es.datasets import get_data_home, make_transactions

#: Users, one row each; their targets, True or False or a number; groups of rows that stay together, or None.
Users = tuple[pd.DataFrame, dict[str, pd.Series], np.ndarray | None]


def _packaged(name: str) -> Callable[[], Users]:
    def read() -> Users:
        loaded = data.load(name, download=False)
        return loaded.X, {target: loaded.y[target] for target in loaded.y}, loaded.groups

    return read


def complete_journey() -> Users:
    """Read a year of groceries of 801 households."""
    folder = _folder("complete-journey")
    products = ["product_id", "department", "product_category", "product_type"]
    events = pd.read_parquet(folder / "transactions_801_households.parquet").merge(
        pd.read_parquet(folder / "products.parquet", columns=products), on="product_id", how="left"
    )
    columns = ["transaction_timestamp", *products[1:], "quantity", "sales_value"]
    X = nest_events(events, user="household_id", time="transaction_timestamp", columns=columns)
    about = pd.read_csv(folder / "demographics.csv").set_index("household_id").reindex(X.index)
    targets = {
        "kids": about["kids_count"].astype(str) != "0",
        "age >= 45": about["age"].isin(["45-54", "55-64", "65+"]),
        "income >= 50K": ~about["income"].isin(["Under 15K", "15-24K", "25-34K", "35-49K"]),
    }
    return X, targets, None


def online_retail() -> Users:
    """Read a draw of 2,000 customers of two years, who buy again within 90 days of 2011-09-10 or do not."""
    folder = _folder("online-retail")
    names = {"InvoiceNo": "Invoice", "CustomerID": "Customer ID", "UnitPrice": "Price"}
    years = [
        pd.read_parquet(folder / f"online_retail_{year}.parquet").rename(columns=names)
        for year in ("2009_2010", "2010_2011")
    ]
    lines = pd.concat([year.assign(InvoiceDate=pd.to_datetime(year["InvoiceDate"])) for year in years])
    lines = lines.drop_duplicates().dropna(subset=["Customer ID"])
    lines = lines[~lines["Invoice"].str.startswith("C")]
    cut = pd.Timestamp("2011-09-10")
    later = lines.loc[lines["InvoiceDate"].between(cut, cut + pd.Timedelta(days=90)), "Customer ID"].unique()
    columns = ["InvoiceDate", "Description", "Quantity", "Price"]
    X = nest_events(lines[lines["InvoiceDate"] < cut], user="Customer ID", time="InvoiceDate", columns=columns)
    X = X.sample(2000, random_state=0)
    return X, {"buys again": pd.Series(X.index.isin(later), X.index)}, None


def synthea() -> Users:
    """Read the conditions and medications of 986 synthetic patients."""
    folder = _folder("synthea-1k")
    kinds = [pd.read_csv(folder / f"{kind}s.csv.gz").assign(KIND=kind) for kind in ("condition", "medication")]
    events = pd.concat(kinds)
    events["START"] = pd.to_datetime(events["START"])
    columns = ["START", "KIND", "DESCRIPTION", "TOTALCOST", "DISPENSES", "REASONDESCRIPTION"]
    X = nest_events(events, user="PATIENT", time="START", columns=columns)
    about = pd.read_csv(folder / "patients.csv").set_index("ID").reindex(X.index)
    diabetes = events.loc[events["DESCRIPTION"].str.contains("Diabetes", na=False), "PATIENT"]
    targets = {"male": about["GENDER"] == "M", "diabetes": pd.Series(X.index.isin(diabetes), X.index)}
    return X, targets, None


def cards() -> Users:
    """Simulate 1,500 clients with other seeds than those of the results."""
    X, churn = make_transactions(1500, mean_events=50, random_state=1000)
    return X, {"churn": churn}, None


#: How each is read.
DATA: dict[str, Callable[[], Users]] = {
    "movielens": _packaged("movielens-100k"),
    "groceries": complete_journey,
    "retail": online_retail,
    "synthea": synthea,
    "cards": cards,
    "mimic": _packaged("mimic-iv-demo"),
}


def _folder(name: str) -> Path:
    return get_data_home() / name
