"""`finetune="lora"`: adapters, merged into the weights or kept beside them."""

import pickle
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from tiny_models import SMALL, TEXTS

from skllm4es import FineTuning, LLMEmbedder, LoRA
from skllm4es.lm import training


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lora") / "pretrained"
    LLMEmbedder(SMALL, random_state=0, dtype="float32").fit(TEXTS).save_pretrained(directory)
    return directory


def fit_lora(pretrained, memory=None, **params):
    finetune = LoRA(**{"epochs": 5, "learning_rate": 1e-2, **params})
    settings = {"features": "hidden", "memory": memory, "dtype": "float32", "random_state": 0}
    return LLMEmbedder(pretrained, finetune=finetune, **settings).fit(TEXTS)


@pytest.fixture(scope="module")
def adapted_as(pretrained):
    """An embedder with an adapter, merged or not, fitted on first use; tests do not change it."""
    return cache(lambda merge: fit_lora(pretrained, merge=merge))


def n_weights(embedder):
    return sum(weights.numel() for weights in embedder.load_model()[0].parameters())


def n_bytes_of_weights(directory):
    return sum(file.stat().st_size for file in directory.rglob("*.safetensors"))


def test_the_adapter_is_trained_and_the_pretrained_model_is_left_alone(pretrained):
    before = {file.name: file.read_bytes() for file in pretrained.iterdir()}
    frozen = LLMEmbedder(pretrained, features="hidden", dtype="float32", finetune=None).fit_transform(TEXTS)
    adapted = fit_lora(pretrained, epochs=20)
    assert adapted.loss_curve_[-1] < adapted.loss_curve_[0] - 0.1
    assert not np.allclose(adapted.transform(TEXTS), frozen, atol=1e-2)
    assert {file.name: file.read_bytes() for file in pretrained.iterdir()} == before


def test_merged_and_separate_adapters_give_the_same_embeddings(adapted_as):
    merged, kept = adapted_as(True), adapted_as(False)
    np.testing.assert_allclose(kept.transform(TEXTS), merged.transform(TEXTS), rtol=1e-4, atol=1e-5)
    n_merged, n_kept = (n_weights(adapted) for adapted in (merged, kept))
    assert n_kept > n_merged


@pytest.mark.parametrize("merge", [True, False])
def test_a_saved_adapter_gives_the_same_embeddings(pretrained, adapted_as, tmp_path, merge):
    adapted = adapted_as(merge)
    adapted.save_pretrained(tmp_path / "saved")
    loaded = LLMEmbedder.from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(loaded.transform(TEXTS), adapted.transform(TEXTS), rtol=1e-5, atol=1e-6)
    assert (n_bytes_of_weights(tmp_path / "saved") < 0.7 * n_bytes_of_weights(pretrained)) != merge


@pytest.mark.parametrize("merge", [True, False])
def test_memory_keeps_the_adapter(pretrained, tmp_path, merge):
    first, second = (fit_lora(pretrained, merge=merge, memory=tmp_path) for _ in range(2))
    assert first.cache_info().n_models == 1
    np.testing.assert_allclose(second.transform(TEXTS), first.transform(TEXTS), rtol=1e-5, atol=1e-6)
    assert second.loss_curve_ == first.loss_curve_
    pickled = pickle.dumps(second.set_params(memory=None))
    np.testing.assert_allclose(pickle.loads(pickled).transform(TEXTS), first.transform(TEXTS), rtol=1e-5, atol=1e-6)


def test_a_changed_model_below_an_adapter_raises(pretrained, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(pretrained, base)
    fit_lora(base, merge=False).save_pretrained(tmp_path / "saved")
    LLMEmbedder(SMALL, random_state=1, dtype="float32").fit(TEXTS).load_model()[0].save_pretrained(base)
    with pytest.raises(OSError, match=r"the model below the adapter in .* has changed since it was saved"):
        LLMEmbedder.from_pretrained(tmp_path / "saved")


def test_a_missing_model_below_an_adapter_is_named(pretrained, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(pretrained, base)
    fit_lora(base, merge=False).save_pretrained(tmp_path / "saved")
    shutil.rmtree(base)
    with pytest.raises(OSError, match=str(base)):
        LLMEmbedder.from_pretrained(tmp_path / "saved")


def test_training_can_start_from_an_adapter(adapted_as, tmp_path):
    kept = adapted_as(False)
    kept.save_pretrained(tmp_path / "saved")
    finetune = FineTuning(epochs=1e-9, learning_rate=1e-9)
    tuned = LLMEmbedder(tmp_path / "saved", features="hidden", dtype="float32", finetune=finetune).fit(TEXTS)
    np.testing.assert_allclose(tuned.transform(TEXTS), kept.transform(TEXTS), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_can_be_trained_on_another(adapted_as, tmp_path, merge):
    adapted_as(False).save_pretrained(tmp_path / "first")
    second = fit_lora(tmp_path / "first", merge=merge, memory=tmp_path / "memory")
    second.save_pretrained(tmp_path / "second")
    loaded = LLMEmbedder.from_pretrained(tmp_path / "second")
    np.testing.assert_allclose(loaded.transform(TEXTS), second.transform(TEXTS), rtol=1e-4, atol=1e-5)


def test_the_settings_of_an_adapter_reach_peft(pretrained):
    few, many = (fit_lora(pretrained, merge=False, r=rank) for rank in (2, 8))
    n_few, n_many = (n_weights(adapted) for adapted in (few, many))
    assert n_few < n_many
    with pytest.raises(ValueError, match=r"lora_args names \['rank_patern'\].*Did you mean \['rank_pattern'\]"):
        fit_lora(pretrained, lora_args={"rank_patern": {}})


def test_gradient_checkpointing_gives_the_same_adapter(pretrained):
    params = {"merge": False, "training_args": {"bf16": False}, "epochs": 3}
    plain, checkpointed = fit_lora(pretrained, **params), fit_lora(pretrained, gradient_checkpointing=True, **params)
    for left, right in zip(checkpointed.load_model()[0].parameters(), plain.load_model()[0].parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(checkpointed)).transform(TEXTS), checkpointed.transform(TEXTS)
    )


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed but")  # By peft, which trains nevertheless.
def test_an_adapter_that_cannot_be_merged_raises_before_it_is_trained(pretrained, monkeypatch):
    monkeypatch.setattr(training, "finetune", None)
    with pytest.raises(ValueError, match=r"cannot be merged into the model: .*lora_bias.* Set merge=False"):
        fit_lora(pretrained, lora_args={"lora_bias": True})


@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_for_tokens_that_never_come_raises(pretrained, merge):
    with pytest.raises(ValueError, match="alora_invocation_tokens, but such an adapter changes only what comes after"):
        fit_lora(pretrained, merge=merge, lora_args={"alora_invocation_tokens": [1, 2]})


def test_an_adapter_of_a_model_from_scratch_raises():
    with pytest.raises(ValueError, match="finetune='lora' needs a pretrained model"):
        LLMEmbedder(SMALL, finetune="lora").fit(TEXTS)


@pytest.mark.parametrize("modules", [["embed_tokens"], ["q_proj", "lm_head"]])
def test_an_adapter_on_weights_that_the_model_shares_raises(pretrained, modules):
    """Merged, it would change the input embeddings and the output layer, of which it was trained on one."""
    with pytest.raises(ValueError, match="input embeddings or the output layer, whose weights this model shares"):
        fit_lora(pretrained, target_modules=modules)


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_a_copy_of_weights_that_the_model_shares_raises(pretrained, module):
    with pytest.raises(ValueError, match=rf"whose weights this model shares.*modules_to_save .*{module}"):
        fit_lora(pretrained, lora_args={"modules_to_save": [module]})


def test_an_adapter_that_cannot_be_read_back_raises(pretrained):
    with pytest.raises(ValueError, match="init_lora_weights='pissa_niter_4' draws at random"):
        fit_lora(pretrained, merge=False, lora_args={"init_lora_weights": "pissa_niter_4"})


@pytest.mark.real_data
def test_a_real_pretrained_llama_is_adapted(data_home):
    directory = data_home / "tinystories-656k"
    adapted = LLMEmbedder(directory, random_state=0, finetune=LoRA(epochs=10, learning_rate=1e-2)).fit(TEXTS)
    assert adapted.loss_curve_[-1] < adapted.loss_curve_[0]
    assert np.isfinite(adapted.transform(TEXTS)).all()
