"""Reading of the tables in the folder ``data``."""

from importlib import resources

import pandas as pd


def read_table(file_name: str, *, index: str) -> pd.Series:
    """Read the column ``description`` of a table, with its column ``code`` as the index of the given name."""
    with resources.files("skllm4es.vocabularies").joinpath("data", file_name).open(encoding="utf-8") as file:
        table = pd.read_csv(
            file, comment="#", usecols=["code", "description"], dtype={"code": "int64", "description": "str"}
        )
    return table.rename(columns={"code": index}).set_index(index)["description"]
