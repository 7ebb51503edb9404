"""The cache of rewritten texts on disk, so that no rewriting is paid for twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from skllm4es._messages import warn
from skllm4es._store import Store, hash_of
from skllm4es.rewriters._base import UnusableAnswerError

_SCHEMA = "CREATE TABLE rewrites (key BLOB PRIMARY KEY, value BLOB NOT NULL, digest BLOB NOT NULL)"
_MAX_VARIABLES = 500  # of one SQL statement


class RewriteCache:
    """Rewritten texts in one file of a directory, which several processes may share.

    Each text is stored under a hash of everything that the rewriting depends on. The error of an unusable answer is
    stored under a key derived from this, because asking again would cost as much and give the same. The methods raise
    an `OSError` if the file is damaged or was not written by this package.
    """

    def __init__(self, directory: Path) -> None:
        self._store = Store(directory / "rewrites.sqlite", _SCHEMA, "rewritings")

    def read(self, keys: Sequence[bytes]) -> dict[bytes, str | UnusableAnswerError]:
        """Return the cached texts and errors among the keys. Damaged ones are skipped, with a warning."""
        found: dict[bytes, str | UnusableAnswerError] = {}
        errors = {_key_of_error(key): key for key in keys}
        stored, damaged = [*keys, *errors], set()
        with self._store.connection() as connection:
            for start in range(0, len(stored), _MAX_VARIABLES):
                batch = stored[start : start + _MAX_VARIABLES]
                marks = ",".join("?" * len(batch))
                query = f"SELECT key, value, digest FROM rewrites WHERE key IN ({marks})"  # only ?  # nosec B608
                for key, value, digest in connection.execute(query, batch):
                    if hash_of(key, value) != digest:
                        damaged.add(errors.get(key, key))
                        continue
                    text = value.decode("utf-8", "surrogatepass")
                    if key in errors:
                        found.setdefault(errors[key], UnusableAnswerError(text))
                    else:
                        found[key] = text
        if n_damaged := len(damaged - found.keys()):
            warn(f"{n_damaged} of the texts in {self._store.file} are damaged and will be rewritten again.")
        return found

    @contextmanager
    def writing(self) -> Iterator[Callable[[bytes, str | UnusableAnswerError], None]]:
        """Open the file, and yield a function that stores a text or error under a key, durably from then on."""
        with self._store.connection() as connection:

            def write(key: bytes, text: str | UnusableAnswerError) -> None:
                if isinstance(text, UnusableAnswerError):
                    key = _key_of_error(key)
                value = str(text).encode("utf-8", "surrogatepass")
                row = (key, value, hash_of(key, value))
                connection.execute("INSERT OR REPLACE INTO rewrites VALUES (?, ?, ?)", row)
                connection.commit()

            yield write


def _key_of_error(key: bytes) -> bytes:
    """Return the key under which the error of a text is stored, which no text has."""
    return hash_of(key, "unusable")
