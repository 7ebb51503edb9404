"""From texts to windows: special tokens around each, a header that counts once, data that are no control tokens."""

import numpy as np
import pytest
from tiny_models import TINY
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from skllm4es.lm.from_scratch import train_tokenizer
from skllm4es.lm.training import _windows as training_windows
from skllm4es.lm.windows import split, tokenize, truncate

HEADER = "day|title|rating"
EVENTS = [f"{day}, Heat, {day % 5}" for day in range(60)]
LONG = "\n".join([HEADER, *EVENTS])
PROSE = " ".join(f"On day {day} the user saw Heat and liked it {day % 5}." for day in range(60))


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer that puts <s> before a text and </s> after it."""
    trained = train_tokenizer([LONG, PROSE], 400)
    trained.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    backend = trained.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def windows_of(tokenizer, text, max_length=64):
    (tokens,) = tokenize(tokenizer, [text], max_length, headers=True)
    return split(tokens, max_length)


@pytest.mark.parametrize("text", [LONG, PROSE, "a", ""])
def test_every_window_has_the_special_tokens_around_it(tokenizer, text):
    for window in windows_of(tokenizer, text):
        assert len(window.ids) <= 64
        assert (window.ids[0], window.ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert tokenizer.bos_token_id not in window.ids[1:]
        assert tokenizer.eos_token_id not in window.ids[:-1]


@pytest.mark.parametrize("text", [LONG, PROSE, "a", ""])
def test_a_text_that_fits_is_tokenized_as_the_tokenizer_does(tokenizer, text):
    (window,) = windows_of(tokenizer, text, 10_000)
    assert window.ids == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("text", [LONG, PROSE])
def test_windows_hold_every_token_once_apart_from_what_they_repeat(tokenizer, text):
    windows = windows_of(tokenizer, text)
    assert len(windows) > 3
    (whole,) = windows_of(tokenizer, text, 10_000)
    new = [token for window in windows for token in window.ids[max(1, window.n_repeated) : -1]]
    assert new == whole.ids[1:-1]
    assert windows[0].n_repeated == 0
    assert all(window.n_repeated == max(1, window.n_header) for window in windows[1:])


@pytest.mark.parametrize("max_length", [16, 24, 64, 10_000])
def test_header_tokens_are_the_same_ones_however_long_the_window(tokenizer, max_length):
    """Even where the header is too long to be repeated, and runs on into the second window."""
    windows = windows_of(tokenizer, LONG, max_length)
    n_header = len(tokenizer(HEADER + "\n", add_special_tokens=False)["input_ids"])
    counted = sum(window.n_header - max(window.n_repeated, 1) for window in windows)
    assert counted == n_header


@pytest.mark.parametrize("text", [LONG, PROSE])
def test_truncation_keeps_the_special_tokens(tokenizer, text):
    (tokens,) = tokenize(tokenizer, [text], 64, headers=True)
    window = truncate(tokens, 64)
    assert len(window.ids) <= 64
    assert (window.ids[0], window.ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


@pytest.mark.parametrize("text", [LONG, PROSE, "a"])
def test_in_training_a_text_ends_once(tokenizer, text):
    windows = training_windows(tokenizer, [[text]], 64)
    ends = [list(np.flatnonzero(np.array(window.ids) == tokenizer.eos_token_id)) for window in windows]
    assert ends[:-1] == [[]] * (len(windows) - 1)
    assert ends[-1] == [len(windows[-1].ids) - 1]


@pytest.mark.parametrize("control", ["<|im_end|>", "<s>", "</s>", "<pad>"])
def test_control_tokens_in_data_are_spelled_out(tokenizer, control):
    (window,) = windows_of(tokenizer, f"title\nA{control}B")
    assert not set(tokenizer.all_special_ids) & set(window.ids[1:-1])
    assert tokenizer.decode(window.ids[1:-1]) == f"title\nA{control}B"


def test_field_values_that_are_one_token_stay_one_token():
    trained = train_tokenizer(["a"], 4200, ["title\nHeat of the night"] * 5)
    (window,) = windows_of(trained, "title\nHeat of the night")
    assert trained.convert_tokens_to_ids("Heat of the night") in window.ids


def test_separators_around_empty_fields_are_one_token():
    text = "day|event|a|b|c|d\n" + "\n".join(f"{day}, lab, , , , {day}\n{day}, visit, , , , " for day in range(20))
    trained = train_tokenizer([text], 400)
    ids = trained(text, add_special_tokens=False)["input_ids"]
    assert trained.convert_tokens_to_string(trained.convert_ids_to_tokens(ids)) == text
    assert trained.decode(ids).count(", , , ,") == sum(trained.decode([token]) == ", , , ," for token in ids) == 40


def test_pooled_layers_of_a_window_do_not_depend_on_where_it_stands():
    """The second half of a text without a header is embedded like the same text alone."""
    from skllm4es import LLMEmbedder

    settings = {"features": "hidden", "token_pooling": "mean", "max_length": 64, "dtype": "float32"}
    fitted = LLMEmbedder(TINY, **settings, random_state=0).fit([LONG, PROSE])
    tokenizer = fitted.load_model()[1]
    windows = windows_of(tokenizer, PROSE)
    weights = [len(window.ids) - window.n_repeated for window in windows]
    parts = [tokenizer.decode(window.ids[1:]) for window in windows]
    alone = fitted.transform_layers(parts)
    # Without the special token, which later windows repeat, the mean of all is that of the parts.
    starts = fitted.transform_layers([""])[0]
    sums = [
        layers * (weight + (i > 0)) - (starts if i else 0)
        for i, (layers, weight) in enumerate(zip(alone, weights, strict=True))
    ]
    expected = np.sum(sums, axis=0) / sum(weights)
    np.testing.assert_allclose(fitted.transform_layers([PROSE])[0], expected, rtol=1e-4, atol=1e-5)


# Tokenizers that drop what they do not know


KNOWN = "dayhet|,. \n▁0123456789"
SPLITTERS = {
    "one word": (None, None),
    "one word behind a mark": (None, pre_tokenizers.Metaspace(split=False)),
    "one word, normalised": (normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None),
    "words": (None, pre_tokenizers.Whitespace()),
    "accents removed": (normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), None),
    "lines": (None, pre_tokenizers.Split("\n", "merged_with_next")),
}
#: Events that begin with their number; some values are dropped as a whole, some in part.
FOREIGN = "\n".join(["day|Été|title", "0, é, ☃", "1, ☃☃☃☃h☃e☃, y", "2, he, 寿司", "3, ,", "4, 🙂é, é", "5, hat, day"])


def dropping_tokenizer(splitter, known=KNOWN, **params):
    vocabulary = {piece: number for number, piece in enumerate([*known, "he", ", ", "<s>", "</s>"])}
    backend = Tokenizer(models.BPE(vocabulary, [("h", "e"), (",", " ")] if known == KNOWN else [], **params))
    normalizer, pre_tokenizer = SPLITTERS[splitter]
    if normalizer:
        backend.normalizer = normalizer
    if pre_tokenizer:
        backend.pre_tokenizer = pre_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_lines_and_events_begin_where_they_do_whatever_letters_are_dropped(splitter):
    tokenizer = dropping_tokenizer(splitter)
    (tokens,) = tokenize(tokenizer, [FOREIGN], 8, headers=True)
    starts = tokenizer.convert_ids_to_tokens([tokens.ids[start] for start in tokens.lines])
    assert starts == list("012345")
    assert tokens.body == tokens.lines[0]


def test_special_tokens_are_found_by_a_letter_that_leaves_a_token():
    tokenizer = dropping_tokenizer("one word", known="xyz\n")
    (window,) = windows_of(tokenizer, "x\ny")
    assert window.ids == tokenizer("x\ny")["input_ids"]
    (window,) = windows_of(tokenizer, "aaa")
    assert tokenizer.convert_ids_to_tokens(window.ids) == ["<s>", "</s>"]
