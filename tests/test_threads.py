"""Fits in threads: the vectors of a serial run, and a process that is left as it was."""

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import FeatureUnion
from tiny_models import frozen_model
from transformers.utils import logging

from skllm4es import FineTuning, FromScratch, LLMEmbedder, LoRA
from skllm4es.baselines import CoLESEmbedder, RandomEmbedder
from skllm4es.datasets import make_transactions
from skllm4es.lm import generation, loading
from skllm4es.lm.architecture import FORWARD
from skllm4es.lm.language_model import LanguageModel
from skllm4es.lm.sources import DirectorySource
from skllm4es.lm.windows import tokenize

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


@pytest.mark.parametrize("name", ["llm", "transformer"])
def test_vectors_do_not_depend_on_the_default_dtype(name):
    """Another thread changes it for a moment when it reads a model."""
    baseline = RandomEmbedder(encoder="transformer", hidden_size=8, random_state=0, device="cpu")
    estimator, X = {**CASES, "transformer": (baseline, USERS)}[name]
    fitted = clone(estimator).fit(X)
    expected = fitted.transform(X)
    torch.set_default_dtype(torch.bfloat16)
    try:
        result = fitted.transform(X)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(result, expected)


def test_a_model_is_not_read_while_another_thread_computes(monkeypatch):
    read = loading.AutoModel.from_pretrained
    free = []

    def try_to_compute():
        free.append(FORWARD.acquire(timeout=0.1))
        if free[-1]:
            FORWARD.release()

    def ask(*args, **kwargs):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(try_to_compute).result()
        return read(*args, **kwargs)

    monkeypatch.setattr(loading.AutoModel, "from_pretrained", ask)
    LanguageModel(DirectorySource(frozen_model())).load(torch.bfloat16, "cpu")
    assert free == [False]


def test_reading_a_model_leaves_random_numbers_alone(tmp_path):
    """Weights of an adapter are drawn before they are read."""
    finetune = LoRA(r=2, epochs=1, merge=False)
    adapted = LLMEmbedder(frozen_model(), finetune=finetune, features="hidden", random_state=0).fit(TEXTS)
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = LLMEmbedder.from_pretrained(tmp_path / "adapter")
    before = process_state()
    loaded.transform(TEXTS)
    assert process_state() == before


def test_threads_may_find_out_together_what_a_model_can_do():
    """Hooks find the layers of a model, and the texts of another thread would pass through these hooks as well."""
    for seed in range(3):
        union = FeatureUnion(
            [
                (pooling, LLMEmbedder(frozen_model(seed), features="hidden", token_pooling=pooling, finetune=None))
                for pooling in ("mean", "last", "max", "rest")
            ]
        )
        with joblib.parallel_backend("threading"):
            together = union.set_params(n_jobs=4).fit_transform(TEXTS)
        np.testing.assert_array_equal(together, clone(union).set_params(n_jobs=1).fit_transform(TEXTS))


def test_one_thread_may_load_a_model_while_another_tries_one(monkeypatch):
    tried = LanguageModel(DirectorySource(frozen_model(0))).load_with_head(torch.float32, "cpu")
    loading_begins = threading.Event()
    is_causal = loading.is_causal

    def slowly(model):
        loading_begins.set()
        time.sleep(0.5)
        return is_causal(model)

    monkeypatch.setattr(loading, "is_causal", slowly)
    other = LanguageModel(DirectorySource(frozen_model(1)))
    load = threading.Thread(target=other.load_with_head, args=(torch.float32, "cpu"), daemon=True)
    load.start()
    assert loading_begins.wait(60)
    attempt = threading.Thread(target=generation.batching_of, args=(tried,), daemon=True)
    attempt.start()
    for thread in (load, attempt):
        thread.join(60)
        assert not thread.is_alive(), "the threads wait for each other"


def test_control_tokens_in_texts_are_text_in_every_thread():
    tokenizer = LanguageModel(DirectorySource(frozen_model())).tokenizer
    texts = [f"title|rating\nHe</s>at {i}, 5\nA<s>lien, {i}" for i in range(50)]
    expected = tokenize(tokenizer, texts, 512)
    with ThreadPoolExecutor(4) as pool:
        for tokens in pool.map(lambda _: tokenize(tokenizer, texts, 512), range(100)):
            assert tokens == expected
