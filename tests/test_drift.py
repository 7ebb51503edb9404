"""report_drift: what changed is found in each field, and what did not change is not."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.pipeline import make_pipeline

from skllm4es import EventSerializer, nest_events, report_drift, unnest_events
from skllm4es.datasets import fetch_movielens_100k, make_transactions
from skllm4es.vocabularies import load_mcc_names

SERIALIZER = EventSerializer(labels={"mcc": load_mcc_names()})


def cards(seed, n_users=150):
    return make_transactions(n_users, mean_events=20, random_state=seed)[0]


@pytest.fixture(scope="module")
def X():
    return cards(0)


@pytest.fixture(scope="module")
def later():
    return cards(1)


def edited(X, edit):
    """Change each event, given as a dict."""
    return X.assign(events=[[{**event, **edit(event)} for event in user] for user in X["events"]])


def drifted(report):
    return {(row.field, row.check) for row in report.itertuples() if row.drifted}


def row_of(report, field, check):
    (row,) = report[(report["field"] == field) & (report["check"] == check)].itertuples()
    return row


def test_a_field_without_values_is_of_any_kind(X, later):
    empty = edited(X, lambda event: {"currency": np.nan})
    empty = nest_events(unnest_events(empty).astype({"currency": float}), user="user_id", time="event_time")
    for sides in ((empty, later), (X, empty)):
        report = report_drift(*sides)
        assert set(report.loc[report["field"] == "currency", "check"]) == {"missing"}
    report = report_drift(empty, X, serializer=EventSerializer(formats={"currency": ".2f"}))  # No format for texts.
    assert set(report.loc[report["field"] == "currency", "check"]) == {"missing"}


# What did not change


@pytest.mark.parametrize("seed", range(3))
def test_users_of_the_same_population_do_not_drift(seed, X):
    assert drifted(report_drift(X, cards(100 + seed, 80), serializer=SERIALIZER)) == set()


def test_users_who_come_again_do_not_drift(X):
    assert drifted(report_drift(X, X, serializer=SERIALIZER)) == set()
    alone = pd.DataFrame({"events": [[{"film": f"of {user}"}] for user in range(20)]})
    assert drifted(report_drift(alone, alone)) == set()


def test_halves_of_real_users_do_not_drift(data_home):
    X = fetch_movielens_100k(data_home=data_home, download_if_missing=False).data[["events"]]
    halves = np.random.default_rng(0).permutation(len(X))
    report = report_drift(X.iloc[halves[:600]], X.iloc[halves[600:]], serializer=EventSerializer())
    assert drifted(report) == set()
    unseen = row_of(report, "title", "unseen")  # Rare films are unseen in any further user.
    assert 0 < unseen.fit < 0.02
    assert abs(unseen.shift) < 0.01


def test_the_same_report_each_time(X, later):
    pd.testing.assert_frame_equal(report_drift(X, later), report_drift(X, later))


# What changed


CHANGES = {
    "values": (lambda e: {"currency": "JPY"}, {("currency", "unseen"), ("currency", "values")}),
    "frequencies": (lambda e: {"type": "POS"}, {("type", "values")}),
    "numbers": (lambda e: {"amount": 3 * e["amount"]}, {("amount", "numbers")}),
    "missing numbers": (lambda e: {"amount": None if e["amount"] > 50 else e["amount"]}, {("amount", "missing")}),
    "missing values": (lambda e: {"type": None if e["type"] == "POS" else e["type"]}, {("type", "missing")}),
    "kinds": (lambda e: {"amount": str(e["amount"])}, {("amount", "kind")}),
    "times as texts": (lambda e: {"event_time": f"{e['event_time']:%d.%m.%Y}"}, {("event_time", "kind")}),
    "absent values": (lambda e: {"amount": None}, {("amount", "missing")}),
    "further fields": (lambda e: {"shop": "a"}, {("shop", "not in fit")}),
    "times": (
        lambda e: {"event_time": pd.Timestamp("2024-01-01") + (e["event_time"] - pd.Timestamp("2024-01-01")) * 9},
        {("event_time", "gaps")},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_found_where_it_is(change, X, later):
    edit, expected = CHANGES[change]
    found = drifted(report_drift(X, edited(later, edit)))
    assert expected <= found
    assert {field for field, _ in found} == {field for field, _ in expected}


def test_a_field_that_new_events_lack_is_missing_in_all(X, later):
    table = unnest_events(later).drop(columns="currency")
    without = nest_events(table, user="user_id", time="event_time")
    row = row_of(report_drift(X, without, serializer=SERIALIZER), "currency", "missing")
    assert (row.fit, row.new, row.drifted) == (0.0, 1.0, True)
    assert row.examples == "no such field in X_new"


@pytest.mark.parametrize("change", ["missing", "kind"])
def test_a_time_that_new_events_lack_or_hold_as_text_is_reported(X, later, change):
    table = unnest_events(later)
    if change == "missing":
        new = nest_events(table.drop(columns="event_time"), user="user_id")
    else:
        new = nest_events(table.assign(event_time=table["event_time"].astype(str)), user="user_id")
    serializer = EventSerializer(time="event_time", labels={"mcc": load_mcc_names()})
    row = row_of(report_drift(X, new, serializer=serializer), "event_time", change)
    assert (row.fit, row.new, row.drifted) == (0.0, 1.0, True)


def test_codes_without_a_label_and_events_with_new_texts_are_found(X, later):
    new = edited(later, lambda event: {"mcc": 999_999 if event["type"] == "POS" else event["mcc"]})
    report = report_drift(X, new, serializer=SERIALIZER)
    share = np.mean([event["type"] == "POS" for user in later["events"] for event in user])
    for field, check in (("mcc", "unlabelled"), ("mcc", "unseen")):
        assert row_of(report, field, check).new == pytest.approx(share)
        assert row_of(report, field, check).examples == "999999 (100%)"
    event = row_of(report, "(event)", "unseen")
    assert event.drifted
    assert event.new >= share
    assert event.examples.startswith("mcc: 999999, type: POS")


def test_fields_that_are_read_apart_have_rows_of_their_own(X, later):
    regions = [f"region {user % 2}" for user in range(len(X))]

    def placed(frame):
        events = [
            [{**event, "region": region} for event in user]
            for user, region in zip(frame["events"], regions, strict=True)
        ]
        return frame.assign(events=events)

    report = report_drift(placed(X), placed(later), serializer=EventSerializer(["mcc", "type", "region"]))
    assert report.loc[report["field"].str.startswith("(event"), "field"].to_list() == [
        "(event: type)",
        "(event: region)",
    ]


def test_codes_of_another_type_than_the_labels_have_no_label(X, later):
    labels = {"mcc": {str(code): name for code, name in load_mcc_names().items()}}
    report = report_drift(X, later, serializer=EventSerializer(labels=labels))
    row = row_of(report, "mcc", "unlabelled")
    assert (row.fit, row.new) == (1.0, 1.0)  # As the serializer warns.


def test_users_with_fewer_events_or_none_are_found(X, later):
    short = later.assign(events=[list(user)[: i % 3] for i, user in enumerate(later["events"])])
    assert {("(user)", "events"), ("(user)", "missing")} <= drifted(report_drift(X, short))


def test_scores_that_shift_are_found(X, later):
    rng = np.random.default_rng(0)
    same, other = rng.normal(size=400), rng.normal(1, size=100)
    assert drifted(report_drift(X, later, scores=(same, rng.normal(size=100)))) == set()
    report = report_drift(X, later, scores=(same, other))
    assert drifted(report) == {("(score)", "numbers")}
    assert row_of(report, "(score)", "numbers").new == pytest.approx(np.median(other))


def test_lists_of_values_are_compared_by_their_elements():
    def users(*genres):
        return pd.DataFrame({"events": [[{"genres": list(g), "rating": 3.5}] for g in genres]})

    report = report_drift(users(*["ab", "a"] * 40), users(*["ac", ""] * 40))
    unseen, missing = row_of(report, "genres", "unseen"), row_of(report, "genres", "missing")
    assert (unseen.fit, unseen.new, unseen.examples) == (0.0, 0.5, "c (100%)")
    assert (missing.fit, missing.new) == (0.0, 0.5)
    none = report_drift(users(*["ab", "a"] * 40), users(*[""] * 40))
    assert "kind" not in set(none["check"])
    assert row_of(none, "genres", "missing").new == 1.0


def test_values_that_one_user_has_are_what_fit_expects_to_be_unseen():
    X = pd.DataFrame({"events": [[{"film": "a"}, {"film": f"of {user}"}] for user in range(20)]})
    row = row_of(report_drift(X, X.iloc[:10].assign(events=[[{"film": "a"}, {"film": "new"}]] * 10)), "film", "unseen")
    assert (row.fit, row.new, row.drifted) == (0.5, 0.5, False)


# What it reads


def test_every_kind_of_dataframe_gives_the_same_report(X, later, as_kind):
    new = edited(later, lambda event: {"currency": "JPY"})
    (fit_kind, events), (new_kind, _) = as_kind(X), as_kind(new)
    expected = report_drift(X, new, serializer=SERIALIZER)
    serializer = EventSerializer(labels=SERIALIZER.labels, events=events)
    pd.testing.assert_frame_equal(report_drift(fit_kind, new_kind, serializer=serializer), expected)
    plain = report_drift(fit_kind, new_kind, events=events)
    pd.testing.assert_frame_equal(plain, report_drift(X, new))


def test_long_tables_in_any_order_give_the_same_report(X, later):
    expected = report_drift(X, later)
    tables = [unnest_events(side).sample(frac=1, random_state=0) for side in (X, later)]
    for convert in (lambda table: table, pa.Table.from_pandas):
        sides = [convert(table.reset_index(drop=True)) for table in tables]
        for time in ("auto", "event_time"):
            report = report_drift(*sides, user="user_id", time=time)
            pd.testing.assert_frame_equal(report.set_index(["field", "check"]), expected.set_index(["field", "check"]))


def test_long_tables_are_sorted_by_their_first_column_of_times_though_another_is_in_order(X, later):
    tables = [unnest_events(side).assign(signup=pd.Timestamp("2020-01-01")) for side in (X, later)]
    shuffled = [table.sample(frac=1, random_state=0) for table in tables]
    expected = report_drift(*tables, user="user_id", time="event_time")
    for sides in (shuffled, [tables[0], shuffled[1]], [shuffled[0], tables[1]]):
        pd.testing.assert_frame_equal(report_drift(*sides, user="user_id"), expected)


def test_a_time_that_is_the_same_in_all_events_of_a_user_is_not_that_of_the_events(X, later):
    born = {"born": pd.Timestamp("1950-02-03")}
    sides = [each.assign(events=[[born | event for event in user] for user in each["events"]]) for each in (X, later)]
    gaps = row_of(report_drift(X, later), "event_time", "gaps")
    shuffled = [unnest_events(side).sample(frac=1, random_state=0) for side in sides]
    for report in (report_drift(*sides), report_drift(*shuffled, user="user_id")):
        assert row_of(report, "event_time", "gaps")[1:] == gaps[1:]


def test_a_serializer_of_another_column_reads_long_tables(X, later):
    tables = [unnest_events(side) for side in (X, later)]
    expected = report_drift(*tables, user="user_id", serializer=EventSerializer())
    report = report_drift(*tables, user="user_id", serializer=EventSerializer(events="history"))
    pd.testing.assert_frame_equal(report, expected)


@pytest.mark.parametrize("factor", [0.5, 2])
def test_numbers_that_were_all_the_same_are_compared(factor):
    def table(factor):
        days = pd.Timedelta(days=factor) * np.tile(np.arange(10), 100)
        users = np.repeat(np.arange(100), 10)
        table = pd.DataFrame({"user": users, "time": pd.Timestamp("2024-01-01") + days, "amount": float(factor)})
        return table[users % 2 == 0] if factor < 1 else table

    report = report_drift(table(1), table(factor), user="user", scores=(np.zeros(100), np.full(100, factor)))
    for field, check in (("amount", "numbers"), ("time", "gaps"), ("(score)", "numbers")):
        assert row_of(report, field, check).drifted
    same = report_drift(table(1), table(1), user="user", scores=(np.zeros(100), np.zeros(100)))
    assert not same["drifted"].any()


def test_only_what_the_serializer_writes_is_compared(X, later):
    serializer = EventSerializer(["mcc", "amount"], labels={"mcc": load_mcc_names()}, max_events=3)
    report = report_drift(X, later, serializer=serializer)
    assert set(report["field"]) == {"mcc", "amount", "(user)", "(event)"}
    assert row_of(report, "(user)", "events").fit == 3


def test_the_serializer_of_a_fitted_pipeline_is_left_as_it_is(X, later):
    serializer = make_pipeline(EventSerializer(labels=SERIALIZER.labels)).fit(X)[0]
    before = serializer.get_params(), serializer.columns_
    report_drift(X, edited(later, lambda event: {"amount": "text"}), serializer=serializer)
    assert (serializer.get_params(), serializer.columns_) == before


# Errors


def test_no_events_are_an_error(X):
    nobody = pd.DataFrame({"events": pd.Series([None, []], dtype=object)})
    for sides, name in (((X, nobody), "X_new"), ((nobody, X), "X_fit")):
        with pytest.raises(ValueError, match=f"{name} has no events to compare: none of its 2 users has any"):
            report_drift(*sides)


@pytest.mark.parametrize("is_long", [False, True])
def test_a_field_that_is_called_auto_is_the_time_as_in_the_serializer(X, later, is_long):
    tables = [unnest_events(side).rename(columns={"event_time": "auto"}) for side in (X, later)]
    tables = [
        table.assign(booked=pd.Timestamp("2030-01-01") - (table["auto"] - table["auto"].min())) for table in tables
    ]
    sides = [nest_events(table, user="user_id", time="auto") for table in tables]
    serializer = EventSerializer().fit(sides[0])
    assert serializer.time_ == "auto"
    gaps = row_of(report_drift(X, later), "event_time", "gaps")
    kind = {"user": "user_id"} if is_long else {}
    for settings in ({}, {"serializer": serializer}):
        found = row_of(report_drift(*(tables if is_long else sides), **kind, **settings), "auto", "gaps")
        assert (found.fit, found.new, found.shift) == (gaps.fit, gaps.new, gaps.shift)


def test_events_that_are_not_in_order_are_an_error(X):
    backwards = X.assign(events=[list(user)[::-1] for user in X["events"]])
    with pytest.raises(ValueError, match="The events of X_new are not in order: 'event_time' decreases"):
        report_drift(X, backwards)


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (([[0.1, 0.9]], [0.5]), ValueError, r"one has the shape \(1, 2\). Pass one column"),
        (([0.1, np.nan], [0.5]), ValueError, "scores contains NaN"),
        ([0.1, 0.2, 0.5], ValueError, "scores holds 3 values. Pass a pair"),
        ((["stay", "go"], ["go"]), ValueError, r"scores must be finite numbers, such as predict_proba\(X\)\[:, 1\]"),
    ],
)
def test_scores_must_be_finite_numbers_of_users(scores, error, message, X, later):
    with pytest.raises(error, match=message):
        report_drift(X, later, scores=scores)


def test_a_serializer_that_refuses_new_codes_does_not_keep_them_from_the_report(X, later):
    strict = EventSerializer(labels=SERIALIZER.labels, unlabelled="error")
    new = edited(later, lambda event: {"mcc": 999_999})
    assert row_of(report_drift(X, new, serializer=strict), "mcc", "unlabelled").new == 1


def test_a_time_that_no_event_has_is_an_error(X, later):
    for serializer, time in ((None, "nope"), (EventSerializer(time="nope"), "auto")):
        with pytest.raises(ValueError, match=r"time='nope' is not among the fields \['event_time', .* of X_fit"):
            report_drift(X, later, serializer=serializer, time=time)
    report_drift(X, later, time=None)


@pytest.mark.parametrize("settings", [{"events": "purchases"}, {"time": "event_time"}, {"time": None}])
def test_what_the_serializer_has_is_not_set_twice(settings, X, later):
    with pytest.raises(ValueError, match="are set beside a serializer, which has its own"):
        report_drift(X, later, serializer=SERIALIZER, **settings)


def test_columns_that_fit_lacks_are_an_error(X, later):
    with pytest.raises(ValueError, match="X_fit lacks 'shop'"):
        report_drift(X, later, serializer=EventSerializer(["mcc", "shop"]))
