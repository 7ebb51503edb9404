"""From events to text: `EventSerializer`, and the serialised form that it writes and that later steps read.

`format_events` and `parse_events` write and read that form; `EventTable` holds what a text says.
"""

from skllm4es.serialize._lines import EventTable
from skllm4es.serialize._serialised import format_events, parse_events

__all__ = ["EventTable", "format_events", "parse_events"]
