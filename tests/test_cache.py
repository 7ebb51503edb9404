"""`memory`: nothing is computed twice, and nothing damaged is used."""

import errno
import os
import pickle
import shutil
import sqlite3

import joblib
import numpy as np
import pytest
import torch
from forked import CONTEXT
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from tiny_models import TEXTS, TINY, TINY_CONFIG, save_model, tiny

from skllm4es import FineTuning, LLMEmbedder
from skllm4es.lm import embedding, folders, language_model, pooling, sources, training
from skllm4es.lm.cache import Cache, hash_of
from skllm4es.lm.language_model import LanguageModel
from skllm4es.lm.sources import DirectorySource

SPACE = b"s" * 16


def embedder_in(memory, **params):
    params = {"memory": memory, "dtype": "float32", "finetune": FineTuning(), **params}
    return LLMEmbedder(TINY, features="hidden", random_state=0, **params)


@pytest.fixture
def counts(monkeypatch):
    """The numbers of texts that were embedded and of models that were fine-tuned."""
    counts = {"texts": 0, "models": 0}
    pool, finetune = pooling.LayerPooler.pool, training.finetune

    def count_texts(self, texts):
        counts["texts"] += len(texts)
        return pool(self, texts)

    def count_models(*args, **kwargs):
        counts["models"] += 1
        return finetune(*args, **kwargs)

    monkeypatch.setattr(pooling.LayerPooler, "pool", count_texts)
    monkeypatch.setattr(training, "finetune", count_models)
    return counts


@pytest.fixture(scope="module")
def trained():
    finetune = FineTuning(epochs=1)
    return LLMEmbedder(TINY, features="hidden", dtype="float32", finetune=finetune, random_state=0).fit(TEXTS)


@pytest.fixture
def pretrained(trained, tmp_path):
    """The directory of a pretrained model."""
    save_model(trained, tmp_path / "model")
    return str(tmp_path / "model")


def test_the_cache_changes_no_vector(tmp_path, counts):
    expected = embedder_in(None).fit_transform(TEXTS)
    for _ in range(2):
        np.testing.assert_array_equal(embedder_in(tmp_path).fit_transform(TEXTS), expected)
    assert counts == {"texts": 2 * len(TEXTS), "models": 2}


@pytest.mark.parametrize("wrap", [str, lambda path: joblib.Memory(path, verbose=0)])
def test_memory_is_a_directory_or_a_joblib_memory(tmp_path, wrap):
    embedder = embedder_in(wrap(tmp_path)).fit(TEXTS)
    embedder.transform(TEXTS)
    assert embedder.cache_info().n_vectors == len(TEXTS)


def test_a_search_embeds_each_text_once(tmp_path, pretrained, counts):
    pipe = Pipeline(
        [
            ("embed", LLMEmbedder(pretrained, features="hidden", memory=tmp_path / "cache", finetune=None)),
            ("classify", LogisticRegression()),
        ]
    )
    y = np.arange(len(TEXTS)) % 2
    GridSearchCV(pipe, {"embed__pooling_depth": [1, 2, 3]}, cv=3).fit(TEXTS, y)
    assert counts == {"texts": len(TEXTS), "models": 0}
    info = pipe["embed"].cache_info()
    assert (info.n_vectors, info.misses, info.n_models) == (len(TEXTS), len(TEXTS), 0)
    assert info.hits > len(TEXTS)


def test_a_search_fine_tunes_once_per_fold(tmp_path, counts):
    pipe = Pipeline([("embed", embedder_in(tmp_path)), ("classify", LogisticRegression())])
    GridSearchCV(pipe, {"embed__pooling_depth": [1, 2, 3]}, cv=3, refit=False).fit(TEXTS, np.arange(len(TEXTS)) % 2)
    assert counts == {"texts": 3 * len(TEXTS), "models": 3}


@pytest.mark.parametrize(
    "params",
    [{"token_pooling": "max"}, {"max_length": 16}, {"max_length": 16, "overflow": "truncate"}, {"dtype": "bfloat16"}],
)
@pytest.mark.filterwarnings("ignore:.*texts have more than")
def test_settings_that_change_vectors_are_cached_separately(tmp_path, pretrained, params):
    def fit(memory, **changed):
        return LLMEmbedder(
            pretrained, features="hidden", memory=memory, finetune=None, **{"dtype": "float32", **changed}
        ).fit(TEXTS)

    plain = fit(tmp_path / "cache").transform(TEXTS)
    changed = fit(tmp_path / "cache", **params).transform(TEXTS)
    np.testing.assert_array_equal(changed, fit(None, **params).transform(TEXTS))
    assert not np.array_equal(changed, plain)


@pytest.mark.parametrize(
    "changed",
    [
        {"finetune__epochs": 2},
        {"finetune__learning_rate": 1e-2},
        {"random_state": 1},
        {"model": tiny(hidden_size=4)},
    ],
)
def test_settings_that_change_the_model_train_it_again(tmp_path, counts, changed):
    embedder_in(tmp_path).fit(TEXTS)
    embedder_in(tmp_path).set_params(**changed).fit(TEXTS)
    embedder_in(tmp_path).fit(TEXTS[1:])
    assert counts["models"] == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"finetune": FineTuning(epochs=2, gradient_checkpointing=True)},
        {"finetune__gradient_checkpointing": True},
        {"finetune__training_args": {"logging_steps": 1}},
        {"pooling_depth": 2},
        {"verbose": 1},
    ],
)
def test_settings_that_do_not_change_the_model_reuse_it(tmp_path, counts, changed):
    embedder_in(tmp_path, finetune=FineTuning(epochs=2)).fit(TEXTS)
    embedder_in(tmp_path, finetune=FineTuning(epochs=np.float64(2.0))).set_params(**changed).fit(TEXTS)
    assert counts["models"] == 1


def test_a_changed_model_in_the_same_directory_is_noticed(tmp_path, pretrained, counts):
    def embed():
        return LLMEmbedder(
            pretrained, features="hidden", memory=tmp_path / "cache", dtype="float32", finetune=None
        ).fit_transform(TEXTS)

    first = embed()
    other = LLMEmbedder(TINY, features="hidden", dtype="float32", random_state=1).fit(TEXTS)
    save_model(other, pretrained)
    assert not np.allclose(embed(), first)


def test_numbers_of_numpy_are_those_of_python(tmp_path, counts):
    """A search sets numpy's."""
    of_numpy = tiny(**{name: np.int64(value) for name, value in TINY_CONFIG.items()})
    finetunes = [
        FineTuning(epochs=1, batch_tokens=64, training_args={"adam_beta2": 0.5, "logging_steps": 1}),
        FineTuning(
            epochs=np.int32(1),
            batch_tokens=np.int64(64),
            gradient_checkpointing=np.bool_(False),
            training_args={"adam_beta2": np.float32(0.5), "logging_steps": np.int64(1)},
        ),
    ]
    settings = {"features": "hidden", "memory": tmp_path / "cache", "random_state": 0}
    expected = LLMEmbedder(TINY, finetune=finetunes[0], **settings).fit_transform(TEXTS)
    embedder = LLMEmbedder(of_numpy, finetune=finetunes[1], **settings)
    np.testing.assert_array_equal(embedder.fit_transform(TEXTS), expected)
    assert counts["models"] == 1
    embedder.save_pretrained(tmp_path / "saved")
    loaded = LLMEmbedder.from_pretrained(tmp_path / "saved")
    assert loaded.model.config == TINY_CONFIG
    np.testing.assert_array_equal(loaded.transform(TEXTS), expected)


def test_the_loss_curve_is_restored_from_the_cache(tmp_path):
    losses = embedder_in(tmp_path).fit(TEXTS).loss_curve_
    assert losses
    assert embedder_in(tmp_path).fit(TEXTS).loss_curve_ == losses


def test_equal_texts_are_embedded_once(counts):
    embedder = embedder_in(None).fit(TEXTS)
    vectors = embedder.transform([*TEXTS, *TEXTS[::-1]])
    assert counts["texts"] == len(TEXTS)
    np.testing.assert_array_equal(vectors, np.vstack([vectors[:12], vectors[:12][::-1]]))


def test_the_cache_holds_no_text(pretrained, tmp_path):
    texts = [f"{text}\n{i}, Secret, 5" for i, text in enumerate(TEXTS)]
    params = {"features": ["events", "hidden"], "memory": tmp_path / "memory"}
    LLMEmbedder(pretrained, finetune=None, **params).fit_transform(texts)
    files = [file for file in (tmp_path / "memory").rglob("*") if file.is_file()]
    assert any(file.name.startswith("vectors.sqlite") for file in files)
    assert not any(b"Secret" in file.read_bytes() or b"Heat, 5" in file.read_bytes() for file in files)


def test_without_a_seed_later_fits_take_the_model_of_the_first(tmp_path, counts):
    one, other = (embedder_in(tmp_path).set_params(random_state=None).fit(TEXTS) for _ in range(2))
    assert counts["models"] == 1
    np.testing.assert_array_equal(one.transform(TEXTS), other.transform(TEXTS))


def test_truncated_texts_in_the_cache_are_counted(tmp_path):
    for _ in range(2):
        embedder = embedder_in(tmp_path, max_length=16, overflow="truncate").fit(TEXTS)
        with pytest.warns(UserWarning, match="13 of 13 texts have more than max_length=16"):
            embedder.transform([*TEXTS, TEXTS[0]])
        assert embedder.n_truncated_ == 13


def test_an_interrupted_run_resumes(tmp_path, monkeypatch, counts):
    monkeypatch.setattr(pooling, "GROUP", 1)
    monkeypatch.setattr(pooling, "TOKEN_BUDGET", {"cpu": 64})
    embedder = embedder_in(tmp_path).fit(TEXTS)
    write, written = Cache.write, []

    def interrupt(self, space, vectors):
        if len(written) >= 5:
            raise KeyboardInterrupt
        write(self, space, vectors)
        written.extend(vectors)

    with monkeypatch.context() as patch:
        patch.setattr(Cache, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            embedder.transform(TEXTS)
    assert 5 <= len(written) < len(TEXTS)
    counts["texts"] = 0
    embedder.transform(TEXTS)
    assert counts["texts"] == len(TEXTS) - len(written)


def test_two_processes_share_the_cache(tmp_path, pretrained):
    pipe = Pipeline(
        [
            ("embed", LLMEmbedder(pretrained, features="hidden", memory=tmp_path / "cache", finetune=None)),
            ("classify", LogisticRegression()),
        ]
    )
    y = np.arange(len(TEXTS)) % 2
    alone = cross_val_score(pipe, TEXTS, y, cv=4)
    pipe.set_params(embed__memory=tmp_path / "two")
    with joblib.parallel_config("multiprocessing", context=CONTEXT):
        np.testing.assert_array_equal(cross_val_score(pipe, TEXTS, y, cv=4, n_jobs=2), alone)
    assert Cache(tmp_path / "two").info().n_vectors == len(TEXTS)


def write_and_read(directory, number):
    cache = Cache(directory)
    for i in range(30):
        key = hash_of(f"{number} {i}")
        cache.write(
            SPACE, {key: (np.full(4, number, np.float32), False), hash_of(str(i)): (np.full(4, i, np.float32), True)}
        )
        assert cache.read(SPACE, [key])[key][0].tolist() == [number] * 4
    return number


@pytest.mark.slow
def test_several_processes_can_write_at_once(tmp_path):
    with CONTEXT.Pool(3) as pool:
        assert pool.starmap(write_and_read, [(tmp_path, number) for number in range(3)]) == [0, 1, 2]
    cache = Cache(tmp_path)
    assert cache.info().n_vectors == 3 * 30 + 30
    vector, truncated = cache.read(SPACE, [hash_of("7")])[hash_of("7")]
    assert vector.tolist() == [7] * 4
    assert truncated


def fill(cache, n_vectors=100):
    for i in range(n_vectors):
        cache.write(SPACE, {hash_of(str(i)): (np.full(256, i, np.float32), False)})


def damage(cache, change):
    """Change the bytes of the cache's file, after merging its log into it."""
    with sqlite3.connect(cache.file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    content = bytearray(cache.file.read_bytes())
    change(content)
    cache.file.write_bytes(content)


def test_a_damaged_vector_raises(tmp_path):
    cache = Cache(tmp_path)
    fill(cache)
    vector = np.full(256, 42, np.float32).tobytes()

    def flip_a_bit(content):
        content[content.index(vector) + 100] ^= 1

    damage(cache, flip_a_bit)
    with pytest.raises(OSError, match=r"vectors.sqlite cannot be read: .*Delete the file, and its vectors"):
        cache.read(SPACE, [hash_of("42")])
    assert list(cache.read(SPACE, [hash_of("41")])) == [hash_of("41")]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.__delitem__(slice(4096, None)),
        lambda content: content.__setitem__(slice(0, 64), b"x" * 64),
    ],
    ids=["cut", "overwritten"],
)
def test_a_damaged_file_raises(tmp_path, change):
    cache = Cache(tmp_path)
    fill(cache)
    damage(cache, change)
    with pytest.raises(OSError, match=r"vectors.sqlite cannot be (read|used)"):
        cache.read(SPACE, [hash_of("42")])


def test_a_foreign_file_raises_and_is_left_alone(tmp_path):
    (tmp_path / "vectors.sqlite").write_text("something else")
    with pytest.raises(OSError, match="cannot be read"):
        embedder_in(tmp_path).fit_transform(TEXTS)
    assert (tmp_path / "vectors.sqlite").read_text() == "something else"


def test_a_database_of_another_program_raises(tmp_path):
    with sqlite3.connect(tmp_path / "vectors.sqlite") as connection:
        connection.execute("CREATE TABLE vectors (a)")
    connection.close()
    with pytest.raises(OSError, match="a database of another program"):
        Cache(tmp_path).read(SPACE, [])


def test_another_version_raises(tmp_path):
    cache = Cache(tmp_path)
    fill(cache, 1)
    with sqlite3.connect(cache.file) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(OSError, match="it has version 99 of the format"):
        cache.read(SPACE, [])


def test_a_missing_model_raises(tmp_path):
    embedder_in(tmp_path).fit(TEXTS)
    embedder = embedder_in(tmp_path).fit(TEXTS)
    shutil.rmtree(Cache(tmp_path).models)
    with pytest.raises(OSError, match=r"was kept in .* is gone: the cache was emptied. Fit again"):
        embedder.transform(TEXTS)


def test_an_embedder_keeps_the_model_that_it_trained_when_the_cache_is_emptied(tmp_path):
    embedder = embedder_in(tmp_path).fit(TEXTS)
    shutil.rmtree(Cache(tmp_path).models)
    assert embedder.transform(TEXTS).shape == (12, 8)


def test_a_damaged_model_raises(tmp_path):
    embedder_in(tmp_path).fit(TEXTS)
    (weights,) = Cache(tmp_path).models.glob("*/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(OSError, match=r"The model in .* is damaged. Delete the folder"):
        embedder_in(tmp_path).fit(TEXTS)


def test_a_model_that_changes_between_fit_and_transform_raises(pretrained):
    embedder = LLMEmbedder(pretrained, features="hidden", finetune=None).fit(TEXTS)
    save_model(LLMEmbedder(TINY, features="hidden", dtype="float32", random_state=1).fit(TEXTS), pretrained)
    with pytest.raises(OSError, match="is not the one that fit saw"):
        embedder.transform(TEXTS)


def test_infinite_vectors_raise_and_are_not_cached(tmp_path, monkeypatch, pretrained):
    embedder = LLMEmbedder(
        pretrained, features="hidden", dtype="float16", memory=tmp_path / "cache", finetune=None
    ).fit(TEXTS)
    run = pooling.LayerPooler._run
    monkeypatch.setattr(
        pooling.LayerPooler, "_run", lambda *args: tuple(part + np.float32(np.inf) for part in run(*args))
    )
    with pytest.raises(ValueError, match=r"infinite or NaN in float16\. Use float32, or bfloat16"):
        embedder.transform(TEXTS)
    assert embedder.cache_info().n_vectors == 0


def test_the_same_random_state_finds_the_same_models(tmp_path):
    def fit_twice():
        random_state = np.random.RandomState(0)
        embedders = [embedder_in(tmp_path).set_params(random_state=random_state) for _ in range(2)]
        return [embedder.fit(TEXTS).transform(TEXTS) for embedder in embedders]

    cold, warm = fit_twice(), fit_twice()
    assert not np.allclose(cold[0], cold[1])
    np.testing.assert_array_equal(cold, warm)


def test_a_hub_model_is_identified_by_its_commit(monkeypatch):
    commit = "0123456789" * 4
    path = f"/cache/models--owner--name/snapshots/{commit}/config.json"
    monkeypatch.setattr(sources, "cached_file", lambda name, file: path)
    assert sources.source_of("owner/name").fingerprint() == f"owner/name@{commit}"


def open_cache(directory):
    return Cache(directory).info().n_vectors


@pytest.mark.slow
def test_several_processes_can_create_the_file_at_once(tmp_path):
    with CONTEXT.Pool(4) as pool:
        for i in range(30):
            assert pool.map(open_cache, [tmp_path / str(i)] * 8, chunksize=1) == [0] * 8


# Where a fitted embedder only transforms


@pytest.mark.parametrize("features", ["hidden", "scores", "auto"])
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_a_loaded_embedder_makes_no_directory(tmp_path, monkeypatch, features, relative):
    fit_here, predict_here = tmp_path / "fit", tmp_path / "predict"
    fit_here.mkdir()
    predict_here.mkdir()
    monkeypatch.chdir(fit_here)
    memory = "cache" if relative else fit_here / "cache"
    embedder = LLMEmbedder(TINY, features=features, memory=memory, random_state=0).fit(TEXTS)
    content, expected = pickle.dumps(embedder), embedder.transform(TEXTS)
    assert embedder.cache_info().n_vectors
    monkeypatch.chdir(predict_here)
    shutil.rmtree(fit_here)
    loaded = pickle.loads(content)
    np.testing.assert_array_equal(loaded.transform(TEXTS), expected)
    loaded.transform_layers(TEXTS)
    assert list(predict_here.iterdir()) == []
    assert not fit_here.exists()
    with pytest.raises(ValueError, match="fit, which makes the directory"):
        loaded.cache_info()


def test_a_loaded_embedder_needs_no_directory_that_cannot_be_made(tmp_path):
    embedder = embedder_in(tmp_path / "cache").fit(TEXTS)
    loaded = pickle.loads(pickle.dumps(embedder))
    expected = embedder.transform(TEXTS)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file where the directory was")
    np.testing.assert_array_equal(loaded.transform(TEXTS), expected)
    with pytest.raises(OSError, match="cannot be used"):
        loaded.fit(TEXTS)


def test_a_disk_that_cannot_hold_a_cache_is_an_error_that_says_so(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)  # As exFAT does.
    embedder = embedder_in(tmp_path)
    with pytest.raises(OSError, match=r"cannot be used: .*on a local disk.* or choose another with memory=DIR"):
        embedder.fit(TEXTS).transform(TEXTS)
    assert not [path for path in tmp_path.rglob("*") if "draft" in path.name]


def test_a_loaded_embedder_uses_a_directory_that_is_there(tmp_path, counts):
    embedder = embedder_in(tmp_path / "cache").fit(TEXTS)
    loaded = pickle.loads(pickle.dumps(embedder))
    loaded.transform(TEXTS)
    loaded.transform(TEXTS)
    assert counts["texts"] == len(TEXTS)


def test_fit_of_a_frozen_model_makes_the_directory(tmp_path, pretrained, counts):
    embedder = LLMEmbedder(pretrained, features="hidden", memory=tmp_path / "cache", finetune=None).fit(TEXTS)
    embedder.transform(TEXTS)
    embedder.transform(TEXTS)
    assert counts["texts"] == len(TEXTS)


def test_cache_info_needs_a_memory():
    with pytest.raises(ValueError, match="set memory=DIR"):
        embedder_in(None).cache_info()


def test_a_model_that_could_not_be_stored_leaves_nothing_behind(tmp_path):
    cache = Cache(tmp_path)

    def fail(draft):
        (draft / "half").write_text("half a model")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        cache.store_model(b"k" * 16, fail)
    assert [path.suffix for path in cache.models.iterdir()] == []
    assert cache.find_model(b"k" * 16) is None


def test_versions_of_the_embedding_do_not_mix(tmp_path, pretrained, monkeypatch, counts):
    embedder = LLMEmbedder(pretrained, features="hidden", memory=tmp_path / "cache", finetune=None).fit(TEXTS)
    embedder.transform(TEXTS)
    monkeypatch.setattr(embedding, "_VERSION", "another")
    embedder.transform(TEXTS)
    assert counts["texts"] == 2 * len(TEXTS)


def test_vectors_of_another_attention_are_not_taken(tmp_path, pretrained, counts):
    embedder = LLMEmbedder(pretrained, features="hidden", memory=tmp_path / "cache", finetune=None).fit(TEXTS)
    embedder.transform(TEXTS)
    model, _ = embedder.load_model()
    usual = model.config._attn_implementation
    for attention, n_texts in [(usual, 1), ("eager", 2), (usual, 2)]:
        model.set_attn_implementation(attention)
        embedder.transform(TEXTS)
        assert counts["texts"] == n_texts * len(TEXTS)


def test_attention_is_known_before_the_weights_are_read(pretrained):
    fresh = LanguageModel(DirectorySource(pretrained))
    before = fresh.attention(torch.float32, "cpu")
    assert not language_model._SHARED
    assert before == fresh.load(torch.float32, "cpu").config._attn_implementation == "sdpa"


def test_new_files_have_the_permissions_of_the_process_without_touching_these(tmp_path, monkeypatch):
    """The umask cannot be read without changing it, for a moment, for all threads."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", None)
            Cache(tmp_path).info()
            with folders.new_folder(tmp_path / "model") as draft:
                (draft / "weights").touch()
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes["model"] == 0o750
    assert {mode for name, mode in modes.items() if name.endswith(".sqlite")} == {0o640}
