"""Data sets on disk: where they lie, how they get there, and whether they are what was published.

The ``fetch_*`` functions call, in this order, :func:`get_data_home` (which folder), :func:`fetch_archive`
(download it, unless it is there) and :func:`read_verified` (the files' contents, compared with the checksums
in the code). A download either completes or leaves nothing: it is unpacked aside and moved into place by one
rename.
"""

import hashlib
import os
import shutil
import tempfile
import time
import urllib.request
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.error import HTTPError

_ENVIRONMENT_VARIABLE = "SKLLM4ES_DATA"
_RETRIES = 3
_SECONDS_BETWEEN_RETRIES = 1.0
_SECONDS_WITHOUT_AN_ANSWER = 60.0


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
class DataFile:
    """A file of a data set, as published.

    Parameters
    ----------
    name : str
        Name within the data set's folder.
    size : int
        Size in bytes.
    sha256 : str
        Checksum of the contents.
    encoding : str, default="ascii"
        Encoding of the text. Only used to recognise a file that was re-encoded.
    """

    name: str
    size: int
    sha256: str
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


def fetch_archive(archive: Archive, data_home: Path, *, download_if_missing: bool = True) -> Path:
    """Return the data set's folder in ``data_home``, downloading the archive where there is none.

    Parameters
    ----------
    archive : Archive
        What to download.
    data_home : pathlib.Path
        Where the data sets lie. Created when something is downloaded.
    download_if_missing : bool, default=True
        If False, raise an error instead of downloading.

    Returns
    -------
    pathlib.Path
        The folder ``data_home / archive.folder``. A folder that exists is returned as it is, unchecked.

    Raises
    ------
    OSError
        If the folder is absent and may not be, or could not be, downloaded. Nothing is left behind then.
    """
    folder = data_home / archive.folder
    if folder.is_dir():
        return folder
    if not download_if_missing:
        raise OSError(
            f"{archive.title} was not found: there is no folder {folder}, and download_if_missing=False "
            f"forbids to download it.\n{_remedies(archive, 'Allow the download: download_if_missing=True.')}"
        )
    with _workspace(archive, data_home) as workspace:
        zipped = Path(workspace, "archive.zip")
        _download(archive, zipped)
        _check_archive(archive, zipped)
        unpacked = _unpack(archive, zipped, Path(workspace, "unpacked"))
        _move_into_place(unpacked, folder)
    return folder


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
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise OSError(
            f"{archive.title} in {folder} is not what was published:\n{listed}\n"
            f"1. Move or delete the folder {folder} and call again: the archive is then downloaded anew.\n"
            f"2. Unpack {archive.url} there yourself, leaving encoding and line ends of the files alone.\n"
            f"3. Keep this folder and use another one: data_home=... or {_ENVIRONMENT_VARIABLE}."
        )
    return contents


def _remedies(archive: Archive, first: str) -> str:
    return (
        f"1. {first}\n"
        f"2. If you have it elsewhere: pass data_home=, the folder that holds {archive.folder}/, or set the "
        f"environment variable {_ENVIRONMENT_VARIABLE} to that folder.\n"
        f"3. Without a network here: download {archive.url} on another machine and unpack it in the "
        "data home."
    )


def _workspace(archive: Archive, data_home: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a folder beside the target, since a rename is atomic within one file system only."""
    try:
        data_home.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=data_home, prefix=f".{archive.folder}-download-")
    except OSError as error:
        raise OSError(
            f"{archive.title} cannot be saved: {data_home} cannot be written ({error}).\n"
            f"{_remedies(archive, 'Make the folder writable, or pass a data_home= that is.')}"
        ) from error


def _download(archive: Archive, target: Path) -> None:
    for remaining in reversed(range(_RETRIES + 1)):
        try:
            _download_once(archive.url, target)
        except (OSError, EOFError, HTTPException) as error:
            if isinstance(error, HTTPError):
                error.close()  # it holds the connection
            if remaining == 0 or not _may_pass(error):
                first = "Check the connection (and HTTPS_PROXY, behind a proxy); call again."
                raise OSError(
                    f"{archive.title} could not be downloaded from {archive.url}: {error}.\n{_remedies(archive, first)}"
                ) from error
            # Said aloud, as scikit-learn does: a call that takes seconds longer should tell why.
            warnings.warn(f"Downloading {archive.url} failed ({error}); trying again.", stacklevel=4)
            time.sleep(_SECONDS_BETWEEN_RETRIES)
        else:
            return


def _download_once(url: str, target: Path) -> None:
    with urllib.request.urlopen(url, timeout=_SECONDS_WITHOUT_AN_ANSWER) as answer, target.open("wb") as file:
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
    if _sha256(content) == file.sha256:
        return None
    if len(content) < file.size:
        return f"{len(content):,} of {file.size:,} bytes: the file is truncated, or was changed."
    # Git, editors and unpackers convert text files, so the usual conversions are undone and compared.
    unix_lines = content.replace(b"\r\n", b"\n")
    if _sha256(unix_lines) == file.sha256:
        return "the line ends were converted to Windows ones."
    for encoding in ("utf-8-sig", "utf-16"):
        if _sha256(_recoded(unix_lines, encoding, file.encoding)) == file.sha256:
            return f"the text was re-encoded from {file.encoding} to {encoding.removesuffix('-sig')}."
    return f"the contents were changed ({len(content):,} bytes, published {file.size:,})."


def _recoded(content: bytes, seen: str, published: str) -> bytes:
    try:
        return content.decode(seen).encode(published)
    except UnicodeError:
        return b""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
