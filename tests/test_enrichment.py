"""Rewriting by what may fail: texts are checked, drawn anew, replaced, kept, and never lost."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, clone

from skllm4es import TextEnricher
from skllm4es.formats import FORMATS, format_events, parse_events, restore
from skllm4es.rewriters import RewritingError, StreamingRewriter, TemplateRewriter

ROWS = [["2020-03-05", "Groceries", "1250.00"], ["2020-03-06", "Fuel", "300.50"], ["2020-03-07", "Books", "12.99"]]
HEADER = ["date", "mcc", "amount"]
TEXTS = [format_events(HEADER, [[date, mcc, f"{number}{amount}"] for date, mcc, amount in ROWS]) for number in range(8)]


class Language(BaseEstimator):
    """A rewriter that comes one by one and out of order, as servers do: templates, of which it spoils some.

    Parameters
    ----------
    drops : float
        The share of draws, by their seed, from which all but the header is lost.
    fails : str
        It cannot rewrite texts that hold this.
    stops_after : int or None
        After so many texts, the server stays away.
    """

    def __init__(self, drops=0.0, fails="\0", stops_after=None, calls=None):
        self.drops = drops
        self.fails = fails
        self.stops_after = stops_after
        self.calls = [] if calls is None else calls

    def __sklearn_clone__(self):
        return self

    def rewrite(self, texts, formats, seeds):
        return [text for _, text in sorted(self.iter_rewrites(texts, formats, seeds))]

    def iter_rewrites(self, texts, formats, seeds):
        for number, position in enumerate(reversed(range(len(texts)))):
            if number == self.stops_after:
                raise ConnectionError("the server stays away")
            text, name, seed = texts[position], formats[position], seeds[position]
            self.calls.append((text, name, seed))
            if self.fails in text:
                yield position, RewritingError("refused: too long")
                continue
            spoilt = np.random.default_rng([seed, len(text), *text.encode()]).random() < self.drops
            original = text.partition("\n")[0] if spoilt else text
            known = name if name in FORMATS else "narrative"
            yield position, TemplateRewriter(analysis=False).rewrite([original], [known], [seed])[0]

    def cache_key(self):
        return "language 1"

    @property
    def n_tokens(self):
        return 100 * len(self.calls)


def test_the_test_rewriter_keeps_to_the_protocol():
    assert isinstance(Language(), StreamingRewriter)


# What is reported


def test_report_has_a_row_for_each_rewritten_text():
    X = pd.Series(TEXTS[:2], index=["anna", "ben"])
    enricher = TextEnricher(Language(), formats=["json", "html"], n_variants=2, random_state=0)
    enricher.fit_transform(X)
    report = enricher.report_
    assert report.columns.to_list() == ["user", "variant", "format", "recall", "precision", "n_retries", "outcome"]
    assert report["user"].to_list() == ["anna", "anna", "ben", "ben"]
    assert report["variant"].to_list() == [0, 1, 0, 1]
    assert report.groupby("user")["format"].apply(set).to_list() == [{"json", "html"}] * 2
    assert (report[["recall", "precision"]] == 1.0).all(axis=None)
    assert (report["outcome"] == "ok").all()


def test_report_is_of_the_last_call_that_rewrote():
    enricher = TextEnricher(enrich="always", random_state=0).fit(TEXTS)
    assert not hasattr(enricher, "report_")
    enricher.transform(TEXTS[:3])
    assert len(enricher.report_) == 3
    enricher.set_params(enrich="train").transform(TEXTS)
    assert len(enricher.report_) == 3


# The check


def test_unfaithful_texts_are_told_once_and_kept():
    enricher = TextEnricher(Language(drops=0.5), formats="json", random_state=0)
    with pytest.warns(UserWarning, match=r"\d of 8 rewritten texts tell less than min_recall=0.85") as told:
        out = enricher.fit_transform(TEXTS)
    assert len(told) == 1
    report = enricher.report_
    assert 0 < (report["outcome"] == "unfaithful").sum() < 8
    assert ((report["recall"] < 0.85) == (report["outcome"] == "unfaithful")).all()
    assert [not FORMATS["json"].parse(text).rows for text in out["variant_0"]] == (report["recall"] == 0).to_list()


def test_retry_draws_unfaithful_texts_anew_until_they_are_faithful():
    enricher = TextEnricher(Language(drops=0.5), formats="json", check="retry", max_retries=30, random_state=0)
    out = enricher.fit_transform(TEXTS)
    assert all(len(FORMATS["json"].parse(text).rows) == 3 for text in out["variant_0"])
    report = enricher.report_
    assert set(report["outcome"]) == {"ok", "retried"}
    assert ((report["n_retries"] > 0) == (report["outcome"] == "retried")).all()


def test_a_template_stands_for_what_stays_unfaithful():
    rewriter = Language(drops=1.0)
    enricher = TextEnricher(rewriter, formats="json", check="retry", max_retries=2, random_state=0)
    with pytest.warns(UserWarning, match="8 of 8 rewritten texts .* replaced by templates") as told:
        out = enricher.fit_transform(TEXTS)
    assert len(told) == 1
    assert len(rewriter.calls) == 3 * 8
    for original, text in zip(TEXTS, out["variant_0"], strict=True):
        assert restore(FORMATS["json"].parse(text), HEADER) == restore(parse_events(original), HEADER)
    assert set(enricher.report_["outcome"]) == {"template"}
    assert set(enricher.report_["n_retries"]) == {2}


def test_templates_that_stand_for_variants_differ():
    enricher = TextEnricher(Language(drops=1.0), formats="sql", n_variants=6, check="retry", max_retries=0)
    with pytest.warns(UserWarning, match="replaced by templates"):
        out = enricher.fit_transform(["a\nx", "b\ny"])
    assert (out.nunique(axis=1) == 7).all()


def test_raise_names_user_format_recall_and_missing_values():
    enricher = TextEnricher(Language(drops=1.0), formats="html", check="raise", random_state=0)
    message = r"1 of 1 .*min_recall=0.85.*user 'anna', format 'html': recall 0.00, 9 missing values: \['2020-03-05'"
    with pytest.raises(RewritingError, match=message):
        enricher.fit_transform(pd.Series(TEXTS[:1], index=["anna"]))
    assert enricher.report_["outcome"].to_list() == ["unfaithful"]


def test_without_a_check_nothing_is_compared():
    enricher = TextEnricher(Language(drops=1.0), formats="json", check=None, random_state=0)
    enricher.fit_transform(TEXTS)
    assert enricher.report_["recall"].isna().all()
    assert set(enricher.report_["outcome"]) == {"ok"}


def test_min_recall_is_the_least_that_is_enough():
    lossy = Language(drops=1.0)
    TextEnricher(lossy, formats="json", check="raise", min_recall=0.0).fit_transform(TEXTS)


@pytest.mark.parametrize("name", ["breakdown", "a summary by theme"])
def test_formats_that_lose_events_by_design_are_reported_and_let_be(name):
    enricher = TextEnricher(Language(drops=1.0), formats=name, check="raise", random_state=0)
    enricher.fit_transform(TEXTS)
    assert (enricher.report_["recall"] < 0.85).all()
    assert set(enricher.report_["outcome"]) == {"ok"}


def test_a_rewriter_may_name_the_formats_that_it_writes():
    class Summaries(Language):
        default_formats = ("summary",)

    enricher = TextEnricher(Summaries(), check="retry", random_state=0)
    enricher.fit_transform(TEXTS)
    assert set(enricher.report_["format"]) == {"summary"}


class Echo(BaseEstimator):
    """A plain rewriter, which rewrites whatever it gets."""

    def rewrite(self, texts, formats, seeds):
        return [f"{name} {seed}: {text}" for text, name, seed in zip(texts, formats, seeds, strict=True)]


def test_texts_that_cannot_be_parsed_are_told_to_be_unchecked():
    enricher = TextEnricher(Echo(), formats="json", random_state=0)
    with pytest.warns(UserWarning, match="1 of 2 rewritten texts could not be checked"):
        enricher.fit_transform(["a|b\n1", TEXTS[0]])
    assert enricher.report_["outcome"].to_list() == ["unchecked", "ok"]
    assert math.isnan(enricher.report_["recall"][0])


def test_templates_are_never_flagged():
    enricher = TextEnricher(n_variants=7, check="raise", min_recall=1.0, random_state=0)
    enricher.fit_transform(TEXTS)
    assert (enricher.report_["precision"] == 1.0).all()


# What fails


def test_the_others_are_done_and_kept_before_an_error_is_raised(tmp_path):
    rewriter = Language(fails="31250.00")
    enricher = TextEnricher(rewriter, formats="json", memory=tmp_path, random_state=0)
    message = "1 of 8 texts could not be rewritten. The first is that of user 3, format 'json': refused: too long"
    with pytest.raises(RewritingError, match=message):
        enricher.fit_transform(TEXTS)
    assert enricher.report_["outcome"].to_list() == ["ok"] * 3 + ["failed"] + ["ok"] * 4
    rewriter.calls.clear()
    rewriter.fails = "\0"
    assert len(enricher.fit_transform(TEXTS)) == 8
    assert [text for text, _, _ in rewriter.calls] == [TEXTS[3]]


@pytest.mark.parametrize("name", ["json", "a summary by theme"])
def test_a_template_stands_for_what_failed(name):
    enricher = TextEnricher(Language(fails="31250.00"), formats=name, on_error="template", random_state=0)
    with pytest.warns(UserWarning, match="1 of 8 rewritten texts could not be rewritten.* replaced by templates"):
        out = enricher.fit_transform(TEXTS)
    assert enricher.report_["outcome"].to_list() == ["ok"] * 3 + ["template"] + ["ok"] * 4
    assert out["variant_0"][3] != TEXTS[3]


def test_what_failed_may_be_left_raw():
    enricher = TextEnricher(Language(fails="31250.00"), formats="json", on_error="raw", random_state=0)
    with pytest.warns(UserWarning, match="1 of 8 rewritten texts could not be rewritten and were left raw"):
        out = enricher.fit_transform(TEXTS)
    assert out["variant_0"][3] == TEXTS[3]
    assert enricher.report_["recall"][3] == 1.0


def test_no_template_stands_for_what_cannot_be_parsed():
    enricher = TextEnricher(Language(fails="1"), formats="json", on_error="template", random_state=0)
    with pytest.raises(RewritingError, match=r"1 of 1 texts could not be rewritten.* Event 1 of the text has 1 fields"):
        enricher.fit_transform(["a|b\n1"])


def test_texts_that_templates_cannot_parse_do_not_lose_the_others():
    enricher = TextEnricher(formats="json", on_error="raw", check=None, random_state=0)
    with pytest.warns(UserWarning, match="left raw"):
        out = enricher.fit_transform([TEXTS[0], "a|b\n1", TEXTS[1]])
    alone = TextEnricher(formats="json", random_state=0).fit_transform(TEXTS[:2])
    assert out["variant_0"].to_list() == [alone["variant_0"][0], "a|b\n1", alone["variant_0"][1]]


def test_at_inference_too_texts_are_checked_and_errors_handled(tmp_path):
    rewriter = Language(drops=0.5, fails="31250.00")
    params = {"enrich": "always", "formats": "json", "memory": tmp_path, "random_state": 0}
    enricher = TextEnricher(rewriter, check="retry", max_retries=30, on_error="template", **params).fit(TEXTS)
    with pytest.warns(UserWarning, match="1 of 8"):
        first = enricher.transform(TEXTS)
    n_calls = len(rewriter.calls)
    with pytest.warns(UserWarning, match="1 of 8"):
        again = enricher.transform(TEXTS)
    pd.testing.assert_frame_equal(first, again)
    assert len(rewriter.calls) == n_calls + 1  # That which fails.
    assert all(len(FORMATS["json"].parse(text).rows) == 3 for text in first["text"])


# What is kept


@pytest.mark.parametrize("wrap", [str, Path, lambda path: joblib.Memory(path, verbose=0)])
def test_nothing_is_rewritten_twice(tmp_path, wrap):
    rewriter = Language()
    enricher = TextEnricher(rewriter, n_variants=3, memory=wrap(tmp_path), random_state=0)
    first = enricher.fit_transform(TEXTS)
    assert len(rewriter.calls) == 24
    pd.testing.assert_frame_equal(clone(enricher).fit_transform(TEXTS[::-1])[::-1].reset_index(drop=True), first)
    assert len(rewriter.calls) == 24


def test_equal_texts_are_rewritten_once():
    rewriter = Language()
    out = TextEnricher(rewriter, random_state=0).fit_transform(TEXTS + TEXTS)
    assert len(rewriter.calls) == 8
    assert out["variant_0"][:8].to_list() == out["variant_0"][8:].to_list()


def test_what_changes_a_rewriting_has_a_place_of_its_own(tmp_path):
    rewriter = Language()
    enricher = TextEnricher(rewriter, formats="json", memory=tmp_path, random_state=0)
    enricher.fit_transform(TEXTS)
    enricher.set_params(formats="html").fit_transform(TEXTS)
    enricher.set_params(random_state=1).fit_transform(TEXTS)
    rewriter.cache_key = lambda: "language 2"
    enricher.fit_transform(TEXTS)
    assert len(rewriter.calls) == 4 * 8


def test_what_came_before_the_server_stayed_away_is_kept(tmp_path):
    rewriter = Language(stops_after=5)
    enricher = TextEnricher(rewriter, memory=tmp_path, random_state=0)
    with pytest.raises(ConnectionError):
        enricher.fit_transform(TEXTS)
    rewriter.stops_after = None
    enricher.fit_transform(TEXTS)
    assert len(rewriter.calls) == len(set(rewriter.calls)) == 8


_KILLED = """
import os, sys, time
sys.path.insert(0, sys.argv[2])
from test_enrichment import TEXTS, Language, TextEnricher

class Slow(Language):
    def iter_rewrites(self, texts, formats, seeds):
        for position, text in super().iter_rewrites(texts, formats, seeds):
            yield position, text
            print("came", flush=True)
            time.sleep(0.05)

TextEnricher(Slow(), n_variants=3, memory=sys.argv[1], random_state=0).fit_transform(TEXTS)
"""


@pytest.mark.slow
def test_a_killed_run_resumes(tmp_path):
    command = [sys.executable, "-c", _KILLED, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(10):
            assert process.stdout.readline() == "came\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
    rewriter = Language()
    resumed = TextEnricher(rewriter, n_variants=3, memory=tmp_path, random_state=0).fit_transform(TEXTS)
    assert 24 - 12 <= len(rewriter.calls) <= 24 - 10
    pd.testing.assert_frame_equal(resumed, TextEnricher(Language(), n_variants=3, random_state=0).fit_transform(TEXTS))


def test_a_damaged_text_is_an_error(tmp_path):
    enricher = TextEnricher(Language(), formats="json", memory=tmp_path, random_state=0)
    enricher.fit_transform(TEXTS)
    with sqlite3.connect(tmp_path / "rewrites.sqlite") as connection:
        connection.execute("UPDATE rewrites SET value = CAST('[]' AS BLOB) WHERE rowid = 3")
    connection.close()
    with pytest.raises(OSError, match=r"rewrites.sqlite cannot be read: .*Delete the file, and its rewritings"):
        enricher.fit_transform(TEXTS)


def test_templates_are_not_kept(tmp_path):
    TextEnricher(memory=tmp_path, random_state=0).fit_transform(TEXTS)
    assert not list(tmp_path.iterdir())


def test_memory_tells_of_a_rewriter_that_it_cannot_keep(tmp_path):
    with pytest.warns(UserWarning, match="memory keeps nothing of Echo"):
        TextEnricher(Echo(), memory=tmp_path, random_state=0).fit_transform(TEXTS)


def test_memory_tells_that_it_needs_a_seed(tmp_path):
    with pytest.warns(UserWarning, match="random_state=None"):
        TextEnricher(Language(), memory=tmp_path).fit_transform(TEXTS)


@pytest.mark.parametrize(
    ("came", "message"),
    [
        ([(0, "a"), (0, "b")], "once, with a str or a RewritingError; it gave 0 with 'b'"),
        ([(8, "a")], "it gave 8"),
        ([(0, None)], "it gave 0 with None"),
        ([(0, "a")], "it gave 1 of 8"),
    ],
)
def test_a_stream_that_does_not_keep_to_the_protocol_is_an_error(came, message):
    class Strange(Language):
        def iter_rewrites(self, texts, formats, seeds):
            return iter(came)

    with pytest.raises(ValueError, match=message):
        TextEnricher(Strange(), random_state=0).fit_transform(TEXTS)


# Variants


TINY = {
    "no events, one field": "a",
    "no events": "date|amount",
    "one event, one field": "a\nx",
    "one empty value": 'a\n""',
    "two events": "title|rating\nHeat, 5\nAlien, 4",
}


@pytest.mark.parametrize("text", TINY.values(), ids=TINY)
@pytest.mark.parametrize("name", FORMATS)
def test_nine_variants_of_one_format_differ_even_of_tiny_texts(text, name):
    for seed in range(5):
        out = TextEnricher(formats=name, n_variants=9, random_state=seed).fit_transform([text])
        assert out.iloc[0].nunique() == 10


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=2), st.integers(0, 2**31 - 1))
def test_variants_of_any_text_differ(rows, seed):
    text = format_events(["shop", "note"], rows)
    out = TextEnricher(n_variants=9, random_state=seed).fit_transform([text])
    assert out.iloc[0, 1:].nunique() == 9


def test_variants_that_cannot_differ_are_told():
    class Same(Echo):
        def rewrite(self, texts, formats, seeds):
            return ["always the same"] * len(texts)

    enricher = TextEnricher(Same(), n_variants=3, check=None, random_state=0)
    with pytest.warns(UserWarning, match="4 of 6 rewritten texts equal another variant"):
        enricher.fit_transform(TEXTS[:2])
    assert enricher.report_["outcome"].to_list() == ["ok", "repeated", "repeated"] * 2


# Processes and progress


def test_processes_change_nothing():
    alone = TextEnricher(n_variants=3, random_state=0)
    several = TextEnricher(n_variants=3, n_jobs=2, random_state=0)
    pd.testing.assert_frame_equal(alone.fit_transform(TEXTS), several.fit_transform(TEXTS))
    pd.testing.assert_frame_equal(alone.report_, several.report_)


def test_errors_come_back_from_processes():
    with pytest.raises(RewritingError, match=r"1 of 9 texts could not be rewritten.*user 4"):
        TextEnricher(n_jobs=2).fit_transform([*TEXTS[:4], "a|b\n1", *TEXTS[4:]])


def test_progress_tells_texts_and_tokens(capsys):
    TextEnricher(Language(), n_variants=2, random_state=0, verbose=1).fit_transform(TEXTS)
    shown = capsys.readouterr().err
    assert "16/16" in shown
    assert "1,600 tokens" in shown
    assert "tokens/s" in shown
