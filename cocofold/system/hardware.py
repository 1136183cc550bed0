"""The device that a user asks for."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from cocofold.system.errors import InputError

if TYPE_CHECKING:
    import torch


def find_device(name: str) -> torch.device:
    """The device that ``--device`` names: auto, cpu, cuda or cuda:N.

    Raises
    ------
    InputError
        If there is no such device.
    """
    # Not at the top: commands ask for other things here before anything large is to be imported.
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: give auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise InputError(f"--device {name}: {torch.cuda.device_count()} CUDA devices were found; use --device cpu")
    return device


_MEMINFO_FILE = Path("/proc/meminfo")
_STATM_FILE = Path("/proc/self/statm")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
# glibc's numbers of these settings, and the most that it takes for the second
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_BYTES_KEPT, _LARGEST_KEPT = 64 * 2**20, 32 * 2**20
_CGROUP_FILES = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def available_bytes() -> int:
    """Memory that can be taken without pushing others out, within the control group's limit if there is one."""
    free = [_available_on_machine()]
    for most, used in _CGROUP_FILES:
        try:
            limit = int((_CONTROL_GROUPS / most).read_text())
            free.append(limit - int((_CONTROL_GROUPS / used).read_text()))
        except (OSError, ValueError):  # no such group, or a limit that reads "max"
            continue
    return max(0, min(free))


def resident_bytes() -> int:
    """Memory that this process holds now."""
    try:
        return int(_STATM_FILE.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def keep_freed_memory() -> None:
    """Have glibc keep up to 64 MiB that were freed for what is asked for next; with another C library do nothing.

    By default it gives arrays of a few MiB back to the system and asks for them again, page by page, at each step of
    the optimiser: a fifth of the time of comparing images.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        adjust(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        adjust(_M_TRIM_THRESHOLD, _BYTES_KEPT)


def _available_on_machine() -> int:
    try:
        for line in _MEMINFO_FILE.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
