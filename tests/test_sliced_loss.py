"""The loss of a training, slice by slice: the same as transformers', without the logits of all tokens."""

import pytest
import torch
from tiny_models import TINY_CONFIG
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from skllm4es.lm import sliced_loss as module
from skllm4es.lm.sliced_loss import can_slice, sliced_loss

#: Tied and untied heads, with and without a bias.
SLICED = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "gpt2": {},
    "phi": {"tie_word_embeddings": False},
    "gpt_neox": {},
}
#: Capped logits, scaled ones, and a loss for experts.
SPECIAL = {
    "gemma2": {"final_logit_softcapping": 5.0, "head_dim": 8},
    "cohere": {"logit_scale": 0.1},
    "mixtral": {"output_router_logits": True, "num_local_experts": 2},
}


def build(model_type, **settings):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 48, "max_position_embeddings": 64, "vocab_size": 99, "pad_token_id": 0}
    sizes |= {"bos_token_id": 1, "eos_token_id": 2, "attention_dropout": 0.0, "hidden_dropout": 0.0}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**sizes | settings)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(5)  # Random weights near zero hide differences.
    return model


def batch_of(n_tokens, vocab_size=99, n_ignored=5):
    ids = torch.randint(3, vocab_size, (1, n_tokens), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[0, :n_ignored] = module.IGNORED
    return {"input_ids": ids, "labels": labels}


def loss_and_gradients(model, batch, sliced, **arguments):
    model.zero_grad()
    with sliced_loss(model, sliced):
        loss = model(**batch, **arguments).loss
    loss.backward()
    gradients = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
    return loss.detach(), gradients


@pytest.mark.parametrize("held", [2**25, 99 * 32])
@pytest.mark.parametrize("model_type", SLICED)
def test_loss_and_gradients_are_those_of_transformers(monkeypatch, model_type, held):
    """In one slice, and in two."""
    monkeypatch.setitem(module._HELD_LOGITS, "cpu", held)
    model, batch = build(model_type, **SLICED[model_type]), batch_of(50)
    assert can_slice(model)
    for arguments in ({}, {"num_items_in_batch": torch.tensor(120)}):
        loss, gradients = loss_and_gradients(model, batch, sliced=True, **arguments)
        expected, expected_gradients = loss_and_gradients(model, batch, sliced=False, **arguments)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
        assert gradients.keys() == expected_gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model_type", SPECIAL)
def test_what_a_model_adds_to_its_loss_is_not_lost(model_type):
    model = build(model_type, **SPECIAL[model_type])
    same = can_slice(model)
    loss, _ = loss_and_gradients(model, batch_of(30), sliced=same)
    expected, _ = loss_and_gradients(model, batch_of(30), sliced=False)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert same == (model_type != "gemma2")


def test_autocast_has_the_loss_that_it_has_in_transformers():
    model, batch = build("llama"), batch_of(50)
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients = loss_and_gradients(model, batch, sliced=True)
        expected, expected_gradients = loss_and_gradients(model, batch, sliced=False)
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        difference = (gradient - expected_gradients[name]).norm() / expected_gradients[name].norm()
        assert difference < 3e-2, name


def test_the_model_is_left_as_it_was():
    model, batch = build("llama"), batch_of(20)
    before = model(**batch)
    with sliced_loss(model):
        assert model(**batch).logits.shape[-1] == 32
    after = model(**batch)
    torch.testing.assert_close((after.loss, after.logits), (before.loss, before.logits))


def test_a_text_without_labels_has_no_loss():
    model = build("llama")
    batch = batch_of(20, n_ignored=20)
    loss, _ = loss_and_gradients(model, batch, sliced=True, num_items_in_batch=torch.tensor(7))
    assert loss == 0


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is made."""

    n_elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.n_elements = max(self.n_elements, tensor.numel())
        return result


@pytest.mark.parametrize("gradients", [True, False])
def test_the_logits_of_a_long_text_are_never_there_at_once(gradients):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY_CONFIG | {"vocab_size": 49_152}, max_position_embeddings=4096))
    batch = batch_of(2000, vocab_size=49_152)
    with Largest() as largest, torch.set_grad_enabled(gradients), sliced_loss(model):
        loss = model(**batch).loss
        if gradients:
            loss.backward()
    assert largest.n_elements <= 1.1 * module._HELD_LOGITS["cpu"] < 0.5 * 2000 * 49_152
