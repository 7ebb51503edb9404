"""Data sets in the form that the estimators take: one row per user, with the list-typed column ``events``.

``fetch_*`` functions download a public data set on request, verify it and keep it in the data home; ``load_*``
functions read a copy that the user has; ``make_*`` functions simulate one.
"""

from skllm4es.datasets._age import fetch_age
from skllm4es.datasets._base import get_data_home
from skllm4es.datasets._complete_journey import load_complete_journey
from skllm4es.datasets._gender import fetch_gender
from skllm4es.datasets._mimic import load_mimic_iv
from skllm4es.datasets._movielens import fetch_movielens_100k
from skllm4es.datasets._movielens_1m import fetch_movielens_1m
from skllm4es.datasets._online_retail import fetch_online_retail
from skllm4es.datasets._rosbank import fetch_rosbank
from skllm4es.datasets._transactions import make_transactions

__all__ = [
    "fetch_age",
    "fetch_gender",
    "fetch_movielens_1m",
    "fetch_movielens_100k",
    "fetch_online_retail",
    "fetch_rosbank",
    "get_data_home",
    "load_complete_journey",
    "load_mimic_iv",
    "make_transactions",
]
