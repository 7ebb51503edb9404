"""What a format is: a way to write a user's events as text."""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from skllm4es.formats._names import STYLES
from skllm4es.formats._presentation import Presentation, present
from skllm4es.formats._restyling import KINDS, Kind
from skllm4es.formats._variation import Variation
from skllm4es.serialize import EventTable

_FULL_VARIATION = Variation()


class Format(ABC):
    r"""A way to write a user's events as text.

    A subclass defines in `_write` how a presentation looks in its markup; which events, names and values are shown, and
    how, is common to all formats.

    Attributes
    ----------
    name : str
        The key of the format in ``FORMATS``.
    complete : bool
        Whether a text contains every value of every event. A format that is not complete is a summary, which leaves out
        events by design.

    Examples
    --------
    >>> import random
    >>> from skllm4es.formats import FORMATS, Variation
    >>> from skllm4es.serialize import parse_events
    >>> table = parse_events("title|rating\nHeat, 5\nAlien, 4")
    >>> variation = Variation(names=False, analysis=False)
    >>> print(FORMATS["sql"].render(table, random.Random(4), variation))
    -- Records of one user
    INSERT INTO records (rating, title) VALUES (5, 'Heat');
    INSERT INTO records (rating, title) VALUES (4, 'Alien');
    """

    name: ClassVar[str]
    complete: ClassVar[bool] = True
    #: The styles of names, and the kinds of values to write in other ways, that suit the format.
    _styles: ClassVar[Sequence[str]] = STYLES
    _restyled: ClassVar[Sequence[Kind]] = KINDS
    #: Whether the format has headings for groups.
    _grouped: ClassVar[bool] = True
    #: What a text in this format contains; None if it may be any text.
    _form: ClassVar[re.Pattern[str] | None] = None

    def render(self, table: EventTable, rng: random.Random, variation: Variation = _FULL_VARIATION) -> str:
        """Write the events.

        Parameters
        ----------
        table : EventTable
            The events, earliest first.
        rng : random.Random
            Makes all choices: equal generators produce equal texts.
        variation : Variation, default=Variation()
            What may differ from the original besides the markup and the order of the fields.

        Returns
        -------
        str
            The text, never empty.
        """
        presentation = present(
            table, rng, variation, styles=self._styles, restyled=self._restyled, grouped=self._grouped
        )
        return self._write(presentation, rng)

    def looks_like(self, text: str) -> bool:
        """Whether a text may be in this format, whoever wrote it.

        Parameters
        ----------
        text : str
            Any text, or several of them one after the other.

        Returns
        -------
        bool
            False if it certainly is not. The check is quick and lenient: it looks at the ends of the text and for
            typical marks, and does not parse. Plain tables and summaries may look like anything.
        """
        return self._form is None or self._form.search(text.strip()) is not None

    @abstractmethod
    def _write(self, presentation: Presentation, rng: random.Random) -> str: ...
