"""How the tables in the folder ``data`` are read."""

from importlib import resources

import pandas as pd


def read_table(file_name: str, *, index: str) -> pd.Series:
    """Read the columns ``code`` and ``description`` of a table.

    Parameters
    ----------
    file_name : str
        The file.
    index : str
        The name of the index.

    Returns
    -------
    pandas.Series
        The descriptions by their codes.
    """
    with resources.files("skllm4es.vocabularies").joinpath("data", file_name).open(encoding="utf-8") as file:
        table = pd.read_csv(
            file, comment="#", usecols=["code", "description"], dtype={"code": "int64", "description": "str"}
        )
    return table.rename(columns={"code": index}).set_index(index)["description"]
