"""MovieLens 1M, on files of the published layout that these tests write."""

from dataclasses import replace

import pytest
from web_server import make_zip

from skllm4es import EventSerializer, unnest_events
from skllm4es.datasets import _movielens_1m, fetch_movielens_1m

PUBLISHED = {
    "ratings.dat": b"2::10::5::978300760\n1::20::3::978302109\n1::10::4::978300000\n3::30::1::978300001\n",
    "movies.dat": "10::Toy Story (1995)::Animation|Children's|Comedy\n20::Misérables, Les (1995)::Drama\n"
    "30::Alien: Director's Cut (1979)::Horror|Sci-Fi\n".encode("latin-1"),
    "users.dat": b"1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::15::01002-1234\n",
}


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A data home with three users' files, as if they were the published ones."""
    files = {file.name: file for file in _movielens_1m._SOURCE.files}
    small = [replace(files[name], size=len(text), n_rows=text.count(b"\n")) for name, text in PUBLISHED.items()]
    monkeypatch.setattr(_movielens_1m, "_SOURCE", replace(_movielens_1m._SOURCE, files=tuple(small)))
    (tmp_path / "ml-1m").mkdir()
    for name, content in PUBLISHED.items():
        (tmp_path / "ml-1m" / name).write_bytes(content)
    return tmp_path


def test_users_have_their_ratings_in_order_of_time(published):
    X, y = fetch_movielens_1m(data_home=published, return_X_y=True)
    assert X.index.tolist() == [1, 2, 3]
    assert y.tolist() == [1, 0, 0]
    events = unnest_events(X)
    assert list(events.columns) == ["user_id", "timestamp", "title", "genres", "rating"]
    assert events["title"].tolist() == [
        "Toy Story (1995)",
        "Misérables, Les (1995)",
        "Toy Story (1995)",
        "Alien: Director's Cut (1979)",
    ]
    assert events["genres"].iloc[0] == "Animation Children's Comedy"
    assert events["rating"].tolist() == [4, 3, 5, 1]
    assert str(events["timestamp"].iloc[0]) == "2000-12-31 22:00:00"


def test_the_age_is_a_group_with_a_name(published):
    bunch = fetch_movielens_1m(target="age", data_home=published)
    assert bunch.target.tolist() == [1, 56, 25]
    assert len(bunch.target_names) == 7
    assert bunch.target_names[0] == "under 18"


@pytest.mark.parametrize(("target", "other"), [("gender", "age"), ("age", "gender")])
def test_the_profile_has_the_other_attributes_but_never_the_target(published, target, other):
    X, _ = fetch_movielens_1m(target=target, profile=True, data_home=published, return_X_y=True)
    assert list(X.columns) == ["events", other, "occupation", "zip_code"]
    assert X["occupation"].tolist() == ["school student", "self-employed", "scientist"]
    assert X.loc[3, "zip_code"] == "01002-1234"


def test_the_bunch_serialises_with_its_own_headers(published):
    bunch = fetch_movielens_1m(data_home=published)
    texts = EventSerializer(labels=bunch.labels, headers=bunch.headers).fit_transform(bunch.data)["text"]
    assert texts.loc[2] == (
        "time|title|genres|rating (1 to 5)\n2000-12-31 22:12:40, Toy Story (1995), Animation Children's Comedy, 5"
    )


def test_a_download_is_compared_with_the_published_checksum(published, server, monkeypatch, tmp_path):
    server.body = make_zip({f"ml-1m/{name}": content for name, content in PUBLISHED.items()})
    served = replace(_movielens_1m._SOURCE, url=server.url, sha256=server.archive().sha256)
    monkeypatch.setattr(_movielens_1m, "_SOURCE", served)
    X, _ = fetch_movielens_1m(data_home=tmp_path / "new", return_X_y=True)
    assert len(X) == 3
    monkeypatch.setattr(_movielens_1m, "_SOURCE", replace(served, sha256="0" * 64))
    with pytest.raises(OSError, match=r"MovieLens 1M could not be downloaded from .*SHA256"):
        fetch_movielens_1m(data_home=tmp_path / "newer")
    assert not (tmp_path / "newer" / "ml-1m").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ratings.dat", lambda old: old[:-5], r"ratings\.dat: \d+ of \d+ bytes: the file is truncated"),
        ("movies.dat", lambda old: old.decode("latin-1").encode(), r"movies\.dat: .*re-encoded from latin-1 to utf-8"),
        ("users.dat", lambda old: old.replace(b"\n", b"\r\n"), r"users\.dat: the line ends were converted"),
        ("users.dat", lambda old: old + b"x", r"users\.dat: the contents were changed"),
        ("users.dat", lambda old: old.replace(b"::F", b"::X"), r"the gender or age \['X'\]"),
        ("users.dat", lambda old: old.replace(b"\n2", b"22"), r"users\.dat: 2 rows, published 3"),
        ("ratings.dat", lambda old: old.replace(b"::5::", b"::9::"), "ratings are not from 1 to 5"),
        ("ratings.dat", lambda old: old.replace(b"::20::", b"::99::"), r"were changed: .*99"),
        ("ratings.dat", lambda old: old.replace(b"::20::", b"::x0::"), r"were changed: .*x0"),
        ("ratings.dat", lambda old: old.replace(b"3::30", b"9::30"), r"differ in the users \[3, 9\]"),
        ("movies.dat", lambda old: old.replace(b"Drama", b"Drxma").replace(b"::Drxma", b"--Drxma"), "were changed"),
    ],
)
def test_files_that_differ_from_the_published_ones_are_an_error(published, name, change, message):
    path = published / "ml-1m" / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(OSError, match=rf"MovieLens 1M in .*ml-1m is not what was published(?s:.*){message}"):
        fetch_movielens_1m(data_home=published)


def test_absent_data_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(OSError, match=r"MovieLens 1M was not found: .*ml-1m"):
        fetch_movielens_1m(data_home=tmp_path, download_if_missing=False)


def test_an_unknown_target_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"'target' parameter of fetch_movielens_1m must be .*'occupation'"):
        fetch_movielens_1m(target="occupation", data_home=tmp_path)  # type: ignore[call-overload]
