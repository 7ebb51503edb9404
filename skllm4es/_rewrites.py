"""What language models have rewritten, kept on disk, so that no rewriting is paid for twice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from skllm4es._store import Store, hash_of

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
        folder.mkdir(parents=True, exist_ok=True)
        self._store = Store(folder / "rewrites.sqlite", _SCHEMA, "rewritings")

    def read(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Find rewritten texts.

        Parameters
        ----------
        keys : sequence of bytes
            Hashes of all that determines each rewriting.

        Returns
        -------
        dict of bytes to str
            The texts that are there.
        """
        found = {}
        with self._store.connection() as connection:
            for start in range(0, len(keys), _MAX_VARIABLES):
                some = keys[start : start + _MAX_VARIABLES]
                marks = ",".join("?" * len(some))
                rows = connection.execute(f"SELECT key, value, digest FROM rewrites WHERE key IN ({marks})", some)
                for key, value, digest in rows:
                    if hash_of(key, value) != digest:
                        raise self._store.broken("a text in it is damaged")
                    found[key] = value.decode("utf-8", "surrogatepass")
        return found

    def write(self, key: bytes, text: str) -> None:
        """Keep a rewritten text, from now on, whatever happens.

        Parameters
        ----------
        key : bytes
            Hash of all that determines the rewriting.
        text : str
            What the rewriter gave.
        """
        value = text.encode("utf-8", "surrogatepass")
        with self._store.connection() as connection:
            connection.execute("INSERT OR REPLACE INTO rewrites VALUES (?, ?, ?)", (key, value, hash_of(key, value)))
