"""From texts to tokens, and from the tokens of a long text to windows that the model sees at once."""

from __future__ import annotations

import weakref
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from skllm4es.serialize._lines import end_of_line
from skllm4es.serialize._serialised import end_of_instruction

#: Characters of texts that are tokenised together: a tokenizer holds a hundred bytes for each token meanwhile.
_GROUP_CHARACTERS = 2**24

#: Whether a tokenizer drops a character, for those that were tried.
_DROPPED: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, dict[str, bool]] = weakref.WeakKeyDictionary()

_AS_PLAIN_TEXT: dict[str, Any] = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}


@dataclass(frozen=True)
class Tokenized:
    """The tokens of one text.

    Parameters
    ----------
    ids : list of int
        The tokens, without special ones.
    prefix, suffix : list of int
        The special tokens that the tokenizer puts before and after a text, such as ``<s>`` or ``[CLS]`` and ``[SEP]``.
    lines : list of int
        Where in `ids` the second, third, ... line begins; empty if it was not asked for.
    body : int
        Where in `ids` the events begin, behind an instruction and the header line; 0 if it was not asked for.
    """

    ids: list[int]
    prefix: list[int]
    suffix: list[int]
    lines: list[int]
    body: int

    def __len__(self) -> int:
        """Return the number of tokens that the model would see, special ones among them."""
        return len(self.prefix) + len(self.ids) + len(self.suffix)


@dataclass(frozen=True)
class Window:
    """Tokens that the model sees at once: a text, or a part of one behind its header.

    Parameters
    ----------
    ids : list of int
        The tokens.
    n_header : int
        How many of the first are special tokens, instruction and header line; 0 if it was not asked for.
    n_repeated : int, default=0
        How many of the first stand in an earlier window of the same text already.
    """

    ids: list[int]
    n_header: int
    n_repeated: int = 0


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, *, headers: bool = False
) -> list[Tokenized]:
    """Tokenise texts. Whatever they hold is text: control tokens such as ``<|im_end|>`` are spelled out.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        A fast tokenizer.
    texts : sequence of str
        The texts.
    max_length : int
        For texts with more tokens than this, the places of lines and events are found too.
    headers : bool, default=False
        Whether these are found for all texts.

    Returns
    -------
    list of Tokenized
        One entry per text, none without tokens.
    """
    prefix, suffix = _special_tokens(tokenizer, texts)
    encoded: list[list[int]] = []
    for group in groups_of(texts):
        encoded += tokenizer(group, **_AS_PLAIN_TEXT, return_attention_mask=False)["input_ids"]
    n_special = len(prefix) + len(suffix)
    filler = next(
        token
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
        if token is not None
    )
    return [
        Tokenized(
            ids if ids or n_special else [filler],
            prefix,
            suffix,
            *(_line_starts(tokenizer, text) if headers or len(ids) + n_special > max_length else ([], 0)),
        )
        for text, ids in zip(texts, encoded, strict=True)
    ]


def _special_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[list[int], list[int]]:
    """Find the special tokens that a tokenizer puts before and after a text, by looking at one that leaves a token."""
    some = ("a", *(character for text in texts for character in dict.fromkeys(text)))
    seen = next((text for text in some if _ids(tokenizer, text)), "a")
    plain = _ids(tokenizer, seen)
    # Whether to split is a setting of the tokenizer itself, so that another value would reach other threads.
    whole = tokenizer(seen, **_AS_PLAIN_TEXT | {"add_special_tokens": True})["input_ids"]
    starts = [i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain]
    if not starts:
        raise ValueError(
            f"{type(tokenizer).__name__} does more than put special tokens around a text: it also changes its tokens. "
            "Choose a model with another tokenizer."
        )
    return whole[: starts[0]], whole[starts[0] + len(plain) :]


def groups_of(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield texts, in order, in groups that fit into memory as tokens: 16 million characters, or one text."""
    group: list[str] = []
    n_characters = 0
    for text in texts:
        if group and n_characters + len(text) > _GROUP_CHARACTERS:
            yield group
            group, n_characters = [], 0
        group.append(text)
        n_characters += len(text)
    if group:
        yield group


def split(tokens: Tokenized, max_length: int) -> list[Window]:
    """Split a text that is longer than the window, between events if possible, and repeat its header.

    Every window has the special tokens around it.

    Parameters
    ----------
    tokens : Tokenized
        The text.
    max_length : int
        The window.

    Returns
    -------
    list of Window
        Windows of at most `max_length` tokens, in order.
    """
    if len(tokens) <= max_length:
        return [_window(tokens, 0, 0, len(tokens.ids))]
    room = max_length - len(tokens.prefix) - len(tokens.suffix)
    n_header = _n_repeatable(tokens, room)
    windows: list[Window] = []
    start = n_header
    while start < len(tokens.ids):
        limit = start + room - n_header
        end = len(tokens.ids) if limit >= len(tokens.ids) else _last_line_start(tokens.lines, start, limit)
        windows.append(_window(tokens, n_header, start, end, first=not windows))
        start = end
    return windows


def truncate(tokens: Tokenized, max_length: int) -> Window:
    """Cut a text that is longer than the window: keep its header and its latest events.

    Parameters
    ----------
    tokens : Tokenized
        The text.
    max_length : int
        The window.
    """
    if len(tokens) <= max_length:
        return _window(tokens, 0, 0, len(tokens.ids))
    room = max_length - len(tokens.prefix) - len(tokens.suffix)
    n_header = _n_repeatable(tokens, room)
    start = len(tokens.ids) - (room - n_header)
    at_line = bisect_left(tokens.lines, start)
    if at_line < len(tokens.lines):
        start = tokens.lines[at_line]
    return _window(tokens, n_header, start, len(tokens.ids))


def _window(tokens: Tokenized, n_header: int, start: int, end: int, *, first: bool = True) -> Window:
    """Return a window of the first `n_header` tokens of a text and those from `start` to `end`."""
    ids = [*tokens.prefix, *tokens.ids[:n_header], *tokens.ids[start:end], *tokens.suffix]
    # A header too long to be repeated runs on into the windows that hold it.
    rest_of_header = max(0, min(end, tokens.body) - start)
    n_before = len(tokens.prefix) + n_header
    in_header = n_before + rest_of_header if tokens.body else 0
    return Window(ids, in_header, 0 if first else n_before)


def _n_repeatable(tokens: Tokenized, room: int) -> int:
    """Return how many tokens to repeat in each window: instruction and header line, or the first line.

    They must leave half of the room; if even the first line does not, there are none.
    """
    first_line = tokens.lines[0] if tokens.lines else 0
    return next((length for length in (tokens.body, first_line) if length <= room // 2), 0)


def _last_line_start(lines: Sequence[int], after: int, limit: int) -> int:
    """Find the last place up to `limit` where a line begins, or `limit` if one line fills the whole room."""
    at = bisect_left(lines, limit + 1) - 1
    return lines[at] if at >= 0 and lines[at] > after else limit


def _line_starts(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], int]:
    """Find the tokens with which the second, third, ... line of a text begin, and the one with which its events do."""
    starts = _token_starts(tokenizer, text)
    breaks = np.array([position + 1 for position, character in enumerate(text) if character == "\n"], dtype=np.int64)
    found = np.unique(np.searchsorted(starts, breaks))
    body = np.searchsorted(starts, end_of_line(text, end_of_instruction(text)) + 1)
    return found[found < len(starts)].tolist(), int(body) if body < len(starts) else 0


def _token_starts(tokenizer: PreTrainedTokenizerBase, text: str) -> npt.NDArray[np.int64]:
    """Return where in a text each of its tokens begins.

    A tokenizer that neither knows a character nor has a token for unknown ones drops it, and then believes that the
    rest of the word, which may be the rest of the text, stands further ahead than it does. So the places are those in
    the text without such characters, if it has the same tokens.
    """
    if dropped := _dropped(tokenizer, set(text)):
        kept = [place for place, character in enumerate(text) if character not in dropped]
        shorter = "".join(text[place] for place in kept)
        if _ids(tokenizer, shorter) == _ids(tokenizer, text):
            return np.array([*kept, len(text)], dtype=np.int64)[_believed_starts(tokenizer, shorter)]
    return _believed_starts(tokenizer, text)


def _believed_starts(tokenizer: PreTrainedTokenizerBase, text: str) -> npt.NDArray[np.int64]:
    offsets = tokenizer(text, **_AS_PLAIN_TEXT, return_offsets_mapping=True)["offset_mapping"]
    return np.array([start for start, _ in offsets], dtype=np.int64)


def _dropped(tokenizer: PreTrainedTokenizerBase, characters: set[str]) -> set[str]:
    """Find out, by trying each once, which characters leave no token between two others."""
    found = _DROPPED.setdefault(tokenizer, {})
    if new := sorted(characters - found.keys()):
        without, *tried = tokenizer(["aa", *(f"a{character}a" for character in new)], **_AS_PLAIN_TEXT)["input_ids"]
        found.update((character, ids == without) for character, ids in zip(new, tried, strict=True))
    return {character for character in characters if found[character]}


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, **_AS_PLAIN_TEXT)["input_ids"]
    return ids
