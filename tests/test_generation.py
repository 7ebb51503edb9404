"""Generation with a model: each text is sampled with its own seed, in padded batches."""

import copy

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, RwkvConfig, RwkvForCausalLM

from skllm4es.lm.generation import Completion, Prompt, batching_of, generate
from skllm4es.lm.sampling import Sampling, gumbel_noise, seed_of_step

END = 1


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    assert batching_of(model) == ("all", True)  # It is tried here, before tests watch the model.
    return model


@pytest.fixture
def prompts():
    rng = np.random.default_rng(0)
    return [Prompt(rng.integers(2, 50, 3 + 5 * n).tolist(), 10 + 7 * (n % 4), 1000 * n) for n in range(9)]


def complete(model, prompts, temperature=1.0, top_p=1.0, batch_tokens=16_384):
    completions = dict(generate(model, prompts, Sampling(temperature, top_p), [END], batch_tokens))
    return [completions[position] for position in range(len(prompts))]


# Sampling


def test_noise_samples_tokens_with_their_probabilities():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    seeds = torch.tensor([seed_of_step(7, step) for step in range(100_000)])
    drawn = (probabilities.log() + gumbel_noise(seeds, torch.arange(4)[None])).argmax(1)
    # Five standard deviations.
    assert torch.bincount(drawn) / 100_000 == pytest.approx(probabilities, abs=0.008)


def test_noise_of_neighbouring_seeds_and_tokens_is_independent():
    noise = gumbel_noise(torch.arange(300), torch.arange(300)[None]).double().numpy()
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.03)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.06)
    assert np.abs(np.corrcoef(noise)[np.triu_indices(300, 1)]).max() < 0.35
    assert np.abs(np.corrcoef(noise.T)[np.triu_indices(300, 1)]).max() < 0.35


def test_noise_is_finite_and_the_same_everywhere():
    noise = gumbel_noise(torch.tensor([0, 1, 2**32 - 1]), torch.arange(130_000)[None])
    assert noise.isfinite().all()
    # Golden: other numbers would change every generated text.
    assert noise[1, [0, 1, 129_999]].tolist() == pytest.approx([-2.8115408, 1.542353, -0.7126201], rel=1e-5)


def test_temperature_and_top_p_work_as_in_transformers():
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    scores = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    seeds = torch.arange(4)
    expected = TopPLogitsWarper(0.7)(None, TemperatureLogitsWarper(0.5)(None, scores)) + gumbel_noise(
        seeds, torch.arange(30)[None]
    )
    torch.testing.assert_close(Sampling(0.5, 0.7).perturb(scores, seeds), expected)


def test_temperature_zero_takes_the_most_likely_token(model, prompts):
    greedy = complete(model, prompts[:3], temperature=0)
    expected = model.generate(
        torch.tensor([prompts[2].ids]), max_new_tokens=24, do_sample=False, eos_token_id=END, pad_token_id=0
    )
    assert greedy[2].ids == expected[0, len(prompts[2].ids) :].tolist()
    assert greedy == complete(model, [prompt._replace(seed=5) for prompt in prompts[:3]], temperature=0)


# Batches


def test_a_text_does_not_depend_on_its_batch(model, prompts):
    together = complete(model, prompts, batch_tokens=2000)
    alone = [complete(model, [prompt], batch_tokens=1)[0] for prompt in (prompts[0], prompts[5])]
    assert [together[0], together[5]] == alone


class Maskless(LlamaForCausalLM):
    """A model that takes padding for text."""

    def forward(self, *arguments, attention_mask=None, position_ids=None, **more):
        return super().forward(*arguments, **more)


def tiny_maskless():
    return Maskless(LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2))


def tiny_rwkv():
    return RwkvForCausalLM(RwkvConfig(vocab_size=50, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2))


@pytest.mark.parametrize(
    ("make", "sharing", "expected"), [(tiny_maskless, "same length", [2] * 3), (tiny_rwkv, "none", [1] * 6)]
)
def test_prompts_share_a_batch_only_if_that_makes_no_difference(prompts, monkeypatch, make, sharing, expected):
    torch.manual_seed(0)
    model = make().eval()
    assert batching_of(model) == (sharing, False)
    sizes = []
    original = type(model).generate

    def measured(self, input_ids, attention_mask, **arguments):
        sizes.append(len(input_ids))
        assert attention_mask.all()
        return original(self, input_ids=input_ids, attention_mask=attention_mask, **arguments)

    monkeypatch.setattr(type(model), "generate", measured)
    several = prompts[:3] + [prompt._replace(ids=prompt.ids[::-1], seed=7) for prompt in prompts[:3]]
    together = complete(model, several)
    assert sizes == expected
    assert together == [complete(model, [prompt])[0] for prompt in several]


def test_a_text_is_there_as_soon_as_it_ends_and_leaves_its_batch(model, monkeypatch):
    sizes = []
    forward = type(model).forward

    def counted(self, input_ids, **arguments):
        sizes.append(len(input_ids))
        return forward(self, input_ids, **arguments)

    monkeypatch.setattr(type(model), "forward", counted)
    prompts = [Prompt([5 + n, 3, 4], limit, 0) for n, limit in enumerate((12, 4, 8))]
    n_forward = [len(sizes) for _ in generate(model, prompts, Sampling(1.0, 1.0), [999], 1000)]
    assert n_forward == [4, 8, 12]
    assert sizes == [3] * 4 + [2] * 4 + [1] * 4


def test_one_query_attends_as_torch_does(prompts):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2
    )
    usual = LlamaForCausalLM(config).eval()
    eager = LlamaForCausalLM._from_config(copy.deepcopy(config), attn_implementation="eager").eval()
    eager.load_state_dict(usual.state_dict())
    assert complete(usual, prompts) == complete(eager, prompts)
    assert usual.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.97, 0.995])
def test_the_most_likely_tokens_are_found_in_any_vocabulary(top_p):
    from transformers import TopPLogitsWarper

    scores = (
        torch.randn(5, 3000, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.01, 1, 3, 9, 30])[:, None]
    )
    seeds = torch.arange(5)
    expected = TopPLogitsWarper(top_p)(None, scores) + gumbel_noise(seeds, torch.arange(3000)[None])
    torch.testing.assert_close(Sampling(1.0, top_p).perturb(scores, seeds), expected)


def test_what_prompts_share_is_read_once(model, prompts, monkeypatch):
    starts = [[7, 8, 9, 10], [11, 12]]
    together = [
        Prompt(starts[n % 2] + prompt.ids, prompt.max_new_tokens, prompt.seed) for n, prompt in enumerate(prompts)
    ]
    expected = complete(model, together)
    sizes = []
    forward = type(model).forward

    def counted(self, input_ids, **arguments):
        sizes.append(tuple(input_ids.shape))
        return forward(self, input_ids, **arguments)

    monkeypatch.setattr(type(model), "forward", counted)
    shared = [prompt._replace(n_shared=len(starts[n % 2])) for n, prompt in enumerate(together)]
    assert complete(model, shared) == expected
    assert sizes[:2] == [(2, 4), (9, max(len(prompt.ids) for prompt in prompts))]


def test_rounded_scores_do_not_keep_prompts_apart():
    # In bfloat16 the largest scores of SmolLM2 are often equal, so a text may go on in another way.
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    model.lm_head.weight.data[1:] = model.lm_head.weight.data[0]
    assert batching_of(model.to(torch.bfloat16)) == ("all", True)


def test_another_seed_gives_another_text(model, prompts):
    same, other = prompts[3], prompts[3]._replace(seed=4)
    first, second, third = complete(model, [same, other, same], batch_tokens=1000)
    assert first == third != second


def test_each_text_has_its_own_limit(model, prompts):
    endless = [Prompt(prompt.ids, prompt.max_new_tokens, 0) for prompt in prompts]
    completions = dict(generate(model, endless, Sampling(1.0, 1.0), [49], 2000))
    for position, prompt in enumerate(endless):
        n_tokens = len(completions[position].ids)
        assert n_tokens < prompt.max_new_tokens if completions[position].finished else n_tokens == prompt.max_new_tokens


def test_a_text_ends_at_any_stop_token(model, prompts):
    prompt = Prompt(prompts[5].ids, 30, 3)
    free = dict(generate(model, [prompt], Sampling(1.0, 1.0), [END], 500))[0].ids
    ends = [END, free[6], free[4]]
    stop = min(free.index(end) for end in ends[1:])
    assert dict(generate(model, [prompt], Sampling(1.0, 1.0), ends, 500))[0] == Completion(free[:stop], True)


def test_a_text_without_stop_token_ends_at_its_limit(model, prompts):
    (completion,) = complete(model, [Prompt(prompts[5].ids, 5, 3)])
    assert completion == Completion(completion.ids, False)
    assert len(completion.ids) == 5


def test_batches_have_at_most_batch_tokens(model, prompts, monkeypatch):
    sizes = []
    original = type(model).generate

    def measured(self, input_ids, generation_config, **arguments):
        if not {"cache", "past_key_values"} & set(arguments):  # Otherwise some texts of a batch go on.
            sizes.append((len(input_ids), input_ids.shape[1] + generation_config.max_new_tokens))
        return original(self, input_ids=input_ids, generation_config=generation_config, **arguments)

    monkeypatch.setattr(type(model), "generate", measured)
    complete(model, prompts, batch_tokens=150)
    assert sum(n_texts for n_texts, _ in sizes) == len(prompts)
    assert all(n_texts == 1 or n_texts * width <= 150 for n_texts, width in sizes)
    assert len(sizes) < len(prompts)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1},
        {"num_beams": 4},
        {"do_sample": True, "num_return_sequences": 3},
        {"stop_strings": ["a"]},
        {"max_time": 1e-9},
        {"min_new_tokens": 30},
        {"suppress_tokens": list(range(2, 30))},
    ],
    ids=str,
)
def test_the_models_own_settings_are_ignored(model, prompts, monkeypatch, settings):
    plain = complete(model, prompts[:2])
    for name, value in settings.items():
        monkeypatch.setattr(model.generation_config, name, value)
    before = model.generation_config.to_dict()
    assert complete(model, prompts[:2]) == plain
    assert model.generation_config.to_dict() == before


def test_too_little_memory_raises_with_a_remedy(model, prompts, monkeypatch):
    def full(*arguments, **more):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(type(model), "generate", full)
    with pytest.raises(MemoryError, match=r"do not fit into the memory of cpu\. Make the batches smaller"):
        complete(model, prompts)


def test_the_global_random_state_is_unchanged(model, prompts):
    state = torch.get_rng_state()
    complete(model, prompts)
    assert torch.equal(torch.get_rng_state(), state)
