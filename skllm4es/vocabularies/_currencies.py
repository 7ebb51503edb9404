"""Names of currency codes."""

import pandas as pd

from skllm4es.vocabularies._tables import read_table


def load_currency_names() -> pd.Series:
    """Load the English names of the currencies by their numeric codes (ISO 4217).

    The table holds all codes in force on 2026-01-01, and 810, the Russian ruble before 1998, which Russian card data
    still use. The sources are listed in ``skllm4es/vocabularies/data/README.md``.

    Returns
    -------
    pandas.Series
        One name (str) for each code, named ``"description"``. The index, named ``"currency"``, holds the codes as
        int64, unique and ascending: a code with a leading zero, such as 008, is 8 here. Each call returns a new
        Series, which you may change.

    See Also
    --------
    load_mcc_names : Merchant category codes, and how to make your own vocabulary.

    Examples
    --------
    >>> from skllm4es.vocabularies import load_currency_names
    >>> load_currency_names()[978]
    'Euro'
    """
    return read_table("currencies.csv", index="currency")
