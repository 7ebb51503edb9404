"""Code-to-description tables, so that events can be written in words.

A language model knows little about the number 5411, but a lot about "Grocery Stores, Supermarkets". Pass the tables to
the serializer: ``EventSerializer(labels={"mcc": load_mcc_names()})``.
"""

from skllm4es.vocabularies._currencies import load_currency_names
from skllm4es.vocabularies._mcc import load_mcc_names

__all__ = ["load_currency_names", "load_mcc_names"]
