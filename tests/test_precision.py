"""Training in bfloat16 on a CPU: rounded weights, plain products in attention, and packs that are filled up."""

import numpy as np
import pytest
import torch
from test_finetuning import ONE_PROCESS, llama, windows_of
from torch.nn import functional

from skllm4es.lm import finetuning
from skllm4es.lm.adapters import add_adapter
from skllm4es.lm.finetuning import finetune
from skllm4es.lm.packing import attend_within_texts, collate, packed_attention, pad_pack
from skllm4es.lm.precision import RoundedWeights, rounded_weights
from skllm4es.lm.schedule import Schedule


def train(model, *, bf16, learning_rate=1e-2, **arguments):
    arguments = {"bf16": bf16, "logging_steps": 1, **arguments}
    schedule = Schedule(epochs=6, learning_rate=learning_rate, weight_decay=0.01, batch_tokens=200, arguments=arguments)
    _, log = finetune(
        model, windows_of([20, 31, 12, 40, 90, 7, 55, 130]), schedule, max_length=140, seed=0, group=ONE_PROCESS
    )
    return log.losses


def adapted():
    torch.manual_seed(0)
    return add_adapter(llama(), {"r": 4, "target_modules": "all-linear"}, "nowhere")


@pytest.mark.parametrize("make", [llama, adapted])
def test_the_loss_curve_is_that_of_autocast_and_of_float32(monkeypatch, make):
    rounded = train(make(), bf16=True)
    exact = train(make(), bf16=False)
    monkeypatch.setattr(finetuning, "_can_round", lambda *_: False)
    autocast = train(make(), bf16=True)
    assert exact[-1] < exact[0] - 0.01
    np.testing.assert_allclose(rounded, exact, atol=1e-2)
    np.testing.assert_allclose(rounded, autocast, atol=1e-2)


def test_training_twice_gives_the_same_weights():
    one, other = llama(), llama()
    assert train(one, bf16=True) == train(other, bf16=True)
    assert all(torch.equal(left, right) for left, right in zip(one.parameters(), other.parameters(), strict=True))


def test_weights_stay_in_float32_and_learn_less_than_bfloat16_could_show():
    model, before = llama(), llama()
    train(model, bf16=True, learning_rate=1e-7)
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    changed = [
        not torch.equal(left, right) for left, right in zip(model.parameters(), before.parameters(), strict=True)
    ]
    assert all(changed)
    torch.testing.assert_close(list(model.parameters()), list(before.parameters()), rtol=0, atol=1e-5)


def test_gradients_of_several_windows_are_summed_in_float32():
    model = llama()
    batches = [collate(windows_of([25], seed)) for seed in range(3)]
    expected = None
    with packed_attention(model), rounded_weights(model, True) as rounded:
        for batch in batches:
            with rounded.at_step(0):
                assert model.lm_head.weight.dtype == torch.bfloat16
                model(**batch).loss.backward()
        together = [weights.grad.clone() for weights in model.parameters()]
        for batch in batches:
            model.zero_grad()
            with rounded.at_step(0):
                model(**batch).loss.backward()
            each = [weights.grad.clone() for weights in model.parameters()]
            expected = each if expected is None else [a + b for a, b in zip(expected, each, strict=True)]
    torch.testing.assert_close(together, expected, rtol=1e-6, atol=1e-9)


def test_copies_follow_the_weights_from_step_to_step_and_frozen_ones_stay():
    model = llama()
    frozen = model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    rounded = RoundedWeights(model)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(1)
    with rounded.at_step(1):
        copies = {id(weights): weights.data.clone() for weights in model.parameters()}
    for weights in model.parameters():
        expected = weights - 1 if weights is frozen else weights
        torch.testing.assert_close(copies[id(weights)].float(), expected, rtol=1e-2, atol=1e-2)


def test_a_model_that_mixes_types_is_trained_with_autocast():
    model = llama()
    model.model.norm.register_buffer("scale", torch.eye(8))
    usual = model.model.norm.forward
    model.model.norm.forward = lambda hidden: usual(hidden) @ model.model.norm.scale
    with rounded_weights(model, True) as rounded:
        assert rounded is None
    losses = train(model, bf16=True)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("n_heads", [2, 6])
def test_attention_in_blocks_is_that_of_torch(dtype, tolerance, n_heads):
    """Texts of one token, at and beside the borders of blocks, and one that is left to torch."""
    lengths = [1, 31, 32, 129, 256, 512, 513]
    ends = np.cumsum(lengths).tolist()
    torch.manual_seed(0)
    states = [torch.randn(1, n, ends[-1], 8).to(dtype).requires_grad_() for n in (n_heads, 2, 2)]
    output, _ = attend_within_texts(None, *states, scaling=0.3, text_ends=ends)
    gradients = torch.autograd.grad(output.float().square().sum(), states)
    parts = [
        functional.scaled_dot_product_attention(
            *(tensor[:, :, end - length : end] for tensor in states), is_causal=True, scale=0.3, enable_gqa=True
        )
        for length, end in zip(lengths, ends, strict=True)
    ]
    expected = torch.cat(parts, dim=2).transpose(1, 2)
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)
    expected_gradients = torch.autograd.grad(expected.float().square().sum(), states)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert (gradient - other).norm() <= tolerance * other.norm()


def test_a_padded_pack_has_the_loss_of_its_texts_and_a_common_length():
    model, batch = llama(), collate(windows_of([7, 30, 2, 40]))
    padded = pad_pack(batch)
    assert padded["input_ids"].shape == padded["labels"].shape == padded["position_ids"].shape == (1, 96)
    assert padded["text_ends"][-1] == 96
    assert pad_pack(padded) is padded
    with torch.inference_mode(), packed_attention(model):
        assert model(**padded).loss.item() == pytest.approx(model(**batch).loss.item(), abs=1e-6)


def test_padding_is_not_counted_as_tokens_of_the_texts():
    schedule = Schedule(epochs=1, learning_rate=1e-3, weight_decay=0.0, batch_tokens=60)
    _, log = finetune(llama(), windows_of([37, 50]), schedule, max_length=60, seed=0, group=ONE_PROCESS)
    assert log.n_tokens == 87
