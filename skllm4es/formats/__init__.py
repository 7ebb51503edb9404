"""The formats in which texts are rewritten, one module each; `FORMATS` holds one object per format, by name."""

from skllm4es.formats._base import Format
from skllm4es.formats._breakdown import BreakdownFormat
from skllm4es.formats._html import HTMLFormat
from skllm4es.formats._json import JSONFormat
from skllm4es.formats._markdown import MarkdownFormat
from skllm4es.formats._narrative import NarrativeFormat
from skllm4es.formats._restyling import canonical_value
from skllm4es.formats._sql import SQLFormat
from skllm4es.formats._table import TableFormat
from skllm4es.formats._variation import Variation
from skllm4es.formats._xml import XMLFormat
from skllm4es.formats._yaml import YAMLFormat

#: The formats by name, in a fixed order.
FORMATS: dict[str, Format] = {
    text_format.name: text_format
    for text_format in (
        JSONFormat(),
        MarkdownFormat(),
        HTMLFormat(),
        XMLFormat(),
        YAMLFormat(),
        TableFormat(),
        SQLFormat(),
        NarrativeFormat(),
        BreakdownFormat(),
    )
}

__all__ = ["FORMATS", "Format", "Variation", "canonical_value"]
