"""Names of merchant category codes."""

import pandas as pd

from skllm4es.vocabularies._tables import read_table


def load_mcc_names() -> pd.Series:
    """Load the English descriptions of the merchant category codes (MCC).

    The table holds the codes of ISO 18245, additional ones that the card networks publish, and the private-use
    range 3000-3999, where each airline, car rental company and hotel chain has its own code. The sources are
    listed in ``skllm4es/vocabularies/data/README.md``.

    Returns
    -------
    pandas.Series
        One description (str) for each code, named ``"description"``. The index, named ``"mcc"``, holds the
        codes as int64, unique and ascending: a code with a leading zero, such as 0742, is 742 here. Each call
        returns a new Series, which you may change.

    Notes
    -----
    **Your own vocabulary.** Wherever labels are accepted, you can pass any dict or Series from code to description.
    To add or reword codes, merge dicts, or concatenate Series and keep the last of each code, as in the examples.
    The keys must have the type of the column that they describe: if your codes are strings of four digits, convert
    the index as in the last example.

    Examples
    --------
    >>> from skllm4es.vocabularies import load_mcc_names
    >>> names = load_mcc_names()
    >>> names[5411]
    'Grocery Stores, Supermarkets'
    >>> names[3000]
    'United Airlines'

    Your own vocabulary is a dict or a Series:

    >>> transaction_types = {1: "POS", 2: "ATM", 3: "transfer"}

    Reword a code and add another, as dicts:

    >>> mine = {**names, 5411: "Groceries", 9999: "Our shops"}
    >>> mine[5411], mine[9999]
    ('Groceries', 'Our shops')

    The same as Series, where ``keep="last"`` lets the additions win:

    >>> import pandas as pd
    >>> ours = pd.Series({5411: "Groceries", 9999: "Our shops"})
    >>> merged = pd.concat([names, ours])
    >>> merged = merged[~merged.index.duplicated(keep="last")]
    >>> merged[5411], merged[9999]
    ('Groceries', 'Our shops')

    For a column that holds the codes as text:

    >>> as_text = names.set_axis(names.index.map("{:04d}".format))
    >>> as_text["0742"]
    'Veterinary Services'
    """
    return read_table("mcc.csv", index="mcc")
