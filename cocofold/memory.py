"""How much memory there is."""

from __future__ import annotations

import os
import resource
from pathlib import Path

_MEMORY_FACTS = Path("/proc/meminfo")
_OF_PROCESS = Path("/proc/self/statm")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def available_bytes() -> int:
    """Memory that can be taken without pushing others out, within the control group's limit if there is one."""
    free = [_of_machine()]
    for most, used in _LIMITS:
        try:
            limit = int((_CONTROL_GROUPS / most).read_text())
            free.append(limit - int((_CONTROL_GROUPS / used).read_text()))
        except (OSError, ValueError):  # no such group, or a limit that reads "max"
            continue
    return max(0, min(free))


def resident_bytes() -> int:
    """Memory that this process holds now."""
    try:
        return int(_OF_PROCESS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _of_machine() -> int:
    try:
        for line in _MEMORY_FACTS.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
