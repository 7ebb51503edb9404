"""What is kept on disk so that nothing is computed twice: fine-tuned models, and every text's pooled layers.

A directory with one SQLite file, which several processes read and write at once, and one folder per model.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from skllm4es._store import DRAFT, Store, hash_of, make_directory
from skllm4es.lm.folders import new_folder

_SCHEMA = (
    "CREATE TABLE vectors (space BLOB NOT NULL, text BLOB NOT NULL, value BLOB NOT NULL, "
    "truncated INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (space, text))"
)
_MAX_VARIABLES = 500
_KEY_LETTERS = 32

#: Hits and misses of this process, by file.
_COUNTS: dict[Path, Counter[str]] = {}


class CacheInfo(NamedTuple):
    """What a cache holds, and how often it was used.

    Parameters
    ----------
    hits : int
        Texts whose vectors this process found.
    misses : int
        Texts that this process had to embed.
    n_vectors : int
        Texts whose vectors are kept.
    n_models : int
        Models that are kept: fine-tuned ones, and those converted from GGUF files.
    n_bytes : int
        Size of all of it on disk.
    """

    hits: int
    misses: int
    n_vectors: int
    n_models: int
    n_bytes: int


class Cache:
    """Vectors and models in a directory.

    Parameters
    ----------
    directory : str or path
        Where to keep them. It is created if it does not exist.

    Raises
    ------
    OSError
        By any method, if the file is damaged or does not belong to this package.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).expanduser().absolute()
        self.file = self.directory / "vectors.sqlite"
        self.models = self.directory / "models"
        make_directory(self.models)
        self._store = Store(self.file, _SCHEMA, "vectors")
        self._counts = _COUNTS.setdefault(self.file, Counter())

    def read(self, space: bytes, texts: Sequence[bytes]) -> dict[bytes, tuple[npt.NDArray[np.float32], bool]]:
        """Find vectors.

        Parameters
        ----------
        space : bytes
            Hash of everything that changes the vector of a text.
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
                batch = texts[start : start + _MAX_VARIABLES]
                marks = ",".join("?" * len(batch))
                rows = connection.execute(
                    "SELECT text, value, truncated, digest FROM vectors WHERE space = ? "
                    f"AND text IN ({marks})",  # only ?  # nosec B608
                    [space, *batch],
                ).fetchall()
                for text, value, truncated, digest in rows:
                    if hash_of(space, text, value, bytes([truncated])) != digest:
                        raise self._store.broken("a vector in it is damaged")
                    found[text] = np.frombuffer(value, dtype="<f4"), bool(truncated)
        self._counts["hits"] += len(found)
        return found

    def write(self, space: bytes, vectors: Mapping[bytes, tuple[npt.NDArray[np.float32], bool]]) -> None:
        """Keep vectors, all of them or none.

        Parameters
        ----------
        space : bytes
            Hash of everything that changes the vector of a text.
        vectors : mapping of bytes to (ndarray, bool)
            For the hash of each text its array, of dtype float32, and whether it was truncated.
        """
        rows = []
        for text, (vector, truncated) in vectors.items():
            value = np.ascontiguousarray(vector, dtype="<f4").tobytes()
            rows.append((space, text, value, truncated, hash_of(space, text, value, bytes([truncated]))))
        with self._store.connection() as connection:
            connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?, ?)", rows)
        self._counts["misses"] += len(rows)

    def lock_model(self, key: bytes) -> FileLock:
        """Return a lock with which one process makes the model of a key while others wait for it."""
        return FileLock(self.models / f"{key.hex()}.lock")

    def find_model(self, key: bytes) -> Path | None:
        """Return the folder of the model of a key, if it is there."""
        folder = self.models / key.hex()
        return folder if folder.is_dir() else None

    def store_model(self, key: bytes, save: Callable[[Path], None]) -> Path:
        """Keep a model, whole or not at all. Hold its lock.

        Parameters
        ----------
        key : bytes
            Hash of everything that determines the model.
        save : callable of path to None
            Writes it into an empty folder.

        Returns
        -------
        pathlib.Path
            The folder where it is now.
        """
        folder = self.models / key.hex()
        # A killed process left these: nobody else writes while we hold the lock.
        for draft in self.models.glob(f"{DRAFT}{folder.name}-*"):
            shutil.rmtree(draft, ignore_errors=True)
        with new_folder(folder) as draft:
            save(draft)
        return folder

    def info(self) -> CacheInfo:
        """Count and measure what is there."""
        with self._store.connection() as connection:
            (n_vectors,) = connection.execute("SELECT COUNT(*) FROM vectors").fetchone()
        folders = [folder for folder in self.models.iterdir() if len(folder.name) == _KEY_LETTERS]
        n_bytes = _n_bytes(self.directory.glob(f"{self.file.name}*"))
        n_bytes += sum(_n_bytes(folder.glob("*")) for folder in folders)
        return CacheInfo(self._counts["hits"], self._counts["misses"], n_vectors, len(folders), n_bytes)


def _n_bytes(paths: Iterable[Path]) -> int:
    """Sum the sizes of files, some of which other processes may be about to remove."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
