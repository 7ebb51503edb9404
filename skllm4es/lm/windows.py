"""From texts to tokens, and from the tokens of a long text to windows that the model sees at once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from skllm4es.serialize._lines import end_of_line
from skllm4es.serialize._serialised import end_of_instruction

#: Characters of texts that are tokenised together: a tokenizer holds a hundred bytes for each token meanwhile.
_GROUP_CHARACTERS = 2**24


@dataclass(frozen=True)
class Tokenized:
    """The tokens of one text.

    Parameters
    ----------
    ids : list of int
        The tokens.
    lines : list of int
        Where the second, third, ... line begins; empty if it was not asked for.
    body : int
        Where the events begin, behind an instruction and the header line; 0 if it was not asked for.
    """

    ids: list[int]
    lines: list[int]
    body: int


@dataclass(frozen=True)
class Window:
    """Tokens that the model sees at once: a text, or a part of one behind its header.

    Parameters
    ----------
    ids : list of int
        The tokens.
    n_header : int
        How many of the first are instruction and header line; 0 if it was not asked for.
    """

    ids: list[int]
    n_header: int


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, *, headers: bool = False
) -> list[Tokenized]:
    """Tokenise texts, with the special tokens at their beginning.

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
    encoded: list[list[int]] = []
    for group in groups_of(texts):
        encoded += tokenizer(group, add_special_tokens=True, return_attention_mask=False, verbose=False)["input_ids"]
    filler = next(
        token
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
        if token is not None
    )
    return [
        Tokenized(ids or [filler], *(_line_starts(tokenizer, text) if headers or len(ids) > max_length else ([], 0)))
        for text, ids in zip(texts, encoded, strict=True)
    ]


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
    if len(tokens.ids) <= max_length:
        return [Window(tokens.ids, tokens.body)]
    header = _header(tokens, max_length)
    room = max_length - len(header)
    windows = []
    start = len(header)
    while start < len(tokens.ids):
        end = _last_line_start(tokens.lines, start, start + room)
        if start + room >= len(tokens.ids):
            end = len(tokens.ids)
        windows.append(Window(header + tokens.ids[start:end], len(header)))
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
    if len(tokens.ids) <= max_length:
        return Window(tokens.ids, tokens.body)
    header = _header(tokens, max_length)
    start = len(tokens.ids) - (max_length - len(header))
    at_line = bisect_left(tokens.lines, start)
    if at_line < len(tokens.lines):
        start = tokens.lines[at_line]
    return Window(header + tokens.ids[start:], len(header))


def _header(tokens: Tokenized, max_length: int) -> list[int]:
    """Return the tokens to repeat in each window: instruction and header line, or the first line.

    They must leave half of the window; if even the first line does not, there are none.
    """
    first_line = tokens.lines[0] if tokens.lines else 0
    length = next((length for length in (tokens.body, first_line) if length <= max_length // 2), 0)
    return tokens.ids[:length]


def _last_line_start(lines: Sequence[int], after: int, limit: int) -> int:
    """Find the last place up to `limit` where a line begins, or `limit` if one line fills the whole room."""
    at = bisect_left(lines, limit + 1) - 1
    return lines[at] if at >= 0 and lines[at] > after else limit


def _line_starts(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], int]:
    """Find the tokens with which the second, third, ... line of a text begin, and the one with which its events do."""
    offsets = tokenizer(text, add_special_tokens=True, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    # Special tokens at the end have the offset 0; the search below needs rising ones.
    starts = np.maximum.accumulate([start for start, _ in offsets])
    breaks = np.array([position + 1 for position, character in enumerate(text) if character == "\n"], dtype=np.int64)
    found = np.unique(np.searchsorted(starts, breaks))
    body = np.searchsorted(starts, end_of_line(text, end_of_instruction(text)) + 1)
    return found[found < len(starts)].tolist(), int(body) if body < len(starts) else 0
