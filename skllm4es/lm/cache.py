"""What is kept on disk, so that nothing is computed twice: fine-tuned models, and every text's pooled layers.

A directory with one SQLite file, which several processes read and write at once, and one folder a model.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from skllm4es._store import DRAFT, Store, hash_of, make_directory, umask

_SCHEMA = (
    "CREATE TABLE vectors (space BLOB NOT NULL, text BLOB NOT NULL, value BLOB NOT NULL, "
    "truncated INTEGER NOT NULL, digest BLOB NOT NULL, used REAL NOT NULL, PRIMARY KEY (space, text))"
)
_MAX_VARIABLES = 500
_IN_USE = 3600.0  # seconds for which a model is not dropped after it was found

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
        make_directory(self.models)
        self._store = Store(self.file, _SCHEMA, "vectors")
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
        with self._store.connection() as connection:
            for start in range(0, len(texts), _MAX_VARIABLES):
                some = texts[start : start + _MAX_VARIABLES]
                marks = ",".join("?" * len(some))
                rows = connection.execute(
                    "SELECT text, value, truncated, digest FROM vectors WHERE space = ? "
                    f"AND text IN ({marks})",  # only ?  # nosec B608
                    [space, *some],
                ).fetchall()
                for text, value, truncated, digest in rows:
                    if hash_of(space, text, value, bytes([truncated])) != digest:
                        raise self._store.broken("a vector in it is damaged")
                    found[text] = np.frombuffer(value, dtype="<f4"), bool(truncated)
                connection.execute(
                    f"UPDATE vectors SET used = ? WHERE space = ? AND text IN ({marks})",  # only ?  # nosec B608
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
        with self._store.connection() as connection:
            connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._counts["misses"] += len(rows)

    def lock_model(self, key: bytes) -> FileLock:
        """Give a lock, so that one process makes a model while others wait for it.

        Parameters
        ----------
        key : bytes
            Hash of all that makes the model.

        Returns
        -------
        filelock.FileLock
            A context manager.
        """
        return FileLock(self.models / f"{key.hex()}.lock")

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
        try:
            os.utime(folder)
        except FileNotFoundError:
            return None
        return folder

    def store_model(self, key: bytes, save: Callable[[Path], None]) -> Path:
        """Keep a model, whole or not at all. Hold its lock.

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
        for left in self.models.glob(f"{DRAFT}{folder.name}-*"):  # By a process that was killed, as we hold the lock.
            shutil.rmtree(left, ignore_errors=True)
        with new_folder(folder) as draft:
            save(draft)
        return folder

    def evict(self) -> None:
        """Drop what was used least recently, models first, until the size is within the limit.

        Models that were used within the last hour stay: other processes may be about to load them.
        """
        if self.limit is None:
            return
        for folder, _, used in sorted(self._model_folders(), key=itemgetter(2)):
            if self._size() <= self.limit or time.time() - used < _IN_USE:
                break
            remove_folder(folder)
        taken = sum(n_bytes for _, n_bytes, _ in self._model_folders())
        if taken > self.limit:
            warnings.warn(
                f"The models in {self.models} that were used within the last hour take {taken:,} bytes, more than "
                f"memory_limit={self.limit:,}: no vectors are kept beside them. Raise memory_limit.",
                UserWarning,
                stacklevel=2,
            )
        excess = self._size() - self.limit
        if excess <= 0:
            return
        with self._store.connection() as connection:
            # A tenth more than must be, so that not every batch has to drop something.
            connection.execute(
                "DELETE FROM vectors WHERE rowid IN (SELECT rowid FROM (SELECT rowid, SUM(LENGTH(value)) OVER "
                "(ORDER BY used, rowid) - LENGTH(value) AS before FROM vectors) WHERE before < ?)",
                [excess + self.limit // 10],
            )
        with self._store.connection() as connection:
            # As a script: `execute` takes its first step alone, which frees one page.
            connection.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")

    def info(self) -> CacheInfo:
        """Tell what is there.

        Returns
        -------
        CacheInfo
            Numbers and sizes.
        """
        with self._store.connection() as connection:
            (n_vectors,) = connection.execute("SELECT COUNT(*) FROM vectors").fetchone()
        counts = self._counts
        n_models = len(self._model_folders())
        return CacheInfo(counts["hits"], counts["misses"], n_vectors, n_models, self._size(), self.limit)

    def _model_folders(self) -> list[tuple[Path, int, float]]:
        """Give the models' folders, their sizes, and when they were used."""
        folders = [folder for folder in self.models.iterdir() if len(folder.name) == 32]
        found = [(folder, _n_bytes(folder.glob("*")), _modified(folder)) for folder in folders]
        return [(folder, n_bytes, used) for folder, n_bytes, used in found if used is not None]

    def _size(self) -> int:
        return _n_bytes(self.directory.glob(f"{self.file.name}*")) + sum(each[1] for each in self._model_folders())


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Make a folder, whole or not at all.

    Parameters
    ----------
    folder : pathlib.Path
        Where it shall be; there may be an empty folder.

    Yields
    ------
    pathlib.Path
        The empty folder to write into.
    """
    draft = Path(tempfile.mkdtemp(prefix=f"{DRAFT}{folder.name}-", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o777 & ~umask())
        draft.replace(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def remove_folder(folder: Path) -> None:
    """Remove a folder; where this is interrupted, nobody takes what is left for the whole.

    Parameters
    ----------
    folder : pathlib.Path
        The folder.
    """
    draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=folder.parent))
    with suppress(FileNotFoundError):  # Another process was first.
        folder.replace(draft)
    shutil.rmtree(draft, ignore_errors=True)


def _n_bytes(paths: Iterable[Path]) -> int:
    """Sum the sizes of files, some of which other processes may just remove."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
