"""Event features: each distinct event is read once, and a user is the weighted sum of the events."""

import json
import pickle
import threading
import warnings
from itertools import chain

import numpy as np
import pandas as pd
import pytest
from event_frames import frames
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm, zscore
from sklearn.base import clone
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tiny_models import TINY, save_model
from tiny_models import tiny as make_tiny

from skllm4es import EventSerializer, FineTuning, LLMEmbedder
from skllm4es.embed import _saving
from skllm4es.embed._events import EventVectors
from skllm4es.embed._fields import Fields, numbers_of
from skllm4es.embed._measures import Measures, _ranked
from skllm4es.lm.embedding import TextEmbedder
from skllm4es.serialize._columns import parse_columns

HIDDEN = 8
TITLES = ["Heat", "Alien", "Bambi", "Jaws", "Up", "Cube", "Big"]


def zeros(texts):
    return np.zeros((len(texts), 1))


def read(texts):
    """Stand for a language model: a vector of unit length that is the same wherever a text occurs."""
    vectors = np.zeros((len(texts), HIDDEN), dtype=np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        vector[:] = np.random.default_rng(list(text.encode("utf-8", "surrogatepass"))).normal(size=HIDDEN)
        vector /= np.linalg.norm(vector)
    return vectors


def fit(texts, n_components=128, read=read):
    return EventVectors.fit(parse_columns(texts), n_components, read)


def blocks_of(events, vectors):
    """Split vectors into what identifies, means and measures."""
    n_components = len(events.directions)
    return np.split(vectors, [n_components, n_components + len(events.origin)], axis=1)


def unit(vectors):
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-6)


def users(n_users, seed=0):
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(n_users):
        lines = [
            f"2024-0{rng.integers(1, 10)}-{rng.integers(10, 28)} {rng.integers(10, 24)}:00:00, "
            f"{rng.choice(TITLES)}, {rng.normal():.3f}"
            for _ in range(rng.integers(1, 9))
        ]
        texts.append("\n".join(["time|title|amount", *sorted(lines)]))
    return texts


TEXTS = users(30)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The directory of a pretrained model."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    finetune = FineTuning(epochs=1)
    embedder = LLMEmbedder(TINY, features="hidden", dtype="float32", finetune=finetune, random_state=0).fit(TEXTS[:4])
    save_model(embedder, directory)
    return directory


def frozen(directory, **params):
    return LLMEmbedder(directory, **{"finetune": None, "dtype": "float32", **params})


@pytest.fixture
def embedded(monkeypatch):
    """The texts that the language model has read, one by one."""
    texts_read = []
    compute = TextEmbedder._compute

    def count(self, texts):
        texts_read.extend(texts)
        return compute(self, texts)

    monkeypatch.setattr(TextEmbedder, "_compute", count)
    return texts_read


@pytest.fixture(scope="module")
def fitted(directory):
    return frozen(directory).fit(TEXTS)


class TestBlocks:
    """Each block of the vector, by hand."""

    TEXTS = ("e\na\na\na\nb", "e\na\nb\nc", "e\nc\nc\nd", "e\nb\nonly here", "e")

    def test_what_identifies_is_tfidf_of_what_users_share(self):
        events = fit(self.TEXTS)
        identity = blocks_of(events, events(self.TEXTS, read))[0][:-1]
        counts = CountVectorizer(analyzer=lambda text: text.split("\n")[1:]).fit_transform(self.TEXTS)
        idf = TfidfTransformer(norm=None, sublinear_tf=True).fit_transform(counts).toarray()
        shared = (counts > 0).toarray().sum(axis=0) > 1
        expected = unit(idf[:, shared])[:-1]
        expected = unit(expected - expected.mean(axis=0))
        # Principal directions turn the vectors, so what they keep is compared: the products of users.
        np.testing.assert_allclose(identity @ identity.T, expected @ expected.T, atol=1e-5)

    def test_what_means_is_the_weighted_mean_of_the_vectors(self):
        events = fit(self.TEXTS)
        meaning = blocks_of(events, events(self.TEXTS, read))[1]
        counts = CountVectorizer(analyzer=lambda text: text.split("\n")[1:])
        weights = TfidfTransformer(sublinear_tf=True).fit_transform(counts.fit_transform(self.TEXTS)).toarray()
        vectors = read([f"e: {event}" for event in counts.get_feature_names_out()])
        expected = weights[:-1] @ unit(vectors - vectors.mean(axis=0))
        np.testing.assert_allclose(meaning[:-1], 0.7 * unit(expected - expected.mean(axis=0)), atol=1e-5)

    def test_what_measures_are_statistics_of_normal_scores(self):
        values = np.random.default_rng(0).permutation(201) / 7  # As many as there are quantiles.
        lists = np.split(values, [50, 60, 61, 100])
        texts = ["\n".join(["n", *map(str, numbers)]) for numbers in lists]
        events = fit(texts)
        scores = norm.ppf(np.clip(np.argsort(np.argsort(values)) / 200, 0.005, 0.995))
        lists = np.split(scores, [50, 60, 61, 100])
        statistics = [[f(s) for f in (np.mean, np.std, np.min, np.max)] + [s[-1], np.log1p(len(s))] for s in lists]
        expected = np.clip(zscore(np.array(statistics), axis=0), -3, 3)
        measures = blocks_of(events, events(texts, read))[2]
        np.testing.assert_allclose(measures, unit(expected - expected.mean(axis=0)) / 2, atol=1e-5)
        assert events.measures.names == [f"n: {s}" for s in ("mean", "std", "min", "max", "last")] + [
            "number of events"
        ]

    def test_times_are_measured_by_gaps_and_by_shares_of_hours_and_weekdays(self):
        texts = [
            "time\n2024-01-01 03:59:59\n2024-01-01 04:00:00\n2024-01-07 23:00:00",  # Monday, Monday and Sunday.
            "time\n2024-01-03 12:00:00",  # Wednesday.
            "time\n1969-12-28 20:00:00\n2024-02-29 08:30:00",  # Sunday and Thursday.
        ]
        columns = parse_columns(texts)
        raw = Measures(Fields([], [], [], ["time"]), np.zeros((2, 201)))
        shares = raw._statistics(columns)[:, 10:-1]
        hours = [[1, 1, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1]]
        weekdays = [[2, 0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 1]]
        expected = np.sqrt(np.hstack([hours, weekdays]) / np.array([[3], [1], [2]]))
        np.testing.assert_allclose(shares, expected)
        assert raw.names[10:15] == [f"time: {hour} to {hour + 4} h" for hour in (0, 4, 8, 12, 16)]
        assert raw.names[16:23] == [f"time: {day}" for day in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")]
        gaps = _ranked(raw.fields, columns)[1]
        np.testing.assert_array_equal(gaps[:5], [np.nan, 1, 6 * 86_400 + 19 * 3600, np.nan, np.nan])

    @pytest.mark.parametrize("form", ["{:02d}:{:02d}", "{:02d}:{:02d}:07", "{:02d}:{:02d}:00.25"])
    def test_times_of_day_are_measured_and_not_read(self, form):
        rng = np.random.default_rng(0)
        times = [[form.format(*time) for time in zip(rng.integers(0, 24, 90), rng.integers(0, 60, 90), strict=True)]]
        times += [[form.format(23, 59), form.format(9, 5)]]
        texts = ["clock|shop\n" + "\n".join(f"{time}, {'ab'[len(time) % 2]}" for time in user) for user in times]
        events = fit(texts)
        assert events.fields == Fields([["shop"]], [], ["clock"], [], ["clock"])
        (seconds,) = numbers_of(parse_columns(texts), events.fields)
        since_midnight = pd.to_timedelta([time if time.count(":") == 2 else f"{time}:00" for time in chain(*times)])
        np.testing.assert_array_equal(seconds, since_midnight.total_seconds())

    def test_what_only_looks_like_a_time_of_day_is_read(self):
        for values in (
            ["8:00", "10:00", "12:00", "14:00"],
            ["22:00", "23:00", "24:00"],
            ["03:45", "04:10", "31:20"],
            ["12:30", "12:60"],
            ["12:30:10", "12:30:60"],
            ["12:30", "12:30 h"],
            ["7.4", "10:15", "98.6", "11:30"],
            ["٠٩:٣٠", "٠٩:٤٥"],
        ):
            assert fit(["\n".join(["e", *values])]).fields == Fields([["e"]], [], [], []), values

    def test_whole_numbers_with_a_leading_zero_are_codes_that_are_read(self):
        for values in (["0389", "389", "00501"], ["01", "1", "12", "n/a"], ["-01", "5", "7"]):
            events = fit(["\n".join(["e", *values]), "\n".join(["e", *values[1:]]), "\n".join(["e", *values[:2]])])
            assert events.fields == Fields([["e"]], [], [], []), values
        assert fit(["e\n0\n0.5\n-0.25\n10\n0e3"]).fields.numbers == ["e"]

    def test_only_what_begins_with_a_whole_date_is_a_time(self):
        for values in (["2345-7", "1988-5", "2024-3-1"], ["2024-030", "2024-0301", "2160-0"]):
            assert fit(["\n".join(["e", *values])] * 2).fields == Fields([["e"]], [], [], []), values
        for values in (
            ["2024-03", "2024-04", "2025-01"],
            ["2024/03", "2024/04", "2025/01"],
            ["2024-03-01", "2024-03-01T10:15", "2024-03-01 10:15:00.25"],
            ["2024-03-01 10:15:00+0100", "2024-03-01 10", "2024/03/01"],
            ["20240301T101500", "20240301 10:15"],
        ):
            assert fit(["\n".join(["e", *values])] * 2).fields == Fields([], [], [], ["e"]), values

    def test_one_value_without_digits_may_stand_for_a_missing_time_of_day(self):
        texts = ["e\n12:30\n00:00\nn/a", "e\n23:59\nn/a"]
        events = fit(texts)
        assert events.fields == Fields([], [], ["e"], [], ["e"])
        (seconds,) = numbers_of(parse_columns(texts), events.fields)
        np.testing.assert_array_equal(seconds, [45_000, 0, np.nan, 86_340, np.nan])

    def test_a_number_beside_a_time_of_day_stays_a_number(self):
        texts = ["e\n" + "\n".join(map(str, range(30))), "e\n" + "\n".join(map(str, range(30))) + "\n00:00"]
        assert fit(texts).fields.codes == ["e"]
        assert fit(texts).fields.clocks == []

    def test_each_block_has_its_length(self):
        events = fit(TEXTS)
        vectors = events(TEXTS, read)
        for block, length in zip(blocks_of(events, vectors), (1, 0.7, 0.5), strict=True):
            np.testing.assert_allclose(np.linalg.norm(block, axis=1), length, rtol=1e-5)

    def test_numbers_identify_by_their_quarters(self):
        """The same events, with low numbers in one half of the users and high ones in the other."""
        texts = [f"e|n\na, {i / 10 + 50 * (i % 2)}" for i in range(40)]
        events = fit(texts)
        identity = blocks_of(events, events(texts, read))[0]
        similar = identity @ identity.T
        assert similar[0, 2] > similar[0, 1]
        assert {events._name(token) for token in events.tokens} == {
            "e: a",
            *(f"e: a, n: {quarter}" for quarter in ("lowest", "low", "high", "highest")),
        }

    @pytest.mark.parametrize("n_codes", [50, 3000])
    def test_codes_identify_and_are_not_read(self, n_codes):
        """Whole numbers that users share may be codes, however many there are; no language model knows them."""
        rng = np.random.default_rng(0)
        halves = np.array_split(rng.permutation(n_codes) * 7 + 1000, 2)
        texts = ["item\n" + "\n".join(map(str, rng.choice(halves[i % 2], n_codes // 2))) for i in range(60)]
        asked = []
        events = fit(texts[:40], read=lambda texts: asked.extend(texts) or read(texts))
        new = ["item\n1\n2", "item\n3"]
        vectors = events([*texts, *new], lambda texts: asked.extend(texts) or read(texts))
        identity, meaning, _ = blocks_of(events, vectors)
        assert not asked
        assert not meaning.any()
        assert len(events.texts) > 0.9 * n_codes
        assert (identity[40:60] @ identity[0] > 0).tolist() == [True, False] * 10
        np.testing.assert_allclose(identity[60], identity[61])

    def test_whole_numbers_that_seldom_occur_again_are_only_measured(self):
        texts = ["n|a\n" + "\n".join(f"{1000 * i + j}, x" for j in range(30)) for i in range(50)]
        assert fit(texts).texts == ["a: x"]

    def test_a_new_event_moves_what_means_and_not_what_identifies(self):
        def read_alike(texts):
            vectors = read([text.replace("Heat 2", "Heat") for text in texts])
            return vectors + np.float32(0.01) * read(texts)

        texts = ["e\nHeat", "e\nHeat\nUp", "e\nUp\nBambi", "e\nBambi\nHeat"]
        events = fit(texts, read=read_alike)
        known, new, other = events(["e\nHeat", "e\nHeat 2", "e\nUp"], read_alike)[:, None]
        meaning = [unit(blocks_of(events, vector)[1])[0] for vector in (known, new, other)]
        assert meaning[0] @ meaning[1] > 0.95 > meaning[0] @ meaning[2]
        assert not blocks_of(events, new)[0].any()
        assert blocks_of(events, known)[0].any()


DEGENERATE = {
    "users without events": ["a|b", "a|b\nx, 1", "a|b\ny, 2\nx, 5"],
    "no events that two users share": ["a|b\nx, 1", "a|b\ny, 2"],
    "one user": ["a|b\nx, 1\ny, 2"],
    "one event": ["a\nx"],
    "users that are alike": ["a|b|t\nx, 1.1, 2020-01-01\ny, 2.3, 2020-01-02\nz, 2.3, 2020-01-02"] * 7,
    "different headers": ["a|b\nx, 1", "c|b\nx, 1", "b|a\n3, z"],
    "a string for what is missing": ["a|b|t\nx, NA, NA", "a|b|t\nNA, 1, 2020-01-01", "a|b|t\nx, 2, 2020-01-05"],
    "only numbers": ["n|m\n1.5, 2", "n|m\n2.5, 7\n4.5, 8"],
    "only times": ["t\n2020-01-01", "t\n2020-01-05\n2020-01-06"],
    "only what is missing": ["n|m\n, ", "n|m\n, \n, "],
    "numbers that are none": ["n\nNaN", "n\ninf\n3\n-inf", "n\n7\n8"],
    "huge and tiny numbers": ["a|n\nx, 1e999", "a|n\nx, -1e308\ny, 1e308", f"a|n\nx, {'9' * 500}\ny, 5e-324\nz, 0"],
    "names that occur again": ["a|a|a_2\nx, y, z", "a|a|a_2\nx, 2, z"],
    "the compact form": ["|a n\nx 1\n 2", "|a n\ny 1"],
    "an instruction": ["Films.\n\na|b\nx, 1", "Films.\n\na|b\ny, 1\nx, 1"],
    "time zones and distant years": [
        "a|t\nx, 2020-01-01 00:00:00+02:00\ny, 2020-01-01 05:00:00.123456789+01:00",
        "a|t\nx, 0001-01-01\ny, 1600-01-01 10:00:00",
        "a|t\nx, 9999-12-31\ny, 2020-02-31",
    ],
    "events that are not sorted": ["a|t\nx, 2020-02-01\ny, 2019-01-01", "a|t\nx, 2020-01-01"],
}
#: Users that `fit` has not seen: a new event, new features, none that are known, and no events.
OTHERS = ["a|b|new\nnever seen, 3, w", "zz\nx", "a", "", "n\nword", "t\nnoon"]


def assert_sums_are_products(events, texts):
    vectors = events(texts, read)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    coef = np.random.default_rng(0).normal(size=events.n_features)
    sums = events.explain(texts, coef, read).groupby("user")["contribution"].sum()
    np.testing.assert_allclose(sums.reindex(range(len(texts))), vectors @ coef, atol=1e-5)


@pytest.mark.parametrize("n_components", [1, 128])
@pytest.mark.parametrize("texts", DEGENERATE.values(), ids=DEGENERATE)
def test_odd_events_have_finite_vectors_that_are_explained(texts, n_components):
    events = fit(texts, n_components)
    assert_sums_are_products(events, texts + OTHERS)
    np.testing.assert_allclose(events(texts + OTHERS, read)[: len(texts)], events(texts, read), atol=1e-6)
    assert events([], read).shape == (0, events.n_features)


def test_users_that_are_alike_have_no_direction():
    """Centred, they are zero but for rounding, which is not scaled up."""
    for n_users in (1, 2, 7, 30):
        texts = DEGENERATE["users that are alike"][:1] * n_users
        assert not fit(texts)(texts, read).any()


def test_texts_that_never_recur_are_not_read_and_cause_a_warning():
    texts = ["note|n\n" + "\n".join(f"free text {i} {j}, {j}" for j in range(30)) for i in range(50)]
    asked = []

    def count(texts):
        asked.extend(texts)
        return read(texts)

    with pytest.warns(UserWarning, match=r"does not read \['note'\], whose values seldom occur again"):
        fit(texts, read=count)
    assert not any("free" in text for text in asked)


FIELD = st.sampled_from(["x", "y", "z z", "1", "2.5", "-1e3", "2020-01-01", "2021-05-05 10:00:00", "", "nan"])
USER = st.lists(st.tuples(FIELD, FIELD), max_size=5).map(
    lambda rows: "\n".join(["a|b", *(", ".join(row) for row in rows)])
)


@given(st.lists(USER, min_size=1, max_size=6), st.lists(USER, max_size=3), st.integers(1, 9))
@example(["a|b"], [], 1)
@settings(max_examples=settings().max_examples // 2)
def test_explanations_sum_to_the_product_with_the_coefficients(texts, others, n_components):
    assert_sums_are_products(fit(texts, n_components), texts + others)


@given(st.lists(USER, min_size=2, max_size=6), st.lists(USER, max_size=3), st.randoms())
@settings(max_examples=settings().max_examples // 2)
def test_a_vector_does_not_depend_on_the_others(texts, others, random):
    events = fit(texts)
    together = events(texts + others, read)
    alone = np.vstack([events([text], read) for text in texts + others])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    order = random.sample(range(len(together)), len(together))
    shuffled = events([(texts + others)[i] for i in order], read)
    np.testing.assert_allclose(shuffled, together[order], atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*does not read")
@given(frames(), frames(), st.booleans())
@settings(max_examples=settings().max_examples // 2, suppress_health_check=list(HealthCheck))
def test_any_events_have_finite_vectors_that_are_explained(frame, other, compact):
    texts = []
    for part in (frame, other):
        try:
            serializer = EventSerializer(events=part.events, time=None, compact=compact)
            texts.append(serializer.fit_transform(part.X)["text"].to_list())
        except (ValueError, TypeError):
            return
    if texts[0]:
        assert_sums_are_products(fit(texts[0]), texts[0] + texts[1])


def test_the_order_of_events_changes_only_what_measures():
    texts = ["e|n\na, 1.5\nb, 2.5\na, 3.5", "e|n\nb, 2.5\nc, 7.5", "e|n\nc, 1.5\na, 2"]
    events = fit(texts)
    first, again = events(texts[:1], read), events(["e|n\na, 3.5\na, 1.5\nb, 2.5"], read)
    for block, other in list(zip(blocks_of(events, first), blocks_of(events, again), strict=True))[:2]:
        np.testing.assert_allclose(block, other, atol=1e-6)


class TestEmbedder:
    """`LLMEmbedder` with event features, which are the default."""

    def test_the_default_reads_events(self, fitted):
        assert fitted.features_ == ["events"]
        assert LLMEmbedder(TINY, random_state=0).fit(TEXTS[:5]).features_ == ["events", "scores"]

    @pytest.mark.parametrize(
        "prose",
        [
            ["Ann likes films.", "Bob, who\nreads."],
            ["a|b", "a|b"],
            [f"Summary of user {user}\nlikes films\nwatches at night" for user in range(8)],
        ],
    )
    def test_without_events_the_default_reads_the_text(self, directory, prose):
        assert frozen(directory).fit(prose).features_ == ["hidden"]
        assert LLMEmbedder(TINY, random_state=0).fit(prose).features_ == ["scores"]

    def test_texts_of_several_data_sets_are_events(self, directory):
        texts = ["a|b\nx, 1", "film|n\ny, 2", "mcc|amount\nz, 3"]
        assert frozen(directory).fit(texts).features_ == ["events"]
        films = ["title\nHeat\nAlien"] * 20
        assert frozen(directory, extra_texts=["film\nUp", "name\nJaws"]).fit(films).features_ == ["events"]

    @pytest.mark.parametrize("prose", [["Ann likes films.", "Bob, who\nreads."], ["a|b", "a|b"]])
    def test_texts_without_events_are_an_error_for_event_features(self, directory, prose):
        with pytest.raises(ValueError, match=r"features='events' reads events .* features='hidden'"):
            frozen(directory, features="events").fit(prose)
        with pytest.raises(ValueError, match=r"features=array.* reads events .* features='hidden'"):
            frozen(directory, features=np.array(["events", "hidden"])).fit(prose)

    @pytest.mark.parametrize("params", [{"n_components": 3}, {"extra_texts": ["Cy sleeps."]}])
    def test_what_has_no_effect_on_texts_without_events_is_an_error(self, directory, params):
        with pytest.raises(ValueError, match=r"no effect with features='auto'(?!.*Set features='events')"):
            frozen(directory, **params).fit(["Ann likes films.", "Bob, who\nreads."])

    def test_events_are_cut_as_in_fit_whatever_overflow_is_now(self, directory, tmp_path):
        texts = [f"title|n\n{'low film usually ' * 8}{user}, 5" for user in range(6)]
        embedder = frozen(directory, max_length=16).fit(texts)
        later = [f"title|n\n{'film low usually ' * 8}, 5"]
        expected = embedder.transform(later)
        embedder.set_params(overflow="truncate")
        np.testing.assert_array_equal(embedder.transform(later), expected)
        embedder.save_pretrained(tmp_path / "saved")
        np.testing.assert_allclose(
            LLMEmbedder.from_pretrained(tmp_path / "saved").transform(later), expected, atol=1e-6
        )

    def test_a_pickle_of_version_0_2_0_can_be_read(self, fitted):
        state = dict(fitted.__getstate__())
        del state["_event_overflow_"]
        older = LLMEmbedder()
        older.__setstate__(state)
        np.testing.assert_array_equal(older.transform(TEXTS), fitted.transform(TEXTS))

    def test_a_field_may_be_called_as_the_gaps_of_another(self, directory, tmp_path):
        header = "time since the previous event|time|mcc\n"
        texts = [
            header + "\n".join(f"{day * user}, 2020-01-{day:02}, m{day % 3}" for day in range(1, 6))
            for user in range(1, 9)
        ]
        embedder = frozen(directory).fit(texts)
        embedder.save_pretrained(tmp_path / "saved")
        loaded = LLMEmbedder.from_pretrained(tmp_path / "saved")
        np.testing.assert_allclose(loaded.transform(texts), embedder.transform(texts), atol=1e-6)

    @pytest.mark.parametrize("n_components", [1, 4, 10_000])
    def test_a_vector_has_the_length_of_its_blocks(self, directory, n_components):
        embedder = frozen(directory, n_components=n_components).fit(TEXTS)
        names = embedder._events_.measures.names
        n_identity = min(n_components, len(TEXTS), len(embedder._events_.tokens))
        assert embedder.n_features_out_ == n_identity + HIDDEN + len(names)
        assert len(names) == 5 * 3 + 6 + 7 + 1  # Amount, time and gap; shares of hours and weekdays; number of events.
        vectors = embedder.transform(TEXTS)
        assert vectors.shape == (30, embedder.n_features_out_)
        assert len(embedder.get_feature_names_out()) == embedder.n_features_out_

    def test_a_vector_does_not_depend_on_padding_order_or_duplicates(self, fitted):
        texts = [*TEXTS, *users(5, seed=1), "time|title|amount\n2024-01-01, A film that is new here, 5", TEXTS[0], ""]
        together = fitted.transform(texts)
        alone = np.vstack([fitted.transform([text]) for text in texts])
        np.testing.assert_allclose(together, alone, atol=1e-5)
        np.testing.assert_allclose(fitted.transform(texts[::-1])[::-1], together, atol=1e-5)
        np.testing.assert_array_equal(together[0], together[-2])
        assert not together[-1].any()

    def test_both_ways_to_fit_give_the_same(self, directory, fitted):
        np.testing.assert_array_equal(frozen(directory).fit_transform(TEXTS), fitted.transform(TEXTS))

    def test_each_distinct_event_is_embedded_once(self, directory, embedded):
        embedder = frozen(directory).fit(TEXTS)
        assert sorted(embedded) == sorted(f"title: {title}" for title in TITLES)
        embedder.transform(TEXTS + users(3, seed=2))
        assert len(embedded) == len(TITLES)
        embedder.transform(["time|title|amount\n2024-01-01, New, 5\n2024-01-01, New, 5"] * 2)
        assert embedded[len(TITLES) :] == ["title: New"]

    def test_with_memory_no_event_is_embedded_twice(self, directory, tmp_path):
        before = frozen(directory, memory=tmp_path).fit(TEXTS[:20])
        after = frozen(directory, memory=tmp_path).fit(TEXTS)
        assert before.cache_info().n_vectors == after.cache_info().n_vectors == len(TITLES)
        np.testing.assert_array_equal(after.transform(TEXTS), frozen(directory).fit_transform(TEXTS))

    def test_a_search_over_heads_depths_and_weights_reads_each_event_once(self, directory, tmp_path, embedded):
        union = FeatureUnion([("events", frozen(directory, memory=tmp_path)), ("zero", FunctionTransformer(zeros))])
        grid = {
            "features__transformer_weights": [None, {"events": 0.5}],
            "features__events__pooling_depth": [1, 2],
            "head": [LogisticRegression(), Ridge()],
        }
        search = GridSearchCV(Pipeline([("features", union), ("head", Ridge())]), grid, cv=2, scoring="r2")
        search.fit(np.array(TEXTS, dtype=object), np.arange(len(TEXTS)) % 2)
        assert sorted(embedded) == sorted(f"title: {title}" for title in TITLES)

    def test_parameters_of_reading_act_on_the_next_fit(self, directory):
        new = ["time|title|amount\n2024-01-01, A film that is new here, 5"]
        embedder = frozen(directory).fit(TEXTS)
        before = embedder.transform(TEXTS + new)
        embedder.set_params(n_components=2, token_pooling="last", pooling_depth=1)
        np.testing.assert_array_equal(embedder.transform(TEXTS + new), before)
        assert embedder.fit(TEXTS).transform(TEXTS + new).shape[1] < before.shape[1]

    def test_an_event_has_no_header_that_pooling_leaves_out(self, directory):
        """Not even one with a line break, before which the header of a user's text would stand."""
        texts = [f'title|amount\n"{name}\nA second line", 1\n{name}, 2' for name in ("Heat", "Alien", "Bambi")] * 4
        pooled = [frozen(directory, token_pooling=pooling).fit_transform(texts) for pooling in ("events", "mean")]
        np.testing.assert_array_equal(*pooled)

    def test_texts_without_the_features_of_fit_cause_a_warning(self, directory):
        embedder = frozen(directory).fit(TEXTS)
        with pytest.warns(UserWarning, match=r"The texts have the features \['film'\], and none of .*title.*fit saw"):
            embedder.transform([f"film\n{title}" for title in TITLES])
        embedder.transform([f"time|title\n2024-01-01, {title}" for title in TITLES])
        embedder.transform(["time|title|amount"])

    def test_an_event_that_is_cut_causes_a_warning(self, directory):
        texts = [f"title\n{title}\n{'word' if i else 'word ' * 100}" for i, title in enumerate(TITLES)]
        with pytest.warns(UserWarning, match=r"1 of 9 distinct events .* max_length=64 tokens and were cut"):
            embedder = frozen(directory, max_length=64, overflow="truncate").fit(texts)
        assert np.isfinite(embedder.transform(texts)).all()
        assert embedder.n_truncated_ == 0  # These events are known.

    def test_a_fine_tuned_model_reads_events(self, directory, fitted):
        finetuned = frozen(directory, finetune=FineTuning(learning_rate=1e-2), random_state=0).fit(TEXTS)
        vectors, frozen_vectors = finetuned.transform(TEXTS), fitted.transform(TEXTS)
        (identity, meaning, measures), others = (
            blocks_of(finetuned._events_, each) for each in (vectors, frozen_vectors)
        )
        np.testing.assert_allclose(identity, others[0], atol=1e-5)
        assert not np.allclose(meaning, others[1], atol=1e-3)
        np.testing.assert_allclose(measures, others[2], atol=1e-5)

    def test_features_stand_side_by_side(self, directory):
        embedder = frozen(directory, features=["events", "hidden"]).fit(TEXTS)
        events, hidden = np.split(embedder.transform(TEXTS), [-HIDDEN], axis=1)
        np.testing.assert_allclose(np.linalg.norm(events, axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(hidden, axis=1), 1, rtol=1e-5)

    def test_threads_share_a_fitted_embedder(self, fitted):
        texts = [[*TEXTS, f"time|title|amount\n2024-01-01, New film {i}, 5"] for i in range(4)]
        expected = [fitted.transform(some) for some in texts]
        found = [None] * 4
        threads = [
            threading.Thread(target=lambda i=i: found.__setitem__(i, fitted.transform(texts[i]))) for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        np.testing.assert_array_equal(found, expected)

    def test_containers_clones_and_searches(self, directory):
        frame = pd.DataFrame({"text": TEXTS}, index=range(5, 35))
        out = frozen(directory).set_output(transform="pandas").fit(frame).transform(frame)
        assert out.index.to_list() == list(frame.index)
        np.testing.assert_array_equal(out, clone(frozen(directory)).fit_transform(TEXTS))
        pipeline = make_pipeline(frozen(directory), LogisticRegression())
        grid = {"llmembedder__n_components": [2, 4], "llmembedder__pooling_depth": [1, 2]}
        search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(frame, [0, 1] * 15)
        assert set(search.best_params_) == set(grid)

    def test_extra_texts_are_learned_from(self, directory):
        extra = [text.replace("Heat", "Only there") for text in users(10, seed=3)]
        embedder = frozen(directory, extra_texts=extra).fit(TEXTS)
        assert "title: Only there" in embedder._events_.texts

    def test_texts_in_another_form_raise(self, fitted):
        with pytest.raises(ValueError, match=r"Text 1 is not in the form that EventSerializer writes"):
            fitted.transform([TEXTS[0], "a|b\n1"])

    def test_what_the_serializer_writes_for_missing_values_does_no_harm(self, directory):
        X = pd.DataFrame({"events": [[{"t": "a", "n": 1.5}, {"t": None, "n": None}], [{"t": "b", "n": 2.5}], None]})
        for serializer in (EventSerializer(missing="NA"), EventSerializer()):
            vectors = make_pipeline(serializer, frozen(directory)).fit_transform(X)
            assert np.isfinite(vectors).all()
            assert not vectors[2].any()


class TestExplain:
    """`LLMEmbedder.explain`."""

    def test_contributions_sum_to_the_score_of_a_linear_head(self, fitted):
        head = LogisticRegression().fit(fitted.transform(TEXTS), [0, 1] * 15)
        texts = TEXTS + users(3, seed=4) + ["time|title|amount\n2024-01-01, A new film, 5", "time|title|amount"]
        found = fitted.explain(texts, head.coef_[0])
        assert found.columns.to_list() == ["user", "event", "contribution"]
        sums = found.groupby("user")["contribution"].sum()
        np.testing.assert_allclose(sums + head.intercept_, head.decision_function(fitted.transform(texts)), atol=1e-4)
        events = set(found.loc[found["user"] == 33, "event"])
        assert {"title: A new film", "(average user)", "number of events", "amount: mean"} <= events
        assert not found.duplicated(["user", "event"]).any()

    def test_what_cannot_be_explained_raises(self, fitted, directory):
        with pytest.raises(ValueError, match=r"coef must have shape \(\d+,\), one value per feature; it has \(3,\)"):
            fitted.explain(TEXTS, [1, 2, 3])
        hidden = frozen(directory, features="hidden").fit(TEXTS)
        with pytest.raises(ValueError, match=r"explain needs features='events'.*\['hidden'\]"):
            hidden.explain(TEXTS, np.ones(HIDDEN))


class TestSaving:
    """Embedders with event features in files."""

    NEW = "time|title|amount\n2024-01-01, A new film, 5"

    @pytest.fixture
    def saved(self, fitted, tmp_path):
        fitted.save_pretrained(tmp_path / "saved")
        return tmp_path / "saved"

    def test_a_saved_embedder_gives_the_same_vectors_without_pickle(self, fitted, saved):
        loaded = LLMEmbedder.from_pretrained(saved)
        np.testing.assert_array_equal(loaded.transform([*TEXTS, self.NEW]), fitted.transform([*TEXTS, self.NEW]))
        coef = np.ones(fitted.n_features_out_)
        pd.testing.assert_frame_equal(loaded.explain(TEXTS, coef), fitted.explain(TEXTS, coef))
        assert {path.suffix for path in saved.iterdir()} == {".json", ".safetensors"}

    def test_a_pickled_embedder_gives_the_same_vectors(self, fitted):
        copy = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_array_equal(copy.transform([*TEXTS, self.NEW]), fitted.transform([*TEXTS, self.NEW]))

    @pytest.mark.parametrize("name", DEGENERATE)
    def test_odd_events_survive_saving(self, name):
        events = fit(DEGENERATE[name])
        arrays, settings = events.saved()
        copy = EventVectors.from_saved(arrays, json.loads(json.dumps(settings)))
        texts = DEGENERATE[name] + OTHERS
        np.testing.assert_array_equal(copy(texts, read), events(texts, read))

    @pytest.mark.parametrize("texts", [["n|m\n, ", "n|m\n, "], ["a\nx"], ["t\n2020-01-01", "t"]])
    def test_empty_arrays_are_saved(self, directory, tmp_path, texts):
        embedder = frozen(directory).fit(texts)
        embedder.save_pretrained(tmp_path / "saved")
        loaded = LLMEmbedder.from_pretrained(tmp_path / "saved")
        np.testing.assert_array_equal(loaded.transform(texts), embedder.transform(texts))

    def test_a_damaged_file_is_refused(self, saved):
        file = saved / "features.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        with pytest.raises(OSError, match="is damaged: its files are not those that were saved"):
            LLMEmbedder.from_pretrained(saved)

    @pytest.mark.parametrize(
        "change",
        [
            lambda events: None,
            lambda events: [],
            lambda events: "events",
            lambda events: {},
            lambda events: events | {"texts": "title: Heat"},
            lambda events: events | {"texts": events["texts"][1:]},
            lambda events: events | {"texts": [*events["texts"][1:], 5]},
            lambda events: events | {"n_read": -1},
            lambda events: events | {"n_read": events["n_read"] + 1},
            lambda events: events | {"n_read": "5"},
            lambda events: events | {"n_read": float(events["n_read"])},
            lambda events: events | {"fields": None},
            lambda events: events | {"fields": {"units": []}},
            lambda events: events | {"fields": events["fields"] | {"more": 1}},
            lambda events: events | {"fields": events["fields"] | {"units": ["title"]}},
            lambda events: events | {"fields": events["fields"] | {"units": [[1]]}},
            lambda events: events | {"fields": events["fields"] | {"numbers": []}},
            lambda events: events | {"fields": events["fields"] | {"times": ["time", "amount"]}},
        ],
    )
    def test_settings_of_a_wrong_form_are_refused(self, saved, change):
        """Whoever wrote them made the digest fit."""
        file = saved / _saving.EMBEDDER_FILE
        content = json.loads(file.read_text())
        content["events"] = change(content["events"])
        file.write_text(json.dumps(content))
        hashed = {name: value for name, value in content.items() if name not in {*_saving._FORMAT, "digest"}}
        file.write_text(json.dumps(content | {"digest": _saving._digest(saved, hashed)}))
        with pytest.raises(OSError, match=r"was not written by LLMEmbedder\.save_pretrained"):
            LLMEmbedder.from_pretrained(saved)

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("tokens", lambda tokens: tokens + 10_000),
            ("tokens", lambda tokens: tokens[::-1]),
            ("tokens", lambda tokens: tokens.astype(float)),
            ("vectors", lambda vectors: vectors[1:]),
            ("directions", lambda directions: directions[0]),
            ("edges", lambda edges: edges[:, :, :2]),
            ("idf", lambda idf: idf[:-1]),
            ("center", lambda center: center[:-1]),
            ("measures.scale", lambda scale: scale[:-1]),
            ("measures.quantiles", lambda quantiles: quantiles.T),
        ],
    )
    def test_arrays_that_do_not_belong_together_are_refused(self, fitted, name, change):
        arrays, settings = fitted._events_.saved()
        with pytest.raises(ValueError, match=r"has the shape|not in ascending order|of another form"):
            EventVectors.from_saved(arrays | {name: change(arrays[name])}, settings)
        with pytest.raises(ValueError, match=r"of another form|has the shape"):
            EventVectors.from_saved({other: array for other, array in arrays.items() if other != name}, settings)


def test_only_documented_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LLMEmbedder(make_tiny(num_hidden_layers=1), random_state=0).fit(TEXTS).transform(TEXTS)
