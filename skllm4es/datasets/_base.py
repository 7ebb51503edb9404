"""Data sets on disk: where they lie, how they get there, and whether they are what was published.

The ``fetch_*`` functions call, in this order, :func:`get_data_home` (which folder), :func:`fetch_folder`
(download it, unless it is there) and :func:`read_verified` (the files' contents, compared with the checksums
in the code) or :func:`open_tables` (csv files, checked as they are read). A download either completes or leaves
nothing: it is made aside and moved into place by one rename.
"""

import errno
import hashlib
import os
import shutil
import tempfile
import time
import urllib.request
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.error import HTTPError

import pyarrow as pa

from skllm4es.datasets._tables import Tables

_ENVIRONMENT_VARIABLE = "SKLLM4ES_DATA"
_RETRIES = 3
_SECONDS_BETWEEN_RETRIES = 1.0
_SECONDS_WITHOUT_AN_ANSWER = 60.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Archive:
    """A published zip archive that holds one top-level folder.

    Parameters
    ----------
    title : str
        Name of the data set, as messages give it.
    url : str
        Where the archive is published.
    sha256 : str
        Checksum of the archive.
    folder : str
        Name of the folder in the archive, and of the data set's folder in the data home.
    """

    title: str
    url: str
    sha256: str
    folder: str


@dataclass(frozen=True)
class Collection:
    """Published csv files that lie side by side.

    Parameters
    ----------
    title : str
        Name of the data set, as messages give it.
    url : str
        Where the files are published: each at ``url/name``.
    tables : mapping of str to pyarrow.Schema
        For each file, by its name, the columns that are read from it.
    folder : str
        Name of the data set's folder in the data home.
    """

    title: str
    url: str
    tables: Mapping[str, pa.Schema]
    folder: str


@dataclass(frozen=True)
class DataFile:
    """A file of a data set, as published.

    Parameters
    ----------
    name : str
        Name within the data set's folder.
    size : int
        Size in bytes.
    sha256 : str or None
        Checksum of the contents; None where none is published. Then the size is compared alone.
    encoding : str, default="ascii"
        Encoding of the text. Only used to recognise a file that was re-encoded.
    """

    name: str
    size: int
    sha256: str | None
    encoding: str = "ascii"


def get_data_home(data_home: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder in which the data sets lie.

    Parameters
    ----------
    data_home : str or path-like, default=None
        The folder. If None, the environment variable ``SKLLM4ES_DATA``; where that is not set either,
        ``~/skllm4es_data``. A leading ``~`` stands for the user's home folder.

    Returns
    -------
    pathlib.Path
        The folder. It need not exist: it is created when something is downloaded.

    Examples
    --------
    >>> from skllm4es.datasets import get_data_home
    >>> get_data_home("some_folder").name
    'some_folder'
    """
    if data_home is None:
        data_home = os.environ.get(_ENVIRONMENT_VARIABLE) or Path("~", "skllm4es_data")
    return Path(data_home).expanduser()


def fetch_folder(source: Archive | Collection, data_home: Path, *, download_if_missing: bool = True) -> Path:
    """Return the data set's folder in ``data_home``, downloading it where there is none.

    Parameters
    ----------
    source : Archive or Collection
        What to download.
    data_home : pathlib.Path
        Where the data sets lie. Created when something is downloaded.
    download_if_missing : bool, default=True
        If False, raise an error instead of downloading.

    Returns
    -------
    pathlib.Path
        The folder ``data_home / source.folder``. A folder that exists is returned as it is, unchecked.

    Raises
    ------
    OSError
        If the folder is absent and may not be, or could not be, downloaded. Nothing is left behind then.
    """
    folder = data_home / source.folder
    if folder.is_dir():
        return folder
    if not download_if_missing:
        raise OSError(
            f"{source.title} was not found: there is no folder {folder}, and download_if_missing=False "
            f"forbids to download it.\n{_remedies(source, 'Allow the download: download_if_missing=True.')}"
        )
    with _workspace(source, data_home) as workspace, _disk_errors(source, data_home):
        if isinstance(source, Archive):
            downloaded = _download_archive(source, Path(workspace))
        else:
            downloaded = _download_collection(source, Path(workspace))
        _move_into_place(downloaded, folder)
    return folder


def open_tables(source: Collection, folder: Path) -> Tables:
    """Give the reader of the csv files of a data set.

    Parameters
    ----------
    source : Collection
        Where they came from, for the messages.
    folder : pathlib.Path
        The data set's folder.

    Returns
    -------
    Tables
        The reader.
    """
    return Tables(source.title, folder, _remedies_for_damage(source, folder))


def read_verified(folder: Path, files: Iterable[DataFile], archive: Archive) -> dict[str, bytes]:
    """Read files of a data set, after comparing them with what was published.

    Parameters
    ----------
    folder : pathlib.Path
        The data set's folder.
    files : iterable of DataFile
        The files to read.
    archive : Archive
        The archive that they came from, for the messages.

    Returns
    -------
    dict of str to bytes
        The contents of each file by its name.

    Raises
    ------
    OSError
        If files are missing or differ from the published ones. One message lists all of them, says how each
        differs (truncated, re-encoded, other line ends, changed) and what to do.
    """
    contents, problems = {}, []
    for file in files:
        path = folder / file.name
        if not path.is_file():
            problems.append(f"{file.name}: the file is missing.")
            continue
        contents[file.name] = path.read_bytes()
        if difference := _difference(file, contents[file.name]):
            problems.append(f"{file.name}: {difference}")
    if problems:
        raise damaged(archive, folder, problems)
    return contents


def damaged(source: Archive | Collection, folder: Path, problems: Iterable[str]) -> OSError:
    """Make the error that lists what is wrong with the files of a data set, and says what to do."""
    listed = "\n".join(f"- {problem}" for problem in problems)
    return OSError(
        f"{source.title} in {folder} is not what was published:\n{listed}\n{_remedies_for_damage(source, folder)}"
    )


def _remedies(source: Archive | Collection, first: str) -> str:
    elsewhere = (
        f"download {source.url} on another machine and unpack it in the data home."
        if isinstance(source, Archive)
        else f"download {', '.join(source.tables)} from {source.url} on another machine into {source.folder}/ there."
    )
    return (
        f"1. {first}\n"
        f"2. If you have it elsewhere: pass data_home=, the folder that holds {source.folder}/, or set the "
        f"environment variable {_ENVIRONMENT_VARIABLE} to that folder.\n"
        f"3. Without a network here: {elsewhere}"
    )


def _remedies_for_damage(source: Archive | Collection, folder: Path) -> str:
    yourself = (
        f"Unpack {source.url} there yourself, leaving encoding and line ends of the files alone."
        if isinstance(source, Archive)
        else f"Download the files from {source.url} there yourself, and leave them compressed."
    )
    return (
        f"1. Move or delete the folder {folder} and call again: it is then downloaded anew.\n"
        f"2. {yourself}\n"
        f"3. Keep this folder and use another one: data_home=... or {_ENVIRONMENT_VARIABLE}."
    )


def _workspace(source: Archive | Collection, data_home: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a folder beside the target, since a rename is atomic within one file system only."""
    try:
        data_home.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=data_home, prefix=f".{source.folder}-download-")
    except OSError as error:
        raise OSError(
            f"{source.title} cannot be saved: {data_home} cannot be written ({error}).\n"
            f"{_remedies(source, 'Make the folder writable, or pass a data_home= that is.')}"
        ) from error


@contextmanager
def _disk_errors(source: Archive | Collection, data_home: Path) -> Iterator[None]:
    """Say what to do where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        first = "Make room there, or pass a data_home= on another disk."
        raise OSError(
            f"{source.title} cannot be saved: the disk of {data_home} is full ({error}). Nothing was kept.\n"
            f"{_remedies(source, first)}"
        ) from error


def _download_archive(archive: Archive, workspace: Path) -> Path:
    zipped = workspace / "archive.zip"
    _download(archive, archive.url, zipped)
    _check_archive(archive, zipped)
    return _unpack(archive, zipped, workspace / "unpacked")


def _download_collection(source: Collection, workspace: Path) -> Path:
    folder = workspace / source.folder
    folder.mkdir()
    first = "A proxy or a login page may have answered instead: open the address in a browser, call again."
    tables = Tables(f"What {source.url} sent is not {source.title}", folder, _remedies(source, first))
    for name, schema in source.tables.items():
        _download(source, f"{source.url}/{name}", folder / name)
        tables.check(name, schema)
    return folder


def _download(source: Archive | Collection, url: str, target: Path) -> None:
    for remaining in reversed(range(_RETRIES + 1)):
        try:
            _download_once(url, target)
        except (OSError, EOFError, HTTPException) as error:
            if getattr(error, "errno", None) in _NO_ROOM:
                raise
            if isinstance(error, HTTPError):
                error.close()  # it holds the connection
            if remaining == 0 or not _may_pass(error):
                first = "Check the connection (and HTTPS_PROXY, behind a proxy); call again."
                raise OSError(
                    f"{source.title} could not be downloaded from {url}: {error}.\n{_remedies(source, first)}"
                ) from error
            # Said aloud, as scikit-learn does: a call that takes seconds longer should tell why.
            warnings.warn(f"Downloading {url} failed ({error}); trying again.", stacklevel=5)
            time.sleep(_SECONDS_BETWEEN_RETRIES)
        else:
            return


def _download_once(url: str, target: Path) -> None:
    request = urllib.request.urlopen(url, timeout=_SECONDS_WITHOUT_AN_ANSWER)  # of constants  # nosec B310
    with request as answer, target.open("wb") as file:
        shutil.copyfileobj(answer, file)
        announced = answer.headers.get("Content-Length")
    received = target.stat().st_size
    # Reading in chunks ends without an error when the connection breaks.
    if announced is not None and received != int(announced):
        raise EOFError(f"the connection broke after {received:,} of {int(announced):,} bytes")


def _may_pass(error: Exception) -> bool:
    """Tell whether another attempt can succeed: not after a refusal such as 404 Not Found."""
    return not isinstance(error, HTTPError) or error.code >= 500 or error.code == 429


def _check_archive(archive: Archive, zipped: Path) -> None:
    with zipped.open("rb") as file:
        seen = hashlib.file_digest(file, "sha256").hexdigest()
    if seen != archive.sha256:
        first = "A proxy or a login page may have answered instead: open the address in a browser, call again."
        raise OSError(
            f"What {archive.url} sent is not the archive of {archive.title}: its {zipped.stat().st_size:,} "
            f"bytes have the SHA256 checksum {seen}, expected {archive.sha256}. Nothing was kept.\n"
            f"{_remedies(archive, first)}"
        )


def _unpack(archive: Archive, zipped: Path, target: Path) -> Path:
    with zipfile.ZipFile(zipped) as opened:
        if unsafe := [name for name in opened.namelist() if _leads_outside(name)]:
            raise OSError(
                f"The archive of {archive.title} was not unpacked: it would write outside its folder, at {unsafe[0]!r}."
            )
        opened.extractall(target)
    unpacked = target / archive.folder
    if not unpacked.is_dir():
        raise OSError(f"The archive of {archive.title} from {archive.url} holds no folder {archive.folder!r}.")
    return unpacked


def _leads_outside(name: str) -> bool:
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    return posix.is_absolute() or bool(windows.drive or windows.root) or ".." in windows.parts


def _move_into_place(unpacked: Path, folder: Path) -> None:
    try:
        os.replace(unpacked, folder)
    except OSError:
        # Another process that downloaded at the same time was faster: its folder is as good.
        if not folder.is_dir():
            raise


def _difference(file: DataFile, content: bytes) -> str | None:
    """Say how the content differs from the published file, or None if it does not."""
    if _is_published(content, file):
        return None
    if len(content) < file.size:
        return f"{len(content):,} of {file.size:,} bytes: the file is truncated, or was changed."
    # Git, editors and unpackers convert text files, so the usual conversions are undone and compared.
    unix_lines = content.replace(b"\r\n", b"\n")
    if _is_published(unix_lines, file):
        return "the line ends were converted to Windows ones."
    for encoding in ("utf-8-sig", "utf-16"):
        if _is_published(_recoded(unix_lines, encoding, file.encoding), file):
            return f"the text was re-encoded from {file.encoding} to {encoding.removesuffix('-sig')}."
    return f"the contents were changed ({len(content):,} bytes, published {file.size:,})."


def _is_published(content: bytes, file: DataFile) -> bool:
    return len(content) == file.size and file.sha256 in (None, hashlib.sha256(content).hexdigest())


def _recoded(content: bytes, seen: str, published: str) -> bytes:
    try:
        return content.decode(seen).encode(published)
    except UnicodeError:
        return b""
