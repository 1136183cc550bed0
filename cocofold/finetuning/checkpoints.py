"""Checkpoints: one safetensors file that appears whole, tensors and what is to be known about them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
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


@contextlib.contextmanager
def understanding(path: Path) -> Iterator[None]:
    """Refuse, with a message, a checkpoint that is damaged or of another version."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); make it readable, then go on with --resume") from error
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: not a usable checkpoint ({error}); remove this file, and --resume begins the run anew"
        ) from error


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what ``save_checkpoint`` wrote.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    with understanding(path), safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["facts"])
