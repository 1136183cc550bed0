"""The device that a user asks for, and the memory of this machine and process.

The command line imports this module before anything large, so torch is imported where a device is looked for.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from cocofold import __version__
from cocofold.system.errors import InputError, require_within

if TYPE_CHECKING:
    import torch


def find_device(name: str, process: int | None = None) -> torch.device:
    """The device that ``--device`` names: auto, cpu, cuda or cuda:N, or that of another backend of torch.

    Where several processes share a machine, ``process`` is the number of this one: GPUs without a number are given to
    them in turn.

    Raises
    ------
    InputError
        If there is no such device.
    """
    import torch

    allowed = "give auto, cpu, cuda or cuda:N"
    # Torch's name for the device of a backend that was installed beside it.
    known = ("cpu", "cuda", torch._C._get_privateuse1_backend_name())
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: {allowed}") from error
    if device.type not in known or not hasattr(torch, device.type):
        raise InputError(f"--device {name}: {allowed}")
    count = 1 if device.type == "cpu" else torch.get_device_module(device).device_count()
    if device.type != "cpu" and (device.index or 0) >= count:
        raise InputError(f"--device {name}: {count} {device.type.upper()} devices were found; use --device cpu")
    if process is None or device.type == "cpu" or device.index is not None:
        return device
    return torch.device(device.type, process % count)


def free_bytes(device: torch.device) -> int:
    """Memory that is free for arrays on a device, in bytes."""
    if device.type == "cpu":
        return available_bytes()
    import torch

    return int(torch.get_device_module(device).mem_get_info(device)[0])


# Threads of commands that work for seconds to minutes on small arrays: more of them wait for each other longer than
# they compute.
_MAX_THREADS_OF_SHORT_WORK = 4


def prepare_short_work(name: str) -> torch.device:
    """The device that ``--device`` names, with torch bound to as many threads as short work can use.

    Raises
    ------
    InputError
        See ``find_device``.
    """
    import torch

    device = find_device(name)
    torch.set_num_threads(max(1, min(torch.get_num_threads(), _MAX_THREADS_OF_SHORT_WORK)))
    return device


OVERSUBSCRIBE_OPTION = "--oversubscribe"
OVERSUBSCRIBE_HELP = "Go on with more threads or processes than there are cores, or than the free memory holds."
# What a process of CoCoFold holds before it has read anything, as measured: Python, torch, and what torch keeps.
_BYTES_OF_A_PROCESS = 400 * 10**6
_MOST_THREADS = 10_000  # beyond any machine's cores


def usable_cores() -> int:
    """Number of cores that this process may use, by its affinity mask, which queues and containers set."""
    return len(os.sched_getaffinity(0))


def require_threads(count: int, oversubscribe: bool) -> None:
    """Refuse threads without a core of their own.

    Raises
    ------
    InputError
    """
    require_within("--threads", count, 1, _MOST_THREADS)
    if count > usable_cores() and not oversubscribe:
        raise InputError(
            f"--threads {count}: this process may use {usable_cores()} cores; give as many at most, or add "
            f"{OVERSUBSCRIBE_OPTION}"
        )


def require_processes(count: int, oversubscribe: bool) -> None:
    """Refuse processes without a core of their own, or that the free memory does not hold.

    Raises
    ------
    InputError
    """
    if count < 1:
        raise InputError(f"--processes {count}: give 1 or more")
    if count == 1 or oversubscribe:
        return
    if count > usable_cores():
        raise InputError(
            f"--processes {count}: this process may use {usable_cores()} cores; give as many at most, or add "
            f"{OVERSUBSCRIBE_OPTION}"
        )
    free = available_bytes()
    if count * _BYTES_OF_A_PROCESS > free:
        raise InputError(
            f"--processes {count}: they hold {count * _BYTES_OF_A_PROCESS / 1e9:.1f} GB before they read anything, and "
            f"{free / 1e9:.1f} GB are free; give fewer, end other programs, or add {OVERSUBSCRIBE_OPTION}"
        )


# What is free on the machine, and what this process holds, in the kernel's words.
_MEMINFO_FILE = Path("/proc/meminfo")
_STATM_FILE, _STATUS_FILE = Path("/proc/self/statm"), Path("/proc/self/status")
# Where the kernel says to which control groups this process belongs, and where these are mounted.
_OWN_CONTROL_GROUPS_FILE = Path("/proc/self/cgroup")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
# glibc's numbers of these settings, from its malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Freed memory that is kept, and the largest array that is taken from it: 32 MiB is the most that glibc allows.
_BYTES_KEPT, _LARGEST_KEPT = 64 * 2**20, 32 * 2**20


class _MemoryFiles(NamedTuple):
    """Names of a control group's files: its limit, what is used, and the item of its statistics to be had again."""

    limit: str
    used: str
    reclaimable: str


_VERSION_1 = _MemoryFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _MemoryFiles("memory.max", "memory.current", "inactive_file")


def available_bytes() -> int:
    """Memory that can be taken without pushing others out.

    That is the machine's, or less where a control group has a limit: the group of this process (of a Slurm job, a
    container or a service) or one that encloses it, whichever leaves the least.
    """
    free = [_available_on_machine(), *(_free_in(folder, names) for folder, names in _control_groups())]
    return max(0, min(left for left in free if left is not None))


def _control_groups() -> Iterator[tuple[Path, _MemoryFiles]]:
    """Folders of the control groups that may limit this process's memory, from its own up to the root."""
    yield _CONTROL_GROUPS, _VERSION_2
    yield _CONTROL_GROUPS / "memory", _VERSION_1
    try:
        lines = _OWN_CONTROL_GROUPS_FILE.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # hierarchy:controllers:path; version 2 has the hierarchy 0 and names no controllers.
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        own = PurePosixPath(path.lstrip("/"))
        if ".." in own.parts:  # a group outside the part of the tree that is seen from here
            continue
        for group in (own, *own.parents):
            if hierarchy == "0" and not controllers:
                yield _CONTROL_GROUPS / group, _VERSION_2
                yield _CONTROL_GROUPS / "unified" / group, _VERSION_2
            elif "memory" in controllers.split(","):
                yield _CONTROL_GROUPS / "memory" / group, _VERSION_1


def _free_in(folder: Path, names: _MemoryFiles) -> int | None:
    """What a control group leaves of its memory, with the cached files that it can drop; None without a limit."""
    try:
        limit, used = int((folder / names.limit).read_text()), int((folder / names.used).read_text())
    except (OSError, ValueError):  # no such group, or a limit that reads "max"
        return None
    reclaimable = 0
    try:
        items = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        reclaimable = next((int(item[1]) for item in items if item[0] == names.reclaimable), 0)
    except (OSError, ValueError, IndexError):
        pass
    return limit - max(0, used - reclaimable)


def resident_bytes() -> int:
    """Memory that this process holds now."""
    try:
        return int(_STATM_FILE.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_resident_bytes() -> int:
    """Peak of what this program held in memory.

    The kernel's ``ru_maxrss`` also counts the program that started this one, up to that moment; ``VmHWM`` does not.
    """
    try:
        lines = _STATUS_FILE.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# In what torch and the C library say of a CPU's memory, for which torch has no class of its own
_WORDS_OF_FULL_MEMORY = ("can't allocate memory", "Cannot allocate memory", "bad_alloc")
# In what CUDA and its libraries say of a GPU's memory that they ask for themselves, past torch: cuFFT for its plans,
# cuBLAS and cuDNN when they start, CUDA for anything else. A plan of cuFFT that finds no room is often told as an
# internal error (https://github.com/pytorch/pytorch/issues/119420).
_WORDS_OF_FULL_DEVICE = (
    "CUFFT_ALLOC_FAILED",
    "CUFFT_INTERNAL_ERROR",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


def is_out_of_device_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU had no more memory to give, to torch or to a library that torch calls."""
    # By its name, since this module is read before torch is.
    if type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS_OF_FULL_DEVICE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU or this machine had no more memory to give."""
    if isinstance(error, MemoryError) or is_out_of_device_memory(error):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS_OF_FULL_MEMORY)


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
    # Without the kernel's word half of the machine is taken to be free.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def peak_memory_gb() -> float:
    """Peak memory of this process, or of its tensors on a GPU, whichever one, if that is more."""
    import torch

    on_gpus = [torch.cuda.max_memory_allocated(number) for number in range(torch.cuda.device_count())]
    return max(peak_resident_bytes(), *on_gpus, 0) / 1e9


def versions() -> dict[str, str]:
    """Versions of the programs that compute."""
    # Late, since this module is read before them.
    import numpy as np
    import torch

    return {
        "cocofold": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
