"""Many users, and many fits in a row: memory stays small, and nothing is left behind."""

import ctypes
import gc
import pickle
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder
from skllm4es.datasets import make_transactions
from skllm4es.lm import windows

TINY = FromScratch(
    config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
)


@pytest.fixture(scope="module")
def X():
    return make_transactions(20, mean_events=5, random_state=0)[0]


@pytest.fixture(scope="module")
def texts(X):
    return EventSerializer().fit_transform(X)["text"].to_list()


@pytest.fixture(scope="module")
def fitted(texts):
    return LLMEmbedder(TINY, dtype="float32", random_state=0, finetune=FineTuning(epochs=1)).fit(texts)


def test_groups_hold_all_texts_in_order_up_to_a_number_of_characters(monkeypatch):
    monkeypatch.setattr(windows, "_GROUP_CHARACTERS", 10)
    texts = ["a" * n for n in (4, 6, 1, 25, 10, 0, 1, 9)]
    groups = list(windows.groups_of(texts))
    assert [text for group in groups for text in group] == texts
    assert all(len(group) == 1 or sum(map(len, group)) <= 10 for group in groups)
    assert [len(group) for group in groups] == [2, 1, 1, 2, 2]
    assert list(windows.groups_of([])) == []


def test_texts_are_tokenized_group_by_group(fitted, texts, monkeypatch):
    tokenizer = fitted.load_model()[1]
    tokenized, vectors = windows.tokenize(tokenizer, texts, 64), fitted.transform(texts)
    monkeypatch.setattr(windows, "_GROUP_CHARACTERS", 3 * len(texts[0]))
    assert windows.tokenize(tokenizer, texts, 64) == tokenized
    np.testing.assert_allclose(fitted.transform(texts), vectors, atol=1e-5)


def test_unpickled_embedders_share_one_model(fitted, texts, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    pickled = pickle.dumps(LLMEmbedder.from_pretrained(tmp_path / "model"))
    models = []
    for _ in range(4):
        embedder = pickle.loads(pickled)
        np.testing.assert_array_equal(embedder.transform(texts), fitted.transform(texts))
        models.append(embedder.load_model()[0])
    assert all(model is models[0] for model in models)


def open_files():
    gc.collect()  # Files of earlier tests may still be open.
    return len(list(Path("/proc/self/fd").iterdir()))


def weights_in_memory():
    """Return how many tensors and modules there are."""
    gc.collect()
    return sum(issubclass(type(thing), (torch.Tensor, torch.nn.Module)) for thing in gc.get_objects())


def resident_bytes():
    """Return the memory of this process, without what it has freed but not yet returned to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_fits_in_a_row_leave_neither_memory_nor_files_behind(X):
    def fit(seed):
        texts = EventSerializer().fit_transform(X)
        LLMEmbedder(TINY, random_state=seed, finetune=FineTuning(epochs=1)).fit(texts).transform(texts)

    for seed in range(6):  # Caches fill up during the first fits.
        fit(seed)
    files, weights, before = open_files(), weights_in_memory(), resident_bytes()
    n_fits = 40
    for seed in range(n_fits):
        fit(seed)
    assert open_files() <= files
    assert weights_in_memory() <= weights
    # What Python cannot see, such as the cache of words that tokenizers keep: a hundred kilobytes a fit.
    assert (resident_bytes() - before) / n_fits < 40_000
