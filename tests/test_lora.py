"""`finetune="lora"`: adapters, merged into the weights or kept beside them."""

import pickle
import shutil

import numpy as np
import pytest
import torch

from skllm4es import FineTuning, FromScratch, LLMEmbedder, LoRA

SMALL = FromScratch(
    config={
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
)
TEXTS = [f"day|title|rating\n{day}, Heat, 5\n{day + 1}, Alien, {day % 5}" for day in range(12)]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lora") / "pretrained"
    LLMEmbedder(SMALL, random_state=0, dtype="float32").fit(TEXTS).save_pretrained(directory)
    return directory


def lora(pretrained, memory=None, **params):
    finetune = LoRA(**{"epochs": 20, "learning_rate": 1e-2, **params})
    return LLMEmbedder(pretrained, finetune=finetune, memory=memory, dtype="float32", random_state=0).fit(TEXTS)


def n_bytes(directory):
    return sum(file.stat().st_size for file in directory.rglob("*.safetensors"))


def test_an_adapter_is_trained_and_the_pretrained_model_is_not(pretrained):
    before = {file.name: file.read_bytes() for file in pretrained.iterdir()}
    frozen = LLMEmbedder(pretrained, dtype="float32", finetune=None).fit_transform(TEXTS)
    adapted = lora(pretrained)
    assert adapted.loss_curve_[-1] < adapted.loss_curve_[0] - 0.1
    assert not np.allclose(adapted.transform(TEXTS), frozen, atol=1e-2)
    assert {file.name: file.read_bytes() for file in pretrained.iterdir()} == before


def test_merged_and_kept_adapters_embed_alike(pretrained):
    merged, kept = lora(pretrained), lora(pretrained, merge=False)
    np.testing.assert_allclose(kept.transform(TEXTS), merged.transform(TEXTS), rtol=1e-4, atol=1e-5)
    n_merged, n_kept = (sum(w.numel() for w in each.load_model()[0].parameters()) for each in (merged, kept))
    assert n_kept > n_merged


@pytest.mark.parametrize("merge", [True, False])
def test_what_was_saved_embeds_the_same(pretrained, tmp_path, merge):
    adapted = lora(pretrained, merge=merge)
    adapted.save_pretrained(tmp_path / "saved")
    loaded = LLMEmbedder.from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(loaded.transform(TEXTS), adapted.transform(TEXTS), rtol=1e-5, atol=1e-6)
    assert (n_bytes(tmp_path / "saved") < 0.7 * n_bytes(pretrained)) != merge


@pytest.mark.parametrize("merge", [True, False])
def test_memory_keeps_it(pretrained, tmp_path, merge):
    first, second = (lora(pretrained, merge=merge, memory=tmp_path) for _ in range(2))
    assert first.cache_info().n_models == 1
    np.testing.assert_allclose(second.transform(TEXTS), first.transform(TEXTS), rtol=1e-5, atol=1e-6)
    assert second.loss_curve_ == first.loss_curve_
    pickled = pickle.dumps(second.set_params(memory=None))
    np.testing.assert_allclose(pickle.loads(pickled).transform(TEXTS), first.transform(TEXTS), rtol=1e-5, atol=1e-6)


def test_a_changed_model_under_an_adapter_is_noticed(pretrained, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(pretrained, base)
    lora(base, merge=False).save_pretrained(tmp_path / "saved")
    LLMEmbedder(SMALL, random_state=1, dtype="float32").fit(TEXTS).load_model()[0].save_pretrained(base)
    with pytest.raises(OSError, match=r"the model below the adapter in .* has changed since it was saved"):
        LLMEmbedder.from_pretrained(tmp_path / "saved")


def test_a_missing_model_under_an_adapter_is_named(pretrained, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(pretrained, base)
    lora(base, merge=False).save_pretrained(tmp_path / "saved")
    shutil.rmtree(base)
    with pytest.raises(OSError, match=str(base)):
        LLMEmbedder.from_pretrained(tmp_path / "saved")


def test_an_adapter_is_where_training_can_begin(pretrained, tmp_path):
    kept = lora(pretrained, merge=False)
    kept.save_pretrained(tmp_path / "saved")
    tuned = LLMEmbedder(tmp_path / "saved", dtype="float32", finetune=FineTuning(epochs=1e-9, learning_rate=1e-9)).fit(
        TEXTS
    )
    np.testing.assert_allclose(tuned.transform(TEXTS), kept.transform(TEXTS), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_may_stand_on_another(pretrained, tmp_path, merge):
    lora(pretrained, merge=False).save_pretrained(tmp_path / "first")
    second = lora(tmp_path / "first", merge=merge, memory=tmp_path / "memory")
    second.save_pretrained(tmp_path / "second")
    loaded = LLMEmbedder.from_pretrained(tmp_path / "second")
    np.testing.assert_allclose(loaded.transform(TEXTS), second.transform(TEXTS), rtol=1e-4, atol=1e-5)


def test_settings_of_the_adapter_are_those_of_peft(pretrained):
    few, many = (lora(pretrained, merge=False, r=rank) for rank in (2, 8))
    n_few, n_many = (sum(w.numel() for w in each.load_model()[0].parameters()) for each in (few, many))
    assert n_few < n_many
    with pytest.raises(ValueError, match=r"lora_args names \['rank_patern'\].*Did you mean \['rank_pattern'\]"):
        lora(pretrained, lora_args={"rank_patern": {}})


def test_gradient_checkpointing_gives_the_same_adapter(pretrained):
    params = {"merge": False, "training_args": {"bf16": False}, "epochs": 3}
    plain, saving = lora(pretrained, **params), lora(pretrained, gradient_checkpointing=True, **params)
    for ours, theirs in zip(saving.load_model()[0].parameters(), plain.load_model()[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_model_from_scratch_has_nothing_to_adapt():
    with pytest.raises(ValueError, match="finetune='lora' needs a pretrained model"):
        LLMEmbedder(SMALL, finetune="lora").fit(TEXTS)


@pytest.mark.real_data
def test_a_real_pretrained_llama_is_adapted(data_home):
    directory = data_home / "tinystories-656k"
    adapted = LLMEmbedder(directory, random_state=0, finetune=LoRA(epochs=10, learning_rate=1e-2)).fit(TEXTS)
    assert adapted.loss_curve_[-1] < adapted.loss_curve_[0]
    assert np.isfinite(adapted.transform(TEXTS)).all()
