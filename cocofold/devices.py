"""The device that a user asks for."""

from __future__ import annotations

import torch

from cocofold.errors import InputError


def find_device(name: str) -> torch.device:
    """The device that ``--device`` names: auto, cpu, cuda or cuda:N.

    Raises
    ------
    InputError
        If there is no such device.
    """
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
