"""Score features: how often each token occurs, minus how often the model expected it."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize
from tiny_models import TEXTS, save_model, tiny
from transformers import Gemma2Config, Gemma2ForCausalLM

from skllm4es import EventSerializer, FineTuning, LLMEmbedder, TextEnricher, nest_events
from skllm4es.embed._scores import ScoreProjection, shared_tokens
from skllm4es.lm.pooling import LayerPooler
from skllm4es.lm.scores import score_tokens
from skllm4es.lm.windows import Window, split, tokenize

TINY = tiny(num_hidden_layers=2)
UNTIED = tiny(num_hidden_layers=2, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def fitted():
    return LLMEmbedder(TINY, features="scores", dtype="float32", random_state=0).fit(TEXTS)


def reference_scores(embedder, text, n_header):
    """Compute the scores of one text by their definition, token by token, with the head of transformers."""
    model, tokenizer = embedder.load_model()
    ids = tokenizer(text)["input_ids"]
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids])).logits[0].double().softmax(-1)
    scores = torch.zeros(len(tokenizer), dtype=torch.float64)
    for place in range(max(1, n_header), len(ids)):
        scores[ids[place]] += 1
        scores -= expected[place - 1, : len(scores)]
    return scores.numpy()


def n_header(embedder, text):
    return len(embedder.load_model()[1](text.split("\n")[0] + "\n")["input_ids"])


def test_scores_are_counts_minus_expected_counts(fitted):
    model = fitted.load_model()[0]
    tokens = np.array([5, 40, 70])
    pooler = LayerPooler(model, "mean", scored=tokens)
    ids = [fitted.load_model()[1](text)["input_ids"] for text in TEXTS]
    windows = [[Window(text_ids, n_header(fitted, text))] for text_ids, text in zip(ids, TEXTS, strict=True)]
    computed = np.zeros((len(TEXTS), 3))
    for positions, _, scores in pooler.pool(windows):
        computed[positions] = scores
    expected = [reference_scores(fitted, text, n_header(fitted, text))[tokens] for text in TEXTS]
    np.testing.assert_allclose(computed, expected, rtol=1e-4, atol=1e-4)


def test_scores_are_the_gradient_of_the_log_likelihood_in_the_output_bias():
    generator = torch.Generator().manual_seed(0)
    hidden, output = (torch.randn(shape, generator=generator) for shape in ((2, 7, 4), (9, 4)))
    ids = torch.randint(9, (2, 7), generator=generator)
    bias = torch.zeros(2, 9, requires_grad=True)
    logits = hidden @ output.T + bias[:, None]
    likelihood = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).sum()
    (gradient,) = torch.autograd.grad(likelihood, bias)
    scores = score_tokens(hidden, output, ids, torch.ones(2, 7, dtype=torch.bool), torch.arange(9))
    torch.testing.assert_close(scores, gradient)


def test_predicting_in_parts_gives_the_same_scores(monkeypatch):
    hidden, output, ids = torch.randn(3, 8, 4), torch.randn(9, 4), torch.randint(9, (3, 8))
    counted, tokens = torch.rand(3, 8) < 0.8, torch.tensor([1, 4])
    whole = score_tokens(hidden, output, ids, counted, tokens)
    monkeypatch.setattr("skllm4es.lm.scores._HELD_PREDICTIONS", {"cpu": 20})
    torch.testing.assert_close(score_tokens(hidden, output, ids, counted, tokens), whole)


def test_tokens_of_five_texts_are_scored():
    texts = [[1, 2], [1, 2], [1, 2], [1, 3], [1, 3, 3]]
    assert shared_tokens(texts).tolist() == [1]
    assert shared_tokens(texts[:3]).tolist() == [1, 2]


def test_a_projection_scales_normalises_and_reduces():
    scores = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32) * [1, 10, 1, 1, 1, 0]
    projection = ScoreProjection.fit(np.arange(6), scores.astype(np.float32), 5)
    unit = scores / np.where(scores.any(axis=0), (scores**2).mean(axis=0) ** (7 / 16), 1)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    vectors = projection(scores.astype(np.float32))
    # With all five directions, distances are preserved.
    np.testing.assert_allclose(vectors @ vectors.T, unit @ unit.T, atol=1e-5)
    assert (np.diff(np.linalg.norm(vectors, axis=0)) <= 1e-5).all()
    np.testing.assert_array_equal(projection(np.zeros((1, 6), np.float32)), 0)


@pytest.mark.parametrize(
    ("params", "n_features"),
    [
        ({"features": "scores"}, 5),
        ({"features": ["scores"], "n_components": 3}, 3),
        ({"features": "hidden"}, 8),
        ({"features": ["hidden", "scores"], "n_components": 3}, 11),
        ({"features": ("scores", "hidden"), "n_components": 3, "pooling_depth": 1}, 11),
        ({"features": ["hidden"], "token_pooling": "max"}, 8),
        ({"features": "scores", "n_components": 2}, 2),
    ],
)
def test_the_length_of_an_embedding(params, n_features):
    embedder = LLMEmbedder(TINY, random_state=0, **params).fit(TEXTS)
    assert embedder.transform(TEXTS).shape == (12, n_features)
    assert embedder.n_features_out_ == n_features == len(embedder.get_feature_names_out())


def test_features_in_a_list_are_put_side_by_side_in_order_each_of_unit_length():
    hidden, scores, both, swapped = (
        LLMEmbedder(TINY, features=features, dtype="float32", random_state=0).fit_transform(TEXTS)
        for features in ("hidden", "scores", ["hidden", "scores"], ["scores", "hidden"])
    )
    np.testing.assert_allclose(both, np.hstack([normalize(hidden), normalize(scores)]), atol=1e-6)
    np.testing.assert_array_equal(swapped, np.hstack([both[:, 8:], both[:, :8]]))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"pooling_depth": 1, "features": "scores"},
            r"pooling_depth=1 has no effect with features='scores', which reads scores .*'events'",
        ),
        (
            {"token_pooling": "max", "features": ["scores"]},
            r"token_pooling='max' has no effect with features=\['scores'\]",
        ),
        ({"n_components": 3, "features": "hidden"}, r"n_components=3 has no effect with features='hidden'"),
    ],
)
def test_a_parameter_without_effect_raises_and_names_both(params, message):
    with pytest.raises(ValueError, match=message):
        LLMEmbedder(TINY, **params).fit(TEXTS)


@pytest.mark.parametrize("features", [[], ["hidden", "hidden"], ["layers"], "both"])
def test_unknown_features_raise(features):
    with pytest.raises(ValueError, match="features"):
        LLMEmbedder(TINY, features=features).fit(TEXTS)


def test_a_pretrained_model_has_hidden_states_and_scores(tmp_path, fitted):
    save_model(fitted, tmp_path)
    assert LLMEmbedder(tmp_path, features="hidden", finetune=None).fit_transform(TEXTS).shape == (12, 8)
    assert LLMEmbedder(tmp_path, features="scores", finetune=None).fit_transform(TEXTS).shape == (12, 5)


def test_a_model_with_a_separate_output_layer_raises():
    with pytest.raises(ValueError, match="predictions are the product of its hidden states and input embeddings"):
        LLMEmbedder(UNTIED, random_state=0).fit(TEXTS)


def test_a_cached_model_with_a_separate_output_layer_raises(tmp_path):
    untied = LLMEmbedder(UNTIED, features="hidden", memory=tmp_path, random_state=0).fit(TEXTS)
    with pytest.raises(ValueError, match="predictions are the product of its hidden states and input embeddings"):
        untied.set_params(features="scores").fit(TEXTS)


def test_transform_uses_the_features_of_fit(fitted):
    embedder = pickle.loads(pickle.dumps(fitted)).set_params(features="hidden")
    np.testing.assert_array_equal(embedder.transform(TEXTS), fitted.transform(TEXTS))
    assert (embedder.features_, embedder.layers_) == (["scores"], [])


def test_a_model_that_caps_its_predictions_raises(tmp_path):
    model = Gemma2ForCausalLM(Gemma2Config(**TINY.config, head_dim=4, num_key_value_heads=1))
    model.get_input_embeddings().weight.data *= 100  # Predictions as large as those of trained models.
    model.save_pretrained(tmp_path)
    LLMEmbedder(TINY, random_state=0).fit(TEXTS).load_model()[1].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="predictions are the product of its hidden states and input embeddings"):
        LLMEmbedder(tmp_path, features="scores", finetune=None).fit(TEXTS)


def test_the_same_text_in_two_columns_is_trained_on_once():
    frame = pd.DataFrame({"text": TEXTS, "raw": TEXTS})
    repeated = LLMEmbedder(TINY, random_state=0).fit(frame)
    np.testing.assert_array_equal(repeated.transform(TEXTS), LLMEmbedder(TINY, random_state=0).fit_transform(TEXTS))


@pytest.mark.parametrize("features", ["auto", "scores", "hidden", ["hidden", "scores"]])
def test_fit_transform_equals_fit_and_transform(features):
    texts = [*TEXTS, TEXTS[3]]
    embedder = LLMEmbedder(TINY, features=features, dtype="float32", random_state=0)
    np.testing.assert_allclose(embedder.fit_transform(texts), embedder.fit(texts).transform(texts), atol=1e-5)


@pytest.mark.parametrize(("features", "n_texts"), [("scores", 12), ("auto", 12 + 2)])  # Heat and Alien are events.
def test_fit_transform_embeds_each_text_once(monkeypatch, features, n_texts):
    pooled = []
    pool = LayerPooler.pool
    monkeypatch.setattr(LayerPooler, "pool", lambda self, texts: pooled.extend(texts) or pool(self, texts))
    LLMEmbedder(TINY, features=features, random_state=0).fit_transform([*TEXTS, TEXTS[3]])
    assert len(pooled) == n_texts


def test_scores_of_a_text_in_several_windows_are_their_sum(fitted):
    model, tokenizer = fitted.load_model()
    text = "\n".join([TEXTS[0].split("\n")[0], *(f"{day}, {'Heat' if day % 3 else 'Alien'}, 4" for day in range(40))])
    windows = split(tokenize(tokenizer, [text], 64)[0], 64)
    assert len(windows) > 2
    tokens = np.arange(len(tokenizer))
    expected = torch.zeros(len(tokens), dtype=torch.float64)
    for window in windows:
        with torch.inference_mode():
            predicted = model(input_ids=torch.tensor([window.ids])).logits[0].double().softmax(-1)
        for place in range(max(1, window.n_header, window.n_repeated), len(window.ids)):
            expected[window.ids[place]] += 1
            expected -= predicted[place - 1, : len(tokens)]
    ((_, _, scores),) = LayerPooler(model, "mean", scored=tokens).pool([windows])
    np.testing.assert_allclose(scores[0], expected, rtol=1e-4, atol=1e-3)


def test_directions_are_found_on_a_draw_of_many_texts(monkeypatch):
    texts = [f"title\n{'Heat' if i % 2 else 'Alien'}\nUp {i % 7}" for i in range(40)]
    monkeypatch.setattr("skllm4es.embed._embedder._ENOUGH_TEXTS", 30)
    embedder = LLMEmbedder(TINY, features="scores", dtype="float32", random_state=0).fit(texts)
    vectors = embedder.transform(texts)
    np.testing.assert_array_equal(clone(embedder).fit_transform(texts), vectors)
    odd = vectors[1::2].mean(axis=0) - vectors[::2].mean(axis=0)
    assert (vectors[1::2] @ odd).min() > (vectors[::2] @ odd).max()


def test_fit_transform_warns_about_truncated_texts():
    embedder = LLMEmbedder(TINY, max_length=16, overflow="truncate", random_state=0)
    with pytest.warns(UserWarning, match="12 of 12 texts have more than max_length=16") as record:
        embedder.fit_transform(TEXTS)
    assert record[0].filename == __file__
    assert embedder.n_truncated_ == 12


def test_a_vector_does_not_depend_on_the_other_texts(fitted):
    texts = [*TEXTS, TEXTS[0] * 5, "x", ""]
    together = fitted.transform(texts)
    alone = np.vstack([fitted.transform([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.isfinite(together).all()


def test_tokens_that_occur_only_in_the_header_are_not_scored(fitted):
    tokenizer, scored = fitted.load_model()[1], fitted._projection_.tokens
    assert tokenizer.bos_token_id not in scored
    assert tokenizer.convert_tokens_to_ids("title") not in scored
    assert tokenizer.convert_tokens_to_ids(",") in scored


def test_scores_survive_pickling_and_saving(tmp_path, fitted):
    expected = fitted.transform(TEXTS)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(TEXTS), expected)
    fitted.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(LLMEmbedder.from_pretrained(tmp_path / "saved").transform(TEXTS), expected)


def test_the_cache_changes_nothing_and_fit_fills_it(tmp_path, fitted):
    cached = LLMEmbedder(TINY, features="scores", dtype="float32", memory=tmp_path, random_state=0).fit(TEXTS)
    assert cached.cache_info().n_vectors == 12
    first, second = cached.transform(TEXTS), cached.transform(TEXTS)
    assert cached.cache_info().misses == 12
    np.testing.assert_allclose(first, fitted.transform(TEXTS), atol=1e-5)
    np.testing.assert_array_equal(first, second)


def test_pooling_depth_can_be_searched():
    search = GridSearchCV(
        make_pipeline(LLMEmbedder(TINY, features="hidden", random_state=0), LogisticRegression()),
        {"llmembedder__pooling_depth": [1, 2]},
        cv=2,
    ).fit(TEXTS, [0, 1] * 6)
    assert search.best_estimator_[0].n_features_out_ == 8


def test_common_field_values_are_one_token_in_all_formats():
    tokenizer = (
        LLMEmbedder(tiny(num_hidden_layers=2, vocab_size=4200), random_state=0, finetune=FineTuning(epochs=1e-9))
        .fit([f'title\n"Good, the Bad, The"\nHoly Grail ({i % 2})\nRed' for i in range(20)])
        .load_model()[1]
    )
    tokens = tokenizer.tokenize('{"title": "Holy Grail (1)"}')
    assert "Holy Grail (1)" in tokens
    assert "Holy Grail (1)" not in tokenizer.tokenize("xHoly Grail (1)")
    assert tokenizer.decode(tokenizer('a "Holy Grail (1)", b', add_special_tokens=False)["input_ids"]) == (
        'a "Holy Grail (1)", b'
    )


def test_users_with_different_habits_are_distinguished():
    """Half of the users sometimes buy tea and half coffee, among many things that all of them buy."""
    generator = np.random.default_rng(0)
    users = np.repeat(np.arange(60), 20)
    common = generator.choice(["bread", "milk", "apples", "cheese"], size=len(users))
    special = np.where(users % 2, "coffee", "tea")
    item = np.where(generator.random(len(users)) < 0.15, special, common)
    X = nest_events(
        pd.DataFrame({"user": users, "day": generator.integers(0, 300, len(users)), "item": item}),
        user="user",
        time="day",
    )
    pipeline = make_pipeline(
        EventSerializer(), TextEnricher(random_state=0), LLMEmbedder(random_state=0), LogisticRegression(C=100)
    )
    assert cross_val_score(pipeline, X, np.arange(60) % 2, cv=2, scoring="roc_auc").mean() > 0.9
