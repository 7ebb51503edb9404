"""Score features: how often each token occurs less how often the model expected it."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from transformers import Gemma2Config, Gemma2ForCausalLM

from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder, TextEnricher, nest_events
from skllm4es.embed._scores import ScoreProjection, shared_tokens
from skllm4es.lm.pooling import LayerPooler
from skllm4es.lm.scores import score_tokens
from skllm4es.lm.windows import Window

TINY_CONFIG = {
    "vocab_size": 300,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TINY = FromScratch(config=TINY_CONFIG)
TEXTS = [f"day|title|rating\n{day}, Heat, 5\n{day + 1}, Alien, {day % 5}" for day in range(12)]


@pytest.fixture(scope="module")
def fitted():
    return LLMEmbedder(TINY, dtype="float32", random_state=0).fit(TEXTS)


def reference_scores(embedder, text, n_header):
    """The definition, one text at a time: token by token with transformers' own head."""
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


def test_scores_are_counts_less_what_the_model_expected(fitted):
    model = fitted.load_model()[0]
    tokens = np.array([5, 40, 70])
    pooler = LayerPooler(model, "mean", scored=tokens)
    ids = [fitted.load_model()[1](text)["input_ids"] for text in TEXTS]
    windows = [[Window(each, n_header(fitted, text))] for each, text in zip(ids, TEXTS, strict=True)]
    found = np.zeros((len(TEXTS), 3))
    for positions, _, scores in pooler.pool(windows):
        found[positions] = scores
    expected = [reference_scores(fitted, text, n_header(fitted, text))[tokens] for text in TEXTS]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_they_are_the_gradient_of_the_log_likelihood_in_the_bias_of_the_output():
    generator = torch.Generator().manual_seed(0)
    hidden, output = (torch.randn(shape, generator=generator) for shape in ((2, 7, 4), (9, 4)))
    ids = torch.randint(9, (2, 7), generator=generator)
    bias = torch.zeros(2, 9, requires_grad=True)
    logits = hidden @ output.T + bias[:, None]
    likelihood = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).sum()
    (gradient,) = torch.autograd.grad(likelihood, bias)
    scores = score_tokens(hidden, output, ids, torch.ones(2, 7, dtype=torch.bool), torch.arange(9))
    torch.testing.assert_close(scores, gradient)


def test_predictions_in_several_parts_are_those_in_one(monkeypatch):
    hidden, output, ids = torch.randn(3, 8, 4), torch.randn(9, 4), torch.randint(9, (3, 8))
    counted, tokens = torch.rand(3, 8) < 0.8, torch.tensor([1, 4])
    whole = score_tokens(hidden, output, ids, counted, tokens)
    monkeypatch.setattr("skllm4es.lm.scores._HELD_PREDICTIONS", {"cpu": 20})
    torch.testing.assert_close(score_tokens(hidden, output, ids, counted, tokens), whole)


def test_tokens_that_five_texts_share_are_followed():
    texts = [[1, 2], [1, 2], [1, 2], [1, 3], [1, 3, 3]]
    assert shared_tokens(texts).tolist() == [1]
    assert shared_tokens(texts[:3]).tolist() == [1, 2]


def test_a_projection_scales_takes_unit_length_and_principal_directions():
    scores = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32) * [1, 10, 1, 1, 1, 0]
    projection = ScoreProjection.fit(np.arange(6), scores.astype(np.float32), 5)
    unit = scores / np.where(scores.any(axis=0), (scores**2).mean(axis=0) ** (7 / 16), 1)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    vectors = projection(scores.astype(np.float32))
    # All five directions there are: distances stay.
    np.testing.assert_allclose(vectors @ vectors.T, unit @ unit.T, atol=1e-5)
    assert (np.diff(np.linalg.norm(vectors, axis=0)) <= 1e-5).all()
    np.testing.assert_array_equal(projection(np.zeros((1, 6), np.float32)), 0)


@pytest.mark.parametrize(
    ("params", "n_features"),
    [
        ({}, 5),
        ({"n_components": 3}, 3),
        ({"features": "hidden"}, 8),
        ({"features": ["hidden", "scores"], "n_components": 3}, 11),
        ({"features": ("scores", "hidden"), "n_components": 3, "pooling_depth": 1}, 11),
        ({"features": ["hidden"], "token_pooling": "max"}, 8),
        ({"features": "scores", "n_components": 2}, 2),
    ],
)
def test_what_an_embedding_consists_of(params, n_features):
    embedder = LLMEmbedder(TINY, random_state=0, **params).fit(TEXTS)
    assert embedder.transform(TEXTS).shape == (12, n_features)
    assert embedder.n_features_out_ == n_features == len(embedder.get_feature_names_out())


def test_a_list_of_features_puts_them_side_by_side_in_its_order():
    hidden, scores, both, swapped = (
        LLMEmbedder(TINY, features=features, dtype="float32", random_state=0).fit_transform(TEXTS)
        for features in ("hidden", "scores", ["hidden", "scores"], ["scores", "hidden"])
    )
    np.testing.assert_allclose(both, np.hstack([hidden, scores]), atol=1e-6)
    np.testing.assert_array_equal(swapped, np.hstack([both[:, 8:], both[:, :8]]))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"pooling_depth": 1}, r"pooling_depth=1 has no effect with features='auto', which reads scores .*'hidden'"),
        (
            {"token_pooling": "max", "features": ["scores"]},
            r"token_pooling='max' has no effect with features=\['scores'\]",
        ),
        ({"n_components": 3, "features": "hidden"}, r"n_components=3 has no effect with features='hidden'"),
    ],
)
def test_a_parameter_without_effect_is_an_error_that_names_both(params, message):
    with pytest.raises(ValueError, match=message):
        LLMEmbedder(TINY, **params).fit(TEXTS)


@pytest.mark.parametrize("features", [[], ["hidden", "hidden"], ["layers"], "both"])
def test_unknown_features_are_rejected(features):
    with pytest.raises(ValueError, match="features"):
        LLMEmbedder(TINY, features=features).fit(TEXTS)


def test_a_pretrained_model_gives_hidden_states_unless_asked(tmp_path, fitted):
    for part in fitted.load_model():
        part.save_pretrained(tmp_path)
    assert LLMEmbedder(tmp_path, finetune=None).fit_transform(TEXTS).shape == (12, 8)
    assert LLMEmbedder(tmp_path, features="scores", finetune=None).fit_transform(TEXTS).shape == (12, 5)


def test_a_model_with_an_output_layer_of_its_own_is_refused():
    with pytest.raises(ValueError, match="tie_word_embeddings is False"):
        LLMEmbedder(FromScratch(config={**TINY_CONFIG, "tie_word_embeddings": False}), random_state=0).fit(TEXTS)


def test_it_is_refused_where_the_model_is_kept_as_well(tmp_path):
    untied = LLMEmbedder(
        FromScratch(config={**TINY_CONFIG, "tie_word_embeddings": False}),
        features="hidden",
        memory=tmp_path,
        random_state=0,
    )
    untied.fit(TEXTS)
    with pytest.raises(ValueError, match="tie_word_embeddings is False"):
        untied.set_params(features="scores").fit(TEXTS)


def test_features_are_those_of_fit(fitted):
    embedder = pickle.loads(pickle.dumps(fitted)).set_params(features="hidden")
    np.testing.assert_array_equal(embedder.transform(TEXTS), fitted.transform(TEXTS))
    assert (embedder.features_, embedder.layers_) == (["scores"], [])


def test_a_model_that_limits_its_predictions_is_refused(tmp_path):
    Gemma2ForCausalLM(Gemma2Config(**TINY_CONFIG, head_dim=4, num_key_value_heads=1)).save_pretrained(tmp_path)
    LLMEmbedder(TINY, random_state=0).fit(TEXTS).load_model()[1].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="final_logit_softcapping"):
        LLMEmbedder(tmp_path, features="scores", finetune=None).fit(TEXTS)


def test_the_same_text_in_two_columns_is_trained_on_once():
    frame = pd.DataFrame({"text": TEXTS, "raw": TEXTS})
    both = LLMEmbedder(TINY, random_state=0).fit(frame)
    np.testing.assert_array_equal(both.transform(TEXTS), LLMEmbedder(TINY, random_state=0).fit_transform(TEXTS))


@pytest.mark.parametrize("features", ["scores", "hidden", ["hidden", "scores"]])
def test_fit_transform_is_fit_and_transform(features):
    texts = [*TEXTS, TEXTS[3]]
    embedder = LLMEmbedder(TINY, features=features, dtype="float32", random_state=0)
    np.testing.assert_allclose(embedder.fit_transform(texts), embedder.fit(texts).transform(texts), atol=1e-5)


def test_fit_transform_runs_over_each_text_once(monkeypatch):
    pooled = []
    run = LayerPooler.pool
    monkeypatch.setattr(LayerPooler, "pool", lambda self, texts: pooled.extend(texts) or run(self, texts))
    LLMEmbedder(TINY, random_state=0).fit_transform([*TEXTS, TEXTS[3]])
    assert len(pooled) == len(TEXTS)


def test_fit_transform_warns_of_what_it_cuts_in_both_steps():
    embedder = LLMEmbedder(TINY, max_length=16, overflow="truncate", random_state=0)
    with pytest.warns(UserWarning, match="12 of 12 texts have more than max_length=16") as record:
        embedder.fit_transform(TEXTS)
    assert record[0].filename == __file__
    assert embedder.n_truncated_ == 12


def test_a_text_does_not_depend_on_its_neighbours(fitted):
    texts = [*TEXTS, TEXTS[0] * 5, "x", ""]
    together = fitted.transform(texts)
    alone = np.vstack([fitted.transform([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.isfinite(together).all()


def test_tokens_of_the_header_line_alone_are_not_followed(fitted):
    tokenizer, followed = fitted.load_model()[1], fitted._projection_.tokens
    assert tokenizer.bos_token_id not in followed
    assert tokenizer.convert_tokens_to_ids("title") not in followed
    assert tokenizer.convert_tokens_to_ids(",") in followed


def test_they_survive_pickling_and_saving(tmp_path, fitted):
    expected = fitted.transform(TEXTS)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(TEXTS), expected)
    fitted.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(LLMEmbedder.from_pretrained(tmp_path / "saved").transform(TEXTS), expected)


def test_the_cache_changes_nothing_and_fit_fills_it(tmp_path, fitted):
    cached = LLMEmbedder(TINY, dtype="float32", memory=tmp_path, random_state=0).fit(TEXTS)
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
        LLMEmbedder(
            FromScratch(config={**TINY_CONFIG, "vocab_size": 4200}), random_state=0, finetune=FineTuning(epochs=1e-9)
        )
        .fit([f'title\n"Good, the Bad, The"\nHoly Grail ({i % 2})\nRed' for i in range(20)])
        .load_model()[1]
    )
    tokens = tokenizer.tokenize('{"title": "Holy Grail (1)"}')
    assert "Holy Grail (1)" in tokens
    assert "Holy Grail (1)" not in tokenizer.tokenize("xHoly Grail (1)")
    assert tokenizer.decode(tokenizer('a "Holy Grail (1)", b', add_special_tokens=False)["input_ids"]) == (
        'a "Holy Grail (1)", b'
    )


def test_users_who_differ_in_what_they_do_are_told_apart():
    """Half of the users buy tea and half coffee, now and then, among much that all of them buy."""
    generator = np.random.default_rng(0)
    users = np.repeat(np.arange(60), 20)
    common = generator.choice(["bread", "milk", "apples", "cheese"], size=len(users))
    own = np.where(users % 2, "coffee", "tea")
    item = np.where(generator.random(len(users)) < 0.15, own, common)
    X = nest_events(
        pd.DataFrame({"user": users, "day": generator.integers(0, 300, len(users)), "item": item}),
        user="user",
        time="day",
    )
    pipeline = make_pipeline(
        EventSerializer(), TextEnricher(random_state=0), LLMEmbedder(random_state=0), LogisticRegression(C=100)
    )
    assert cross_val_score(pipeline, X, np.arange(60) % 2, cv=2, scoring="roc_auc").mean() > 0.9
