"""Fits in threads: the vectors of a serial run, and a process that is left as it was."""

import os
import random
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import FeatureUnion
from transformers.utils import logging

from skllm4es import FineTuning, FromScratch, LLMEmbedder
from skllm4es.baselines import CoLESEmbedder, RandomEmbedder
from skllm4es.datasets import make_transactions

TINY = FromScratch(config={"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2})
TEXTS = [f"day|title|rating\n{day}, Heat, 5\n{day + 1}, Alien, {day % 5}" for day in range(12)]
USERS = make_transactions(16, mean_events=12, random_state=0)[0]

CASES = {
    "llm": (LLMEmbedder(TINY, features=["hidden", "scores"], finetune=FineTuning(epochs=2), random_state=0), TEXTS),
    "random": (RandomEmbedder(hidden_size=8, random_state=0), USERS),
    "coles": (CoLESEmbedder(epochs=1, n_slices=2, hidden_size=8, random_state=0), USERS),
}


def process_state():
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.get_rng_state().tolist(),
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        dict(os.environ),
    )


@pytest.mark.parametrize("name", CASES)
def test_fits_in_threads_give_what_a_serial_run_gives_and_leave_no_trace(name):
    estimator, X = CASES[name]
    expected = clone(estimator).fit_transform(X)
    before = process_state()
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: clone(estimator).fit_transform(X), range(6)))
    for result in results:
        np.testing.assert_array_equal(result, expected)
    assert process_state() == before


def test_a_union_under_the_threading_backend_gives_what_a_serial_one_gives():
    union = FeatureUnion([(f"seed {seed}", clone(CASES["llm"][0]).set_params(random_state=seed)) for seed in range(3)])
    expected = union.fit_transform(TEXTS)
    with joblib.parallel_backend("threading"):
        result = union.set_params(n_jobs=2).fit_transform(TEXTS)
    np.testing.assert_array_equal(result, expected)


def test_one_fitted_embedder_may_transform_in_threads():
    embedder = clone(CASES["llm"][0]).fit(TEXTS)
    expected = embedder.transform(TEXTS)
    with ThreadPoolExecutor(3) as pool:
        for result in pool.map(lambda _: embedder.transform(TEXTS), range(6)):
            np.testing.assert_array_equal(result, expected)
