"""Prompts: instructions from files, and data between tags that it cannot close.

Each file in the folder ``prompts`` begins with lines of ``#`` that name its version and its source; the prompt follows
after a blank line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib import resources
from itertools import count
from string import Template
from typing import NamedTuple

#: The folder of the prompts.
FOLDER = resources.files("skllm4es.rewriters") / "prompts"


class Example(NamedTuple):
    """Data and the answer to it, both of which may come from anyone."""

    data: str
    answer: str


class Turn(NamedTuple):
    """A turn of a chat: who speaks, and data with the text around them."""

    role: str
    before: str
    data: str
    after: str

    def __str__(self) -> str:
        return self.before + self.data + self.after


class Message(NamedTuple):
    """A message to a model: `data` between tags, with the instruction before them and how to answer after them."""

    before: str
    data: str
    after: str
    #: The name of the tags, which does not occur in the data.
    tag: str
    #: What the model is shown first, as if it had been asked and had answered.
    examples: tuple[Example, ...] = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self.turns()))

    def turns(self) -> list[Turn]:
        """Return the chat up to the turn that the model is to answer; only the first turn has the instruction."""
        around = (self.before, self.after)
        turns = []
        for example in self.examples:
            turns += [Turn("user", around[0], example.data, around[1]), Turn("assistant", "", example.answer, "")]
            around = (f"<{self.tag}>\n", f"\n</{self.tag}>")
        return [*turns, Turn("user", around[0], self.data, around[1])]


def compose(prompt: str, data: str, examples: Iterable[Example] = (), source: str = "", **blanks: object) -> Message:
    """Put a prompt around data that may come from anyone, and that the model must not take for instructions.

    Parts of one `source` get the same tag, so that they share what comes before their data. The `blanks` are filled
    into the prompt; they come from the user who runs the rewriter, not from the data.
    """
    examples = tuple(examples)
    tag = _tag("\n".join([source or data, *[example.answer for example in examples]]))
    return Message(
        f"{read_prompt(prompt, **blanks)}\n\n{read_prompt('data', tag=tag)}\n\n<{tag}>\n",
        data,
        f"\n</{tag}>\n\n{read_prompt('end')}",
        tag,
        examples,
    )


def read_prompt(name: str, **blanks: object) -> str:
    """Read a prompt and fill in its blanks."""
    return Template(read_file(name).partition("\n\n")[2].strip()).substitute(blanks)


def read_file(name: str) -> str:
    """Read the file of a prompt, with its version and source."""
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def hash_prompts(names: Iterable[str]) -> str:
    """Hash the files of prompts, and of the text around every prompt, to hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name in [*names, "data", "end"]:
        digest.update(f"{name}\n{read_file(name)}\n".encode())
    return digest.hexdigest()


def seed_of(seed: int, *parts: str) -> int:
    """Derive the seed of one question, of 31 bits, which every server accepts, from a seed and the question's parts."""
    digest = hashlib.blake2b(repr((int(seed), parts)).encode("utf-8", "surrogatepass"), digest_size=4)
    return int.from_bytes(digest.digest(), "little") >> 1


def _tag(data: str) -> str:
    """Derive a tag from the data that does not occur in it."""
    digests = (
        hashlib.blake2b(f"{number} {data}".encode("utf-8", "surrogatepass"), digest_size=4) for number in count()
    )
    tags = (f"data-{digest.hexdigest()}" for digest in digests)
    return next(tag for tag in tags if tag not in data)
