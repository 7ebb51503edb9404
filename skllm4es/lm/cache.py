"""What is kept on disk, so that nothing is computed twice: fine-tuned models, and every text's pooled layers.

A directory with one SQLite file, which several processes read and write at once, and one folder a model.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# "sk4e", as SQLite stores it in the header of the file.
_APPLICATION_ID = 0x736B3465
_VERSION = 1
_WAIT = 60.0  # seconds for another process to finish writing
_MAX_VARIABLES = 500

#: Hits and misses of this process, by file.
_COUNTS: dict[Path, Counter[str]] = {}


class CacheInfo(NamedTuple):
    """What a cache holds, and what it was good for.

    Parameters
    ----------
    hits : int
        Texts whose vectors this process found.
    misses : int
        Texts that this process had to embed.
    n_vectors : int
        Texts whose vectors are kept.
    n_models : int
        Fine-tuned models that are kept.
    n_bytes : int
        Size of all of it on disk.
    limit : int or None
        The size above which what was used least recently is dropped.
    """

    hits: int
    misses: int
    n_vectors: int
    n_models: int
    n_bytes: int
    limit: int | None


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


class Cache:
    """Vectors and models in a directory.

    Parameters
    ----------
    directory : str or path
        Where to keep them. It is made if it does not exist.
    limit : int, default=None
        The size in bytes above which `evict` drops what was used least recently.

    Raises
    ------
    OSError
        By any method, if the file is damaged or not one of this package.
    """

    def __init__(self, directory: str | os.PathLike[str], limit: int | None = None) -> None:
        self.directory = Path(directory).expanduser().absolute()
        self.file = self.directory / "vectors.sqlite"
        self.models = self.directory / "models"
        self.limit = limit
        self.models.mkdir(parents=True, exist_ok=True)
        self._counts = _COUNTS.setdefault(self.file, Counter())

    def read(self, space: bytes, texts: Sequence[bytes]) -> dict[bytes, tuple[npt.NDArray[np.float32], bool]]:
        """Find vectors.

        Parameters
        ----------
        space : bytes
            Hash of all that changes the vector of a text.
        texts : sequence of bytes
            Hashes of the texts.

        Returns
        -------
        dict of bytes to (ndarray, bool)
            For each text that is there its array, flat, of dtype float32, and whether it was truncated.
        """
        found = {}
        with self._connection() as connection:
            for start in range(0, len(texts), _MAX_VARIABLES):
                some = texts[start : start + _MAX_VARIABLES]
                marks = ",".join("?" * len(some))
                rows = connection.execute(
                    f"SELECT text, value, truncated, digest FROM vectors WHERE space = ? AND text IN ({marks})",
                    [space, *some],
                ).fetchall()
                for text, value, truncated, digest in rows:
                    if hash_of(space, text, value, bytes([truncated])) != digest:
                        raise self._broken("a vector in it is damaged")
                    found[text] = np.frombuffer(value, dtype="<f4"), bool(truncated)
                connection.execute(
                    f"UPDATE vectors SET used = ? WHERE space = ? AND text IN ({marks})",
                    [time.time(), space, *some],
                )
        self._counts["hits"] += len(found)
        return found

    def write(self, space: bytes, vectors: Mapping[bytes, tuple[npt.NDArray[np.float32], bool]]) -> None:
        """Keep vectors, all of them or none.

        Parameters
        ----------
        space : bytes
            Hash of all that changes the vector of a text.
        vectors : mapping of bytes to (ndarray, bool)
            For the hash of each text its array, of dtype float32, and whether it was truncated.
        """
        now = time.time()
        rows = []
        for text, (vector, truncated) in vectors.items():
            value = np.ascontiguousarray(vector, dtype="<f4").tobytes()
            rows.append((space, text, value, truncated, hash_of(space, text, value, bytes([truncated])), now))
        with self._connection() as connection:
            connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._counts["misses"] += len(rows)

    def find_model(self, key: bytes) -> Path | None:
        """Give the folder of a model, if it is there.

        Parameters
        ----------
        key : bytes
            Hash of all that makes the model.

        Returns
        -------
        pathlib.Path or None
            The folder.
        """
        folder = self.models / key.hex()
        if not folder.is_dir():
            return None
        os.utime(folder)
        return folder

    def store_model(self, key: bytes, save: Callable[[Path], None]) -> Path:
        """Keep a model, whole or not at all.

        Parameters
        ----------
        key : bytes
            Hash of all that makes the model.
        save : callable of path to None
            Writes it into an empty folder.

        Returns
        -------
        pathlib.Path
            The folder where it is now.
        """
        folder = self.models / key.hex()
        draft = Path(tempfile.mkdtemp(prefix="draft-", dir=self.models))
        try:
            save(draft)
            draft.replace(folder)
        except OSError:
            if not folder.is_dir():  # Else another process was first, with the same model.
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return folder

    def evict(self) -> None:
        """Drop what was used least recently, models first, until the size is within the limit."""
        if self.limit is None:
            return
        for folder in sorted(self._model_folders(), key=lambda folder: folder.stat().st_mtime)[:-1]:
            if self._size() <= self.limit:
                return
            shutil.rmtree(folder, ignore_errors=True)
        excess = self._size() - self.limit
        if excess <= 0:
            return
        with self._connection() as connection:
            connection.execute(
                "DELETE FROM vectors WHERE rowid IN (SELECT rowid FROM (SELECT rowid, SUM(LENGTH(value)) OVER "
                "(ORDER BY used, rowid) - LENGTH(value) AS before FROM vectors) WHERE before < ?)",
                [excess],
            )
        with self._connection() as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def info(self) -> CacheInfo:
        """Tell what is there.

        Returns
        -------
        CacheInfo
            Numbers and sizes.
        """
        with self._connection() as connection:
            (n_vectors,) = connection.execute("SELECT COUNT(*) FROM vectors").fetchone()
        n_models = len(self._model_folders())
        counts = self._counts
        return CacheInfo(counts["hits"], counts["misses"], n_vectors, n_models, self._size(), self.limit)

    def _model_folders(self) -> list[Path]:
        return [folder for folder in self.models.iterdir() if not folder.name.startswith("draft-")]

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Connect, begin a transaction, and end it."""
        try:
            with closing(sqlite3.connect(self.file, timeout=_WAIT)) as connection, connection:
                self._prepare(connection)
                yield connection
        except sqlite3.OperationalError as error:
            raise OSError(
                f"The cache {self.file} cannot be used: {error}. Check that the directory is on a local disk with room "
                "and may be written to, or choose another with memory=DIR."
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._broken(str(error)) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = NORMAL")  # With a log, a crash may lose the last batch, nothing else.
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if (application, version) == (_APPLICATION_ID, _VERSION):
            return
        if application == _APPLICATION_ID:
            raise self._broken(f"it has version {version} of the format, and this package reads version {_VERSION}")
        if application or connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() != (0,):
            raise self._broken("it is a database of another program")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS vectors (space BLOB NOT NULL, text BLOB NOT NULL, value BLOB NOT NULL, "
            "truncated INTEGER NOT NULL, digest BLOB NOT NULL, used REAL NOT NULL, PRIMARY KEY (space, text))"
        )
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.commit()

    def _broken(self, why: str) -> OSError:
        return OSError(
            f"The cache {self.file} cannot be read: {why}. Nothing was taken from it. Delete the file, and its "
            "vectors will be computed again, or choose another directory with memory=DIR."
        )
