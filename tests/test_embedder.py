"""LLMEmbedder: what is trained and pooled, and which input raises."""

import pickle
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from searches import search_in_which_candidates_differ
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tiny_models import TEXTS, TINY, save_model, tiny

from skllm4es import FineTuning, FromScratch, LLMEmbedder, LoRA

DIVERGING = FineTuning(learning_rate=1e30, epochs=20)


@pytest.fixture(scope="module")
def fitted():
    return LLMEmbedder(TINY, features="hidden", dtype="float32", random_state=0).fit(TEXTS)


def reference_embedding(embedder, text, depth):
    """Embed one text by the definition, from the hidden states of transformers, in float64."""
    ids = torch.tensor([embedder.load_model()[1](text)["input_ids"]])
    with torch.inference_mode():
        hidden = embedder.load_model()[0](input_ids=ids, output_hidden_states=True).hidden_states
    return torch.stack(hidden[-depth:]).double().mean(dim=(0, 2))[0].numpy()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_embedding_is_the_mean_over_tokens_of_the_mean_of_the_last_layers(fitted, depth):
    params = {"features": "hidden", "pooling_depth": depth, "token_pooling": "mean", "dtype": "float32"}
    embedder = LLMEmbedder(TINY, **params, random_state=0).fit(TEXTS)
    expected = [reference_embedding(embedder, text, depth) for text in TEXTS]
    np.testing.assert_allclose(embedder.transform(TEXTS), expected, rtol=1e-5, atol=1e-6)


def test_output_is_float32_with_one_row_per_text(fitted):
    out = fitted.transform(TEXTS)
    assert out.shape == (12, 8)
    assert out.dtype == np.float32


def test_no_texts_return_no_rows(fitted):
    assert fitted.transform([]).shape == (0, 8)


def test_a_vector_does_not_depend_on_the_other_texts_or_their_order(fitted):
    texts = [*TEXTS, TEXTS[0] * 5, "x", ""]
    together = fitted.transform(texts)
    alone = np.vstack([fitted.transform([text]) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(fitted.transform(texts[::-1])[::-1], together)


def test_an_empty_text_has_a_finite_vector(fitted):
    assert np.isfinite(fitted.transform([""])).all()


def test_training_lowers_the_loss():
    losses = (
        LLMEmbedder(
            TINY,
            features="hidden",
            random_state=0,
            finetune=FineTuning(epochs=60, learning_rate=0.02),
        )
        .fit(TEXTS)
        .loss_curve_
    )
    assert losses[-1] < 0.5 * losses[0]


def test_a_pretrained_model_is_trained_on_the_variants_but_not_the_text(tmp_path, fitted):
    save_model(fitted, tmp_path)
    frame = pd.DataFrame({"text": TEXTS, "variant_0": [text.upper() for text in TEXTS]})
    with_text = LLMEmbedder(tmp_path, features="hidden", random_state=0).fit(frame)
    without = LLMEmbedder(tmp_path, features="hidden", random_state=0).fit(frame["variant_0"])
    np.testing.assert_array_equal(with_text.transform(frame), without.transform(TEXTS))


def test_a_model_from_scratch_is_trained_on_the_text_too():
    frame = pd.DataFrame({"text": TEXTS, "variant_0": [text.upper() for text in TEXTS]})
    both = LLMEmbedder(TINY, random_state=0, finetune=FineTuning(epochs=1)).fit(frame)
    single = [LLMEmbedder(TINY, random_state=0, finetune=FineTuning(epochs=1)).fit(frame[name]) for name in frame]
    assert both.n_tokens_seen_ > max(embedder.n_tokens_seen_ for embedder in single)


def test_the_same_seed_gives_the_same_embedding_bit_by_bit(fitted):
    again = LLMEmbedder(TINY, features="hidden", dtype="float32", random_state=0).fit(TEXTS)
    np.testing.assert_array_equal(again.transform(TEXTS), fitted.transform(TEXTS))


def test_another_seed_gives_another_embedding(fitted):
    other = LLMEmbedder(TINY, features="hidden", random_state=1).fit(TEXTS)
    assert not np.allclose(other.transform(TEXTS), fitted.transform(TEXTS))


def test_the_default_depth_is_all_layers_of_a_small_model(fitted):
    assert fitted.layers_ == [1, 2, 3]


def test_a_fit_that_fails_leaves_the_embedder_as_it_was(fitted):
    embedder = pickle.loads(pickle.dumps(fitted)).set_params(finetune=DIVERGING, pooling_depth=1)
    with pytest.raises(ValueError, match="Lower the learning rate"):
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
    def test_truncation_keeps_the_instruction_the_header_and_the_latest_events(self, instruction):
        long = instruction + self.LONG
        embedder = LLMEmbedder(
            TINY,
            features="hidden",
            max_length=64,
            overflow="truncate",
            dtype="float32",
            random_state=0,
        ).fit([*TEXTS, long])
        with pytest.warns(UserWarning, match="1 of 2 texts have more than max_length=64 tokens"):
            cut = embedder.transform([long, TEXTS[0]])
        assert embedder.n_truncated_ == 1
        with pytest.warns(UserWarning, match="2 of 2 texts"):
            embedder.transform_layers([long, long])
        assert embedder.n_truncated_ == 2
        header, events = instruction + self.HEADER, self.LONG.split("\n")[1:]
        for n_events in range(1, 30):
            kept = "\n".join([header, *events[-n_events:]])
            if len(embedder.load_model()[1](kept)["input_ids"]) <= 64:
                longest = kept
        np.testing.assert_allclose(cut[0], embedder.transform([longest])[0], rtol=1e-5, atol=1e-6)

    def test_by_default_the_last_eight_layers_are_pooled(self):
        embedder = LLMEmbedder(tiny(num_hidden_layers=10), features="hidden", random_state=0).fit(TEXTS)
        layers = embedder.transform_layers(TEXTS)
        np.testing.assert_allclose(embedder.transform(TEXTS), layers[:, -8:].mean(axis=1), rtol=1e-4, atol=1e-5)

    def test_special_tokens_count(self):
        events = TEXTS[0]
        embedder = LLMEmbedder(TINY, features="hidden", overflow="truncate", random_state=0).fit(TEXTS)
        n_tokens = len(embedder.load_model()[1](events)["input_ids"])
        for max_length, n_truncated in ((n_tokens, 0), (n_tokens - 1, 1)):
            shorter = clone(embedder).set_params(max_length=max_length).fit(TEXTS)
            with pytest.warns(UserWarning, match="1 of 1 texts") if n_truncated else nullcontext():
                shorter.transform([events])
            assert shorter.n_truncated_ == n_truncated

    def test_chunks_are_averaged_by_their_number_of_tokens(self):
        params = {"features": "hidden", "token_pooling": "mean", "max_length": 64, "dtype": "float32"}
        embedder = LLMEmbedder(TINY, **params, random_state=0).fit([*TEXTS, self.LONG])
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
        # The header, which every window repeats, counts once; its hidden states are the same in each.
        n_header = len(embedder.load_model()[1](header + "\n")["input_ids"])
        sums = embedder.transform(windows) * np.array(n_tokens)[:, None]
        sums[1:] -= embedder.transform([header + "\n"])[0] * n_header
        expected = sums.sum(axis=0) / (sum(n_tokens) - n_header * (len(windows) - 1))
        np.testing.assert_allclose(embedding[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("finetune", [None, "full"])
@pytest.mark.real_data
def test_real_pretrained_llama(data_home, finetune):
    directory = data_home / "tinystories-656k"
    params = {"features": "hidden", "pooling_depth": 2, "token_pooling": "mean", "dtype": "float32"}
    embedder = LLMEmbedder(directory, **params, random_state=0, finetune=finetune).fit(TEXTS)
    assert embedder.max_length_ == 512
    expected = [reference_embedding(embedder, text, 2) for text in TEXTS]
    np.testing.assert_allclose(embedder.transform(TEXTS), expected, rtol=1e-4, atol=1e-5)
    assert bool(embedder.loss_curve_) == (finetune == "full")


@pytest.mark.real_data
def test_finetuning_changes_a_pretrained_model(data_home):
    frozen, tuned = (
        LLMEmbedder(data_home / "tinystories-656k", features="hidden", random_state=0, finetune=finetune)
        .fit(TEXTS)
        .transform(TEXTS)
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
        ({"model": FromScratch(config={"hidden_sizes": 8})}, TEXTS, ValueError, r"Did you mean \['hidden_size'\]"),
        ({}, 5, TypeError, "iterable over texts expected; got int"),
        ({}, [], ValueError, "found 0 texts"),
        ({}, np.array(TEXTS).reshape(2, 2, 3), ValueError, r"got \(2, 2, 3\)"),
        ({}, pd.DataFrame({"a": TEXTS, "b": TEXTS}), ValueError, "one must be 'text'"),
        ({"features": "hidden", "pooling_depth": 4}, TEXTS, ValueError, "pooling_depth=4 is more than the 3 layers"),
        ({"pooling_depth": 0}, TEXTS, ValueError, "pooling_depth"),
        ({"max_length": 4096}, TEXTS, ValueError, "max_length=4096 is more than the 512 positions"),
        ({"finetune": None}, TEXTS, ValueError, "random weights"),
        ({"finetune": "half"}, TEXTS, ValueError, "finetune"),
        ({"finetune": DIVERGING}, TEXTS, ValueError, "Lower the learning rate"),
        ({"finetune": LoRA()}, TEXTS, ValueError, "random weights"),
        ({"finetune": FineTuning(patience=0)}, TEXTS, ValueError, "patience"),
    ],
)
def test_bad_input_raises(params, X, error, message):
    with pytest.raises(error, match=message):
        LLMEmbedder(**{"model": TINY, **params}).fit(X)


@pytest.mark.parametrize("name", ["no/such-model", "./no_such_directory"])
def test_a_model_that_cannot_be_loaded_raises_with_remedies(name):
    with pytest.raises(OSError, match=r"(?s)could not be loaded.*1\. A local model.*5\. No pretrained model"):
        LLMEmbedder(name).fit(TEXTS)


class TestObjectsAsParameters:
    """`FineTuning`, `LoRA` and `FromScratch` inside an embedder."""

    def test_a_search_reaches_their_parameters(self):
        pipeline = make_pipeline(
            LLMEmbedder(TINY, features="hidden", finetune=FineTuning(epochs=1), random_state=0), LogisticRegression()
        )
        grid = {"llmembedder__finetune__learning_rate": [1e-3, 1e-2], "llmembedder__pooling_depth": [1, 2]}
        search_in_which_candidates_differ(pipeline, grid, TEXTS, [0, 1] * 6)

    def test_strings_stand_for_objects_with_default_parameters(self, tmp_path, fitted):
        fitted.save_pretrained(tmp_path / "model")
        for word, finetune in (("full", FineTuning()), ("lora", LoRA())):
            from_string, from_object = (
                LLMEmbedder(tmp_path / "model", finetune=value, random_state=0).fit_transform(TEXTS)
                for value in (word, finetune)
            )
            np.testing.assert_array_equal(from_string, from_object)

    def test_no_model_stands_for_a_model_from_scratch(self):
        vectors = [LLMEmbedder(model, random_state=0).fit_transform(TEXTS) for model in (None, FromScratch())]
        np.testing.assert_array_equal(*vectors)

    @pytest.mark.parametrize(
        ("params", "name", "suggested"),
        [
            ({}, "finetune__epochs", r"finetune='full' is not .* LLMEmbedder\(finetune=FineTuning\(...\)\)"),
            ({"finetune": "lora"}, "finetune__r", r"finetune='lora' is not .* LLMEmbedder\(finetune=LoRA\(...\)\)"),
            ({"finetune": None}, "finetune__epochs", r"finetune=None is not .*FineTuning"),
            ({}, "model__n_params", r"model=None is not .* LLMEmbedder\(model=FromScratch\(...\)\)"),
            ({"model": "owner/name"}, "model__n_params", r"model='owner/name' is not"),
            ({}, "memory__verbose", r"memory=None is not an object with parameters. Set memory itself"),
        ],
    )
    def test_a_search_inside_a_string_or_None_suggests_the_object(self, params, name, suggested):
        with pytest.raises(ValueError, match=suggested):
            LLMEmbedder(**params).set_params(**{name: 1})

    def test_an_object_and_its_parameters_can_be_set_together(self):
        embedder = LLMEmbedder().set_params(finetune=FineTuning(), finetune__epochs=3)
        assert embedder.finetune.epochs == 3

    def test_unknown_parameters_of_an_object_are_named(self):
        with pytest.raises(ValueError, match="Invalid parameter 'epoch' for estimator FineTuning"):
            LLMEmbedder(finetune=FineTuning()).set_params(finetune__epoch=3)

    @pytest.mark.parametrize("finetune", [FineTuning(learning_rate=-1), LoRA(r=0), FineTuning(epochs="many")])
    def test_parameters_are_validated_in_fit(self, finetune):
        with pytest.raises(ValueError, match=r"The '(learning_rate|r|epochs)' parameter of (FineTuning|LoRA) must be"):
            LLMEmbedder("no/model", finetune=finetune).fit(TEXTS)


class TestFrozenModels:
    """`finetune=None`."""

    def test_unused_training_texts_cause_a_warning(self, tmp_path, fitted):
        fitted.save_pretrained(tmp_path / "model")
        frame = pd.DataFrame({"text": TEXTS, "variant_0": TEXTS})
        frozen = LLMEmbedder(tmp_path / "model", features="hidden", finetune=None, dtype="float32")
        with pytest.warns(
            UserWarning, match=r"columns \['variant_0'\] hold texts to train on and are not used"
        ) as record:
            frozen.fit(frame)
        assert record[0].filename == __file__
        np.testing.assert_array_equal(frozen.transform(frame), fitted.transform(TEXTS))

    def test_extra_texts_raise(self):
        with pytest.raises(ValueError, match="extra_texts have no effect with features='hidden' and finetune=None"):
            LLMEmbedder("no/model", features="hidden", finetune=None, extra_texts=TEXTS).fit(TEXTS)

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"finetune": FineTuning(patience=2)}, "patience=2 has no effect without validation_fraction"),
            ({"finetune": LoRA(lora_args={"r": 4})}, r"lora_args cannot take \['r'\]. Set them as parameters of LoRA"),
            ({"finetune": LoRA(target_modules=[])}, "target_modules is empty"),
            ({"model": FromScratch(config={"bos_token_id": 5})}, r"config cannot take \['bos_token_id'\]"),
            (
                {"model": FromScratch(n_params=1000, config={"hidden_size": 8})},
                r"n_params=1000 chooses the size of the model, which config sets too \(hidden_size=8\)",
            ),
        ],
    )
    def test_settings_that_conflict_or_have_no_effect_are_rejected(self, params, message):
        with pytest.raises(ValueError, match=message):
            LLMEmbedder(**{"model": "no/model", **params}).fit(TEXTS)

    def test_a_parameter_that_never_has_parameters_is_said_to_be_invalid(self):
        with pytest.raises(ValueError, match="features__n cannot be set, because features"):
            LLMEmbedder(features=["hidden", "scores"]).set_params(features__n=1)
