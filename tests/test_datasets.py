"""Data sets: their contents, and what happens when a download or a file on disk is broken."""

import hashlib
import shutil
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from web_server import GOOD_ZIP, make_zip

from skllm4es import unnest_events
from skllm4es.datasets import _base, _movielens, fetch_movielens_100k, get_data_home, make_transactions
from skllm4es.datasets._base import Archive, DataFile, fetch_folder, read_verified
from skllm4es.vocabularies import load_mcc_names

# ------------------------------------------------------------------------------------------ make_transactions


@pytest.fixture(scope="module")
def transactions() -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    return make_transactions(2000, return_proba=True, random_state=0)


@pytest.fixture(scope="module")
def long_transactions(transactions) -> pd.DataFrame:
    return unnest_events(transactions[0])


def test_transactions_have_one_row_per_user_and_an_aligned_label(transactions):
    X, y, proba = transactions
    assert list(X.columns) == ["events"]
    assert X.index.name == "user_id"
    assert X.index.tolist() == list(range(2000))
    assert y.index.equals(X.index)
    assert proba.index.equals(X.index)
    assert y.dtype == "int64"
    assert set(y) == {0, 1}


def test_transactions_have_the_documented_fields(long_transactions):
    fields = list(long_transactions.columns)
    assert fields == ["user_id", "event_time", "mcc", "type", "amount", "currency"]


def test_the_same_random_state_gives_the_same_transactions():
    X, y = make_transactions(20, random_state=7)
    same_X, same_y = make_transactions(20, random_state=7)
    other_X, _ = make_transactions(20, random_state=8)
    pd.testing.assert_frame_equal(X, same_X)
    pd.testing.assert_series_equal(y, same_y)
    assert X["events"].iloc[0] != other_X["events"].iloc[0]


def test_transactions_take_a_random_state_instance():
    X, _ = make_transactions(5, random_state=np.random.RandomState(7))
    same_X, _ = make_transactions(5, random_state=7)
    pd.testing.assert_frame_equal(X, same_X)


@pytest.mark.parametrize(("n_users", "mean_events"), [(1, 1), (1, 100), (300, 1), (50, 3.5)])
def test_every_user_has_an_event_however_few_are_asked_for(n_users, mean_events):
    X, y = make_transactions(n_users, mean_events=mean_events, random_state=0)
    assert len(X) == len(y) == n_users
    assert X["events"].list.len().min() >= 1


def test_history_lengths_are_skewed_around_the_asked_mean(transactions):
    lengths = transactions[0]["events"].list.len()
    assert 90 < lengths.mean() < 110
    assert lengths.median() < 0.75 * lengths.mean()
    assert lengths.max() > 5 * lengths.mean()


def test_transactions_of_a_user_are_ordered_by_time(long_transactions):
    assert long_transactions.groupby("user_id")["event_time"].is_monotonic_increasing.all()


def test_transactions_span_one_year(long_transactions):
    times = long_transactions["event_time"]
    assert times.dt.year.eq(2023).all()
    assert times.dt.month.nunique() == 12


def test_transactions_have_a_daily_and_a_weekly_rhythm(long_transactions):
    purchases = long_transactions.query("type == 'POS'")
    hours = purchases["event_time"].dt.hour.value_counts()
    assert hours[18] > 4 * hours[3]
    nights_out = purchases.query("mcc == 5813")["event_time"].dt.day_of_week.value_counts()
    assert nights_out[5] > 2 * nights_out[0]


def test_merchant_codes_are_real_ones(long_transactions):
    assert set(long_transactions["mcc"]) <= set(load_mcc_names().index)


def test_amounts_are_in_cents_and_negative_only_for_refunds(long_transactions):
    amount, refunded = long_transactions["amount"], long_transactions["type"] == "refund"
    assert (amount == amount.round(2)).all()
    assert (amount[refunded] < 0).all()
    assert (amount[~refunded] > 0).all()
    assert 0.001 < refunded.mean() < 0.02


def test_cash_machines_give_out_banknotes(long_transactions):
    assert (long_transactions.query("type == 'ATM'")["amount"] % 10 == 0).all()


def test_salaries_arrive_at_most_once_a_month_on_the_same_day(long_transactions):
    salaries = long_transactions.query("type == 'salary'")
    paydays = salaries["event_time"].dt
    assert not salaries.assign(month=paydays.month).duplicated(["user_id", "month"]).any()
    assert paydays.day.groupby(salaries["user_id"]).nunique().max() == 1


def test_the_classes_are_not_far_from_balanced(transactions):
    assert 0.33 < transactions[1].mean() < 0.45


def test_the_true_probability_predicts_well_but_not_perfectly(transactions):
    _, y, proba = transactions
    assert 0.84 < roc_auc_score(y, proba) < 0.90


def _auc_of_aggregates(events: pd.DataFrame, y: pd.Series) -> float:
    counts = pd.crosstab(events["user_id"], events["mcc"], normalize="index")
    amounts = events.groupby("user_id")["amount"].agg(["mean", "median"])
    features = counts.join(np.log(amounts.clip(lower=1))).rename(columns=str)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05))
    return cross_val_score(model, features, y, scoring="roc_auc", cv=5).mean()


def test_plain_aggregates_beat_chance_but_fall_short_of_the_truth(transactions, long_transactions):
    _, y, proba = transactions
    auc = _auc_of_aggregates(long_transactions, y)
    assert 0.68 < auc < 0.80
    assert auc < roc_auc_score(y, proba) - 0.05


def test_the_number_of_events_says_nothing_about_the_label(transactions):
    X, y, _ = transactions
    assert abs(roc_auc_score(y, X["events"].list.len()) - 0.5) < 0.04


def test_leavers_are_those_whose_activity_declines(transactions, long_transactions):
    days = long_transactions["event_time"].dt.day_of_year
    middle = days.groupby(long_transactions["user_id"]).mean()
    assert roc_auc_score(transactions[1], -middle) > 0.56


def test_leavers_take_out_cash_soon_after_the_salary(transactions, long_transactions):
    events = long_transactions
    payday = events["event_time"].where(events["type"] == "salary").groupby(events["user_id"]).ffill()
    soon = (events["event_time"] - payday) < pd.Timedelta(hours=31)
    share = soon[events["type"].isin(["ATM", "transfer"])].groupby(events["user_id"]).mean()
    assert roc_auc_score(transactions[1][share.index], share) > 0.56


def test_without_class_separation_labels_are_independent_of_behaviour():
    *_, proba = make_transactions(50, class_sep=0, return_proba=True, random_state=0)
    assert proba.min() == proba.max()


def test_more_class_separation_makes_labels_easier_to_predict():
    aucs = []
    for class_sep in (0.5, 1, 3):
        _, y, proba = make_transactions(1000, mean_events=1, class_sep=class_sep, return_proba=True, random_state=0)
        aucs.append(roc_auc_score(y, proba))
    assert aucs == sorted(aucs)


@pytest.mark.parametrize(
    "parameters",
    [{"n_users": 0}, {"n_users": 2.5}, {"mean_events": 0}, {"class_sep": -1}, {"random_state": "x"}],
)
def test_invalid_parameters_of_make_transactions_are_named(parameters):
    with pytest.raises(ValueError, match=f"The '{next(iter(parameters))}' parameter of make_transactions"):
        make_transactions(**parameters)


# --------------------------------------------------------------------------------------------- get_data_home


def test_the_argument_data_home_wins_over_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SKLLM4ES_DATA", str(tmp_path / "environment"))
    assert get_data_home(tmp_path / "argument") == tmp_path / "argument"
    assert get_data_home() == tmp_path / "environment"


@pytest.mark.parametrize("unset", [True, False])
def test_data_home_is_in_the_home_folder_by_default(monkeypatch, unset):
    if unset:
        monkeypatch.delenv("SKLLM4ES_DATA", raising=False)
    else:
        monkeypatch.setenv("SKLLM4ES_DATA", "")
    assert get_data_home() == Path.home() / "skllm4es_data"


def test_data_home_expands_the_users_home():
    assert get_data_home("~/somewhere") == Path.home() / "somewhere"


def test_asking_for_the_data_home_creates_nothing(tmp_path):
    get_data_home(tmp_path / "new")
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------------------------- downloads


def _left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_missing_data_set_is_downloaded_and_unpacked(server, tmp_path):
    folder = fetch_folder(server.archive(), tmp_path / "home")
    assert folder == tmp_path / "home" / "toy"
    assert (folder / "a.txt").read_bytes() == b"one\ntwo\n"
    assert (folder / "deep" / "b.txt").read_bytes() == b"three\n"
    assert _left_in(tmp_path / "home") == ["toy"]


def test_a_data_set_that_is_there_is_not_downloaded_again(server, tmp_path):
    fetch_folder(server.archive(), tmp_path)
    fetch_folder(server.archive(), tmp_path)
    assert server.n_requests == 1


def test_a_missing_data_set_is_not_downloaded_if_forbidden(server, tmp_path):
    with pytest.raises(OSError, match=r"no folder .*toy.*download_if_missing=False(?s:.*)SKLLM4ES_DATA"):
        fetch_folder(server.archive(), tmp_path / "home", download_if_missing=False)
    assert server.n_requests == 0
    assert not (tmp_path / "home").exists()


def test_an_archive_with_another_checksum_is_an_error(server, tmp_path):
    with pytest.raises(
        OSError, match=r"Toy could not be downloaded from .*expected \(0000(?s:.*)proxy or a login page"
    ):
        fetch_folder(server.archive(sha256="0" * 64), tmp_path)
    assert _left_in(tmp_path) == []


def test_a_download_that_breaks_off_is_retried_then_reported(server, tmp_path):
    server.sent_bytes = 50
    with (
        pytest.warns(UserWarning, match="Retry downloading"),
        pytest.raises(OSError, match=rf"Toy could not .*only 50 out of {len(GOOD_ZIP)} bytes(?s:.*)another machine"),
    ):
        fetch_folder(server.archive(), tmp_path)
    assert server.n_requests == 4
    assert _left_in(tmp_path) == []


def test_a_download_recovers_from_a_temporary_failure(server, tmp_path):
    server.statuses = [503]
    with pytest.warns(UserWarning, match=r"Retry downloading"):
        folder = fetch_folder(server.archive(), tmp_path)
    assert _left_in(folder) == ["a.txt", "deep"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refused_download_is_an_error_at_once(server, tmp_path, status):
    server.statuses = [status] * 4
    with pytest.raises(OSError, match=rf"Toy could not .*HTTP Error {status}(?s:.*)1\. Check the connection"):
        fetch_folder(server.archive(), tmp_path)
    assert server.n_requests == 1
    assert _left_in(tmp_path) == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_busy_server_is_asked_again(server, tmp_path, status):
    server.statuses = [status] * 4
    with (
        pytest.warns(UserWarning, match="Retry downloading"),
        pytest.raises(OSError, match=rf"HTTP Error {status}"),
    ):
        fetch_folder(server.archive(), tmp_path)
    assert server.n_requests == 4
    assert _left_in(tmp_path) == []


def test_a_server_that_stops_answering_is_not_waited_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr(_base, "_TIMEOUT", 0.05)
    done = threading.Event()
    server.before_answering = lambda: done.wait(10)
    started = time.monotonic()
    with (
        pytest.warns(UserWarning, match="Retry downloading"),
        pytest.raises(OSError, match=r"Toy could not be downloaded .*timed out(?s:.*)1\. Check the connection"),
    ):
        fetch_folder(server.archive(), tmp_path)
    done.set()
    assert time.monotonic() - started < 5
    assert _left_in(tmp_path) == []


def test_without_a_network_the_error_says_what_to_do(server, tmp_path):
    unreachable = replace(server.archive(), url="http://127.0.0.1:9/toy.zip")
    with (
        pytest.warns(UserWarning, match="Retry downloading"),
        pytest.raises(OSError, match=r"could not be downloaded(?s:.*)1\. (?s:.*)2\. (?s:.*)3\. Without a network"),
    ):
        fetch_folder(unreachable, tmp_path)
    assert _left_in(tmp_path) == []


def test_an_interrupted_unpacking_leaves_nothing(server, tmp_path, monkeypatch):
    def interrupted(archive: zipfile.ZipFile, path: Path) -> None:
        archive.extract("toy/a.txt", path)
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "extractall", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_folder(server.archive(), tmp_path)
    assert _left_in(tmp_path) == []


def test_the_data_set_appears_only_when_it_is_complete(server, tmp_path):
    seen: list[bool] = []
    server.before_answering = lambda: seen.append((tmp_path / "toy").exists())
    fetch_folder(server.archive(), tmp_path)
    assert seen == [False]


def test_a_process_that_downloads_at_the_same_time_may_win(server, tmp_path):
    def other_process() -> None:
        (tmp_path / "toy").mkdir()
        (tmp_path / "toy" / "a.txt").write_text("the other's")

    server.before_answering = other_process
    folder = fetch_folder(server.archive(), tmp_path)
    assert (folder / "a.txt").read_text() == "the other's"
    assert _left_in(tmp_path) == ["toy"]


@pytest.mark.parametrize("name", ["../evil.txt", "toy/../../evil.txt", "/evil.txt", "C:/evil.txt", "toy/..\\..\\evil"])
def test_an_archive_that_would_write_outside_its_folder_is_an_error(server, tmp_path, name):
    server.body = make_zip({"toy/a.txt": b"one", name: b"evil"})
    with pytest.raises(OSError, match=r"was not unpacked: it would write outside its folder, at .*evil"):
        fetch_folder(server.archive(), tmp_path / "home")
    assert _left_in(tmp_path / "home") == []
    assert _left_in(tmp_path) == ["home"]


def test_an_archive_without_the_expected_folder_is_an_error(server, tmp_path):
    server.body = make_zip({"other/a.txt": b"one"})
    with pytest.raises(OSError, match="holds no folder 'toy'"):
        fetch_folder(server.archive(), tmp_path)
    assert _left_in(tmp_path) == []


def test_a_data_home_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "home").write_text("a file, not a folder")
    with pytest.raises(OSError, match=r"Toy cannot be saved: .*home cannot be written(?s:.*)data_home="):
        fetch_folder(server.archive(), tmp_path / "home")


# -------------------------------------------------------------------------------------------- files on disk

TEXT = "1|Café|x\n2|Misérables|y\n"
PUBLISHED = TEXT.encode("latin-1")
FILE = DataFile("u.item", len(PUBLISHED), hashlib.sha256(PUBLISHED).hexdigest(), "latin-1")


def read_published(folder, *files):
    return read_verified(Archive("Toy", "https://example.org/toy.zip", "0" * 64, "toy", files or (FILE,)), folder)


def test_files_as_published_are_read(tmp_path):
    (tmp_path / "u.item").write_bytes(PUBLISHED)
    assert read_published(tmp_path) == {"u.item": PUBLISHED}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PUBLISHED[:10], r"10 of 24 bytes: the file is truncated"),
        (b"", r"0 of 24 bytes: the file is truncated"),
        (TEXT.encode("utf-8"), r"re-encoded from latin-1 to utf-8\."),
        (TEXT.encode("utf-8-sig"), r"re-encoded from latin-1 to utf-8\."),
        (TEXT.encode("utf-16"), r"re-encoded from latin-1 to utf-16\."),
        (TEXT.replace("\n", "\r\n").encode("utf-8"), r"re-encoded from latin-1 to utf-8\."),
        (PUBLISHED.replace(b"\n", b"\r\n"), r"line ends were converted to Windows ones"),
        (PUBLISHED.replace(b"x", b"z"), r"contents were changed"),
        (PUBLISHED + b"3|\xff\xfe\n", r"contents were changed \(29 bytes, published 24\)"),
    ],
)
def test_the_error_says_how_a_file_differs(tmp_path, content, message):
    (tmp_path / "u.item").write_bytes(content)
    with pytest.raises(OSError, match=rf"- u\.item: .*{message}(?s:.*)1\. Move or delete"):
        read_published(tmp_path)


def test_one_error_lists_all_problems_of_a_folder(tmp_path):
    (tmp_path / "u.item").write_bytes(b"")
    missing = replace(FILE, name="u.data")
    with pytest.raises(OSError, match=r"- u\.data: the file is missing\.\n- u\.item: .*truncated"):
        read_published(tmp_path, missing, FILE)


# --------------------------------------------------------------------------------------------- MovieLens 100k


@pytest.fixture(scope="session")
def movielens(data_home) -> tuple[pd.DataFrame, pd.Series]:
    return fetch_movielens_100k(data_home=data_home, download_if_missing=False, return_X_y=True)


@pytest.mark.real_data
def test_movielens_has_its_943_users_of_whom_273_are_women(movielens):
    X, y = movielens
    assert X.shape == (943, 1)
    assert X.index.name == "user_id"
    assert y.index.equals(X.index)
    assert y.dtype == "int64"
    assert y.sum() == 273


@pytest.mark.real_data
def test_movielens_has_its_100_000_events_in_order_of_time(movielens):
    events = unnest_events(movielens[0])
    assert list(events.columns) == ["user_id", "timestamp", "title", "genres", "rating"]
    assert len(events) == 100_000
    assert events.groupby("user_id")["timestamp"].is_monotonic_increasing.all()
    assert events["timestamp"].min() == pd.Timestamp("1997-09-20 03:05:10")
    assert set(events["rating"]) == {1, 2, 3, 4, 5}
    assert not events.isna().any(axis=None)


@pytest.mark.real_data
def test_movielens_first_user_and_first_rating_are_the_published_ones(movielens):
    X, y = movielens
    assert y.loc[[1, 2, 3]].tolist() == [0, 1, 0]
    # The file's first line: user 196, film 242, rating 3, at 881250949.
    events = unnest_events(X.loc[[196]])
    assert events.query("title == 'Kolya (1996)'").to_dict("records") == [
        {
            "user_id": 196,
            "timestamp": pd.Timestamp(881_250_949, unit="s"),
            "title": "Kolya (1996)",
            "genres": "Comedy",
            "rating": 3,
        }
    ]


@pytest.mark.real_data
@pytest.mark.parametrize("title", ["Misérables, Les (1995)", "Á köldum klaka (Cold Fever) (1994)"])
def test_movielens_titles_keep_their_accents(movielens, title):
    assert title in set(unnest_events(movielens[0])["title"])


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("title", "genres"),
    [
        ("Toy Story (1995)", "Animation Children's Comedy"),
        ("Blade Runner (1982)", "Film-Noir Sci-Fi"),
        ("unknown", "unknown"),
    ],
)
def test_movielens_genres_are_words_separated_by_spaces(movielens, title, genres):
    events = unnest_events(movielens[0])
    assert set(events.loc[events["title"] == title, "genres"]) == {genres}


@pytest.mark.real_data
def test_movielens_can_give_the_age_instead(data_home):
    X, y = fetch_movielens_100k(target="age", data_home=data_home, return_X_y=True)
    assert list(X.columns) == ["events"]
    assert y.loc[[1, 2, 3]].tolist() == [24, 53, 23]
    assert (y.min(), y.max()) == (7, 73)


@pytest.mark.real_data
@pytest.mark.parametrize(("target", "other"), [("gender", "age"), ("age", "gender")])
def test_movielens_profile_has_the_other_attributes_but_never_the_target(data_home, target, other):
    X, _ = fetch_movielens_100k(target=target, profile=True, data_home=data_home, return_X_y=True)
    assert list(X.columns) == ["events", other, "occupation", "zip_code"]
    assert X.loc[1, "occupation"] == "technician"
    assert X.loc[1, "zip_code"] == "85711"


@pytest.mark.real_data
@pytest.mark.parametrize(("target", "names"), [("gender", ["M", "F"]), ("age", ["age"])])
def test_movielens_bunch_follows_scikit_learn(data_home, target, names):
    bunch = fetch_movielens_100k(target=target, data_home=data_home)
    assert sorted(bunch) == ["DESCR", "data", "feature_names", "headers", "labels", "target", "target_names"]
    assert bunch.feature_names == ["events"]
    assert bunch.target_names == names
    assert bunch.target.name == target
    assert "no redistribution" in bunch.DESCR


@pytest.mark.real_data
def test_movielens_reads_the_environment_variable(data_home, monkeypatch):
    monkeypatch.setenv("SKLLM4ES_DATA", str(data_home))
    X, _ = fetch_movielens_100k(return_X_y=True, download_if_missing=False)
    assert len(X) == 943


@pytest.mark.real_data
def test_movielens_downloads_verifies_and_reads(data_home, server, tmp_path, monkeypatch):
    files = {
        f"ml-100k/{file.name}": (data_home / "ml-100k" / file.name).read_bytes() for file in _movielens._SOURCE.files
    }
    server.body = make_zip(files)
    served = replace(_movielens._SOURCE, url=server.url, sha256=server.archive().sha256)
    monkeypatch.setattr(_movielens, "_SOURCE", served)
    X, _ = fetch_movielens_100k(data_home=tmp_path, return_X_y=True)
    assert len(X) == 943


@pytest.mark.real_data
def test_movielens_with_a_re_encoded_file_says_so(data_home, tmp_path):
    shutil.copytree(data_home / "ml-100k", tmp_path / "ml-100k", copy_function=shutil.copyfile)
    (tmp_path / "ml-100k").chmod(0o755)
    item = tmp_path / "ml-100k" / "u.item"
    item.write_bytes(item.read_bytes().decode("latin-1").encode("utf-8"))
    with pytest.raises(OSError, match=r"- u\.item: the text was re-encoded from latin-1 to utf-8"):
        fetch_movielens_100k(data_home=tmp_path)


def test_absent_movielens_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(OSError, match=r"MovieLens 100k was not found: .*ml-100k"):
        fetch_movielens_100k(data_home=tmp_path, download_if_missing=False)


def test_movielens_has_no_other_target(tmp_path):
    with pytest.raises(ValueError, match=r"'target' parameter of fetch_movielens_100k must be .*'occupation'"):
        fetch_movielens_100k(target="occupation", data_home=tmp_path)  # type: ignore[call-overload]
