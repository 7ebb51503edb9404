"""From events to text: `EventSerializer`, and the serialised form that it writes and later steps read.

`format_events` and `parse_events` write and read that form; `EventTable` holds what a text says.
"""

from skllm4es.serialize._serialised import format_events, parse_events
from skllm4es.serialize._table import EventTable

__all__ = ["EventTable", "format_events", "parse_events"]
