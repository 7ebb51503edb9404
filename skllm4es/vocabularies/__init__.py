"""Code-to-description tables, so that events can be written in words.

A language model knows nothing of the number 5411 and a good deal of "Grocery Stores, Supermarkets". The
tables here are what ``EventSerializer(labels={"mcc": load_mcc_names()})`` replaces codes with. The module
reads its own data files and depends on nothing else in the package.
"""

from skllm4es.vocabularies._currencies import load_currency_names
from skllm4es.vocabularies._mcc import load_mcc_names

__all__ = ["load_currency_names", "load_mcc_names"]
