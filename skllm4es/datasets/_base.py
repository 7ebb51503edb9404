"""Data sets on disk: where they are kept, how they get there, and whether they are as published.

The ``fetch_*`` functions call :func:`fetch_folder` and :func:`read_verified` (files compared with those published), or
:func:`fetch_tables` (csv files, checked as they are read). A download either completes or leaves nothing: it is made in
a folder of its own and moved into place by one rename.
"""

import errno
import hashlib
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pyarrow as pa

from skllm4es._messages import warn
from skllm4es.datasets._tables import DataSetError, Tables

_ENVIRONMENT_VARIABLE = "SKLLM4ES_DATA"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Seconds without a byte after which a download has failed, and seconds to wait before each further attempt.
_TIMEOUT, _PAUSES = 60.0, (1, 4, 16)


@dataclass(frozen=True)
class DataFile:
    """A published file.

    Parameters
    ----------
    name : str
        Name within the folder of the data set.
    size : int
        Size in bytes.
    sha256 : str, default=None
        Checksum of the contents, if published.
    encoding : str, default="ascii"
        Encoding of the text, used only to recognise a file that was re-encoded.
    n_rows : int, default=None
        Number of lines, if published.
    """

    name: str
    size: int
    sha256: str | None = None
    encoding: str = "ascii"
    n_rows: int | None = None


class Source(Protocol):
    """Where a data set is published."""

    @property
    def title(self) -> str:
        """Name of the data set."""

    @property
    def url(self) -> str:
        """Address of the data."""

    @property
    def folder(self) -> str:
        """Name of the data set's folder in the data home."""

    @property
    def by_hand(self) -> str:
        """How to download it without this package."""

    @property
    def replacement(self) -> str:
        """How to replace a damaged folder by hand."""

    def download(self, workspace: Path) -> Path:
        """Download the data into a folder below `workspace`, and return it."""


@dataclass(frozen=True)
class Archive:
    """A published zip archive that holds one top-level folder, which becomes the folder of the data set."""

    title: str
    url: str
    sha256: str
    folder: str
    files: tuple[DataFile, ...] = ()

    @property
    def by_hand(self) -> str:
        """How to download it without this package."""
        return f"download {self.url} on another machine and unpack it in the data home."

    @property
    def replacement(self) -> str:
        """How to replace a damaged folder by hand."""
        return f"Unpack {self.url} there yourself, leaving encoding and line ends of the files alone."

    def download(self, workspace: Path) -> Path:
        """Download and unpack the archive; return the folder of the data set."""
        with zipfile.ZipFile(download(self, self.url, workspace, self.sha256)) as archive:
            if unsafe := [name for name in archive.namelist() if _leads_outside(name)]:
                raise DataSetError(
                    f"The archive of {self.title} was not unpacked: it would write outside its folder, at "
                    f"{unsafe[0]!r}."
                )
            archive.extractall(workspace / "unpacked")
        folder = workspace / "unpacked" / self.folder
        if not folder.is_dir():
            raise DataSetError(f"The archive of {self.title} from {self.url} holds no folder {self.folder!r}.")
        return folder


@dataclass(frozen=True)
class Collection:
    """Published csv files, each at ``url/name``.

    Parameters
    ----------
    title, url, folder : str
        Name of the data set, address of the files, and name of the data set's folder in the data home.
    tables : mapping of str to pyarrow.Schema
        The columns that are read, by file.
    n_rows : mapping of str to int
        The numbers of rows that are published, by file.
    """

    title: str
    url: str
    tables: Mapping[str, pa.Schema]
    folder: str
    n_rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def by_hand(self) -> str:
        """How to download the files without this package."""
        return f"download {', '.join(self.tables)} from {self.url} on another machine into {self.folder}/ there."

    @property
    def replacement(self) -> str:
        """How to replace a damaged folder by hand."""
        return f"Download the files from {self.url} there yourself, and leave them compressed."

    def download(self, workspace: Path) -> Path:
        """Download the files; return the folder of the data set."""
        folder = workspace / self.folder
        folder.mkdir()
        tables = Tables(f"What {self.url} sent is not {self.title}", folder, remedies(self, _LOGIN_PAGE))
        for name, schema in self.tables.items():
            download(self, f"{self.url}/{name}", folder)
            tables.check(name, schema)
        return folder


_LOGIN_PAGE = "A proxy or a login page may have answered instead: open the address in a browser, then call again."


def get_data_home(data_home: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds the data sets.

    Parameters
    ----------
    data_home : str or path-like, default=None
        The folder. If None, the environment variable ``SKLLM4ES_DATA``, or ``~/skllm4es_data`` if that is not set. A
        leading ``~`` stands for the home folder of the user.

    Returns
    -------
    pathlib.Path
        The folder. It need not exist: the first download creates it.

    Examples
    --------
    >>> from skllm4es.datasets import get_data_home
    >>> get_data_home("some_folder").name
    'some_folder'
    """
    if data_home is None:
        data_home = os.environ.get(_ENVIRONMENT_VARIABLE) or Path("~", "skllm4es_data")
    return Path(data_home).expanduser()


def fetch_tables(source: Collection, data_home: str | os.PathLike[str] | None, *, download_if_missing: bool) -> Tables:
    """Return the reader of csv files, after `fetch_folder`."""
    folder = fetch_folder(source, data_home, download_if_missing=download_if_missing)
    return Tables(source.title, folder, remedies_for_damage(source, folder), source.n_rows)


def fetch_folder(source: Source, data_home: str | os.PathLike[str] | None, *, download_if_missing: bool = True) -> Path:
    """Return the folder of a data set, which is downloaded if it does not exist. An existing one is not checked.

    Raises
    ------
    OSError
        If the folder is absent and may not or cannot be downloaded. Nothing is left behind.
    """
    home = get_data_home(data_home)
    folder = home / source.folder
    if folder.is_dir():
        return folder
    if not download_if_missing:
        raise DataSetError(
            f"{source.title} was not found: there is no folder {folder}, and download_if_missing=False forbids the "
            f"download.\n{remedies(source, 'Allow the download: download_if_missing=True.')}"
        )
    try:
        home.mkdir(parents=True, exist_ok=True)
        # Within the data home, because a rename is atomic within one file system only.
        with tempfile.TemporaryDirectory(dir=home, prefix=f".{source.folder}-download-") as workspace:
            _move_into_place(source.download(Path(workspace)), folder)
    except DataSetError:
        raise
    except OSError as error:
        if error.errno in _DISK_FULL:
            reason = f"the disk of {home} is full"
            remedy = "Make room there, or pass a data_home= on another disk."
        else:
            reason = f"{home} cannot be written"
            remedy = "Make the folder writable, or pass a data_home= that is."
        raise DataSetError(
            f"{source.title} cannot be saved: {reason} ({error}). Nothing was kept.\n{remedies(source, remedy)}"
        ) from error
    return folder


def read_verified(archive: Archive, folder: Path) -> dict[str, bytes]:
    """Read the files of a data set, and compare them with what was published.

    Raises
    ------
    OSError
        If files are missing or differ from the published ones. One message lists all of them, says how each
        differs (truncated, re-encoded, other line ends, changed) and what to do.
    """
    contents, problems = {}, []
    for file in archive.files:
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


def damaged(source: Archive, folder: Path, problems: Iterable[str]) -> DataSetError:
    """Return the error that lists what is wrong with the files of a data set, and says what to do."""
    listed = "\n".join(f"- {problem}" for problem in problems)
    return DataSetError(
        f"{source.title} in {folder} is not what was published:\n{listed}\n{remedies_for_damage(source, folder)}"
    )


def remedies(source: Source, first: str) -> str:
    return (
        f"1. {first}\n"
        f"2. If you have it elsewhere: pass data_home=, the folder that holds {source.folder}/, or set the "
        f"environment variable {_ENVIRONMENT_VARIABLE} to that folder.\n"
        f"3. Without a network here: {source.by_hand}"
    )


def remedies_for_damage(source: Source, folder: Path) -> str:
    return (
        f"1. Move or delete the folder {folder} and call again: it is then downloaded again.\n"
        f"2. {source.replacement}\n"
        f"3. Keep this folder and use another one: data_home=... or {_ENVIRONMENT_VARIABLE}."
    )


def download(source: Source, url: str, folder: Path, sha256: str | None = None) -> Path:
    """Download one file of a data set into a folder; return its path.

    Raises
    ------
    OSError
        If the download fails, even when repeated, or the file has another checksum.
    """
    path = folder / PurePosixPath(urlsplit(url).path).name
    try:
        _retrieve(url, path)
        if sha256 is not None:
            with path.open("rb") as file:
                received = hashlib.file_digest(file, "sha256").hexdigest()
            if received != sha256:
                raise OSError(f"the SHA256 checksum of what came ({received}) is not the expected ({sha256})")
    except (OSError, HTTPException) as error:
        if getattr(error, "errno", None) in _DISK_FULL:
            raise
        first = f"Check the connection (and HTTPS_PROXY, behind a proxy). {_LOGIN_PAGE}"
        raise DataSetError(
            f"{source.title} could not be downloaded from {url}: {error}\n{remedies(source, first)}"
        ) from error
    return path


def _retrieve(url: str, path: Path) -> None:
    """Download a file, up to three times more after failures that may pass."""
    for pause in _PAUSES:
        try:
            return _retrieve_once(url, path)
        except (OSError, HTTPException) as error:
            if not _may_pass(error):
                raise
            warn(f"Retry downloading from {url} in {pause} s: {error}")
        time.sleep(pause)
    return _retrieve_once(url, path)


def _retrieve_once(url: str, path: Path) -> None:
    try:
        with urlopen(url, timeout=_TIMEOUT) as answer, path.open("wb") as file:  # nosec B310: published addresses
            shutil.copyfileobj(answer, file)
            announced, n_bytes = answer.headers["Content-Length"], file.tell()
    except HTTPError as error:
        error.close()  # It holds the connection.
        raise
    if announced is not None and n_bytes < int(announced):
        raise ConnectionError(f"it broke off: only {n_bytes} out of {announced} bytes came")


def _may_pass(error: OSError | HTTPException) -> bool:
    if isinstance(error, HTTPError):
        busy = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
        return error.code >= HTTPStatus.INTERNAL_SERVER_ERROR or error.code in busy
    return isinstance(error, URLError | TimeoutError | ConnectionError | HTTPException)


def _leads_outside(name: str) -> bool:
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    return posix.is_absolute() or bool(windows.drive or windows.root) or ".." in windows.parts


def _move_into_place(downloaded: Path, folder: Path) -> None:
    try:
        os.replace(downloaded, folder)
    except OSError:
        # Another process that downloaded at the same time was faster: its folder is as good.
        if not folder.is_dir():
            raise


def _difference(file: DataFile, content: bytes) -> str | None:
    """Return how the content differs from the published file, or None if it does not."""
    if _is_published(content, file):
        n_rows = content.count(b"\n")
        return None if file.n_rows in (None, n_rows) else f"{n_rows:,} rows, published {file.n_rows:,}."
    if len(content) < file.size:
        return f"{len(content):,} of {file.size:,} bytes: the file is truncated, or was changed."
    # Git, editors and unpackers convert text files, so undo the usual conversions and compare again.
    unix_lines = content.replace(b"\r\n", b"\n")
    if _is_published(unix_lines, file):
        return "the line ends were converted to Windows ones."
    for encoding in ("utf-8-sig", "utf-16"):
        if _is_published(_recode(unix_lines, encoding, file.encoding), file):
            return f"the text was re-encoded from {file.encoding} to {encoding.removesuffix('-sig')}."
    return f"the contents were changed ({len(content):,} bytes, published {file.size:,})."


def _is_published(content: bytes, file: DataFile) -> bool:
    return len(content) == file.size and file.sha256 in (None, hashlib.sha256(content).hexdigest())


def _recode(content: bytes, seen: str, published: str) -> bytes:
    try:
        return content.decode(seen).encode(published)
    except UnicodeError:
        return b""
