"""Processes started by a launcher train and embed together, and each returns the whole result."""

import os
import subprocess
import sys

import numpy as np
import pytest
from tiny_models import tiny

from skllm4es import FineTuning, LLMEmbedder

MODEL = tiny(hidden_size=32, intermediate_size=64)
TEXTS = [f"day|title|rating\n{day}, Heat, 5\n{day + 1}, Alien, {day % 5}" for day in range(40)]
#: Texts from which nothing can be learned about each other: the loss of the held-out ones soon rises.
NOISE = ["".join(chr(97 + (i * j * j + i) % 26) for j in range(1, 60)) for i in range(1, 41)]
#: Batches of 4 packs, 2 for each of two processes.
TRAINING = {"epochs": 4, "batch_tokens": 228, "learning_rate": 1e-2, "training_args": {"bf16": False}}
PARAMS = {"max_length": 64, "dtype": "float32", "random_state": 0}

SCRIPT = f"""
import os, sys
import numpy as np
from skllm4es import FineTuning, FromScratch, LLMEmbedder

directory, memory = sys.argv[1], sys.argv[2] or None
finetune, texts = FineTuning(**{TRAINING} | eval(sys.argv[3])), eval(sys.argv[4])
embedder = LLMEmbedder({MODEL}, memory=memory, finetune=finetune, **{PARAMS})
vectors = embedder.fit(texts).transform(texts)
np.savez(f"{{directory}}/{{os.environ['RANK']}}.npz", vectors=vectors, losses=embedder.loss_curve_,
         n_tokens=embedder.n_tokens_seen_, validation_losses=embedder.validation_loss_curve_,
         weights=np.concatenate([w.detach().numpy().ravel() for w in embedder.load_model()[0].parameters()]))
if memory and os.environ["RANK"] == "0":
    # Nothing was embedded twice: neither texts, for their scores, nor events.
    assert embedder.cache_info().n_vectors == embedder.cache_info().misses > len(texts), embedder.cache_info()
"""


def launch(tmp_path, memory="", texts=TEXTS, **training):
    """Run the script in two processes, and return the results of each."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script),
         str(tmp_path), str(memory), repr(training), repr(texts)],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(2)]


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
    assert_whole_results(launch(tmp_path), alone)


@pytest.mark.slow
def test_processes_share_a_memory(tmp_path, alone):
    assert_whole_results(launch(tmp_path, tmp_path / "memory"), alone)
    embedder = LLMEmbedder(MODEL, memory=tmp_path / "memory", finetune=FineTuning(**TRAINING), **PARAMS).fit(TEXTS)
    # One of the two processes, and one of this process alone: rounding differs with their number.
    assert embedder.cache_info().n_models == 2


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_dir", [None, "checkpoints"])
def test_all_processes_keep_the_best_weights(tmp_path, checkpoint_dir):
    checkpoint_dir = checkpoint_dir and str(tmp_path / checkpoint_dir)
    training = {"validation_fraction": 0.2, "learning_rate": 0.1, "epochs": 20, "patience": 2}
    results = launch(tmp_path, texts=NOISE, checkpoint_dir=checkpoint_dir, **training)
    np.testing.assert_array_equal(results[0]["weights"], results[1]["weights"])
    np.testing.assert_array_equal(results[0]["vectors"], results[1]["vectors"])
    curve = results[1]["validation_losses"]
    assert np.argmin(curve) < len(curve) - 1
