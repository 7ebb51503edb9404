"""What the package promises when something breaks: each test breaks it, checks the message, and tries again.

The user guide lists these promises in a table. In the end, the result is that of an undisturbed run. For failing
servers of rewriters see `test_openai_rewriter`; for killed training and rewriting, `test_checkpoints` and
`test_enrichment`.
"""

import ctypes
import resource
import shutil
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from forked import CONTEXT, assert_killed, die, start
from test_checkpoints import interrupt_after
from test_enrichment import TEXTS as HISTORIES
from test_enrichment import Language
from tiny_models import TEXTS, TINY, save_model

from skllm4es import FineTuning, LLMEmbedder, TextEnricher
from skllm4es._store import Store
from skllm4es.datasets import _base
from skllm4es.datasets._base import fetch_folder
from skllm4es.lm import pooling, training
from skllm4es.lm.cache import Cache

SETTINGS = {"features": ["hidden", "scores"], "dtype": "float32", "random_state": 0}


def embedder_in(memory=None, checkpoint_dir=None):
    finetune = FineTuning(epochs=8, batch_tokens=100, checkpoint_dir=checkpoint_dir)
    return LLMEmbedder(TINY, memory=memory, finetune=finetune, **SETTINGS)


@pytest.fixture(scope="module")
def undisturbed():
    """The embedder of a run in which nothing breaks."""
    return embedder_in().fit(TEXTS)


@pytest.fixture(scope="module")
def expected(undisturbed):
    return undisturbed.transform(TEXTS)


# Killed processes


def die_while_storing_a_model(memory):
    training.write_log = die
    embedder_in(memory).fit(TEXTS)


@pytest.mark.slow
def test_killed_while_storing_a_model(tmp_path, expected):
    assert_killed(start(die_while_storing_a_model, tmp_path))
    assert len(list((tmp_path / "models").glob("draft-*/model.safetensors"))) == 1
    np.testing.assert_array_equal(embedder_in(tmp_path).fit_transform(TEXTS), expected)
    assert list((tmp_path / "models").glob("draft-*")) == []


def die_while_storing_vectors(model, memory):
    """Die in the middle of the third write."""
    pooling.TOKEN_BUDGET["cpu"] = pooling.GROUP = 1
    embedder = embedder_in(model).fit(TEXTS)
    embedder.memory = memory
    connection, connections = Store.connection, []

    @contextmanager
    def dying(self):
        connections.append(self)
        with connection(self) as opened:
            yield opened
            if len(connections) == 4:  # The first one reads.
                die()

    Store.connection = dying
    embedder.transform(TEXTS)


@pytest.mark.slow
def test_killed_while_storing_vectors(tmp_path, expected):
    assert_killed(start(die_while_storing_vectors, tmp_path / "model", tmp_path))
    assert Cache(tmp_path).info().n_vectors == 2
    embedder = embedder_in(tmp_path / "model").fit(TEXTS).set_params(memory=tmp_path)
    np.testing.assert_allclose(embedder.transform(TEXTS), expected, rtol=1e-5, atol=1e-6)
    info = embedder.cache_info()
    assert (info.hits, info.misses) == (2, len(TEXTS) - 2)


def die_while_receiving(archive, home):
    _base._retrieve = lambda url, path: (path.write_bytes(b"PK"), die())
    fetch_folder(archive, home)


def die_while_unpacking(archive, home):
    _base.zipfile.ZipFile.extractall = lambda self, path: (self.extract("toy/a.txt", path), die())
    fetch_folder(archive, home)


@pytest.mark.slow
@pytest.mark.parametrize("fetch", [die_while_receiving, die_while_unpacking])
def test_killed_while_downloading_a_data_set(server, tmp_path, fetch):
    archive = server.archive()
    assert_killed(start(fetch, archive, tmp_path))
    assert [path.name[:14] for path in tmp_path.iterdir()] == [".toy-download-"]
    folder = fetch_folder(archive, tmp_path)
    assert (folder / "a.txt").read_bytes() == b"one\ntwo\n"
    assert (folder / "deep" / "b.txt").read_bytes() == b"three\n"


# Two processes


def train_for_ever(memory, begun):
    transformers.Trainer.training_step = lambda *args, **kwargs: (begun.set(), time.sleep(300))
    embedder_in(memory).fit(TEXTS)


@pytest.mark.slow
def test_a_process_that_waits_for_a_model_trains_it_if_the_other_is_killed(tmp_path, expected):
    begun = CONTEXT.Event()
    other = start(train_for_ever, tmp_path, begun)
    assert begun.wait(300)
    waiting = embedder_in(tmp_path)
    thread = threading.Thread(target=waiting.fit, args=[TEXTS])
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive()
    other.kill()
    assert_killed(other)
    thread.join(300)
    np.testing.assert_array_equal(waiting.transform(TEXTS), expected)


def fit_and_count_trainings(memory, ready):
    finetune, trainings = training.finetune, []
    training.finetune = lambda *args, **kwargs: trainings.append(1) or finetune(*args, **kwargs)
    ready.wait(300)
    vectors = embedder_in(memory).fit_transform(TEXTS)
    return vectors, len(trainings)


@pytest.mark.slow
def test_two_processes_train_a_model_once(tmp_path, expected):
    with CONTEXT.Manager() as manager, ProcessPoolExecutor(2, mp_context=CONTEXT) as pool:
        ready = manager.Barrier(2)
        results = list(pool.map(fit_and_count_trainings, [tmp_path] * 2, [ready] * 2, timeout=300))
    assert sum(n_trainings for _, n_trainings in results) == 1
    for vectors, _ in results:
        np.testing.assert_array_equal(vectors, expected)


# Full and read-only disks


class SmallDisk:
    """A small disk of its own, for users with the right to mount one."""

    error = "Read-only"

    def __init__(self, path):
        self.path = path
        path.mkdir()
        try:
            problem = self._mount("size=16m").stderr
        except FileNotFoundError as error:
            problem = str(error)
        if problem:
            pytest.skip(f"needs the right to mount a disk: {problem.strip()}")

    def _mount(self, options):
        command = ["mount", "-t", "tmpfs", "-o", options, "none", self.path]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    @contextmanager
    def full(self, left=0):
        filler = self.path / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(self.path).free - left))
        try:
            yield
        finally:
            filler.unlink()

    @contextmanager
    def read_only(self):
        assert self._mount("remount,ro").returncode == 0
        yield

    def close(self):
        subprocess.run(["umount", "--lazy", self.path], check=True)


class BoundDirectory:
    """A directory in place of a disk, for any user: a limit on file sizes makes it full, permissions read-only."""

    error = "Permission denied"

    def __init__(self, path):
        self.path = path
        path.mkdir()

    @contextmanager
    def full(self, left=0):
        limit, hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        (self.path / "filler").touch()
        resource.setrlimit(resource.RLIMIT_FSIZE, (left // 8, hard_limit))  # The limit applies to each file.
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard_limit))
            (self.path / "filler").unlink()

    @contextmanager
    def read_only(self):
        paths = [self.path, *self.path.rglob("*")]
        for path in paths:
            path.chmod(path.stat().st_mode & ~0o222)
        try:
            with without_root_access():
                yield
        finally:
            for path in paths:
                path.chmod(path.stat().st_mode | 0o200)

    def close(self):
        pass


@contextmanager
def without_root_access():
    """Make this thread obey file permissions even if it runs as root."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "capset"):  # Linux only.
        yield
        return
    header, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, rights) == 0
    held = rights[0]
    rights[0] &= ~(1 << 1)  # CAP_DAC_OVERRIDE
    assert libc.capset(header, rights) == 0
    try:
        yield
    finally:
        rights[0] = held
        assert libc.capset(header, rights) == 0


@pytest.fixture(params=[SmallDisk, BoundDirectory], ids=["disk", "directory"])
def disk(request, tmp_path):
    disk = request.param(tmp_path / "disk")
    yield disk
    disk.close()


@pytest.mark.parametrize("left", [0, 40_000], ids=["before training", "while writing"])
@pytest.mark.parametrize("name", ["memory", "checkpoint_dir"])
def test_a_disk_too_full_for_a_model(disk, expected, name, left):
    embedder = embedder_in(**{name: disk.path / "directory"})
    message = r"bytes free, .* Nothing was trained yet|could not be written to"
    with disk.full(left), pytest.raises(OSError, match=message):
        embedder.fit(TEXTS)
    assert list(disk.path.rglob("draft-*")) == []
    np.testing.assert_array_equal(embedder.fit_transform(TEXTS), expected)


def test_a_disk_too_full_for_vectors(disk, expected):
    embedder = embedder_in(disk.path).fit(TEXTS)
    more = [f"{text}\n30, Heat, 1" for text in TEXTS]
    message = r"vectors.sqlite cannot be used: .*Check that its directory .* with free space"
    with disk.full(), pytest.raises(OSError, match=message):
        embedder.transform(more)
    np.testing.assert_array_equal(embedder.transform(TEXTS), expected)
    np.testing.assert_array_equal(embedder.transform(more), embedder.set_params(memory=None).transform(more))


def test_a_disk_too_full_for_rewritings(disk):
    enricher = TextEnricher(Language(), n_variants=3, memory=disk.path, random_state=0)
    enricher.fit_transform(HISTORIES[:2])
    with disk.full(), pytest.raises(OSError, match=r"rewrites.sqlite cannot be used: .*with free space"):
        enricher.fit_transform(HISTORIES)
    resumed = enricher.fit_transform(HISTORIES)
    pd.testing.assert_frame_equal(
        resumed, TextEnricher(Language(), n_variants=3, random_state=0).fit_transform(HISTORIES)
    )


def test_a_disk_too_full_for_a_saved_embedder(disk, undisturbed, expected):
    message = r"could not be written to .*saved.*Free some space.* and save again"
    with disk.full(), pytest.raises(OSError, match=message):
        undisturbed.save_pretrained(disk.path / "saved")
    assert list(disk.path.iterdir()) == []
    undisturbed.save_pretrained(disk.path / "saved")
    np.testing.assert_array_equal(LLMEmbedder.from_pretrained(disk.path / "saved").transform(TEXTS), expected)


def test_a_disk_too_full_for_a_download(disk, server):
    message = r"Toy cannot be saved: the disk of .*disk is full(?s:.*)1\. Make room there"
    with disk.full(), pytest.raises(OSError, match=message):
        fetch_folder(server.archive(), disk.path)
    assert server.n_requests == 1  # Asking again would not make room.
    assert list(disk.path.iterdir()) == []
    assert (fetch_folder(server.archive(), disk.path) / "a.txt").read_bytes() == b"one\ntwo\n"


def test_a_read_only_disk(disk, server, undisturbed, expected):
    embedder_in(disk.path / "memory").fit(TEXTS).transform(TEXTS)
    undisturbed.save_pretrained(disk.path / "saved")
    fetch_folder(server.archive(), disk.path)
    with disk.read_only():
        # The model in the first one can be read, but SQLite needs to write even where it only looks for vectors.
        for memory, reason in (("memory", r"vectors.sqlite cannot be used"), ("another", disk.error)):
            with pytest.raises(OSError, match=rf"{reason}.*directory is writable"):
                embedder_in(disk.path / memory).fit(TEXTS)
        with pytest.raises(OSError, match=r"vectors.sqlite cannot be used: .*directory is writable"):
            embedder_in().fit(TEXTS).set_params(memory=disk.path / "memory").transform(TEXTS)
        with pytest.raises(OSError, match=rf"{disk.error}.*directory that you may write to"):
            embedder_in(checkpoint_dir=disk.path / "checkpoints").fit(TEXTS)
        with pytest.raises(OSError, match=rf"{disk.error}.*you may write to, and save again"):
            undisturbed.save_pretrained(disk.path / "again")
        with pytest.raises(OSError, match=rf"The cache .* cannot be used: .*{disk.error}.*directory is writable"):
            TextEnricher(Language(), memory=disk.path / "rewrites", random_state=0).fit_transform(HISTORIES)
        # Reading still works.
        np.testing.assert_array_equal(LLMEmbedder.from_pretrained(disk.path / "saved").transform(TEXTS), expected)
        assert fetch_folder(server.archive(), disk.path).is_dir()


# Damaged files

DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "flipped": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "replaced": lambda content: b"[]",
}


def damaged_copies(source, target):
    """Copy a folder again and again, each time with one file damaged or deleted; yield which and how."""
    for file in sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file()):
        for name, damage in [*DAMAGES.items(), ("deleted", None)]:
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
            content = (target / file).read_bytes()
            (target / file).unlink()
            if damage:
                (target / file).write_bytes(damage(content))
            yield f"{file} {name}"


def test_a_damaged_saved_embedder_raises(tmp_path, undisturbed):
    undisturbed.save_pretrained(tmp_path / "saved")
    for damage in damaged_copies(tmp_path / "saved", tmp_path / "copy"):
        with pytest.raises(OSError, match=r"is damaged: .*save it again|There is no embedder in|this version .* reads"):
            print(damage, LLMEmbedder.from_pretrained(tmp_path / "copy"))


def test_a_damaged_cached_model_raises_and_is_trained_again_once_deleted(tmp_path, expected):
    embedder_in(tmp_path).fit(TEXTS)
    (folder,) = (path for path in (tmp_path / "models").iterdir() if path.is_dir())
    shutil.copytree(folder, tmp_path / "whole")
    for damage in damaged_copies(tmp_path / "whole", folder):
        with pytest.raises(
            OSError, match=r"The model in .* is damaged. Delete the folder, and it will be trained again"
        ):
            print(damage, embedder_in(tmp_path).fit(TEXTS))
    shutil.rmtree(folder)
    np.testing.assert_array_equal(embedder_in(tmp_path).fit_transform(TEXTS), expected)


@pytest.mark.parametrize("damage", ["cut", "emptied", "replaced", "one bit"])
def test_damaged_vectors_raise_and_are_computed_again_once_deleted(tmp_path, expected, damage):
    embedder_in(tmp_path).fit_transform(TEXTS)
    file = tmp_path / "vectors.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        (vector,) = connection.execute("SELECT value FROM vectors LIMIT 1").fetchone()
    content = file.read_bytes()
    changed = vector[:-1] + bytes([vector[-1] ^ 1])
    file.write_bytes(content.replace(vector, changed) if damage == "one bit" else DAMAGES[damage](content))
    with pytest.raises(OSError, match=r"vectors.sqlite cannot be read: .*Delete the file, and its vectors will be com"):
        embedder_in(tmp_path).fit_transform(TEXTS)
    file.unlink()
    np.testing.assert_array_equal(embedder_in(tmp_path).fit_transform(TEXTS), expected)


def test_damage_to_a_pretrained_model_raises_or_is_harmless(tmp_path, undisturbed):
    save_model(undisturbed, tmp_path / "model")
    n_errors = 0
    for damage in damaged_copies(tmp_path / "model", tmp_path / "copy"):
        try:
            vectors = LLMEmbedder(tmp_path / "copy", features="hidden", finetune=None).fit(TEXTS).transform(TEXTS)
        except OSError as error:
            n_errors += 1
            message = str(error)
            assert "could not be loaded" in message, damage
        else:
            assert np.isfinite(vectors).all(), damage
    assert n_errors > 10


@pytest.mark.parametrize(
    ("file", "damage"), [("model.safetensors", "flipped"), ("optimizer.pt", "cut"), ("config.json", "emptied")]
)
def test_a_damaged_checkpoint_is_skipped(tmp_path, undisturbed, expected, monkeypatch, file, damage):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 16)
        with pytest.raises(KeyboardInterrupt):
            embedder_in(checkpoint_dir=tmp_path).fit(TEXTS)
    latest = max(tmp_path.glob("*/checkpoint-*"), key=lambda path: int(path.name[11:]))
    (latest / file).write_bytes(DAMAGES[damage]((latest / file).read_bytes()))
    step, steps = transformers.Trainer.training_step, []
    monkeypatch.setattr(transformers.Trainer, "training_step", lambda *a, **k: steps.append(1) or step(*a, **k))
    np.testing.assert_array_equal(embedder_in(checkpoint_dir=tmp_path).fit_transform(TEXTS), expected)
    assert len(steps) < len(undisturbed.loss_curve_)  # It resumed from the checkpoint before.


# Memory


def test_a_batch_too_large_for_memory_is_halved_until_it_fits(tmp_path, expected, monkeypatch):
    forward = pooling.LayerPooler._run

    def out_of_memory(self, sequences, weights):
        if len(sequences) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, sequences, weights)

    monkeypatch.setattr(pooling.LayerPooler, "_run", out_of_memory)
    vectors = embedder_in(tmp_path).fit_transform(TEXTS)
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)
    assert Cache(tmp_path).info().n_vectors == len(TEXTS)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_a_training_that_runs_out_of_memory_raises_and_resumes(tmp_path, expected, monkeypatch, error):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 15, error)
        with pytest.raises(MemoryError, match=r"does not fit into the memory of cpu: .*Shorten the window"):
            embedder_in(checkpoint_dir=tmp_path).fit(TEXTS)
    np.testing.assert_array_equal(embedder_in(checkpoint_dir=tmp_path).fit_transform(TEXTS), expected)
