"""Pooling of tokens and layers, against its definition on the hidden states that transformers returns."""

import numpy as np
import pytest
import torch
from tiny_models import save_model, tiny
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    T5Config,
)

from skllm4es import FineTuning, LLMEmbedder
from skllm4es.lm.architecture import decoder_of, exact_length, is_causal
from skllm4es.lm.pooling import LayerPooler, token_weights
from skllm4es.lm.windows import Window, split, tokenize

TINY = tiny(hidden_size=16, intermediate_size=32)
HEADER = "day|title|rating"
TEXTS = [
    *("\n".join([HEADER, *(f"{day}, Heat, {day % 5}" for day in range(n))]) for n in (0, 1, 2, 5, 30)),
    f"Films.\n\n{HEADER}\n1, Alien, 5",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The directory of a model, so that embedders with different parameters have the same weights."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    save_model(LLMEmbedder(TINY, dtype="float32", finetune=FineTuning(epochs=1), random_state=0).fit(TEXTS), directory)
    return directory


def frozen_embedder(directory, **params):
    return LLMEmbedder(directory, features="hidden", finetune=None, **{"dtype": "float32", **params}).fit(TEXTS)


def hidden_states(embedder, text):
    """Return all hidden states of one text, (n_layers + 1, n_tokens, hidden), and the position of its first event."""
    encoded = embedder.load_model()[1](text, return_offsets_mapping=True)
    with torch.inference_mode():
        states = embedder.load_model()[0](
            input_ids=torch.tensor([encoded["input_ids"]]), output_hidden_states=True
        ).hidden_states
    body = text.index(HEADER) + len(HEADER) + 1
    n_header = sum(start < body for start, _ in encoded["offset_mapping"])
    return torch.cat(states).double().numpy(), n_header


def pool(states, n_header, kind):
    n_tokens = states.shape[1]
    if kind == "last":
        return states[:, -1]
    if kind == "max":
        return states.max(axis=1)
    if kind == "events":
        return states[:, n_header if n_header < n_tokens else 0 :].mean(axis=1)
    return states[:, 1:].mean(axis=1) if kind == "rest" else states.mean(axis=1)


KINDS = ["mean", "rest", "last", "max", "events"]


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_pooled_as_defined(directory, kind):
    embedder = frozen_embedder(directory, token_pooling=kind)
    layers = embedder.transform_layers(TEXTS)
    assert layers.shape == (len(TEXTS), 4, 16)
    assert layers.dtype == np.float32
    for text, pooled_layers in zip(TEXTS, layers, strict=True):
        expected = pool(*hidden_states(embedder, text), kind)
        assert np.linalg.norm(pooled_layers - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(("pooling_depth", "layers"), [(1, [3]), (2, [2, 3]), (3, [1, 2, 3]), ("auto", [1, 2, 3])])
def test_every_depth_averages_the_last_pooled_layers(directory, pooling_depth, layers):
    embedder = frozen_embedder(directory, pooling_depth=pooling_depth)
    expected = embedder.transform_layers(TEXTS)[:, layers].mean(axis=1)
    np.testing.assert_allclose(embedder.transform(TEXTS), expected, rtol=1e-6)
    assert embedder.layers_ == layers
    assert len(embedder.get_feature_names_out()) == expected.shape[1] == embedder.n_features_out_


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_in_windows_is_pooled_over_all_windows(directory, kind):
    embedder = frozen_embedder(directory, token_pooling=kind, max_length=64)
    windows = split(tokenize(embedder.load_model()[1], [TEXTS[4]], 64, headers=True)[0], 64)
    assert len(windows) > 2
    states, events = [], []
    for window in windows:
        with torch.inference_mode():
            output = embedder.load_model()[0](input_ids=torch.tensor([window.ids]), output_hidden_states=True)
        window_states = torch.cat(output.hidden_states).double().numpy()
        states.append(window_states[:, 0 if kind == "max" else window.n_repeated :])
        events.append(window_states[:, window.n_header :])
    # As if the windows were one text, whose header counts once.
    joined = np.concatenate(events if kind == "events" else states, axis=1)
    expected = pool(joined, 0, kind)
    pooled_layers = embedder.transform_layers([TEXTS[4]])[0]
    assert np.linalg.norm(pooled_layers - expected) <= 1e-5 * np.linalg.norm(expected)


def test_token_weights_span_all_windows_of_a_text():
    windows = [Window([1, 2, 3], 1), Window([1, 4], 1)]
    assert [w.tolist() for w in token_weights("mean", windows)] == [
        [pytest.approx(0.2)] * 3,
        [pytest.approx(0.2)] * 2,
    ]
    repeated = [windows[0], Window([1, 4], 1, n_repeated=1)]
    assert [w.tolist() for w in token_weights("mean", repeated)] == [[0.25] * 3, [0, 0.25]]
    assert [w.tolist() for w in token_weights("rest", repeated)] == [
        [0, pytest.approx(1 / 3), pytest.approx(1 / 3)],
        [0, pytest.approx(1 / 3)],
    ]
    assert [w.tolist() for w in token_weights("rest", [Window([1], 0)])] == [[1]]
    assert [w.tolist() for w in token_weights("last", windows)] == [[0, 0, 0], [0, 1]]
    assert [w.tolist() for w in token_weights("events", windows)] == [
        [0, pytest.approx(1 / 3), pytest.approx(1 / 3)],
        [0, pytest.approx(1 / 3)],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_close(directory, kind):
    exact = frozen_embedder(directory, token_pooling=kind).transform(TEXTS)
    rounded = frozen_embedder(directory, token_pooling=kind, dtype="bfloat16").transform(TEXTS)
    cosines = (exact * rounded).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert cosines.min() > 0.9999
    assert rounded.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_does_not_depend_on_its_neighbours_or_their_order(directory, kind):
    embedder = frozen_embedder(directory, token_pooling=kind)
    together = embedder.transform(TEXTS)
    alone = np.vstack([embedder.transform([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(embedder.transform(TEXTS[::-1])[::-1], together, rtol=1e-4, atol=1e-6)


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TINY.config)).eval()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_out_of_memory_halves_the_budget_and_continues(monkeypatch, error):
    texts = [[Window(list(range(1, n + 2)), 0)] for n in range(20)]
    model = llama()
    expected = dict(pool_texts(LayerPooler(model, "mean"), texts))
    pooler = LayerPooler(model, "mean", token_budget=256)
    run, sizes = pooler._run, []

    def run_out_of_memory(sequences, weights):
        if len(sequences) * len(sequences[0].ids) > 64:
            raise error
        sizes.append(len(sequences))
        return run(sequences, weights)

    monkeypatch.setattr(pooler, "_run", run_out_of_memory)
    for position, layers in pool_texts(pooler, texts):
        np.testing.assert_allclose(layers, expected.pop(position), rtol=1e-4, atol=1e-6)
    assert not expected
    assert pooler.token_budget <= 64
    assert max(sizes) > 1


def test_one_text_too_large_for_memory_raises(monkeypatch):
    pooler = LayerPooler(llama(), "mean")

    def run_out_of_memory(sequences, weights):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(pooler, "_run", run_out_of_memory)
    with pytest.raises(MemoryError, match=r"2 tokens do not fit into the memory of cpu at once.* Shorten the window"):
        list(pooler.pool([[Window([1, 2], 0)]]))


def pool_texts(pooler, texts):
    for positions, layers, _ in pooler.pool(texts):
        yield from zip(positions, layers, strict=True)


@pytest.fixture(scope="module")
def encoder_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "bert"
    directory.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *"0123456789", "|", ","]
    (directory / "vocab.txt").write_text("\n".join(words + [f"##{word}" for word in words[5:]]))
    BertTokenizerFast(str(directory / "vocab.txt")).save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    BertModel(config).save_pretrained(directory)
    return directory


UNFIT = {
    # Projects its hidden states to the length of its embeddings after the last layer.
    "opt": ({"word_embed_proj_dim": 8, "ffn_dim": 16}, "cannot be pooled: it has no list of 2 layers"),
    # Its layers see the tokens in another order, after those of a prompt.
    "cpmant": ({"dim_ff": 16, "dim_head": 8}, "cannot be pooled: it has no list of 2 layers"),
    # Its layers see all tokens of a place at once; its positions are in float32 whatever its weights are.
    "xlnet": (
        {"d_inner": 16, "d_head": 8},
        "cannot (be pooled|read 8 tokens)",
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", UNFIT)
def test_a_model_that_does_not_hand_on_one_hidden_state_per_token_is_refused(model_type, dtype):
    settings, message = UNFIT[model_type]
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 99}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**sizes, **settings)).eval().to(dtype)
    with pytest.raises(ValueError, match=f"{message}.*hoose another model"):
        LayerPooler(model, "mean")


def test_causality_is_detected(encoder_directory):
    assert is_causal(llama())
    assert not is_causal(BertModel.from_pretrained(encoder_directory).eval())


@pytest.mark.parametrize("kind", KINDS)
def test_bidirectional_encoders_get_a_mask(encoder_directory, kind):
    embedder = frozen_embedder(encoder_directory, token_pooling=kind)
    for text, pooled_layers in zip(TEXTS, embedder.transform_layers(TEXTS), strict=True):
        states, n_header = hidden_states(embedder, text)
        # The token that the encoder adds at the end counts as an event.
        n_header -= kind == "events" and n_header < states.shape[1]
        expected = pool(states, n_header, kind)
        assert np.linalg.norm(pooled_layers - expected) <= 1e-5 * np.linalg.norm(expected)


def test_an_encoder_decoder_raises(tmp_path):
    T5Config(vocab_size=100, d_model=8, num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"(?s)t5 has an encoder and a decoder.*such as T5 can do neither"):
        LLMEmbedder(tmp_path, finetune=None).fit(TEXTS)


def test_fine_tuning_an_encoder_raises(encoder_directory):
    with pytest.raises(OSError, match=r"(?s)is not a causal language model.*BERT can only embed, without fine-tuning"):
        LLMEmbedder(encoder_directory).fit(TEXTS)


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope", "default"])
def test_a_text_does_not_depend_on_the_length_of_the_texts_in_its_batch(rope_type):
    """Rotary embeddings may change their frequencies beyond 32 tokens here."""
    sizes = {**tiny().config, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    rope = {"rope_type": rope_type, "rope_theta": 10_000.0}
    torch.manual_seed(0)
    if rope_type == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 32}
        config = Phi3Config(
            **sizes, pad_token_id=0, eos_token_id=2, max_position_embeddings=128, rope_parameters=rope,
            original_max_position_embeddings=32,
        )  # fmt: skip
        model = Phi3ForCausalLM(config).eval()
    else:
        rope |= {"factor": 4.0} if rope_type == "dynamic" else {}
        model = LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=32, rope_parameters=rope)).eval()
    generator = np.random.default_rng(0)
    texts = [[Window(generator.integers(3, 99, length).tolist(), 0)] for length in (20, 100, 33, 60, 10)]
    pooler = LayerPooler(model, "mean")
    together = {i: layers[n] for positions, layers, _ in pooler.pool(texts) for n, i in enumerate(positions)}
    for i, text in enumerate(texts):
        ((_, alone, _),) = pooler.pool([text])
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-4, atol=1e-6)
    assert exact_length(decoder_of(model), 100) == (100 if rope_type == "default" else 32)
