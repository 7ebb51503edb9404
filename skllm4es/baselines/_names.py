"""Names of columns that identify what they hold: a name depends on the fields and on its value, not on other values.

So a name means the same in every fold. Letters of any alphabet are kept; what LightGBM, XGBoost or JSON do not take is
escaped as in URLs, so that `urllib.parse.unquote` returns the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

MISSING = "missing"

# The percent sign begins an escape, and the equals sign separates what an underscore would leave ambiguous.
_FORBIDDEN = re.compile(r'[\s\x00-\x1f\x7f"%,:<=\[\\\]{}]')


@dataclass(frozen=True)
class ColumnNames:
    """Names the columns of events with the given fields, of which some are numbers.

    Parts are joined by underscores, as in ``type_POS_amount_mean``, or by an equals sign where fields are named so that
    an underscore could be read in two ways: the fields ``type`` and ``type_code``, or the numbers ``amount`` and
    ``net_amount``.
    """

    fields: Iterable[str]
    numbers: Iterable[str]

    def value(self, field: str, value: str | None) -> str:
        """Name a value of a categorical field; None is the missing one, which no text is mistaken for."""
        text = MISSING if value is None else escape(value)
        if value == MISSING:
            text = f"%{ord(text[0]):02X}{text[1:]}"
        is_prefix = any(other.startswith(f"{field}_") for other in self.fields)
        return f"{escape(field)}{'=' if is_prefix else '_'}{text}"

    def number_of_value(self, value: str, number: str) -> str:
        """Name a number in the events that have a value, which has a name already."""
        is_suffix = any(number.endswith(f"_{other}") for other in self.numbers)
        return f"{value}{'=' if is_suffix else '_'}{escape(number)}"


def escape(text: str) -> str:
    """Escape what column names may not hold."""
    return _FORBIDDEN.sub(lambda found: quote(found[0], safe=""), text)
