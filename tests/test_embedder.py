"""LLMEmbedder: what is trained, what is pooled, and what is refused."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError

from skllm4es import LLMEmbedder

TINY = {"vocab_size": 300, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXTS = [f"day|title|rating\n{day}, Heat, 5\n{day + 1}, Alien, {day % 5}" for day in range(12)]


@pytest.fixture(scope="module")
def fitted():
    return LLMEmbedder(TINY, features="hidden", dtype="float32", random_state=0).fit(TEXTS)


def reference_embedding(embedder, text, depth):
    """The definition, one text at a time: transformers' own hidden states, in float64."""
    ids = torch.tensor([embedder.load_model()[1](text)["input_ids"]])
    with torch.inference_mode():
        hidden = embedder.load_model()[0](input_ids=ids, output_hidden_states=True).hidden_states
    return torch.stack(hidden[-depth:]).double().mean(dim=(0, 2))[0].numpy()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_embedding_is_the_mean_over_tokens_of_the_mean_of_the_last_layers(fitted, depth):
    embedder = LLMEmbedder(TINY, features="hidden", pooling_depth=depth, dtype="float32", random_state=0).fit(TEXTS)
    expected = [reference_embedding(embedder, text, depth) for text in TEXTS]
    np.testing.assert_allclose(embedder.transform(TEXTS), expected, rtol=1e-5, atol=1e-6)


def test_output_is_float32_one_row_a_text(fitted):
    out = fitted.transform(TEXTS)
    assert out.shape == (12, 8)
    assert out.dtype == np.float32


def test_no_texts_give_no_rows(fitted):
    assert fitted.transform([]).shape == (0, 8)


def test_a_text_does_not_depend_on_its_neighbours_or_their_order(fitted):
    texts = [*TEXTS, TEXTS[0] * 5, "x", ""]
    together = fitted.transform(texts)
    alone = np.vstack([fitted.transform([text]) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(fitted.transform(texts[::-1])[::-1], together)


def test_empty_text_gives_a_finite_vector(fitted):
    assert np.isfinite(fitted.transform([""])).all()


def test_training_lowers_the_loss():
    losses = LLMEmbedder(TINY, features="hidden", epochs=60, learning_rate=0.02, random_state=0).fit(TEXTS).loss_curve_
    assert losses[-1] < 0.5 * losses[0]


def test_a_pretrained_model_is_trained_on_the_variants_and_not_the_text(tmp_path, fitted):
    fitted.load_model()[0].save_pretrained(tmp_path)
    fitted.load_model()[1].save_pretrained(tmp_path)
    frame = pd.DataFrame({"text": TEXTS, "variant_0": [text.upper() for text in TEXTS]})
    with_text = LLMEmbedder(tmp_path, random_state=0).fit(frame)
    without = LLMEmbedder(tmp_path, random_state=0).fit(frame["variant_0"])
    np.testing.assert_array_equal(with_text.transform(frame), without.transform(TEXTS))


def test_a_model_from_scratch_is_trained_on_the_text_as_well():
    frame = pd.DataFrame({"text": TEXTS, "variant_0": [text.upper() for text in TEXTS]})
    both = LLMEmbedder(TINY, epochs=1, random_state=0).fit(frame)
    each = [LLMEmbedder(TINY, epochs=1, random_state=0).fit(frame[name]) for name in frame]
    assert both.n_tokens_seen_ > max(embedder.n_tokens_seen_ for embedder in each)


def test_the_same_seed_gives_the_same_embedding_bit_by_bit(fitted):
    again = LLMEmbedder(TINY, features="hidden", dtype="float32", random_state=0).fit(TEXTS)
    np.testing.assert_array_equal(again.transform(TEXTS), fitted.transform(TEXTS))


def test_another_seed_gives_another_embedding(fitted):
    other = LLMEmbedder(TINY, features="hidden", random_state=1).fit(TEXTS)
    assert not np.allclose(other.transform(TEXTS), fitted.transform(TEXTS))


def test_auto_depth_is_all_layers_of_a_small_model(fitted):
    assert fitted.layers_ == [1, 2, 3]


def test_a_fit_that_fails_leaves_the_embedder_as_it_was(fitted):
    embedder = pickle.loads(pickle.dumps(fitted)).set_params(pooling_depth=1, learning_rate=1e30, epochs=20)
    with pytest.raises(ValueError, match="Lower learning_rate"):
        embedder.fit(TEXTS)
    np.testing.assert_array_equal(embedder.transform(TEXTS), fitted.transform(TEXTS))


def test_a_first_fit_that_fails_leaves_the_embedder_unfitted():
    embedder = LLMEmbedder(TINY, features="hidden", pooling_depth=9)
    with pytest.raises(ValueError, match="pooling_depth=9"):
        embedder.fit(TEXTS)
    with pytest.raises(NotFittedError):
        embedder.transform(TEXTS)


class TestLongTexts:
    """Texts with more tokens than the model sees at once."""

    HEADER = "day|title|rating"
    LONG = HEADER + "\n" + "\n".join(f"{day}, Heat, {day % 5}" for day in range(100))

    @pytest.mark.parametrize("instruction", ["", "Films:\n\n"])
    def test_truncation_keeps_instruction_and_header_and_latest_events(self, instruction):
        long = instruction + self.LONG
        embedder = LLMEmbedder(
            TINY, features="hidden", max_length=64, overflow="truncate", dtype="float32", random_state=0
        ).fit([*TEXTS, long])
        with pytest.warns(UserWarning, match="1 of 2 texts have more than max_length=64 tokens"):
            cut = embedder.transform([long, TEXTS[0]])
        assert embedder.n_truncated_ == 1
        header, events = instruction + self.HEADER, self.LONG.split("\n")[1:]
        for n_events in range(1, 30):
            kept = "\n".join([header, *events[-n_events:]])
            if len(embedder.load_model()[1](kept)["input_ids"]) <= 64:
                longest = kept
        np.testing.assert_allclose(cut[0], embedder.transform([longest])[0], rtol=1e-5, atol=1e-6)

    def test_chunks_average_all_windows_by_tokens(self):
        embedder = LLMEmbedder(TINY, features="hidden", max_length=64, dtype="float32", random_state=0).fit(
            [*TEXTS, self.LONG]
        )
        embedding = embedder.transform([self.LONG])
        assert embedder.n_truncated_ == 0
        header, *events = self.LONG.split("\n")
        windows, window = [], [header]
        for event in events:
            if len(embedder.load_model()[1]("\n".join([*window, event]) + "\n")["input_ids"]) > 64:
                windows.append("\n".join(window) + "\n")
                window = [header]
            window.append(event)
        windows.append("\n".join(window))
        n_tokens = [len(embedder.load_model()[1](window)["input_ids"]) for window in windows]
        expected = np.average(embedder.transform(windows), axis=0, weights=n_tokens)
        np.testing.assert_allclose(embedding[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("finetune", [None, "full"])
@pytest.mark.real_data
def test_real_pretrained_llama(data_home, finetune):
    directory = data_home / "tinystories-656k"
    embedder = LLMEmbedder(directory, finetune=finetune, pooling_depth=2, dtype="float32", random_state=0).fit(TEXTS)
    assert embedder.max_length_ == 512
    expected = [reference_embedding(embedder, text, 2) for text in TEXTS]
    np.testing.assert_allclose(embedder.transform(TEXTS), expected, rtol=1e-4, atol=1e-5)
    assert bool(embedder.loss_curve_) == (finetune == "full")


@pytest.mark.real_data
def test_finetuning_changes_a_pretrained_model(data_home):
    frozen, tuned = (
        LLMEmbedder(data_home / "tinystories-656k", finetune=finetune, random_state=0).fit(TEXTS).transform(TEXTS)
        for finetune in (None, "full")
    )
    assert not np.allclose(frozen, tuned)


@pytest.mark.parametrize(
    ("params", "X", "error", "message"),
    [
        ({}, "one text", TypeError, "string object received"),
        ({}, b"bytes", TypeError, "string object received"),
        ({}, [TEXTS[0], 3.5], TypeError, r"row 1 of column 'text' is float"),
        ({}, {"text": TEXTS}, TypeError, "got dict, which is not a sequence"),
        ({}, pd.DataFrame([["a", "b"]], columns=["text", "text"]), ValueError, "columns of the same name"),
        ({"model": {"hidden_sizes": 8}}, TEXTS, ValueError, r"Did you mean \['hidden_size'\]"),
        ({}, 5, TypeError, "iterable over texts expected; got int"),
        ({}, [], ValueError, "found 0 texts"),
        ({}, np.array(TEXTS).reshape(2, 2, 3), ValueError, r"got \(2, 2, 3\)"),
        ({}, pd.DataFrame({"a": TEXTS, "b": TEXTS}), ValueError, "one must be 'text'"),
        ({"pooling_depth": 4}, TEXTS, ValueError, "pooling_depth=4 is more than the 3 layers"),
        ({"pooling_depth": 0}, TEXTS, ValueError, "pooling_depth"),
        ({"max_length": 4096}, TEXTS, ValueError, "max_length=4096 is more than the 512 positions"),
        ({"finetune": None}, TEXTS, ValueError, "random weights"),
        ({"finetune": "half"}, TEXTS, ValueError, "finetune"),
        ({"layers": [4]}, TEXTS, ValueError, r"layers=\[4\] must name .* of the 3 layers of the language model: 0"),
        ({"layers": []}, TEXTS, ValueError, "at least one layer"),
        ({"layers": [3, -1]}, TEXTS, ValueError, "none twice"),
        ({"learning_rate": 1e30, "epochs": 20}, TEXTS, ValueError, "Lower learning_rate"),
    ],
)
def test_bad_input_is_refused(params, X, error, message):
    with pytest.raises(error, match=message):
        LLMEmbedder(**{"model": TINY, **params}).fit(X)


@pytest.mark.parametrize("name", ["no/such-model", "./no_such_directory"])
def test_a_model_that_cannot_be_loaded_gets_remedies(name):
    with pytest.raises(OSError, match=r"(?s)could not be loaded.*1\. A local model.*5\. No model at all"):
        LLMEmbedder(name).fit(TEXTS)
