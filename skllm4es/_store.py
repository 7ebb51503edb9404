"""One SQLite file that several processes read and write at once: what all caches of this package stand on.

The file is made whole or not at all, is checked whenever it is opened, and its rows carry a digest of themselves.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Begins the name of what is not finished yet.
DRAFT = "draft-"

# "sk4e", as SQLite stores it in the header of the file.
_APPLICATION_ID = 0x736B3465
_VERSION = 1
_WAIT = 60.0  # seconds for another process to finish writing


def hash_of(*parts: str | bytes) -> bytes:
    """Hash texts or bytes, of which each has its place.

    Parameters
    ----------
    *parts : str or bytes
        What to hash.

    Returns
    -------
    bytes
        16 bytes.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def directory_of(memory: Any, *, make: bool) -> Path | None:
    """Return the directory that a parameter `memory` means.

    Parameters
    ----------
    memory : str, path, joblib.Memory or None
        The parameter.
    make : bool
        Whether to make the directory: what only predicts, perhaps on another machine, uses one that is there.

    Returns
    -------
    pathlib.Path or None
        The directory; None if there is to be no cache.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    location = getattr(memory, "location", memory)
    if location is None:
        return None
    directory = Path(location).expanduser().absolute()
    if make:
        make_directory(directory)
    return directory if os.path.isdir(directory) else None


def umask() -> int:
    """Tell which permissions new files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def make_directory(directory: Path) -> None:
    """Make the directory of a cache, if it does not exist.

    Parameters
    ----------
    directory : pathlib.Path
        The directory.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from error


def _unusable(path: Path, error: Exception) -> OSError:
    return OSError(
        f"The cache {path} cannot be used: {error}. Check that the directory is on a local disk with room and may be "
        "written to, or choose another with memory=DIR."
    )


@dataclass(frozen=True)
class Store:
    """A file of one table.

    Parameters
    ----------
    file : pathlib.Path
        Where it is. Its directory exists.
    schema : str
        The statement that makes the table.
    contents : str
        What the table holds, for error messages: "vectors".
    """

    file: Path
    schema: str
    contents: str

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Connect, begin a transaction, and end it.

        Yields
        ------
        sqlite3.Connection
            The connection, to the file of this package and version.

        Raises
        ------
        OSError
            If the file is damaged, not one of this package, or cannot be written to.
        """
        try:
            self._create()
            with closing(sqlite3.connect(self.file, timeout=_WAIT)) as connection, connection:
                connection.execute("PRAGMA synchronous = NORMAL")  # With a log, a crash loses the last batch at most.
                self._check(connection)
                yield connection
        except sqlite3.OperationalError as error:
            raise _unusable(self.file, error) from error
        except sqlite3.DatabaseError as error:
            raise self.broken(str(error)) from error

    def broken(self, why: str) -> OSError:
        """Make the error that the file cannot be read."""
        return OSError(
            f"The cache {self.file} cannot be read: {why}. Nothing was taken from it. Delete the file, and its "
            f"{self.contents} will be computed again, or choose another directory with memory=DIR."
        )

    def _check(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION_ID:
            raise self.broken("it is a database of another program")
        if version != _VERSION:
            raise self.broken(f"it has version {version} of the format, and this package reads version {_VERSION}")
        # Triggers and views would run statements of whoever put them there.
        made = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
        if made != [(self.schema,)]:
            raise self.broken("there is more in it than the table of this package, or another one")

    def _create(self) -> None:
        """Make the file, whole or not at all, and once where several processes begin at the same time."""
        if self.file.exists():
            return
        handle, draft = tempfile.mkstemp(prefix=DRAFT, dir=self.file.parent)
        os.close(handle)
        with closing(sqlite3.connect(draft)) as connection:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            connection.execute(self.schema)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        os.chmod(draft, 0o666 & ~umask())
        with suppress(FileExistsError):  # Another process was first.
            os.link(draft, self.file)
        os.unlink(draft)
