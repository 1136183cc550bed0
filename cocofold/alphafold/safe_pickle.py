"""Pickles of numpy arrays, numbers, strings and plain containers, read without running code of the pickle."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from cocofold.system.errors import InputError


class _DtypeStandIn:
    """Stands for ``numpy.dtype``, which would accept any pickled state."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not re.fullmatch(r"[biufcSU]\d+", code):
            raise pickle.UnpicklingError(f"an array of type {code!r}; numbers and strings are admitted")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        # Of the tuple that numpy.dtype pickles only the byte order concerns numbers and strings.
        _version, byte_order, *_ = state
        self.dtype = self.dtype.newbyteorder(byte_order)


class _ArrayStandIn:
    """Stands for an array whose content follows, as pickles below protocol 5 write them."""

    def __init__(self, kind: str, shape: tuple[int, ...], code: bytes) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        # The tuple that numpy.ndarray pickles.
        _version, shape, dtype, by_columns, content = state
        self.array = _array_of(content, dtype, shape, "F" if by_columns else "C")


def _array_of(content: bytes, dtype: _DtypeStandIn, shape: tuple[int, ...], order: Any) -> np.ndarray:
    return np.frombuffer(content, dtype=dtype.dtype).reshape(shape, order=order)


def _scalar(dtype: _DtypeStandIn, content: bytes) -> Any:
    return _array_of(content, dtype, (1,), "C")[0]


def _bytes_of(text: str, encoding: str) -> bytes:
    """Bytes, as pickles of protocol 2 write them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoded as {encoding}")
    return text.encode("latin1")


_ALLOWED_GLOBALS: dict[str, Any] = {
    "numpy.ndarray": "ndarray",
    "numpy.dtype": _DtypeStandIn,
    "_codecs.encode": _bytes_of,
    # Names of numpy 1, and of numpy 2.
    "numpy.core.multiarray._reconstruct": _ArrayStandIn,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array_of,
    "numpy._core.multiarray._reconstruct": _ArrayStandIn,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _array_of,
}


class _GlobalNotAllowed(Exception):
    """A class or function that a pickle of arrays does not need."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ALLOWED_GLOBALS:
            raise _GlobalNotAllowed(f"{module}.{name}")
        return _ALLOWED_GLOBALS[f"{module}.{name}"]


def load_pickled_arrays(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of arrays.

    A pickle may name any function of any package, and Python's reader would call it. Here only the names that arrays
    need are allowed, and they lead to stand-ins that check their arguments.

    Raises
    ------
    InputError
        If the file is missing, no pickle, damaged, names any other class or function, or is no dictionary.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the pickle that OpenFold's --save_outputs wrote")
    try:
        with open(path, "rb") as file:
            content = _replace_stand_ins(_ArrayUnpickler(file).load())
    except _GlobalNotAllowed as error:
        raise InputError(
            f"{path}: the pickle asks for {error}; only numpy arrays, numbers, strings and plain containers are "
            "admitted, since a pickle can run code. Give a pickle that OpenFold's --save_outputs wrote"
        ) from error
    # A damaged pickle may fail in any way.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: not a readable pickle ({reason}); copy it again or write it anew") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; needed is OpenFold's dictionary of outputs")
    return content


def _replace_stand_ins(content: Any) -> Any:
    """The content with arrays in place of their stand-ins."""
    if isinstance(content, _ArrayStandIn):
        return content.array
    if isinstance(content, dict):
        return {name: _replace_stand_ins(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(map(_replace_stand_ins, content))
    return content
