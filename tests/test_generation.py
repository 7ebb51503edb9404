"""Writing with a model: draws by a text's own seed, in padded and in continuous batches."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from skllm4es.lm.generation import Job, Written, write_continuously, write_in_batches
from skllm4es.lm.sampling import Sampling, gumbel_noise, seed_of_step

END = 1


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def jobs():
    rng = np.random.default_rng(0)
    return [Job(rng.integers(2, 50, 3 + 5 * n).tolist(), 10 + 7 * (n % 4), 1000 * n) for n in range(9)]


def write(model, jobs, temperature=1.0, top_p=1.0, how=write_in_batches, batch_tokens=None):
    written = dict(how(model, jobs, Sampling(temperature, top_p), [END], batch_tokens))
    return [written[position] for position in range(len(jobs))]


# Draws


def test_noise_draws_tokens_with_their_probabilities():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    seeds = torch.tensor([seed_of_step(7, step) for step in range(100_000)])
    drawn = (probabilities.log() + gumbel_noise(seeds, 4)).argmax(1)
    # Five standard deviations.
    assert torch.bincount(drawn) / 100_000 == pytest.approx(probabilities, abs=0.008)


def test_noise_of_neighbouring_seeds_and_tokens_is_independent():
    noise = gumbel_noise(torch.arange(300), 300).double().numpy()
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.03)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.06)
    assert np.abs(np.corrcoef(noise)[np.triu_indices(300, 1)]).max() < 0.35
    assert np.abs(np.corrcoef(noise.T)[np.triu_indices(300, 1)]).max() < 0.35


def test_noise_is_finite_and_the_same_everywhere():
    noise = gumbel_noise(torch.tensor([0, 1, 2**32 - 1]), 130_000)
    assert noise.isfinite().all()
    # Golden: other numbers would change every text that was written.
    assert noise[1, [0, 1, 129_999]].tolist() == pytest.approx([-2.8115408, 1.542353, -0.7126201], rel=1e-5)


def test_temperature_and_top_p_are_those_of_transformers():
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    scores = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    seeds = torch.arange(4)
    expected = TopPLogitsWarper(0.7)(None, TemperatureLogitsWarper(0.5)(None, scores)) + gumbel_noise(seeds, 30)
    torch.testing.assert_close(Sampling(0.5, 0.7).choose(scores, seeds), expected)


def test_temperature_zero_takes_the_most_likely(model, jobs):
    greedy = write(model, jobs[:3], temperature=0)
    expected = model.generate(
        torch.tensor([jobs[2].ids]), max_new_tokens=24, do_sample=False, eos_token_id=END, pad_token_id=0
    )
    assert greedy[2].ids == expected[0, len(jobs[2].ids) :].tolist()
    assert greedy == write(model, [job._replace(seed=5) for job in jobs[:3]], temperature=0)


# Batches

HOWS = [write_in_batches, write_continuously]


@pytest.mark.parametrize("how", HOWS)
def test_a_text_is_the_same_whichever_share_its_batch(model, jobs, how):
    together = write(model, jobs, how=how, batch_tokens=2000)
    alone = [write(model, [job], how=how, batch_tokens=1)[0] for job in (jobs[0], jobs[5])]
    assert [together[0], together[5]] == alone


def test_continuous_and_padded_batches_write_the_same(model, jobs):
    padded = write(model, jobs, 0.8, 0.9)
    assert write(model, jobs, 0.8, 0.9, write_continuously, 2000) == padded
    # Room for hardly more than one text at a time.
    assert write(model, jobs, 0.8, 0.9, write_continuously, 100) == padded


@pytest.mark.parametrize("how", HOWS)
def test_another_seed_gives_another_text(model, jobs, how):
    same, other = jobs[3], jobs[3]._replace(seed=4)
    first, second, third = write(model, [same, other, same], how=how, batch_tokens=1000)
    assert first == third != second


@pytest.mark.parametrize("how", HOWS)
def test_each_text_has_its_own_limit(model, jobs, how):
    endless = [Job(job.ids, job.max_new_tokens, 0) for job in jobs]
    written = dict(how(model, endless, Sampling(1.0, 1.0), [49], 2000))
    for position, job in enumerate(endless):
        n_written = len(written[position].ids)
        assert n_written < job.max_new_tokens if written[position].finished else n_written == job.max_new_tokens


@pytest.mark.parametrize("how", HOWS)
def test_a_text_ends_at_any_of_the_ends(model, jobs, how):
    job = Job(jobs[5].ids, 30, 3)
    free = dict(how(model, [job], Sampling(1.0, 1.0), [END], 500))[0].ids
    ends = [END, free[6], free[4]]
    stop = min(free.index(end) for end in ends[1:])
    assert dict(how(model, [job], Sampling(1.0, 1.0), ends, 500))[0] == Written(free[:stop], True)


def test_a_limit_is_reached_at_the_last_token_if_it_is_no_end(model, jobs):
    (written,) = write(model, [Job(jobs[5].ids, 5, 3)])
    assert written == Written(written.ids, False)
    assert len(written.ids) == 5


def test_batches_keep_to_their_tokens(model, jobs, monkeypatch):
    sizes = []
    generate = type(model).generate

    def measured(self, input_ids, generation_config, **arguments):
        sizes.append((len(input_ids), input_ids.shape[1] + generation_config.max_new_tokens))
        return generate(self, input_ids=input_ids, generation_config=generation_config, **arguments)

    monkeypatch.setattr(type(model), "generate", measured)
    write(model, jobs, batch_tokens=150)
    assert sum(n_texts for n_texts, _ in sizes) == len(jobs)
    assert all(n_texts == 1 or n_texts * width <= 150 for n_texts, width in sizes)
    assert len(sizes) < len(jobs)


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
def test_the_models_own_settings_change_nothing(model, jobs, monkeypatch, settings):
    plain = write(model, jobs[:2])
    for name, value in settings.items():
        monkeypatch.setattr(model.generation_config, name, value)
    before = model.generation_config.to_dict()
    assert write(model, jobs[:2]) == plain
    assert model.generation_config.to_dict() == before


def test_continuous_batches_do_not_see_the_models_own_settings(model, jobs, monkeypatch):
    plain = write(model, jobs[:2])
    for name, value in {"repetition_penalty": 5.0, "num_return_sequences": 2, "suppress_tokens": [5, 6, 7]}.items():
        monkeypatch.setattr(model.generation_config, name, value)
    assert write(model, jobs[:2], how=write_continuously, batch_tokens=500) == plain


def test_too_little_memory_is_told_with_what_to_lower(model, jobs, monkeypatch):
    def full(*arguments, **more):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(type(model), "generate", full)
    with pytest.raises(MemoryError, match=r"do not fit into the memory of cpu\. Lower batch_tokens"):
        write(model, jobs)


def test_a_continuous_batch_that_is_left_early_stops(model, jobs):
    import threading

    n_threads = threading.active_count()
    results = write_continuously(model, jobs, Sampling(1.0, 1.0), [END], 2000)
    next(results)
    results.close()
    assert threading.active_count() == n_threads
    assert model.config._attn_implementation == "sdpa"


def test_the_callers_random_state_is_left_alone(model, jobs):
    state = torch.get_rng_state()
    write(model, jobs)
    assert torch.equal(torch.get_rng_state(), state)
