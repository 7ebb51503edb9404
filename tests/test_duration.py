"""Before a long training, one warning says how long it takes and what is cheaper."""

import re
import time
import warnings
from types import SimpleNamespace

import pytest
from tiny_models import TEXTS, save_model, tiny
from transformers import Trainer

from skllm4es import FineTuning, LLMEmbedder, LoRA
from skllm4es.lm.callbacks import Forecast
from skllm4es.lm.windows import Window

TINY = tiny(num_hidden_layers=1)
#: Few steps of many batches, 108 in all.
SETTINGS = {"epochs": 3, "batch_tokens": 100}
N_BATCHES = 108


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for the seconds of each batch, of which the last ones are repeated."""
    clock = SimpleNamespace(seconds=[0], now=100.0, n_batches=0, interrupted=None)
    training_step = Trainer.training_step

    def timed_step(trainer, *args, **kwargs):
        clock.now += clock.seconds[min(clock.n_batches, len(clock.seconds) - 1)]
        clock.n_batches += 1
        if clock.n_batches == clock.interrupted:
            raise KeyboardInterrupt
        return training_step(trainer, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", timed_step)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "tiny"
    save_model(LLMEmbedder(TINY, finetune=FineTuning(epochs=1), random_state=0).fit(TEXTS), directory)
    return directory


def warnings_of(model=TINY, finetune=FineTuning(**SETTINGS), **params):  # noqa: B008
    """Fit an embedder; return the messages of its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        LLMEmbedder(model, finetune=finetune, max_length=8, random_state=0, **params).fit(TEXTS)
    return [str(warning.message) for warning in caught if "raining" in str(warning.message)]


def test_a_long_training_warns_once_with_its_duration(clock):
    clock.seconds = [10]
    (message,) = warnings_of()
    assert clock.n_batches == N_BATCHES
    minutes, speed = re.match(r"Training takes about (\d+) minutes, at ([\d.]+) tokens per second\. ", message).groups()
    assert int(minutes) == pytest.approx(10 * N_BATCHES / 60, rel=0.25)
    assert float(speed) == pytest.approx(0.7, rel=0.25)


def test_hours_are_called_hours(clock):
    clock.seconds = [100]
    (message,) = warnings_of()
    hours = re.match(r"Training takes about ([\d.]+) hours, ", message)[1]
    assert float(hours) == pytest.approx(100 * N_BATCHES / 3600, rel=0.25)


@pytest.mark.parametrize(("seconds", "n_batches"), [([5000, 10], 4), ([0, 8], 5), ([0, 0, 0, 0, 8], 9)])
@pytest.mark.filterwarnings("error")
def test_it_warns_after_the_first_batches(clock, seconds, n_batches):
    clock.seconds = seconds
    embedder = LLMEmbedder(TINY, finetune=FineTuning(**SETTINGS), max_length=8, random_state=0)
    with pytest.raises(UserWarning, match="Training takes about"):
        embedder.fit(TEXTS)
    assert clock.n_batches <= n_batches


@pytest.mark.parametrize("seconds", [[0], [1], [5000, 1], [900, 1, 1, 900, 1], [1, 90, 1, 1, 1, 90, 1]])
def test_a_short_training_does_not_warn_however_slow_single_batches_are(clock, seconds):
    clock.seconds = seconds
    assert warnings_of(verbose=1) == []
    assert clock.n_batches == N_BATCHES


def test_a_resumed_training_counts_what_is_left(clock, tmp_path):
    clock.seconds, clock.interrupted = [8], 80
    finetune = FineTuning(**SETTINGS, checkpoint_dir=tmp_path)
    embedder = LLMEmbedder(TINY, finetune=finetune, max_length=8, random_state=0)
    with pytest.warns(UserWarning, match="Training takes about"), pytest.raises(KeyboardInterrupt):
        embedder.fit(TEXTS)
    assert warnings_of(finetune=finetune) == []
    assert 20 < clock.n_batches - 80 < N_BATCHES / 2


@pytest.mark.parametrize(
    ("pretrained", "finetune", "cheaper", "no_use"),
    [
        (False, FineTuning(**SETTINGS), ["FromScratch(n_params", "FineTuning(epochs"], ["lora", "None"]),
        (True, FineTuning(**SETTINGS), ["finetune=None", "finetune='lora'", "FineTuning(epochs"], ["FromScratch"]),
        (True, LoRA(**SETTINGS), ["finetune=None", "LoRA(epochs"], ["FromScratch", "'lora'", "FineTuning"]),
    ],
    ids=["scratch", "full", "lora"],
)
def test_what_is_cheaper_depends_on_what_is_trained(clock, directory, pretrained, finetune, cheaper, no_use):
    clock.seconds = [10]
    (message,) = warnings_of(directory if pretrained else TINY, finetune)
    assert all(way in message for way in [*cheaper, "EventSerializer(max_events=...)"])
    assert not any(way in message for way in no_use)


def test_only_the_first_process_warns(clock):
    reports = []
    packs = [[Window([1] * 10, 0)]] * 4
    loader = type("Loader", (list,), {"dataset": packs})(packs)
    arguments = SimpleNamespace(gradient_accumulation_steps=1)
    for is_first in (True, False):
        forecast = Forecast(600, lambda seconds, speed, is_first=is_first: reports.append((is_first, seconds, speed)))
        state = SimpleNamespace(is_world_process_zero=is_first, num_input_tokens_seen=0, max_steps=40, global_step=0)
        forecast.on_train_begin(arguments, state, None, train_dataloader=loader)
        for _ in range(40):
            clock.now += 20
            state.num_input_tokens_seen += 10
            forecast.on_step_end(arguments, state, None)
    assert reports == [(True, 800, 0.5)]
