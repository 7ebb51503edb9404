"""What a format is: a way of writing a user's events as text, and for most a way of reading them back."""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from skllm4es.formats._columns import Variation
from skllm4es.formats._names import STYLES
from skllm4es.formats._restyling import KINDS, Kind
from skllm4es.formats._variation import Presentation, in_order, present
from skllm4es.serialize import EventTable
from skllm4es.serialize._lines import shorten

_FULL_VARIATION = Variation()


class Format(ABC):
    r"""A way of writing a user's events as text.

    A subclass says in `_write` how a presentation looks in its markup; which events, names and values are
    shown, and how, is common to all formats.

    Attributes
    ----------
    name : str
        The key of the format in ``FORMATS``.
    lossless : bool
        Whether the events can be read back from a text.
    complete : bool
        Whether a text tells every value of every event. A format that is not complete is a summary, and loses events
        by design.

    Examples
    --------
    >>> import random
    >>> from skllm4es.formats import FORMATS, Variation
    >>> from skllm4es.serialize import parse_events
    >>> table = parse_events("title|rating\nHeat, 5\nAlien, 4")
    >>> print(FORMATS["sql"].render(table, random.Random(4), Variation(names=False, analysis=False)))
    -- Records of one user
    INSERT INTO records (rating, title) VALUES (5, 'Heat');
    INSERT INTO records (rating, title) VALUES (4, 'Alien');
    """

    name: ClassVar[str]
    lossless: ClassVar[bool] = False
    complete: ClassVar[bool] = True
    _styles: ClassVar[Sequence[str]] = STYLES
    _restyled: ClassVar[Sequence[Kind]] = KINDS
    _grouped: ClassVar[bool] = True
    #: What a text of this form has somewhere; nothing where any text may do.
    _form: ClassVar[re.Pattern[str] | None] = None

    def render(self, table: EventTable, rng: random.Random, variation: Variation = _FULL_VARIATION) -> str:
        """Write the events.

        Parameters
        ----------
        table : EventTable
            The events, earliest first.
        rng : random.Random
            Makes all choices: an equal generator gives an equal text.
        variation : Variation, default=Variation()
            What may differ from the original besides markup and order of fields.

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
        """Tell whether a text may be in this format, whoever wrote it.

        Parameters
        ----------
        text : str
            Any text, also several of them one after the other.

        Returns
        -------
        bool
            False if it is certainly not. The test is quick and lenient: it looks at the text's ends and for typical
            marks, and does not parse. Plain tables and summaries may look like anything.
        """
        return self._form is None or self._form.search(text.strip()) is not None

    @abstractmethod
    def _write(self, presentation: Presentation, rng: random.Random) -> str: ...


class LosslessFormat(Format):
    r"""A format from which the events can be read back, whichever layout was chosen.

    Examples
    --------
    >>> import random
    >>> from skllm4es.formats import FORMATS, restore
    >>> from skllm4es.serialize import parse_events
    >>> table = parse_events("title|rating\nHeat, 5\nAlien, 4")
    >>> text = FORMATS["html"].render(table, random.Random(0))
    >>> restore(FORMATS["html"].parse(text), table.header) == table
    True
    """

    lossless = True

    def parse(self, text: str) -> EventTable:
        """Read the events back.

        Parameters
        ----------
        text : str
            A text that `render` wrote.

        Returns
        -------
        EventTable
            The events in their order, under the names and with the values that the text shows;
            :func:`~skllm4es.formats.restore` leads from these to the original's.

        Raises
        ------
        ValueError
            If the text does not have the form of what `render` writes.
        """
        try:
            table = in_order(*self._read(text))
        except ImportError:
            raise
        except Exception as error:  # Text of another form goes wrong anywhere.
            raise self._unreadable(text, f"{type(error).__name__}: {error}") from error
        if not table.header:
            raise self._unreadable(text, "no fields are found in it")
        if any(len(row) != len(table.header) for row in table.rows):
            raise self._unreadable(text, "its events differ in their fields")
        if not all(isinstance(value, str) for row in [table.header, *table.rows] for value in row):
            raise self._unreadable(text, "some values are neither texts nor numbers")
        return table

    def _unreadable(self, text: str, why: str) -> ValueError:
        return ValueError(f"The text {shorten(text)!r} was not written in the format {self.name!r}: {why}.")

    @abstractmethod
    def _read(self, text: str) -> tuple[list[str], Sequence[Sequence[str]]]: ...
