"""Checkpoints of OpenFold: the same weights under its names, in torch's layout."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Dict

import torch

from cocofold.errors import InputError

_ENDINGS = (".pt", ".pth", ".ckpt")
_PREFIXES = ("module.", "model.")
_MONOMER = "structure_module.ipa.linear_kv.weight"
_ADVICE = "give a checkpoint of a model_K_multimer_v3 of OpenFold's, or AlphaFold's params_model_K_multimer_v3.npz"


def is_checkpoint(path: Path) -> bool:
    """Whether the file's name is one of a torch checkpoint."""
    return path.suffix.lower() in _ENDINGS


def read_checkpoint(path: Path) -> Dict[str, torch.Tensor]:
    """All tensors of a checkpoint by OpenFold's names.

    Raises
    ------
    InputError
        If the file cannot be read as tensors alone, or is of a monomer model.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: damaged, or holds more than tensors ({reason}); {_ADVICE}") from error
    state = _state(content)
    if _MONOMER in state:
        raise InputError(f"{path}: these are weights of a monomer model; {_ADVICE}")
    return state


def _state(content: Any) -> Dict[str, torch.Tensor]:
    """The tensors of a checkpoint by OpenFold's names, wherever training programs keep them."""
    if isinstance(content, Mapping):
        # The running average is what OpenFold predicts with; Lightning and DeepSpeed have keys of their own.
        for path in (("ema", "params"), ("state_dict",), ("module",)):
            inner: Any = content
            for key in path:
                inner = inner.get(key) if isinstance(inner, Mapping) else None
            if isinstance(inner, Mapping):
                return _state(inner)
        return {_bare(str(name)): tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}
    return {}


def _bare(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return _bare(name[len(prefix) :])
    return name
