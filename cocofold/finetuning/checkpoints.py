"""Checkpoints: one safetensors file that appears whole, tensors and what is to be known about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cocofold.errors import InputError
from cocofold.files import appearing_whole


def save_checkpoint(path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON facts."""
    # Written here, not by safetensors, whose errors do not tell a full disk from another fault.
    content = save(tensors, metadata={"facts": json.dumps(facts)})
    with appearing_whole(path) as partial:
        partial.write_bytes(content)


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what ``save_checkpoint`` wrote."""
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(file.metadata()["facts"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not a usable checkpoint ({error}); start the run anew in another folder") from error
