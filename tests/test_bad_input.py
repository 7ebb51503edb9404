"""Whatever the events: each user keeps a finite row in its place, or an error of the package says what is wrong.

`pytest tests/test_bad_input.py --hypothesis-profile=thorough` tries 10,000 frames per test.
"""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from event_frames import KINDS, NATIVE_KINDS, NUMBER, frames, tables
from format_readers import LOSSLESS, read, restore
from hypothesis import HealthCheck, currently_in_test_context, event, given, settings
from hypothesis import strategies as st
from package_messages import find_messages
from sklearn.pipeline import make_pipeline

import skllm4es
from skllm4es import (
    EventSerializer,
    FineTuning,
    FromScratch,
    LLMEmbedder,
    TextEnricher,
    nest_events,
    report_drift,
    unnest_events,
)
from skllm4es.events._flat import flatten_events
from skllm4es.formats import FORMATS, canonical_value
from skllm4es.rewriters import RewritingError
from skllm4es.serialize import EventTable, parse_events

TINY = FromScratch(
    config={
        "vocab_size": 400,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
)
#: Frames of long texts may take longer than others.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
FEW = settings(PATIENT, max_examples=max(5, settings().max_examples // 20))
PACKAGE = Path(skllm4es.__file__).parent
#: The messages in the docs, where … stands for what differs.
DOCUMENTED = [
    re.compile(".*".join(map(re.escape, message.text.split("…"))), re.DOTALL)
    for messages in find_messages().values()
    for message in messages
]


def outcome(function: Callable, *args):
    """Return what a function returns, or None if it rejects its input with a documented error of the package."""
    try:
        return function(*args)
    except Exception as error:
        frame = error.__traceback__
        while frame.tb_next:
            frame = frame.tb_next
        ours = PACKAGE in Path(frame.tb_frame.f_code.co_filename).parents
        if type(error) not in (ValueError, TypeError, RewritingError) or not ours:
            raise
        if not any(pattern.search(str(error)) for pattern in DOCUMENTED):
            pytest.fail(f"The docs do not list: {error}")
        if currently_in_test_context():
            event(f"rejected: {type(error).__name__} of {frame.tb_frame.f_code.co_name}")
        return None


@pytest.fixture(scope="module")
def embedder():
    return LLMEmbedder(TINY, features=["hidden", "scores"], dtype="float32", max_length=128, random_state=0).fit(
        [f"day|title|rating\n{day}, Heat, 5\n{day + 1}, Alien, {day % 5}" for day in range(12)]
    )


SERIALIZERS = st.fixed_dictionaries(
    {"time": st.sampled_from([None, None, None, "auto"])},
    optional={
        "max_events": st.integers(1, 5),
        "missing": st.text(max_size=3),
        "compact": st.just(True),
    },
)


@PATIENT
@given(frames(), SERIALIZERS, st.integers(0, 2**31))
def test_a_frame_passes_through_the_pipeline_row_by_row_or_is_rejected(embedder, frame, params, seed):
    serializer = EventSerializer(events=frame.events, **params)
    texts = outcome(serializer.fit_transform, frame.X)
    if texts is None:
        return
    event("embedded")
    check_texts(texts, frame, serializer)
    enriched = TextEnricher(n_variants=2, check="raise", min_recall=1.0, random_state=seed).fit_transform(texts)
    check_variants(enriched, texts, seed)
    vectors = embedder.transform(texts)
    assert vectors.shape == (len(texts), embedder.n_features_out_)
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(embedder.transform(texts[::-1])[::-1], vectors, rtol=1e-4, atol=1e-5)


def check_texts(texts, frame, serializer):
    """Each user has a text with the user's events, in order."""
    assert labels_of(texts) == labels_of(frame.X)
    first = 0
    for text, length in zip(texts["text"].to_list(), frame.lengths, strict=True):
        n_kept = min(length, serializer.max_events or length)
        table = parse_events(text)
        assert table.header == serializer.columns_
        assert len(table.rows) == n_kept
        if frame.numbered:
            numbers = [row[table.header.index(NUMBER)] for row in table.rows]
            assert numbers == [str(first + number) for number in range(length - n_kept, length)]
        first += length


def check_variants(enriched, texts, seed):
    """Each text has variants, and its events can be read back from those in a lossless format."""
    assert labels_of(enriched) == labels_of(texts)
    assert enriched["text"].to_list() == texts["text"].to_list()
    enricher = TextEnricher(n_variants=2, random_state=seed).fit(texts)
    for raw, *variants in zip(*(enriched[name].to_list() for name in enriched.columns), strict=True):
        original = parse_events(raw)
        for (name, _), variant in zip(enricher._formats_of(raw), variants, strict=False):
            text_format = FORMATS[name]
            if text_format.name in LOSSLESS:
                rows = [[canonical_value(value) for value in row] for row in original.rows]
                assert restore(read(text_format.name, variant), original.header) == EventTable(original.header, rows)
            assert variant


def labels_of(frame):
    return frame.index.to_list() if isinstance(frame, pd.DataFrame) else list(range(len(frame)))


@pytest.mark.filterwarnings("ignore:The times in the column .* are texts")
@PATIENT
@given(tables())
def test_a_table_is_nested_without_loss_or_rejected(table):
    X = outcome(lambda: nest_events(table, user="user", time="time"))
    flat = None if X is None else outcome(flatten_events, X)
    if flat is None:
        return
    event("nested")
    numbers = flat.columns[NUMBER].to_pylist()
    assert sorted(numbers) == list(range(len(numbers)))
    assert len(numbers) == len(table)
    long = outcome(unnest_events, X)
    if long is not None:
        assert long[NUMBER].to_list() == numbers
    outcome(EventSerializer().fit_transform, X)


@pytest.mark.parametrize("library", ["polars", "nested-pandas"])
def test_frames_of_every_library_are_drawn(library):
    pytest.importorskip(library.replace("-", "_"), reason=f"needs {library}")
    assert any(library in kind for kind in [*KINDS, *NATIVE_KINDS])


@PATIENT
@given(frames(), frames(), st.booleans())
def test_frames_are_compared_or_rejected(frame, other, serialised):
    serializer = EventSerializer(time=None, events=frame.events) if serialised else None

    def report(X):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Fields that the language model would not read.
            return report_drift(frame.X, X, serializer=serializer, events=frame.events, time=None)

    same = outcome(report, frame.X)
    if same is not None:
        event("compared")
        assert not same["drifted"].any()
        assert np.isfinite(same["shift"]).all()
    outcome(report, other.X)


@FEW
@given(frames())
def test_all_steps_fit_a_frame_or_reject_it(frame):
    pipeline = make_pipeline(
        EventSerializer(events=frame.events, time=None, max_events=3),
        TextEnricher(random_state=0),
        LLMEmbedder(
            TINY,
            features=["hidden", "scores"],
            max_length=128,
            random_state=0,
            finetune=FineTuning(epochs=1),
        ),
    )
    vectors = outcome(pipeline.fit_transform, frame.X)
    if vectors is not None:
        event("fitted")
        assert len(vectors) == len(frame.X)
        assert np.isfinite(vectors).all()


any_character = st.characters() | st.characters(categories=["Cs"])  # Including lone surrogates.


@PATIENT
@given(st.lists(st.text(any_character, max_size=9), max_size=3))
def test_texts_of_any_characters_are_enriched_and_embedded_or_rejected(embedder, texts):
    enriched = outcome(TextEnricher(random_state=0).fit_transform, texts)
    assert enriched is None or enriched["text"].to_list() == texts
    vectors = outcome(embedder.transform, texts)
    if vectors is not None:
        assert vectors.shape == (len(texts), embedder.n_features_out_)
        assert np.isfinite(vectors).all()


@pytest.mark.parametrize("cell", ["\ud800", {"\udfff": 1}, [["\udc00"]]], ids=["value", "name", "list"])
def test_a_lone_surrogate_is_rejected(cell):
    """Python's strings can hold it, but no encoding can."""
    event_ = cell if isinstance(cell, dict) else {"note": cell}
    X = pd.DataFrame({"events": pd.Series([[event_]], dtype=object)})
    assert outcome(EventSerializer().fit_transform, X) is None
    columns = pd.Index(["user", "time", *event_], dtype=object)
    table = pd.DataFrame([[1, 2, *event_.values()]], columns=columns, dtype=object)
    assert outcome(lambda: nest_events(table, user="user", time="time")) is None


@pytest.mark.slow
def test_a_user_with_100_000_events_passes(embedder):
    n = 100_000
    random = np.random.default_rng(0)
    fields = {"time": pa.array(np.sort(random.integers(0, 2**31, n))).view(pa.timestamp("s"))}
    fields |= {"amount": pa.array(random.normal(size=n) ** 9), "mcc": pa.array(random.integers(0, 999, n), pa.int16())}
    fields |= {"note": pa.array([f"{i % 977}, \U0001f600" for i in range(n)])}
    events = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
    lists = pa.ListArray.from_arrays([0, 1, n, n, n], events)
    X = pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(lists)}, index=["a", "b", "b", "c"])
    texts = EventSerializer().fit_transform(X)
    assert [len(parse_events(text).rows) for text in texts["text"]] == [1, n - 1, 0, 0]
    enriched = TextEnricher(random_state=0).fit_transform(texts)
    assert enriched.index.to_list() == X.index.to_list()
    vectors = embedder.transform(EventSerializer(["mcc"]).fit_transform(X))
    assert np.isfinite(vectors).all()
    np.testing.assert_array_equal(vectors[2], vectors[3])
