"""Merchant category codes, which card transactions carry: from ``data/mcc.csv`` to a Series."""

import pandas as pd

from skllm4es.vocabularies._tables import read_table


def load_mcc_names() -> pd.Series:
    """Load the English descriptions of the merchant category codes (MCC).

    The table holds the codes of ISO 18245, the further ones that the card networks publish, and the
    private-use range 3000-3999, where each airline, car rental company and hotel chain has its own code.
    Where the names come from is written beside the data, in ``skllm4es/vocabularies/data/README.md``.

    Returns
    -------
    pandas.Series
        One description (str) for each code, named ``"description"``. The index, named ``"mcc"``, holds the
        codes as int64, unique and ascending: codes that are written with a leading zero, such as 0742, are
        742 here. Each call returns a new Series, free to be changed.

    Notes
    -----
    **Vocabularies of your own.** Wherever labels are accepted, any dict or Series from code to description
    will do; the tables of this package are not special. To add codes or to reword some, merge dicts, or
    concatenate Series and keep the last of each code; see the examples. The keys must have the type of the
    column that they describe: if your codes are strings of four digits, convert the index as the last example
    does.

    Examples
    --------
    >>> from skllm4es.vocabularies import load_mcc_names
    >>> names = load_mcc_names()
    >>> names[5411]
    'Grocery Stores, Supermarkets'
    >>> names[3000]
    'United Airlines'

    A vocabulary of your own is a dict or a Series:

    >>> transaction_types = {1: "POS", 2: "ATM", 3: "transfer"}

    Reword a code and add another, as dicts:

    >>> mine = {**names, 5411: "Groceries", 9999: "Our own shops"}
    >>> mine[5411], mine[9999]
    ('Groceries', 'Our own shops')

    The same as Series, where ``keep="last"`` lets the additions win:

    >>> import pandas as pd
    >>> ours = pd.Series({5411: "Groceries", 9999: "Our own shops"})
    >>> merged = pd.concat([names, ours])
    >>> merged = merged[~merged.index.duplicated(keep="last")]
    >>> merged[5411], merged[9999]
    ('Groceries', 'Our own shops')

    For a column that holds the codes as text:

    >>> as_text = names.set_axis(names.index.map("{:04d}".format))
    >>> as_text["0742"]
    'Veterinary Services'
    """
    return read_table("mcc.csv", index="mcc")
