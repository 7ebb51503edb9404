"""What a language model is asked: prompts from files, around data that cannot break out of their fence.

Each file in the folder ``prompts`` begins with lines of ``#`` that give its version and its source; after a blank
line comes the prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from string import Template
from typing import NamedTuple


class Message(NamedTuple):
    """What is said to a model: a prompt, and data between tags.

    Parameters
    ----------
    before : str
        The prompt, and the tag that opens the data.
    data : str
        The data.
    after : str
        The tag that closes them, and what to answer.
    tag : str
        The name of the tags, which is not in the data.
    """

    before: str
    data: str
    after: str
    tag: str

    def __str__(self) -> str:
        return self.before + self.data + self.after


def compose(prompt: str, data: str, **blanks: object) -> Message:
    """Put a prompt around data, between tags that do not occur in them.

    Parameters
    ----------
    prompt : str
        The name of the prompt.
    data : str
        Data that others wrote.
    **blanks : object
        What to fill into the prompt; settings of the user who runs the rewriter, not data.

    Returns
    -------
    Message
        What to say to the model.
    """
    tag = _tag(data)
    return Message(
        f"{read_prompt(prompt, **blanks)}\n\n{read_prompt('data', tag=tag)}\n\n<{tag}>\n",
        data,
        f"\n</{tag}>\n\n{read_prompt('end')}",
        tag,
    )


def read_prompt(name: str, **blanks: object) -> str:
    """Read a prompt, and fill in its blanks.

    Parameters
    ----------
    name : str
        Its name.
    **blanks : object
        The values of its blanks.

    Returns
    -------
    str
        The prompt.
    """
    return Template(_read(name).partition("\n\n")[2].strip()).substitute(blanks)


def hash_prompts(names: Iterable[str]) -> str:
    """Hash the files of prompts, and of what stands around all of them.

    Parameters
    ----------
    names : iterable of str
        The names of the prompts.

    Returns
    -------
    str
        Hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in [*names, "data", "end"]:
        digest.update(f"{name}\n{_read(name)}\n".encode())
    return digest.hexdigest()


def seed_of(seed: int, *parts: str) -> int:
    """Make the seed of one question, which hangs on the text as well.

    Parameters
    ----------
    seed : int
        The seed that was asked for.
    *parts : str
        What is asked, and of which text.

    Returns
    -------
    int
        A number of 31 bits, which every server takes.
    """
    digest = hashlib.blake2b(repr((int(seed), parts)).encode("utf-8", "surrogatepass"), digest_size=4)
    return int.from_bytes(digest.digest(), "little") >> 1


def _tag(data: str) -> str:
    """Derive a tag from the data that is not among them."""
    number = 0
    while True:
        digest = hashlib.blake2b(f"{number} {data}".encode("utf-8", "surrogatepass"), digest_size=4)
        tag = f"data-{digest.hexdigest()}"
        if tag not in data:
            return tag
        number += 1


@lru_cache
def _read(name: str) -> str:
    return resources.files("skllm4es.rewriters").joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8")
