"""Training that is interrupted, resumed, or cannot be written to disk."""

import contextlib
import os
import shutil
import signal
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from forked import assert_killed, call, die, start
from tiny_models import NOISE, TEXTS, tiny

from skllm4es import FineTuning, LLMEmbedder, LoRA
from skllm4es.lm import folders, training
from skllm4es.lm.checkpoints import SealCheckpoints

TINY = tiny(num_hidden_layers=1)
LONG = {"epochs": 20, "batch_tokens": 100}


def long_training(random_state=0, memory=None, **changed):
    """Return an embedder that trains for 140 steps."""
    finetune = FineTuning(**LONG | changed)
    return LLMEmbedder(TINY, finetune=finetune, memory=memory, dtype="float32", random_state=random_state)


def train_and_die_with_the_second_checkpoint(directory, validation):
    seal = SealCheckpoints.on_save

    def seal_or_die(self, *args, **kwargs):
        if len(list(directory.glob("*/checkpoint-*"))) == 2:
            die()
        seal(self, *args, **kwargs)

    SealCheckpoints.on_save = seal_or_die
    long_training(checkpoint_dir=directory, validation_fraction=validation).fit(TEXTS)


@pytest.fixture
def steps(monkeypatch):
    """A list that grows by one entry with each training step of this process."""
    counted = []
    step = transformers.Trainer.training_step

    def count(*args, **kwargs):
        counted.append(1)
        return step(*args, **kwargs)

    monkeypatch.setattr(transformers.Trainer, "training_step", count)
    return counted


def assert_equal_weights(one, other):
    weights = (embedder.load_model()[0].parameters() for embedder in (one, other))
    assert all(torch.equal(left, right) for left, right in zip(*weights, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("validation", [None, 0.25])
def test_a_killed_training_resumes_and_ends_with_the_same_weights(tmp_path, steps, validation):
    assert_killed(start(train_and_die_with_the_second_checkpoint, tmp_path / "checkpoints", validation))
    assert len(list(tmp_path.glob("checkpoints/*/checkpoint-*"))) == 2
    resumed = long_training(checkpoint_dir=tmp_path / "checkpoints", validation_fraction=validation).fit(TEXTS)
    n_resumed = len(steps)
    undisturbed = long_training(validation_fraction=validation).fit(TEXTS)
    assert 0 < n_resumed < len(steps) - n_resumed
    assert_equal_weights(resumed, undisturbed)
    assert resumed.loss_curve_ == undisturbed.loss_curve_
    assert resumed.validation_loss_curve_ == undisturbed.validation_loss_curve_
    assert resumed.validation_loss_curve_tokens_ == undisturbed.validation_loss_curve_tokens_
    assert resumed.n_tokens_seen_ == undisturbed.n_tokens_seen_


def interrupt_after(monkeypatch, n_steps, error=KeyboardInterrupt):
    """Interrupt the next training after a number of steps, like Ctrl-C; other errors can be raised instead."""
    step, done = transformers.Trainer.training_step, []

    def interrupt(*args, **kwargs):
        if len(done) == n_steps:
            raise error
        done.append(1)
        return step(*args, **kwargs)

    monkeypatch.setattr(transformers.Trainer, "training_step", interrupt)


def interrupt_long_training(directory):
    """Leave checkpoints of a training in a directory, and return it."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 40)
        with pytest.raises(KeyboardInterrupt):
            long_training(checkpoint_dir=directory).fit(TEXTS)
    return directory


STOPS_EARLY = {
    "epochs": 60,
    "learning_rate": 0.05,
    "validation_fraction": 0.5,
    "patience": 3,
    "training_args": {"eval_steps": 6},
}


def interrupt_after_the_early_stop(monkeypatch, directory):
    """Interrupt a training that has stopped early, before its checkpoints are removed; return one that was not."""
    with monkeypatch.context() as patch:
        patch.setattr(training, "remove_folder", interrupt)
        with pytest.raises(KeyboardInterrupt):
            long_training(checkpoint_dir=directory, **STOPS_EARLY).fit(NOISE)
    return long_training(**STOPS_EARLY).fit(NOISE)


def test_a_training_killed_after_its_early_stop_stays_stopped(tmp_path, monkeypatch, steps):
    undisturbed = interrupt_after_the_early_stop(monkeypatch, tmp_path)
    steps.clear()
    resumed = long_training(checkpoint_dir=tmp_path, **STOPS_EARLY).fit(NOISE)
    assert len(steps) <= 1
    assert resumed.validation_loss_curve_ == undisturbed.validation_loss_curve_
    assert_equal_weights(resumed, undisturbed)


def interrupt(*args):
    raise KeyboardInterrupt


def test_checkpoints_may_move_before_a_training_is_resumed(tmp_path, monkeypatch):
    """The best weights are those of an earlier checkpoint, which is no longer where the Trainer wrote it."""
    undisturbed = interrupt_after_the_early_stop(monkeypatch, tmp_path / "first")
    shutil.move(tmp_path / "first", tmp_path / "second")
    resumed = long_training(checkpoint_dir=tmp_path / "second", **STOPS_EARLY).fit(NOISE)
    assert resumed.validation_loss_curve_ == undisturbed.validation_loss_curve_
    assert_equal_weights(resumed, undisturbed)


def test_early_stopping_remembers_how_long_it_has_waited(tmp_path, monkeypatch, steps):
    """The interruption falls between two of the three evaluations without a lower loss that `patience` allows."""
    undisturbed = long_training(**STOPS_EARLY).fit(NOISE)
    n_steps = len(steps)
    assert n_steps < 60 * 7  # It stops early.
    with monkeypatch.context() as patch:
        interrupt_after(patch, n_steps - 3)
        with pytest.raises(KeyboardInterrupt):
            long_training(checkpoint_dir=tmp_path, **STOPS_EARLY).fit(NOISE)
    resumed = long_training(checkpoint_dir=tmp_path, **STOPS_EARLY).fit(NOISE)
    assert resumed.validation_loss_curve_ == undisturbed.validation_loss_curve_
    assert_equal_weights(resumed, undisturbed)


@pytest.fixture(scope="module")
def interrupted_once(tmp_path_factory):
    return interrupt_long_training(tmp_path_factory.mktemp("interrupted"))


@pytest.fixture
def interrupted(interrupted_once, tmp_path):
    """A directory with the checkpoints of an interrupted training."""
    return shutil.copytree(interrupted_once, tmp_path / "checkpoints")


def test_a_half_written_checkpoint_is_skipped(interrupted, steps):
    latest = max(interrupted.glob("*/checkpoint-*"), key=lambda path: int(path.name[11:]))
    (latest / "trainer_state.json").write_text('{"half')
    resumed = long_training(checkpoint_dir=interrupted).fit(TEXTS)
    n_resumed = len(steps)
    undisturbed = long_training().fit(TEXTS)
    assert n_resumed < len(steps) - n_resumed
    assert_equal_weights(resumed, undisturbed)


@pytest.mark.parametrize("changed", [{"learning_rate": 1e-2}, {"random_state": 1}, {"epochs": 21}])
def test_a_training_with_other_settings_starts_from_the_beginning(interrupted, monkeypatch, changed):
    first_steps = []

    def stop(self, *args, **kwargs):
        first_steps.append(self.state.global_step)
        raise KeyboardInterrupt

    monkeypatch.setattr(transformers.Trainer, "training_step", stop)
    for settings in (changed, {}):
        with pytest.raises(KeyboardInterrupt):
            long_training(checkpoint_dir=interrupted, **settings).fit(TEXTS)
    assert first_steps[0] == 0 < first_steps[1]


def test_a_finished_training_leaves_no_checkpoints(tmp_path):
    long_training(checkpoint_dir=tmp_path).fit(TEXTS)
    assert [path.suffix for path in tmp_path.iterdir()] in ([], [".lock"])


def test_the_training_of_an_adapter_resumes(tmp_path, monkeypatch, steps):
    base = tmp_path / "base"
    LLMEmbedder(TINY, random_state=0, dtype="float32").fit(TEXTS).save_pretrained(base)

    def adapt(checkpoint_dir=None):
        finetune = LoRA(checkpoint_dir=checkpoint_dir, **LONG)
        return LLMEmbedder(base, features="hidden", finetune=finetune, dtype="float32", random_state=0).fit(TEXTS)

    with monkeypatch.context() as patch:
        interrupt_after(patch, 40)
        with pytest.raises(KeyboardInterrupt):
            adapt(tmp_path / "checkpoints")
    steps.clear()
    resumed = adapt(tmp_path / "checkpoints")
    n_resumed = len(steps)
    undisturbed = adapt()
    assert n_resumed < len(steps) - n_resumed
    np.testing.assert_array_equal(resumed.transform(TEXTS), undisturbed.transform(TEXTS))


@pytest.mark.parametrize("random_state", [None, np.random.RandomState(0)])
def test_checkpoints_need_a_seed_that_each_fit_starts_from(tmp_path, random_state):
    with pytest.raises(ValueError, match=r"checkpoint_dir needs an integer as random_state, .* Set random_state=0"):
        LLMEmbedder(TINY, finetune=FineTuning(checkpoint_dir=tmp_path), random_state=random_state).fit(TEXTS)


def test_a_disk_without_room_raises_before_training(tmp_path, monkeypatch, steps):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: usage)
    for params in ({"memory": tmp_path}, {"finetune": FineTuning(checkpoint_dir=tmp_path)}):
        with pytest.raises(OSError, match=r"has 1,000 bytes free, .* Nothing was trained yet"):
            LLMEmbedder(TINY, random_state=0, **params).fit(TEXTS)
    assert steps == []


def train_on_a_full_disk(**settings):
    """Train where no file can grow beyond 5,000 bytes."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    # Those of the tests are files, too.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        long_training(**settings).fit(TEXTS)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on the size of files")
@pytest.mark.parametrize("name", ["memory", "checkpoint_dir"])
def test_a_disk_that_fills_up_raises_and_nothing_half_written_is_used(tmp_path, name):
    settings = {"epochs": 30, "batch_tokens": "auto"}
    with pytest.raises(OSError, match="The model could not be written to"):
        call(partial(train_on_a_full_disk, **settings, **{name: tmp_path}))
    embedder = long_training(**settings, **{name: tmp_path}).fit(TEXTS)
    assert_equal_weights(embedder, long_training(**settings).fit(TEXTS))
