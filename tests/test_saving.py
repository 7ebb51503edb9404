"""Fitted embedders that are pickled, saved without pickle, cloned, frozen or displayed."""

import gc
import io
import json
import os
import pickle
import shutil
import weakref

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from tiny_models import SMALL, TEXTS, save_model

from skllm4es import FineTuning, LLMEmbedder
from skllm4es.lm import language_model


@pytest.fixture(scope="module")
def fitted():
    return LLMEmbedder(SMALL, features="hidden", pooling_depth=2, random_state=0).fit(TEXTS)


@pytest.fixture(scope="module")
def directory(fitted, tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "embedder"
    fitted.save_pretrained(directory)
    return directory


def n_bytes_of_weights(embedder):
    return sum(weights.numel() * weights.element_size() for weights in embedder.load_model()[0].parameters())


def test_a_saved_embedder_gives_the_same_embeddings(fitted, directory):
    loaded = LLMEmbedder.from_pretrained(directory)
    np.testing.assert_array_equal(loaded.transform(TEXTS), fitted.transform(TEXTS))
    assert repr(loaded.get_params()) == repr(fitted.get_params())
    assert loaded.loss_curve_ == fitted.loss_curve_


def test_nothing_is_saved_as_pickle(directory):
    assert sorted(path.name for path in directory.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "skllm4es.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_saving_never_overwrites(fitted, directory):
    before = (directory / "skllm4es.json").read_bytes()
    with pytest.raises(FileExistsError, match="new or empty"):
        fitted.save_pretrained(directory)
    assert (directory / "skllm4es.json").read_bytes() == before


def test_a_parameter_that_json_cannot_hold_raises_and_nothing_is_written(fitted, tmp_path):
    embedder = pickle.loads(pickle.dumps(fitted)).set_params(random_state=np.random.RandomState(0))
    with pytest.raises(TypeError, match=r"random_state=.*set_params\(random_state=None\)"):
        embedder.save_pretrained(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "{", '{"format": "skllm4es.LLMEmbedder", "version": 99}', "{}"])
def test_other_directories_raise(tmp_path, content):
    if content is not None:
        (tmp_path / "skllm4es.json").write_text(content)
    with pytest.raises(OSError, match=r"no embedder in|holds .* and this version of skllm4es reads"):
        LLMEmbedder.from_pretrained(tmp_path)


def test_the_saved_settings_are_plain_json(directory):
    settings = json.loads((directory / "skllm4es.json").read_text())
    assert settings["version"] == 5
    assert settings["parameters"]["pooling_depth"] == 2


def test_a_fine_tuned_model_is_pickled_with_its_weights(fitted):
    buffer = io.BytesIO()
    joblib.dump(fitted, buffer)
    n_weights = n_bytes_of_weights(fitted)
    assert n_weights < buffer.tell() < 1.5 * n_weights + 100_000
    buffer.seek(0)
    np.testing.assert_array_equal(joblib.load(buffer).transform(TEXTS), fitted.transform(TEXTS))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pickle_holds_the_weights_as_they_run_before_and_after_transform(dtype):
    embedder = LLMEmbedder(SMALL, features="hidden", dtype=dtype, random_state=0).fit(TEXTS)
    n_before = len(pickle.dumps(embedder))
    vectors = embedder.transform(TEXTS)
    assert n_bytes_of_weights(embedder) < len(pickle.dumps(embedder)) == n_before
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(embedder)).transform(TEXTS), vectors)


def test_a_frozen_model_is_pickled_by_its_name(directory):
    embedder = LLMEmbedder(directory, finetune=None).fit(TEXTS)
    vectors = embedder.transform(TEXTS)
    pickled = pickle.dumps(embedder)
    assert len(pickled) < 10_000
    np.testing.assert_array_equal(pickle.loads(pickled).transform(TEXTS), vectors)


@pytest.mark.parametrize("n_fits", [1, 2])
def test_a_cached_model_is_pickled_with_its_weights(tmp_path, n_fits):
    for _ in range(n_fits):
        embedder = LLMEmbedder(SMALL, memory=tmp_path, random_state=0).fit(TEXTS)
    vectors = embedder.transform(TEXTS)
    pickled = pickle.dumps(embedder.set_params(memory=None))
    shutil.rmtree(tmp_path / "models")
    np.testing.assert_array_equal(pickle.loads(pickled).transform(TEXTS), vectors)


def test_clones_share_a_frozen_model(directory):
    embedders = [clone(LLMEmbedder(directory, finetune=None)).fit(TEXTS) for _ in range(4)]
    models = []
    for embedder in embedders:
        models.append(embedder.load_model()[0])
        embedder.transform(TEXTS)
        models.append(embedder.load_model()[0])
    assert all(model is models[0] for model in models)


def test_two_models_are_shared_at_a_time(directory):
    embedders = [
        LLMEmbedder(directory, dtype=dtype, finetune=None).fit(TEXTS) for dtype in ("float32", "bfloat16", "float16")
    ]
    models = [weakref.ref(embedder.load_model()[0]) for embedder in embedders]
    gc.collect()
    assert [model() is not None for model in models] == [False, True, True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_embedder_from_a_gpu_runs_on_a_machine_without_one(fitted):
    embedder = LLMEmbedder()
    with pytest.warns(UserWarning, match="There is no device 'cuda:1' on this machine: the embedder runs on the CPU"):
        embedder.__setstate__(fitted.__getstate__() | {"device": "cuda:1", "device_": "cuda:1"})
    assert embedder.transform(TEXTS).shape == (12, 64)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_missing_is_an_error_that_says_what_to_set():
    with pytest.raises(ValueError, match=r"device='cuda': torch .* can use 0 such devices .* Set device='cpu' or None"):
        LLMEmbedder(SMALL, device="cuda").fit(TEXTS)


def test_another_device_can_be_chosen_on_loading(directory):
    assert LLMEmbedder.from_pretrained(directory, device="cpu").device == "cpu"


def test_a_model_of_a_relative_path_is_found_from_elsewhere(tmp_path, monkeypatch):
    save_model(LLMEmbedder(SMALL, random_state=0).fit(TEXTS), tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    fitted = LLMEmbedder("model", finetune=None, features="hidden").fit(TEXTS)
    expected = fitted.transform(TEXTS)
    monkeypatch.chdir("elsewhere")
    for embedder in (fitted, pickle.loads(pickle.dumps(fitted))):
        np.testing.assert_array_equal(embedder.transform(TEXTS), expected)


def test_other_users_can_read_a_saved_embedder(directory):
    umask = os.umask(0)
    os.umask(umask)
    assert directory.stat().st_mode & 0o777 == 0o777 & ~umask
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o666 & ~umask}


def test_numpy_parameters_are_saved(tmp_path):
    embedder = LLMEmbedder(
        SMALL, max_length=np.int64(64), finetune=FineTuning(epochs=np.float64(2)), random_state=np.int64(0)
    ).fit(TEXTS)
    embedder.save_pretrained(tmp_path / "new")
    loaded = LLMEmbedder.from_pretrained(tmp_path / "new")
    np.testing.assert_array_equal(loaded.transform(TEXTS), embedder.transform(TEXTS))


def test_frozen_estimators_embed(fitted):
    pipe = make_pipeline(FrozenEstimator(fitted))
    np.testing.assert_array_equal(pipe.fit(TEXTS).transform(TEXTS), fitted.transform(TEXTS))


def test_pandas_output_has_names_and_index(fitted):
    embedder = clone(fitted).set_output(transform="pandas")
    out = embedder.fit(TEXTS).transform(pd.Series(TEXTS, index=range(20, 32), name="text"))
    assert out.columns.to_list() == [f"llmembedder{i}" for i in range(64)]
    assert out.index.to_list() == list(range(20, 32))


def test_html_repr_shows_the_parameters_and_loads_nothing(fitted, monkeypatch):
    monkeypatch.delattr(language_model.LanguageModel, "load")
    assert "pooling_depth" in fitted._repr_html_()
    assert "LLMEmbedder" in LLMEmbedder()._repr_html_()
