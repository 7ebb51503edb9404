"""Processes started by a launcher train and embed together, and each returns the whole result."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forked import start
from tiny_models import tiny

from skllm4es import FineTuning, LLMEmbedder

MODEL = tiny(hidden_size=32, intermediate_size=64)
TEXTS = [f"day|title|rating\n{day}, Heat, 5\n{day + 1}, Alien, {day % 5}" for day in range(40)]
#: Texts from which nothing can be learned about each other: the loss of the held-out ones soon rises.
NOISE = ["".join(chr(97 + (i * j * j + i) % 26) for j in range(1, 60)) for i in range(1, 41)]
#: Batches of 4 packs, 2 for each of two processes.
TRAINING = {"epochs": 4, "batch_tokens": 228, "learning_rate": 1e-2, "training_args": {"bf16": False}}
PARAMS = {"max_length": 64, "dtype": "float32", "random_state": 0}


def fit(directory, memory=None, texts=TEXTS, verbose=0, **training):
    """Fit as one of several processes, and write the results to a file."""
    finetune = FineTuning(**TRAINING | training)
    embedder = LLMEmbedder(MODEL, memory=memory, finetune=finetune, verbose=verbose, **PARAMS)
    vectors = embedder.fit(texts).transform(texts)
    weights = [weights.detach().numpy().ravel() for weights in embedder.load_model()[0].parameters()]
    np.savez(
        Path(directory, f"{os.environ['RANK']}.npz"),
        vectors=vectors,
        losses=embedder.loss_curve_,
        n_tokens=embedder.n_tokens_seen_,
        validation_losses=embedder.validation_loss_curve_,
        weights=np.concatenate(weights),
    )
    if memory and os.environ["RANK"] == "0":
        # Nothing was embedded twice: neither texts, for their scores, nor events.
        assert embedder.cache_info().n_vectors == embedder.cache_info().misses > len(texts), embedder.cache_info()


def fit_with_torchrun(tmp_path):
    """Let torch's launcher start two processes, and return the results of each."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_processes\n"
        f"test_processes.fit({str(tmp_path)!r}, verbose=1)"
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # In a new process, the first wait is for imports.
    assert done.stdout.startswith("importing torch and transformers\n")
    assert done.stdout.count("importing") == 1
    return results_in(tmp_path)


def fit_as(rank, port, directory, settings):
    """Fit in the environment that a launcher gives to one of two processes."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(number) for name, number in numbers.items()}})
    fit(directory, **settings)


def fit_in_two(tmp_path, **settings):
    """Fit in two processes, in a fraction of the time that the launcher takes, and return the results of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(fit_as, rank, port, tmp_path, settings) for rank in range(2)]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    return results_in(tmp_path)


def results_in(directory):
    return [dict(np.load(directory / f"{rank}.npz")) for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    return LLMEmbedder(MODEL, finetune=FineTuning(**TRAINING), **PARAMS).fit(TEXTS)


def assert_whole_results(results, alone):
    expected = alone.transform(TEXTS)
    for result in results:
        np.testing.assert_allclose(result["vectors"], expected, rtol=1e-2, atol=1e-3)
        np.testing.assert_array_equal(result["vectors"], results[0]["vectors"])
        np.testing.assert_array_equal(result["weights"], results[0]["weights"])
        np.testing.assert_allclose(result["losses"], alone.loss_curve_, rtol=1e-4)
        assert result["n_tokens"] == pytest.approx(alone.n_tokens_seen_, rel=0.1)


@pytest.mark.slow
def test_two_processes_return_what_one_returns(tmp_path, alone):
    assert_whole_results(fit_with_torchrun(tmp_path), alone)


@pytest.mark.slow
def test_processes_share_a_memory(tmp_path, alone):
    assert_whole_results(fit_in_two(tmp_path, memory=tmp_path / "memory"), alone)
    embedder = LLMEmbedder(MODEL, memory=tmp_path / "memory", finetune=FineTuning(**TRAINING), **PARAMS).fit(TEXTS)
    # One of the two processes, and one of this process alone: rounding differs with their number.
    assert embedder.cache_info().n_models == 2


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_dir", [None, "checkpoints"])
def test_all_processes_keep_the_best_weights(tmp_path, checkpoint_dir):
    checkpoint_dir = checkpoint_dir and str(tmp_path / checkpoint_dir)
    training = {"validation_fraction": 0.2, "learning_rate": 0.1, "epochs": 20, "patience": 2}
    results = fit_in_two(tmp_path, texts=NOISE, checkpoint_dir=checkpoint_dir, **training)
    np.testing.assert_array_equal(results[0]["weights"], results[1]["weights"])
    np.testing.assert_array_equal(results[0]["vectors"], results[1]["vectors"])
    curve = results[1]["validation_losses"]
    assert np.argmin(curve) < len(curve) - 1
