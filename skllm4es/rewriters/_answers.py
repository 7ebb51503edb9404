"""Cleaning of answers: a language model's answer without the talk around it.

Nothing is removed that may come from the data: a value of an event can look like a code fence or a thought.
"""

from __future__ import annotations

import re

from skllm4es.rewriters._prompts import Message
from skllm4es.serialize import parse_events

_THOUGHT = re.compile(r"\A\s*<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_END_OF_THOUGHT = "</think>"
_FENCE = re.compile(r"^(```+|~~~+)[^\n`]*\n(.*?)\n?^\1[ \t]*$", re.DOTALL | re.MULTILINE)
_GREETING = r"(?:sure|certainly|of course|okay|absolutely)(?: thing)?"
_HERE = r"(?:here|below)(?:['\u2019]s| is| are| you (?:go|are))"
_LABEL = r"answer|output|result|response|rewritten text"
#: A greeting or a label before the text. The named groups are words that could also come from the data.
_OPENING = re.compile(
    rf"\A(?:(?P<greeting>{_GREETING})[!.,:]*[ ]*)?"
    rf"(?:(?P<here>{_HERE})\b(?:[^\n]*:|[^\n]*\b(?:rewritten|requested|converted|reformatted)\b[^\n.:,]*)[ ]*\n+"
    rf"|[*#]*[ ]*(?P<label>{_LABEL})(?::\*\*|\*\*:|:)[ ]*\n*"
    r"|(?(greeting)\n+|(?!)))",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"\n\s*\n[*_(]*(?P<words>(?:please )?let me know|i hope (?:this|that)|feel free|would you like|note(?= that|\**:))"
    r"\b[^\n]*\Z",
    re.IGNORECASE,
)

_THOUSANDS = re.compile(r"(?<=[0-9])[, ](?=[0-9]{3}(?![0-9]))")


def clean_answer(answer: str, message: Message) -> str:
    """Remove thoughts, tags, a code fence, and words of greeting and farewell from the answer to a message.

    The text is empty if nothing else remains.
    """
    text = _without_thought(answer, message.data)
    for tag in (f"<{message.tag}>", f"</{message.tag}>"):
        text = text.replace(tag, "")
    text = _without_chatter(text.strip(), message.data)
    return _inside_fence(text, message.data).strip("\n").rstrip()


def _without_thought(text: str, data: str) -> str:
    thought = _THOUGHT.match(text)
    if thought and f"<{thought[1]}>" not in data:
        text = text[thought.end() :]
    # The chat templates of some models open the thought, so that only its end is in the answer.
    return text if _END_OF_THOUGHT in data else text.rpartition(_END_OF_THOUGHT)[2]


def _without_chatter(text: str, data: str) -> str:
    opening = _OPENING.match(text)
    if opening and _is_chatter(opening, data):
        text = text[opening.end() :]
    while (closing := _CLOSING.search(text)) and _is_chatter(closing, data) and not _holds_values(closing[0], data):
        text = text[: closing.start()]
    return text


def _holds_values(paragraph: str, data: str) -> bool:
    """Whether a number of the data, in any notation of numbers and dates, or another whole value is in a paragraph."""
    if not set(_numbers(paragraph)).isdisjoint(_numbers(data)):
        return True
    try:
        rows = parse_events(data).rows
    except ValueError:  # A summary of events, not the events themselves.
        return False
    values = {value.strip().casefold() for row in rows for value in row}
    words = paragraph.casefold()
    return any(value in words and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", words) for value in values if value)


def _numbers(text: str) -> list[str]:
    return re.findall(r"[0-9]+", _THOUSANDS.sub("", text))


def _is_chatter(found: re.Match[str], data: str) -> bool:
    """Whether none of the words found occurs in the data."""
    words = [word for word in found.groups() if word]
    return not any(re.search(rf"\b{re.escape(word)}\b", data, re.IGNORECASE) for word in words)


def _inside_fence(text: str, data: str) -> str:
    """Return the content of a code fence if that is most of the text, or else the text."""
    if any(fence in data for fence in ("```", "~~~")):
        whole = re.fullmatch(r"(```+|~~~+)[^\n`]*\n(.*)\n\1", text.strip(), re.DOTALL)
        return whole[2] if whole else text
    longest = max(_FENCE.finditer(text), key=lambda match: len(match[0]), default=None)
    return longest[2] if longest and 2 * len(longest[0]) > len(text) else text
