"""What language models have rewritten, kept on disk, so that no rewriting is paid for twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from skllm4es._messages import warn
from skllm4es._store import Store, hash_of, make_directory

_SCHEMA = "CREATE TABLE rewrites (key BLOB PRIMARY KEY, value BLOB NOT NULL, digest BLOB NOT NULL)"
_MAX_VARIABLES = 500


class RewriteCache:
    """Rewritten texts in a directory, in one file that several processes may share.

    Parameters
    ----------
    directory : str or path
        Where to keep them. It is made if it does not exist.

    Raises
    ------
    OSError
        By any method, if the file is damaged or not one of this package.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        folder = Path(directory).expanduser().absolute()
        make_directory(folder)
        self._store = Store(folder / "rewrites.sqlite", _SCHEMA, "rewritings")

    def read(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Find rewritten texts. Damaged ones are told, and count as not there.

        Parameters
        ----------
        keys : sequence of bytes
            Hashes of all that determines each rewriting.

        Returns
        -------
        dict of bytes to str
            The texts that are there.
        """
        found, n_damaged = {}, 0
        with self._store.connection() as connection:
            for start in range(0, len(keys), _MAX_VARIABLES):
                some = keys[start : start + _MAX_VARIABLES]
                marks = ",".join("?" * len(some))
                question = f"SELECT key, value, digest FROM rewrites WHERE key IN ({marks})"  # only ?  # nosec B608
                rows = connection.execute(question, some)
                for key, value, digest in rows:
                    if hash_of(key, value) == digest:
                        found[key] = value.decode("utf-8", "surrogatepass")
                    else:
                        n_damaged += 1
        if n_damaged:
            warn(f"{n_damaged} of the texts in {self._store.file} are damaged, and are rewritten anew.")
        return found

    @contextmanager
    def writing(self) -> Iterator[Callable[[bytes, str], None]]:
        """Open the file for many texts.

        Yields
        ------
        callable of (bytes, str) to None
            Keeps a text under the hash of all that determines the rewriting: from then on, whatever happens.
        """
        with self._store.connection() as connection:

            def write(key: bytes, text: str) -> None:
                value = text.encode("utf-8", "surrogatepass")
                row = (key, value, hash_of(key, value))
                connection.execute("INSERT OR REPLACE INTO rewrites VALUES (?, ?, ?)", row)
                connection.commit()

            yield write
