"""Saved embedders, models, adapters, caches and checkpoints that an attacker wrote: nothing in them is run.

Each holds a payload that creates a file when it is run, as the first test shows. Digests do not stop an attacker, who
can compute them too: the tests seal what they plant again, so that it reaches the code that loads it.
"""

import json
import pickle
import shutil
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from recording_rewriter import RecordingRewriter
from safetensors import SafetensorError
from test_checkpoints import interrupt_after, interrupt_long_training, long_training
from tiny_models import TEXTS as LONG_TEXTS
from tiny_models import tiny

from skllm4es import FineTuning, LLMEmbedder, LoRA, TextEnricher
from skllm4es._store import hash_of
from skllm4es.embed import _saving
from skllm4es.lm import checkpoints, finetuning
from skllm4es.lm.folders import EMBEDDER_FILE, hash_folder
from skllm4es.rewriters import RewritingError, TransformersRewriter

TEXTS = ["title|rating\nHeat, 5\nAlien, 4", "title|rating\nBambi, 1"]
AUTO_MAP = {"AutoConfig": "code.Config", "AutoModel": "code.Model", "AutoModelForCausalLM": "code.Model"}
PICKLED_WEIGHTS = ["pytorch_model.bin", "model.bin", "model.pt", "tf_model.h5", "flax_model.msgpack"]


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "was-run"


@pytest.fixture
def payload(marker):
    return pickle.dumps(Payload(marker), protocol=2)  # For later protocols, torch warns before it raises.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hostile") / "embedder"
    embedder = LLMEmbedder(tiny(num_hidden_layers=1), random_state=0, dtype="float32").fit(TEXTS)
    embedder.save_pretrained(directory)
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    """A saved embedder for the test to tamper with."""
    return shutil.copytree(saved, tmp_path / "embedder")


def change(file, **settings):
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def seal(directory):
    """Update the digest of a saved embedder to its present content."""
    file = directory / EMBEDDER_FILE
    settings = json.loads(file.read_text())
    hashed = {name: value for name, value in settings.items() if name not in {*_saving._FORMAT, "digest"}}
    change(file, digest=_saving._digest(directory, hashed))


def load_in_every_way(directory, errors=(OSError, ValueError, RewritingError, SafetensorError)):
    """Seal a directory, load it to embed, train and write with, and return the messages of the errors."""
    seal(directory)
    ways = [
        lambda: LLMEmbedder.from_pretrained(directory).transform(TEXTS),
        lambda: LLMEmbedder(directory, features="hidden", finetune=None).fit_transform(TEXTS),
        lambda: LLMEmbedder(directory, features="hidden", finetune=FineTuning(epochs=0.1)).fit(TEXTS),
        lambda: LLMEmbedder(directory, features="hidden", finetune=LoRA(epochs=0.1)).fit(TEXTS),
        lambda: TransformersRewriter(
            str(directory), max_new_tokens=1, chat_template="{{ messages[0]['content'] }}"
        ).rewrite(TEXTS, ["html"] * 2, [0, 1]),
    ]
    messages = []
    for load in ways:
        try:
            load()
        except errors as error:
            messages.append(str(error))
    assert not any("is damaged" in message for message in messages)  # The digest stopped nothing.
    return messages


def assert_loaded(messages):
    """The only error comes from the rewriter, whose answer is cut off after one token, as `max_new_tokens` asks."""
    assert len(messages) == 1
    assert "cut off" in messages[0]


def test_the_payload_creates_a_file_when_unpickled(marker, payload):
    pickle.loads(payload).close()
    assert marker.exists()


# Models and embedders


def test_a_planted_file_without_a_new_digest_is_reported_as_damage(directory, marker, payload):
    (directory / "pytorch_model.bin").write_bytes(payload)
    with pytest.raises(OSError, match=r"The embedder in .* is damaged: its files are not those that were saved"):
        LLMEmbedder.from_pretrained(directory)
    assert not marker.exists()


def test_only_safetensors_are_read_as_weights(directory, marker, payload):
    (directory / "model.safetensors").unlink()
    for name in PICKLED_WEIGHTS:
        (directory / name).write_bytes(payload)
    messages = load_in_every_way(directory)
    assert len(messages) == 5
    assert all("model.safetensors" in message for message in messages)
    assert not marker.exists()


def test_even_harmless_pickled_weights_are_not_read(directory):
    weights = LLMEmbedder.from_pretrained(directory).load_model()[0].state_dict()
    torch.save(weights, directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"could not be loaded: .*no file named model\.safetensors"):
        LLMEmbedder(directory, finetune=None).fit_transform(TEXTS)


def test_pickles_beside_the_weights_are_not_read(directory, marker, payload):
    names = [
        *PICKLED_WEIGHTS,
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "scores.pkl",
        "vocab.pkl",
    ]
    for name in [*names, "scores.joblib", "skllm4es.pkl", "tokenizer.pkl", "spiece.model"]:
        (directory / name).write_bytes(payload)
    assert_loaded(load_in_every_way(directory))
    assert not marker.exists()


@pytest.mark.parametrize(("name", "n_readers"), [("model.safetensors", 5), ("features.safetensors", 1)])
def test_a_pickle_named_like_safetensors_raises(directory, marker, payload, name, n_readers):
    (directory / name).write_bytes(payload)
    messages = load_in_every_way(directory)
    assert sum("Error while deserializing header" in message for message in messages) == n_readers
    assert not marker.exists()


def test_code_in_the_directory_is_not_run(directory, marker):
    code = f"open({str(marker)!r}, 'w').close()\n"
    for name in ("code.py", "__init__.py", "modeling_llama.py", "tokenization.py", "custom_generate/generate.py"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(code)
    change(directory / "config.json", auto_map=AUTO_MAP)
    change(directory / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"]})
    assert_loaded(load_in_every_way(directory))
    assert not marker.exists()


def test_a_kernel_named_in_the_config_is_not_run(directory, monkeypatch):
    from transformers.integrations import hub_kernels

    asked = []

    def get_kernel(name, *, allow_all_kernels, **settings):
        asked.append((name, allow_all_kernels))
        raise ValueError("kernels of strangers are refused")

    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: True)
    monkeypatch.setattr(hub_kernels, "get_kernel", get_kernel)
    change(directory / "config.json", attn_implementation="attacker/kernel")
    messages = load_in_every_way(directory)
    assert len(messages) == 5
    assert all("kernels of strangers are refused" in message for message in messages)
    assert set(asked) == {("attacker/kernel", False)}


def test_a_chat_template_cannot_leave_its_sandbox(directory, marker):
    template = "{{ cycler.__init__.__globals__.os.system('touch " + str(marker) + "') }}{{ messages[0]['content'] }}"
    (directory / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match=r"chat template of .* does not work: .*unsafe"):
        TransformersRewriter(str(directory)).rewrite(TEXTS, ["html"] * 2, [0, 1])
    assert not marker.exists()


def test_a_foreign_embedder_writes_nothing(directory, tmp_path):
    settings = json.loads((directory / "skllm4es.json").read_text())
    finetune = {"FineTuning": {"checkpoint_dir": str(tmp_path / "checkpoints")}}
    directories = {"memory": str(tmp_path / "memory"), "finetune": finetune}
    change(directory / "skllm4es.json", parameters=settings["parameters"] | directories)
    seal(directory)
    before = sorted(tmp_path.rglob("*"))
    embedder = LLMEmbedder.from_pretrained(directory)
    embedder.transform(TEXTS)
    assert (embedder.memory, embedder.finetune.checkpoint_dir) == (None, None)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_foreign_embedder_sets_no_other_attributes(directory):
    settings = json.loads((directory / "skllm4es.json").read_text())
    change(
        directory / "skllm4es.json", fitted=settings["fitted"] | {"transform": 1, "_language_model_": 2, "memory": 3}
    )
    seal(directory)
    embedder = LLMEmbedder.from_pretrained(directory)
    assert embedder.transform(TEXTS).shape[0] == 2
    assert embedder.memory is None


# Adapters


@pytest.fixture
def adapter(saved, tmp_path):
    """An adapter of the saved model for the test to tamper with."""
    directory = tmp_path / "adapter"
    fitted = LLMEmbedder(saved, features="hidden", random_state=0, finetune=LoRA(merge=False, epochs=0.1))
    fitted.fit(TEXTS).save_pretrained(directory)
    return directory


def test_an_adapter_is_read_only_from_safetensors(adapter, marker, payload):
    (adapter / "adapter_model.safetensors").rename(adapter / "kept")
    (adapter / "adapter_model.bin").write_bytes(payload)
    messages = load_in_every_way(adapter)
    assert len(messages) == 5
    assert all("has no adapter_model.safetensors" in message for message in messages)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"megatron_config": {"hidden_size": 8}, "megatron_core": "megatron.planted"}, "a module to import"),
        ({"auto_mapping": {"base_model_class": "Model", "parent_library": "planted"}}, None),
        (
            {
                "peft_type": "PROMPT_TUNING",
                "num_virtual_tokens": 1,
                "prompt_tuning_init": "TEXT",
                "prompt_tuning_init_text": "x",
                "inference_mode": False,
                "tokenizer_kwargs": {"trust_remote_code": True},
            },
            "prompt_embeddings",  # The weights are not those of a prompt.
        ),
        ({"peft_type": "XLORA", "hidden_size": 8, "adapters": {"0": "PICKLED"}}, "other adapters to read"),
    ],
    ids=["megatron", "auto_mapping", "prompt tuning", "xlora"],
)
@pytest.mark.filterwarnings(
    "ignore:Unexpected keyword arguments:UserWarning"
)  # Where it is only a warning, loading continues.
def test_the_config_of_an_adapter_runs_nothing(adapter, marker, payload, monkeypatch, settings, message):
    code = f"open({str(marker)!r}, 'w').close()\n"
    for name in ("planted.py", "code.py", "megatron/planted.py"):
        (adapter / name).parent.mkdir(exist_ok=True)
        (adapter / name).write_text(code)
    shutil.copytree(adapter, adapter / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    (adapter / "pickled" / "adapter_model.bin").write_bytes(payload)
    settings = json.loads(json.dumps(settings).replace("PICKLED", str(adapter / "pickled")))
    change(adapter / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"]})
    change(adapter / "adapter_config.json", tokenizer_name_or_path=str(adapter), **settings)
    monkeypatch.syspath_prepend(str(adapter))
    messages = load_in_every_way(adapter)
    if message is None:
        assert_loaded(messages)
    else:
        assert len(messages) == 5
        assert all(message in error for error in messages)
    assert not {"planted", "megatron"} & set(sys.modules)
    assert not marker.exists()


def test_an_adapter_on_itself_ends_in_an_error(adapter):
    change(adapter / "adapter_config.json", base_model_name_or_path=str(adapter))
    seal(adapter)
    with pytest.raises(OSError, match=r"could not be loaded: maximum recursion depth"):
        LLMEmbedder.from_pretrained(adapter)


# Caches and checkpoints


@pytest.fixture
def cache(tmp_path):
    """The cache of an embedder for the test to tamper with."""
    long_training(memory=tmp_path / "cache").fit(TEXTS).transform(TEXTS)
    return tmp_path / "cache"


def use(cache):
    return long_training(memory=cache).fit(TEXTS).transform(TEXTS)


def test_a_planted_vector_in_the_cache_is_read_as_numbers(cache, marker, payload):
    with closing(sqlite3.connect(cache / "vectors.sqlite")) as connection, connection:
        for space, text, value in connection.execute("SELECT space, text, value FROM vectors").fetchall():
            planted = payload.ljust(len(value), b"\0")[: len(value)]
            row = (planted, hash_of(space, text, planted, b"\0"), text)
            connection.execute("UPDATE vectors SET value = ?, digest = ? WHERE text = ?", row)
    with suppress(OSError):
        assert use(cache).dtype == np.float32
    assert not marker.exists()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER UPDATE ON vectors BEGIN DELETE FROM vectors; END",
        "CREATE VIEW v AS SELECT 1",
        "ALTER TABLE vectors ADD COLUMN more DEFAULT 1",
    ],
)
def test_a_cache_with_foreign_statements_raises(cache, statement):
    with closing(sqlite3.connect(cache / "vectors.sqlite")) as connection, connection:
        connection.execute(statement)
    with pytest.raises(OSError, match=r"it holds something other than the table of this package.*Delete the file"):
        use(cache)


def test_a_cached_model_is_read_only_from_safetensors(cache, marker, payload):
    (folder,) = (folder for folder in (cache / "models").iterdir() if folder.is_dir())
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(payload)
    change(folder / "training.json", fingerprint=hash_folder(folder))
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        use(cache)
    assert not marker.exists()


def test_pickles_in_a_joblib_memory_are_not_read(tmp_path, marker, payload):
    memory = joblib.Memory(tmp_path / "cache", verbose=0)
    for name in ("output.pkl", "joblib/output.pkl", "models/output.pkl"):
        (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / name).write_bytes(payload)
    use(memory)
    assert not marker.exists()


def test_a_planted_rewriting_in_the_cache_is_read_as_text(tmp_path, marker):
    payload = pickle.dumps(Payload(marker), protocol=0)
    enricher = TextEnricher(RecordingRewriter(str), memory=tmp_path / "cache", check=None, random_state=0)
    enricher.fit_transform(TEXTS)
    with closing(sqlite3.connect(tmp_path / "cache" / "rewrites.sqlite")) as connection, connection:
        for (key,) in connection.execute("SELECT key FROM rewrites").fetchall():
            row = (payload, hash_of(key, payload), key)
            connection.execute("UPDATE rewrites SET value = ?, digest = ? WHERE key = ?", row)
    assert payload.decode() in enricher.fit_transform(TEXTS)["variant_0"].to_list()
    assert not marker.exists()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The checkpoints of a training that was interrupted."""
    return interrupt_long_training(tmp_path_factory.mktemp("interrupted"))


NOT_UNPICKLED = pytest.raises(pickle.UnpicklingError, match="Weights only load failed")


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("optimizer.pt", NOT_UNPICKLED),
        ("scheduler.pt", NOT_UNPICKLED),
        ("rng_state.pth", NOT_UNPICKLED),
        ("training_args.bin", pytest.raises(KeyboardInterrupt)),  # It is not read, and the next step is taken.
        ("scaler.pt", pytest.raises((AttributeError, KeyboardInterrupt))),  # Nor is this one: there is no scaler.
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_checkpoint_runs_nothing(tmp_path, interrupted, monkeypatch, marker, payload, name, outcome, zipped):
    shutil.copytree(interrupted, tmp_path / "checkpoints")
    interrupt_after(monkeypatch, 0)
    for checkpoint in (tmp_path / "checkpoints").glob("*/checkpoint-*"):
        file = Path(checkpoint, name)
        torch.save({"state": Payload(marker)}, file) if zipped else file.write_bytes(payload)
        Path(checkpoint, checkpoints._SEAL).write_text(checkpoints._digest(checkpoint))
    found, latest = [], checkpoints.latest_checkpoint
    monkeypatch.setattr(finetuning, "latest_checkpoint", lambda path: found.append(latest(path)) or found[0])
    with outcome:
        long_training(checkpoint_dir=tmp_path / "checkpoints").fit(LONG_TEXTS)
    assert found[0] is not None
    assert not marker.exists()
