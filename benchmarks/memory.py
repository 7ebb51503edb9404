"""How much memory the process uses."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

_CLEAR_REFS = Path("/proc/self/clear_refs")


def resident_bytes() -> int:
    """Return the resident memory of the process (Linux only)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def reset_peak() -> None:
    """Reset the high-water mark of resident memory to the current value, where the system can."""
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")


def peak_bytes() -> int:
    """Return the high-water mark of resident memory, which misses no peak, as a sampling thread could.

    On Linux it is read from the kernel, because `getrusage` returns the parent's mark at the time of the fork if that
    is larger. Other systems have only `getrusage`.
    """
    if _CLEAR_REFS.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
