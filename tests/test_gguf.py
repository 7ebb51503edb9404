"""`LLMEmbedder("model.gguf")`: the same model as from a directory, whatever is done with it."""

import pickle
import shutil
import struct
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import TEXTS

from skllm4es import FineTuning, LLMEmbedder, LoRA
from skllm4es.lm import gguf as conversion
from skllm4es.lm.gguf_header import read_header
from skllm4es.lm.sources import GgufSource, source_of
from skllm4es.rewriters import TransformersRewriter

gguf = pytest.importorskip("gguf")
from gguf_files import ARCHITECTURES, CHAT_TEMPLATE, bpe, save_directory, write_gguf  # noqa: E402

Q8, Q4 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1
FULL = FineTuning(epochs=10, learning_rate=1e-3)
ADAPTER = LoRA(epochs=10, learning_rate=1e-2, r=4)


@pytest.fixture(autouse=True)
def _nothing_converted():
    conversion._CONVERTED.clear()
    conversion._scratch.cache_clear()


@pytest.fixture
def conversions(monkeypatch):
    """Record the files whose weights are read."""
    read, files = conversion._read_model, []
    monkeypatch.setattr(conversion, "_read_model", lambda *args: files.append(args[1].path) or read(*args))
    return files


@pytest.fixture
def written(tmp_path):
    return write_gguf(tmp_path / "model.gguf")


def embedder(path, finetune=None, **params):
    return LLMEmbedder(str(path), features="hidden", finetune=finetune, dtype="float32", random_state=0, **params)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_vectors_are_those_of_the_directory(tmp_path, name):
    written = write_gguf(tmp_path / "model.gguf", name)
    directory = save_directory(written, tmp_path / "directory")
    expected = embedder(directory).fit_transform(TEXTS)
    vectors = embedder(written.path).fit_transform(TEXTS)
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("quantise", [Q8, Q4])
def test_quantised_weights_are_those_that_the_file_holds(tmp_path, quantise):
    written = write_gguf(tmp_path / "model.gguf", "qwen2", quantise=quantise)
    exact = write_gguf(tmp_path / "exact.gguf", "qwen2")
    model = source_of(written.path).read_causal()
    name = "model.layers.1.mlp.down_proj.weight"
    before = exact.model.state_dict()[name].numpy()
    expected = gguf.dequantize(gguf.quantize(before, quantise), quantise)
    np.testing.assert_array_equal(model.state_dict()[name].numpy(), expected)
    assert 0 < np.abs(expected - before).max() < 0.1


@pytest.mark.parametrize("finetune", [None, FULL, ADAPTER, LoRA(epochs=10, learning_rate=1e-2, r=4, merge=False)])
def test_saved_and_pickled_embedders_give_the_same_vectors(written, tmp_path, finetune):
    fitted = embedder(written.path, finetune).fit(TEXTS)
    vectors = fitted.transform(TEXTS)
    if finetune is not None:
        assert fitted.loss_curve_[-1] < fitted.loss_curve_[0] - 0.1
    fitted.save_pretrained(tmp_path / "saved")
    loaded = LLMEmbedder.from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(loaded.transform(TEXTS), vectors, rtol=1e-5, atol=1e-6)
    unpickled = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_allclose(unpickled.transform(TEXTS), vectors, rtol=1e-5, atol=1e-6)
    assert not any(b"quantization_config" in file.read_bytes() for file in (tmp_path / "saved").glob("*.json"))


def test_a_pickle_names_the_file_and_notices_that_it_has_changed(written, tmp_path):
    pickled = pickle.dumps(embedder(written.path).fit(TEXTS))
    assert len(pickled) < 20_000
    write_gguf(written.path, hidden_size=32)
    with pytest.raises(OSError, match="is not the one that fit saw: it has changed"):
        pickle.loads(pickled).transform(TEXTS)


def test_an_adapter_notices_that_the_file_below_it_has_changed(written, tmp_path):
    embedder(written.path, LoRA(epochs=1, merge=False)).fit(TEXTS).save_pretrained(tmp_path / "saved")
    write_gguf(written.path, hidden_size=32)
    with pytest.raises(OSError, match="has changed since it was saved"):
        LLMEmbedder.from_pretrained(tmp_path / "saved").transform(TEXTS)


def test_the_content_identifies_a_file(written, tmp_path):
    copy = shutil.copy(written.path, tmp_path / "sha256-0123")  # Ollama's names have no suffix.
    assert isinstance(source_of(copy), GgufSource)
    assert source_of(copy).fingerprint() == source_of(written.path).fingerprint()


def test_a_process_converts_a_file_once(written, conversions):
    for finetune in (None, None, FULL, ADAPTER):
        embedder(written.path, finetune).fit(TEXTS).transform(TEXTS)
    TransformersRewriter(str(written.path), max_new_tokens=1)._determinants()
    assert len(conversions) == 1


def test_with_memory_other_processes_convert_nothing(written, tmp_path, conversions):
    vectors = embedder(written.path, memory=tmp_path / "memory").fit_transform(TEXTS)
    conversion._CONVERTED.clear()
    again = embedder(written.path, memory=tmp_path / "memory", token_pooling="max")
    other = again.fit_transform(TEXTS)
    assert len(conversions) == 1
    np.testing.assert_array_equal(other, embedder(written.path, token_pooling="max").fit_transform(TEXTS))
    assert not np.allclose(other, vectors)


def test_memory_takes_over_what_the_process_has_converted(written, tmp_path, conversions):
    embedder(written.path).fit(TEXTS)
    embedder(written.path, memory=tmp_path / "memory").fit(TEXTS)
    conversion._CONVERTED.clear()
    embedder(written.path, memory=tmp_path / "memory").fit(TEXTS)
    assert len(conversions) == 1


def test_a_pickle_without_its_memory_converts_again(written, tmp_path):
    fitted = embedder(written.path, memory=tmp_path / "memory").fit(TEXTS)
    vectors, pickled = fitted.transform(TEXTS), pickle.dumps(fitted)
    conversion._CONVERTED.clear()
    shutil.rmtree(tmp_path / "memory")
    np.testing.assert_allclose(pickle.loads(pickled).transform(TEXTS), vectors, rtol=1e-5, atol=1e-6)
    assert not (tmp_path / "memory").exists()


def test_a_damaged_conversion_raises(written, tmp_path):
    embedder(written.path, memory=tmp_path / "memory").fit(TEXTS)
    (weights,) = (tmp_path / "memory").rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    conversion._CONVERTED.clear()
    with pytest.raises(OSError, match=r"is damaged\. Delete the folder, and it will be converted again"):
        embedder(written.path, memory=tmp_path / "memory").fit(TEXTS)


def test_nothing_beside_the_file_is_taken_for_a_part_of_the_model(written):
    alone = embedder(written.path).fit_transform(TEXTS)
    conversion._CONVERTED.clear()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        written.path.with_name(name).write_text('{"auto_map": {"AutoConfig": "code.Config"}}')
    np.testing.assert_array_equal(embedder(written.path).fit_transform(TEXTS), alone)


def test_the_rewriter_has_the_chat_template_and_all_tokens_that_end_an_answer(tmp_path):
    metadata = {"tokenizer.ggml.eot_token_id": 0, "llama.context_length": 4096}
    written = write_gguf(tmp_path / "model.gguf", metadata=metadata)
    source = source_of(written.path)
    assert source.read_tokenizer().chat_template == CHAT_TEMPLATE
    assert source.read_causal().generation_config.eos_token_id == [2, 0]
    rewriter = TransformersRewriter(str(written.path), max_new_tokens=8, context_length=4096)
    with rewriter._open() as model:
        assert model.tokenizer.decode(model._encode(_message())).startswith("<|im_start|>")


def _message():
    from skllm4es.rewriters._prompts import compose
    from skllm4es.serialize import format_events

    return compose("markdown", format_events(["title"], [["Heat"]]))


def test_answers_are_the_same_as_from_the_directory(written, tmp_path):
    directory = save_directory(written, tmp_path / "directory")
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        expected = source_of(directory).read_causal()(ids).logits
        np.testing.assert_allclose(source_of(written.path).read_causal()(ids).logits, expected, rtol=1e-4, atol=1e-5)


# Positions -----------------------------------------------------------------------------------------------------------


def test_the_scaling_of_llama_3_is_recovered(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    plain = write_gguf(tmp_path / "plain.gguf", rope_parameters={"rope_type": "default", "rope_theta": 500_000.0})
    scaled = write_gguf(tmp_path / "scaled.gguf", rope_parameters=scaling)
    frequencies = [written.model.model.rotary_emb.inv_freq for written in (plain, scaled)]
    factors = (frequencies[0] / frequencies[1]).numpy().astype(np.float32)
    assert factors.max() == pytest.approx(32)
    written = write_gguf(tmp_path / "model.gguf", rope_parameters=scaling, tensors={"rope_freqs.weight": factors})
    model = source_of(written.path).read_causal()
    np.testing.assert_allclose(model.model.rotary_emb.inv_freq, frequencies[1], rtol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_other_scalings_are_read(tmp_path, kind):
    scaling = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 128}
    metadata = {
        "llama.rope.scaling.type": kind,
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 128,
    }
    written = write_gguf(tmp_path / "model.gguf", rope_parameters=scaling, metadata=metadata)
    model = source_of(written.path).read_causal()
    np.testing.assert_allclose(model.model.rotary_emb.inv_freq, written.model.model.rotary_emb.inv_freq, rtol=1e-5)


def test_gemma_3_scales_only_the_layers_that_see_the_whole_text(tmp_path):
    metadata = {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}
    written = write_gguf(tmp_path / "model.gguf", "gemma3", metadata=metadata)
    positions = source_of(written.path).read_config().rope_parameters
    assert positions["full_attention"] == {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0}
    assert positions["sliding_attention"]["rope_type"] == "default"


def test_the_window_of_attention_is_read(tmp_path):
    written = write_gguf(tmp_path / "model.gguf", "phi3", metadata={"phi3.attention.sliding_window": 100})
    assert source_of(written.path).read_config().sliding_window == 100


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {"llama.rope.scaling.type": "longrope"}},
        {"tensors": {"rope_freqs.weight": np.full(8, 3, dtype=np.float32)}},
        {"tensors": {"rope_factors_long.weight": np.ones(8, dtype=np.float32)}},
    ],
)
def test_a_scaling_that_is_not_known_is_refused(tmp_path, changes):
    written = write_gguf(tmp_path / "model.gguf", **changes)
    with pytest.raises(OSError, match="it scales positions in a way"):
        embedder(written.path).fit(TEXTS)


# Tokenizers ----------------------------------------------------------------------------------------------------------

TEXT = "Paid 12345.60 at  Café's\n\n{x}"
#: How the tokenizers of these models split the text, in their own tokenizer.json; "Ġ" is a space, "Ċ" a line break.
SPLITS = {
    "gpt-2": ["Paid", "Ġ12345", ".", "60", "Ġat", "Ġ", "ĠCafÃ©", "'s", "Ċ", "Ċ", "{", "x", "}"],
    "smollm": ["Paid", "Ġ", *"12345", ".", *"60", "Ġat", "Ġ", "ĠCafÃ©", "'s", "Ċ", "Ċ", "{", "x", "}"],
    "llama-bpe": ["Paid", "Ġ", "123", "45", ".", "60", "Ġat", "Ġ", "ĠCafÃ©", "'s", "ĊĊ", "{x", "}"],
    "qwen2": ["Paid", "Ġ", *"12345", ".", *"60", "Ġat", "Ġ", "ĠCafÃ©", "'s", "ĊĊ", "{x", "}"],
}
SPLITS["default"] = SPLITS["gpt-2"]


def backend(path):
    return source_of(path).read_tokenizer().backend_tokenizer


@pytest.mark.parametrize("kind", SPLITS)
def test_text_is_split_as_the_model_splits_it(tmp_path, kind):
    tokenizer = backend(write_gguf(tmp_path / "model.gguf", kind=kind).path)
    assert [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(TEXT)] == SPLITS[kind]
    assert tokenizer.decode(tokenizer.encode(TEXT).ids) == TEXT


def test_qwen_composes_characters_first(tmp_path):
    composed, apart = "\u00e9t\u00e9", "e\u0301te\u0301"
    qwen = backend(write_gguf(tmp_path / "qwen.gguf", "qwen2", kind="qwen2").path)
    llama = backend(write_gguf(tmp_path / "llama.gguf", kind="llama-bpe").path)
    assert qwen.encode(apart).ids == qwen.encode(composed).ids
    assert llama.encode(apart).ids != llama.encode(composed).ids


def test_llama_takes_a_piece_that_is_a_token_without_merging(tmp_path):
    def n_tokens(kind):
        written = write_gguf(tmp_path / f"{kind}.gguf", kind=kind, metadata={"tokenizer.ggml.merges": bpe()[1][:1]})
        assert "title" in written.tokens
        return len(backend(written.path).encode("title", add_special_tokens=False).ids)

    assert n_tokens("llama-bpe") == 1
    assert n_tokens("qwen2") == 5


@pytest.mark.parametrize(
    ("kind", "metadata", "expected"),
    [
        ("smollm", {}, []),
        ("smollm", {"tokenizer.ggml.add_bos_token": True}, ["<|im_start|>"]),
        ("qwen2", {"tokenizer.ggml.add_bos_token": False}, []),
        ("llama-bpe", {}, ["<|im_start|>"]),
        ("llama-bpe", {"tokenizer.ggml.add_bos_token": False}, []),
        (
            "qwen2",
            {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True},
            ["<|im_start|>", "<|im_end|>"],
        ),
    ],
)
def test_a_text_begins_and_ends_as_the_file_says(tmp_path, kind, metadata, expected):
    tokenizer = source_of(write_gguf(tmp_path / "model.gguf", kind=kind, metadata=metadata).path).read_tokenizer()
    assert tokenizer.convert_ids_to_tokens(tokenizer("")["input_ids"]) == expected


@pytest.mark.parametrize("kind", ["falcon", None])
def test_a_kind_that_is_not_known_to_be_right_warns(tmp_path, kind):
    written = write_gguf(tmp_path / "model.gguf", kind=kind)
    with pytest.warns(UserWarning, match=r"text is split as GPT-2 does. .* Prefer the directory of the original"):
        vectors = embedder(written.path).fit_transform(TEXTS)
    assert vectors.shape == (len(TEXTS), 64)


def write_sentencepiece(path, **metadata):
    """Write a model whose tokenizer is SentencePiece's."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁ab"]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [0.0] * 259 + [-1.0, -2.0, -3.0, -4.0, -5.0],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * 5],
        "tokenizer.ggml.merges": None,
        **metadata,
    }
    return write_gguf(path, metadata=metadata, vocab_size=len(pieces))


def test_sentencepiece_tokenizers_are_left_as_they_are(tmp_path):
    tokenizer = source_of(write_sentencepiece(tmp_path / "model.gguf").path).read_tokenizer()
    assert tokenizer.tokenize("ab ab é") == ["▁ab", "▁ab", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer("ab")["input_ids"][0] == 1  # Added by default.
    assert tokenizer.decode(tokenizer("ab ab é")["input_ids"], skip_special_tokens=True) == "ab ab é"


def test_sentencepiece_puts_no_space_before_a_text_if_the_file_says_so(tmp_path):
    written = write_sentencepiece(tmp_path / "model.gguf", **{"tokenizer.ggml.add_space_prefix": False})
    assert source_of(written.path).read_tokenizer().tokenize("ab ab") == ["ab", "▁ab"]


# Files that cannot be read -------------------------------------------------------------------------------------------


def test_without_the_extra_the_error_says_how_to_install_it(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"pip install --upgrade 'skllm4es\[gguf\]'"):
        embedder(written.path).fit(TEXTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {"general.architecture": "bert"}}, "architecture bert"),
        ({"metadata": {"general.architecture": "t5"}}, "t5 has an encoder and a decoder"),
        ({"metadata": {"general.type": "mmproj"}}, "it does not hold a language model, but what GGUF calls 'mmproj'"),
        ({"metadata": {"split.count": 3}}, r"it is one of 3 files.*llama-gguf-split --merge model\.gguf whole\.gguf"),
        ({"metadata": {"llama.block_count": 1}}, "it holds .* weights, but the model .* has"),
        ({"metadata": {"llama.block_count": 3}}, "it holds .* weights, but the model .* has"),
        ({"metadata": {"llama.block_count": 10**9}}, "it claims to have 1,000,000,000 llama.block_count"),
        ({"metadata": {"llama.embedding_length": 2**31}}, "it holds .* weights, but the model .* has"),
        ({"metadata": {"llama.feed_forward_length": 2**31}}, "it holds .* weights, but the model .* has"),
        ({"metadata": {"llama.vocab_size": 2**31}}, "it holds .* weights, but the model .* has"),
        ({"metadata": {"llama.attention.head_count": 0}}, r"\w+Error: "),
        ({"metadata": {"tokenizer.ggml.tokens": ["a"]}}, r"\w+Error: "),
        ({"metadata": {"tokenizer.ggml.bos_token_id": 2**31}}, r"\w+Error: "),
        ({"metadata": {"tokenizer.ggml.model": "rwkv"}}, "tokenizer"),
        ({"metadata": {"tokenizer.ggml.merges": ["t i"]}}, "Token `ti` out of vocabulary"),
        ({"metadata": {"tokenizer.ggml.merges": ["no such merge at all"]}}, r"\w+Error: "),
        ({"tensors": {"blk.0.attn_q.bias": np.ones(64, dtype=np.float32)}}, "it holds .* weights, but the model"),
    ],
)
def test_a_model_that_cannot_be_read_raises_with_remedies(tmp_path, changes, message):
    written = write_gguf(tmp_path / "model.gguf", **changes)
    with pytest.raises(OSError, match=rf"(?s)could not be loaded: .*{message}.*\n1\. .*\n2\. .*\n3\. "):
        embedder(written.path).fit(TEXTS)


def test_a_file_that_is_not_there_raises(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        embedder(tmp_path / "missing.gguf").fit(TEXTS)


@pytest.mark.parametrize(
    "content", [b"", b"GG", b"GGUF", b"PK\x03\x04" * 100, b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03" * 9]
)
def test_a_foreign_file_raises(tmp_path, content):
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(OSError, match=r"could not be loaded: it (is|was|has|claims)"):
        embedder(tmp_path / "model.gguf").fit(TEXTS)


def test_a_file_that_is_cut_anywhere_raises(written):
    content = written.path.read_bytes()
    read_header(written.path)
    for length in np.linspace(0, len(content) - 1, 200, dtype=int):
        written.path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"it is (cut off|not a GGUF file)"):
            read_header(written.path)


def number(value, form="<Q"):
    return struct.pack(form, value)


def string(value):
    return number(len(value)) + value


HUGE = 2**63
ENTRY = string(b"general.architecture") + number(8, "<I")
HOSTILE = {
    "tensors": number(HUGE) + number(0),
    "entries": number(0) + number(HUGE),
    "key": number(0) + number(1) + number(HUGE),
    "string": number(0) + number(1) + ENTRY + number(HUGE),
    "array": number(0) + number(1) + string(b"a") + number(9, "<I") + number(0, "<I") + number(HUGE),
    "array of bytes": number(0) + number(1) + string(b"a") + number(9, "<I") + number(0, "<I") + number(2**21),
    "array of strings": number(0) + number(1) + string(b"a") + number(9, "<I") + number(8, "<I") + number(2**21),
    "array of arrays": number(0) + number(1) + string(b"a") + (number(9, "<I") + number(9, "<I") + number(1)) * 99,
    "dimensions": number(1) + number(0) + string(b"a") + number(2**31, "<I"),
    "tensor": number(1) + number(0) + string(b"a") + number(2, "<I") + number(2**40) * 2 + number(0, "<I") + number(0),
    "offset": number(1) + number(0) + string(b"a") + number(1, "<I") + number(8) + number(0, "<I") + number(HUGE),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_absurd_counts_and_lengths_end_in_an_error_and_not_in_memory(tmp_path, kind):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + number(3, "<I") + HOSTILE[kind] + bytes(1_000_000))
    tracemalloc.start()
    with pytest.raises(OSError, match=r"could not be loaded: it( claims to have| is cut off|s metadata)"):
        embedder(file).fit(TEXTS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_tensors_that_share_their_bytes_are_refused(tmp_path):
    tensor = number(2, "<I") + number(1000) * 2 + number(0, "<I") + number(0)
    names = [string(f"{n}".encode()) for n in range(1000)]
    content = b"GGUF" + number(3, "<I") + number(1000) + number(0) + b"".join(name + tensor for name in names)
    (tmp_path / "model.gguf").write_bytes(content + bytes(4_100_000))
    with pytest.raises(OSError, match="it is cut off"):
        embedder(tmp_path / "model.gguf").fit(TEXTS)


def test_a_damaged_header_gives_a_model_or_an_error_of_its_own(written):
    content = written.path.read_bytes()
    n_header = min(tensor.start for tensor in read_header(written.path).tensors.values())
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in random.integers(0, n_header, size=2):
            damaged[place] = random.integers(256)
        written.path.write_bytes(damaged)
        with suppress(OSError):
            source_of(written.path).read_causal()


def test_a_child_that_ends_leaves_the_converted_model_of_its_parent(monkeypatch):
    """A forked process inherits what its parent does at its end."""
    at_end = []
    monkeypatch.setattr(conversion.atexit, "register", at_end.append)
    folder = Path(conversion._scratch.__wrapped__())
    with monkeypatch.context() as child:
        child.setattr(conversion.os, "getpid", lambda: -1)
        at_end[0]()
        assert folder.is_dir()
    at_end[0]()
    assert not folder.exists()
