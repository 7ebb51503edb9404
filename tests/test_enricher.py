"""TextEnricher: which texts are trained on and which are embedded."""

import numpy as np
import pandas as pd
import pytest
from format_readers import read, restore
from sklearn.base import clone

from skllm4es import TextEnricher
from skllm4es.rewriters import RewritingError, TemplateRewriter, available_formats
from skllm4es.serialize import parse_events

TEXTS = [
    "date|title|rating\n2020-03-05, Heat, 5\n2020-03-06, Alien, 4",
    "date|title|rating\n2020-03-07, Bambi, 1",
    "date|title|rating",
]


def test_fit_transform_adds_the_variants_and_keeps_the_raw_text():
    out = TextEnricher(n_variants=2, random_state=0).fit_transform(TEXTS)
    assert out.columns.to_list() == ["text", "variant_0", "variant_1"]
    assert out["text"].to_list() == TEXTS


def test_transform_returns_only_the_raw_text():
    out = TextEnricher(n_variants=2, random_state=0).fit(TEXTS).transform(TEXTS)
    assert out.columns.to_list() == ["text"]
    assert out["text"].to_list() == TEXTS


def test_include_raw_adds_the_raw_text_to_the_training_columns():
    out = TextEnricher(include_raw=True, random_state=0).fit_transform(TEXTS)
    assert out.columns.to_list() == ["text", "variant_0", "raw"]
    assert out["raw"].to_list() == TEXTS


def test_enrich_always_rewrites_the_texts_to_embed_in_fit_and_transform():
    enricher = TextEnricher(enrich="always", formats="json", random_state=0)
    trained_on = enricher.fit_transform(TEXTS)
    assert trained_on["text"].to_list() == enricher.transform(TEXTS)["text"].to_list()
    table = parse_events(TEXTS[0])
    assert restore(read("json", trained_on["text"][0]), table.header) == table


def test_each_format_comes_once_before_any_comes_again():
    seen = []

    class Recorder(TemplateRewriter):
        def rewrite(self, texts, formats, seeds):
            seen.extend(formats)
            return super().rewrite(texts, formats, seeds)

    TextEnricher(Recorder(), n_variants=len(available_formats()), random_state=0).fit_transform(TEXTS[:1])
    assert sorted(seen) == sorted(available_formats())


def test_variants_of_a_text_differ():
    out = TextEnricher(formats="table", n_variants=8, random_state=0).fit_transform(TEXTS[:1])
    assert len(set(out.iloc[0])) == 9


def test_the_same_seed_gives_the_same_texts_whatever_the_order():
    forwards = TextEnricher(n_variants=3, random_state=0).fit_transform(pd.Series(TEXTS))
    backwards = TextEnricher(n_variants=3, random_state=0).fit_transform(pd.Series(TEXTS)[::-1])
    pd.testing.assert_frame_equal(forwards, backwards[::-1])


def test_another_seed_gives_other_texts():
    texts = [TextEnricher(random_state=seed).fit_transform(TEXTS)["variant_0"].to_list() for seed in (0, 1)]
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    "X",
    [
        TEXTS,
        np.array(TEXTS),
        np.array(TEXTS, dtype=object)[:, None],
        pd.Series(TEXTS),
        pd.DataFrame({"other name": TEXTS}),
    ],
    ids=["list", "array", "column", "series", "pandas"],
)
def test_accepts_many_containers(X):
    assert TextEnricher(random_state=0).fit_transform(X)["text"].to_list() == TEXTS


def test_output_keeps_library_and_index():
    pl = pytest.importorskip("polars", reason="needs polars")
    assert isinstance(TextEnricher().fit_transform(pl.DataFrame({"text": TEXTS})), pl.DataFrame)
    assert TextEnricher().fit_transform(pd.Series(TEXTS, index=[7, 8, 9])).index.to_list() == [7, 8, 9]


def test_rewriter_parameters_can_be_set_by_name():
    enricher = TextEnricher(TemplateRewriter()).set_params(rewriter__analysis=False)
    assert clone(enricher).rewriter.analysis is False


class Constant(TemplateRewriter):
    """A rewriter that violates the protocol."""

    def __init__(self, answer=()):
        self.answer = answer

    def rewrite(self, texts, formats, seeds):
        return self.answer


@pytest.mark.parametrize("answer", [["one"], [None, "two", "three"]])
def test_a_rewriter_that_loses_texts_raises(answer):
    with pytest.raises(ValueError, match=r"Constant.rewrite must return one str per text; it returned \d for 3"):
        TextEnricher(Constant(answer)).fit_transform(TEXTS)


@pytest.mark.parametrize(
    ("params", "X", "error", "message"),
    [
        ({}, "one text", TypeError, "string object received"),
        ({}, [TEXTS[0], None], TypeError, "row 1 of column 'text' is NoneType"),
        ({"formats": "jason"}, TEXTS, ValueError, r"Did you mean \['json'\]"),
        ({"formats": []}, TEXTS, ValueError, "formats is empty"),
        ({"n_variants": 0}, TEXTS, ValueError, "n_variants"),
        ({"enrich": "never"}, TEXTS, ValueError, "enrich"),
        ({}, pd.DataFrame({"text": TEXTS, "more": TEXTS}), ValueError, "one column of texts"),
        ({}, ["a|b\n1"], RewritingError, "user 0, format '.*': Event 1 of the text has 1 fields"),
        ({"check": "always"}, TEXTS, ValueError, "check"),
        ({"min_recall": 1.1}, TEXTS, ValueError, "min_recall"),
        ({"on_error": "ignore"}, TEXTS, ValueError, "on_error"),
    ],
)
def test_bad_input_raises(params, X, error, message):
    with pytest.raises(error, match=message):
        TextEnricher(**params).fit_transform(X)
