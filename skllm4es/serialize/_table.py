"""The events of one user as strings: what a text says, in whatever form."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EventTable:
    r"""The events of one user, read back from a text.

    Parameters
    ----------
    header : list of str
        The feature names, in the order of the text.
    rows : list of list of str
        One list per event, earliest first, each as long as `header`. Values are the strings of the text; a missing
        value is what the serializer wrote for it, by default the empty string.

    Examples
    --------
    >>> from skllm4es.serialize import parse_events
    >>> parse_events("title|rating\nHeat, 5")
    EventTable(header=['title', 'rating'], rows=[['Heat', '5']])
    """

    header: list[str]
    rows: list[list[str]]
