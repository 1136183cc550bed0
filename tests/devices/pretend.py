"""A device for torch that computes on the processor and refuses what a GPU would refuse.

Importing this module makes the device ``pretend``; ``python -m cocofold ... --device pretend`` then runs there where
``sitecustomize.py`` beside this file is on Python's path. Its tensors hold no numbers that the processor can reach:
``numpy()``, operations of tensors of both devices, indices and random generators of the processor are errors, as on a
GPU, and so are copies to the processor that nobody waits for. Each wait of the program for the device is counted by the
function of ``cocofold`` that causes it. Of the device's two numbers, tensors only know the first.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
# The file to which a process adds its counts when it ends; the size of the device's memory in bytes, if any, and what
# the device says that it is, if that is more: others then hold the rest.
REPORT_VARIABLE, MEMORY_VARIABLE, TOLD_VARIABLE = "PRETEND_REPORT", "PRETEND_BYTES", "PRETEND_TOLD_BYTES"
ENGINE = Path(__file__).resolve().parents[2] / "cocofold"
# Operations for which a GPU's driver waits until all before them are done: their result decides the program's course,
# or the size of a tensor.
_WAITS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "equal",
    "is_nonzero",
    "bincount",
    "_linalg_check_errors",
}
_WITH_INDICES = {"index", "index_put_", "_index_put_impl_", "_unsafe_index", "index_put"}
_VIEWS_BY_SHAPE = {"view", "_unsafe_view", "_reshape_alias"}
# Of a tensor of the processor and one of the device: numbers (tensors of no dimension) and copies alone
_COPIES = {"_copy_from", "_copy_from_and_resize", "copy_"}


class _Memory:
    """Bytes that are held by tensors of the device."""

    def __init__(self) -> None:
        self.limit = int(os.environ.get(MEMORY_VARIABLE, 1 << 34))
        self.told = int(os.environ.get(TOLD_VARIABLE, self.limit))
        self.held = self.peak = 0

    def take(self, count: int) -> None:
        if self.held + count > self.limit:
            raise torch.cuda.OutOfMemoryError(f"pretend out of memory: {count} bytes of {self.limit - self.held}")
        self.held += count
        self.peak = max(self.peak, self.held)

    def give_back(self, count: int) -> None:
        self.held -= count


MEMORY = _Memory()
WAITS: Counter[str] = Counter()
COPIES: Counter[str] = Counter()


class _Held:
    """The numbers of one allocation; its bytes are free again when nothing refers to it."""

    def __init__(self, count: int) -> None:
        self.count = 0
        MEMORY.take(count)
        self.count = count

    def __del__(self) -> None:
        MEMORY.give_back(self.count)


class _Module:
    """What ``torch.pretend`` offers, as ``torch.cuda`` does."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _lazy_init(self) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 2

    def current_device(self) -> int:
        return 0

    def synchronize(self, device: object = None) -> None:
        _count(WAITS, "synchronize")

    def empty_cache(self) -> None:
        pass

    def mem_get_info(self, device: object = None) -> tuple[int, int]:
        return MEMORY.told - MEMORY.held, MEMORY.told

    def memory_allocated(self, device: object = None) -> int:
        return MEMORY.held

    def max_memory_allocated(self, device: object = None) -> int:
        return MEMORY.peak

    def memory_reserved(self, device: object = None) -> int:
        return MEMORY.held

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        pass


def _is_ours(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == NAME


def _inside(value: Any) -> Any:
    """Tensor of the processor that holds the numbers of one of the device; what is no tensor as it is."""
    if _is_ours(value):
        inside = value.untyped_storage().inside
        # Some operations of torch give a tensor another shape without asking the device.
        if inside.shape != value.shape and inside.numel() == value.numel():
            inside = inside.view(value.shape)
        inside = inside.conj() if value.is_conj() else inside
        return torch._neg_view(inside) if value.is_neg() else inside
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


def _outside(inside: torch.Tensor, held: dict[int, _Held]) -> torch.Tensor:
    """A tensor of the device; one that shares its memory with another shares what it holds."""
    found = torch._C._acc.create_empty_tensor(list(inside.shape), inside.dtype)
    store = found.untyped_storage()
    store.inside = inside
    place = inside.untyped_storage()._cdata
    store.held = held[place] if place in held else _Held(inside.untyped_storage().nbytes())
    return found


def _count(counter: Counter[str], operation: str) -> None:
    """Note the line of the engine from which an operation was asked for."""
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(str(ENGINE)):
        frame = frame.f_back
    where = "elsewhere"
    if frame is not None:
        name = Path(frame.f_code.co_filename).relative_to(ENGINE)
        where = f"{name}:{frame.f_code.co_name}"
    counter[f"{where} {operation}"] += 1


def _count_copy(source: torch.Tensor, target: torch.Tensor, non_blocking: bool) -> None:
    """Note a copy between the devices; a GPU's driver is waited for both ways, unless it was asked not to be."""
    if _is_ours(source) and _is_ours(target):
        return
    way = "to the device" if _is_ours(target) else "from the device"
    _count(COPIES, way)
    if not non_blocking:
        _count(WAITS, f"copy {way}")
    elif _is_ours(source):
        raise RuntimeError("copy: what is read on the processor would not be there yet")


def _refuse_mixed(name: str, given: list[Any]) -> None:
    """Refuse what a GPU refuses: tensors of the processor among those of the device."""
    for one in given:
        if isinstance(one, torch.Tensor) and not _is_ours(one) and one.dim() > 0:
            raise RuntimeError(
                f"{name}: expected all tensors on {NAME}, found one of {tuple(one.shape)} on {one.device}"
            )
        if isinstance(one, torch.Generator) and one.device.type != NAME:
            raise RuntimeError(f"{name}: expected a generator of {NAME}, found one of {one.device}")


def _run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    name = operation._schema.name.removeprefix("aten::")
    given = tree_leaves((args, kwargs))
    if name in _COPIES:
        source, target = (args[0], args[1]) if name != "copy_" else (args[1], args[0])
        _count_copy(source, target, bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False)))
        _inside(target).copy_(_inside(source))
        return target
    _refuse_mixed(name, given)
    if name == "repeat_interleave":
        # Torch reads the size of what follows, and whether all numbers are at least 0, unless it is told the size.
        for _ in range(2 if kwargs.get("output_size") is None else 0):
            _count(WAITS, name)
    elif name in _WAITS:
        _count(WAITS, name)
    if name in _WITH_INDICES and any(
        isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1])
    ):
        _count(WAITS, "mask")
    inner_args, inner_kwargs = tree_map(_inside, (args, kwargs))
    # Numbers come as such where the operation wants a tensor of no dimension.
    wanted = [str(argument.type) for argument in operation._schema.arguments]
    inner_args = tuple(
        torch.tensor(value) if kind == "Tensor" and isinstance(value, (bool, int, float, complex)) else value
        for value, kind in zip(inner_args, wanted)
    )
    if name in _VIEWS_BY_SHAPE:
        found = inner_args[0].reshape(inner_args[1])
    elif name == "as_strided":
        found = _as_strided(*inner_args)
    else:
        found = operation(*inner_args, **inner_kwargs)
    ours = [one for one in given if _is_ours(one)]
    inner = [value for one, value in zip(given, tree_leaves((inner_args, inner_kwargs))) if _is_ours(one)]
    known = {id(value): one for one, value in zip(ours, inner) if one.numel() == value.numel()}
    held = {value.untyped_storage()._cdata: one.untyped_storage().held for one, value in zip(ours, inner)}
    for one, value in zip(ours, inner):
        if one.numel() != value.numel():
            # An output that the operation has given its size.
            one.data = _outside(value, {})
            known[id(value)] = one
    return tree_map(
        lambda x: x if not isinstance(x, torch.Tensor) else known[id(x)] if id(x) in known else _outside(x, held), found
    )


def _as_strided(inside: torch.Tensor, size: list[int], stride: list[int], offset: int | None = None) -> torch.Tensor:
    """Part of a tensor by strides that are meant for one without gaps, which is how those of the device look."""
    shape, without_gaps = list(inside.shape), [1] * inside.dim()
    for axis in range(inside.dim() - 2, -1, -1):
        without_gaps[axis] = without_gaps[axis + 1] * max(shape[axis + 1], 1)
    axes = sorted((axis for axis in range(inside.dim()) if shape[axis] > 1), key=lambda axis: -without_gaps[axis])
    start, left = inside.storage_offset(), offset or 0
    for axis in axes:
        start += left // without_gaps[axis] * inside.stride(axis)
        left %= without_gaps[axis]
    steps = []
    for length, step in zip(size, stride):
        fits = [axis for axis in axes if step and step % without_gaps[axis] == 0]
        if length > 1 and step and not fits:
            raise NotImplementedError(f"strides {stride} in a tensor of shape {shape}")
        steps.append(step // without_gaps[fits[0]] * inside.stride(fits[0]) if fits else 0)
    return torch.as_strided(inside, size, steps, start)


def _write_report(path: str) -> None:
    # Torch's thread of the device may still let go of tensors, for which it needs Python; without it the process breaks
    time.sleep(0.1)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({"waits": WAITS, "copies": COPIES, "peak": MEMORY.peak}) + "\n")


_setup_privateuseone_for_python_backend(NAME, _Module())
_LIBRARY = torch.library.Library("_", "IMPL")
_LIBRARY.fallback(_run, "PrivateUse1")
# Conjugates are kept as a mark; copying one makes it real, so the copy must come through with its mark.
_COPY = torch.library.Library("aten", "IMPL")
for _mark in ("Conjugate", "Negative"):
    _COPY.impl("_copy_from", torch.library.fallthrough_kernel, _mark)
if REPORT_VARIABLE in os.environ:
    atexit.register(_write_report, os.environ[REPORT_VARIABLE])
