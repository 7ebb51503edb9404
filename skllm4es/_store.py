"""One SQLite file that several processes read and write at once, the basis of all caches of this package.

The file is created whole or not at all, and checked whenever it is opened. Each cache keeps a digest beside each value.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Prefix of the names of unfinished files and folders.
DRAFT = "draft-"

# "sk4e", which SQLite stores in the header of the file.
_APPLICATION_ID = 0x736B3465
_VERSION = 1
_TIMEOUT = 60.0  # seconds that another process may take to write


def hash_of(*parts: str | bytes) -> bytes:
    """Hash texts or bytes to 16 bytes; how they are divided into parts matters."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def directory_of(memory: Any, *, make: bool) -> Path | None:
    """Return the directory of a parameter `memory`, which may be a `joblib.Memory`; None means no cache.

    `make` says whether to make it; what only predicts, perhaps on another machine, uses one that is there.
    """
    location = getattr(memory, "location", memory)
    if location is None:
        return None
    directory = Path(location).expanduser().absolute()
    if make:
        make_directory(directory)
    return directory if os.path.isdir(directory) else None


def draft_in(directory: Path, name: str = "") -> Path:
    """Return a new path for an unfinished file or folder.

    Not one of `tempfile`, whose files are private: what becomes of a draft has the permissions of any new file.
    """
    return directory / f"{DRAFT}{name}{secrets.token_hex(8)}"


def make_directory(directory: Path) -> None:
    """Create the directory of a cache if it does not exist."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from error


def _unusable(path: Path, error: Exception) -> OSError:
    return OSError(
        f"The cache {path} cannot be used: {error}. Check that its directory is writable and on a local disk with free "
        "space, or choose another with memory=DIR."
    )


@dataclass(frozen=True)
class Store:
    """A file with one table, created by `schema`; `contents`, such as "vectors", names its rows in error messages."""

    file: Path
    schema: str
    contents: str

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Connect for one transaction; raise an OSError if the file is damaged, foreign or cannot be written to."""
        try:
            self._create()
            with closing(sqlite3.connect(self.file, timeout=_TIMEOUT)) as connection, connection:
                connection.execute("PRAGMA synchronous = NORMAL")  # With a log, a crash loses at most the last batch.
                self._check(connection)
                yield connection
        except sqlite3.OperationalError as error:
            raise _unusable(self.file, error) from error
        except sqlite3.DatabaseError as error:
            raise self.broken(str(error)) from error

    def broken(self, why: str) -> OSError:
        """Return the error that the file cannot be read."""
        return OSError(
            f"The cache {self.file} cannot be read: {why}. Delete the file, and its {self.contents} will be computed "
            "again, or choose another directory with memory=DIR."
        )

    def _check(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION_ID:
            raise self.broken("it is a database of another program")
        if version != _VERSION:
            raise self.broken(f"it has version {version} of the format, and this package reads version {_VERSION}")
        # Triggers and views would run the statements of whoever added them.
        schemas = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
        if schemas != [(self.schema,)]:
            raise self.broken("it holds something other than the table of this package")

    def _create(self) -> None:
        """Create the file, whole or not at all; if several processes do so at the same time, one wins."""
        if self.file.exists():
            return
        draft = draft_in(self.file.parent)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL, 0o666))  # SQLite's own files are not for groups to write.
        try:
            with closing(sqlite3.connect(draft)) as connection:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                connection.execute(self.schema)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            os.link(draft, self.file)
        except FileExistsError:  # Another process was first.
            pass
        except OSError as error:
            raise _unusable(self.file, error) from error
        finally:
            os.unlink(draft)
