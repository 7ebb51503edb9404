"""What a language model answers, without what it says around it.

Nothing is taken away that may come from the data: a value of an event can look like a fence or a thought.
"""

from __future__ import annotations

import re

from skllm4es.rewriters._prompts import Message

_THOUGHT = re.compile(r"\A\s*<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_END_OF_THOUGHT = "</think>"
_FENCE = re.compile(r"^(```+|~~~+)[^\n`]*\n(.*?)\n?^\1[ \t]*$", re.DOTALL | re.MULTILINE)
_OPENING = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|absolutely)(?: thing)?[!.,][ ]*)?"
    r"(?:\n+|(?:here|below)(?:['\u2019]s| is| are)\b[^\n]*:[ ]*\n+)",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"\n\s*\n(?:(?:please )?let me know|i hope (?:this|that)|feel free|would you like)\b[^\n]*\Z", re.IGNORECASE
)


def clean_answer(answer: str, message: Message) -> str:
    """Take off thoughts, tags, a code fence, and words of greeting and farewell.

    Parameters
    ----------
    answer : str
        What the model wrote.
    message : Message
        What it was asked.

    Returns
    -------
    str
        The text that was asked for; empty where there is none.
    """
    text = _without_thought(answer, message.data)
    for tag in (f"<{message.tag}>", f"</{message.tag}>"):
        text = text.replace(tag, "")
    text = _without_chatter(text.strip())
    return _inside_fence(text, message.data).strip("\n").rstrip()


def _without_thought(text: str, data: str) -> str:
    text = _THOUGHT.sub("", text)
    # The chat templates of some models open the thought themselves, so that its beginning is not in the answer.
    return text if _END_OF_THOUGHT in data else text.rpartition(_END_OF_THOUGHT)[2]


def _without_chatter(text: str) -> str:
    return _CLOSING.sub("", _OPENING.sub("", text))


def _inside_fence(text: str, data: str) -> str:
    """Give what a fence encloses, if that is most of the text."""
    if any(fence in data for fence in ("```", "~~~")):
        whole = re.fullmatch(r"(```+|~~~+)[^\n`]*\n(.*)\n\1", text.strip(), re.DOTALL)
        return whole[2] if whole else text
    longest = max(_FENCE.finditer(text), key=lambda match: len(match[0]), default=None)
    return longest[2] if longest and 2 * len(longest[0]) > len(text) else text
