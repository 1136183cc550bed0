"""What a run tells of itself at its end: memory, versions, last words."""

from __future__ import annotations

import platform
import resource
from typing import Any

import numpy as np
import torch

from cocofold import __version__


def peak_memory_gb() -> float:
    """Of this process, or on a GPU of its tensors if that is more."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if torch.cuda.is_available():
        peak = max(peak, torch.cuda.max_memory_allocated() / 1e9)
    return peak


def versions() -> dict[str, str]:
    """Of what computed."""
    return {
        "cocofold": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def last_words(metrics: dict[str, Any]) -> str:
    """The figures of a run in a line."""
    text = f"verdict: {metrics['verdict']}; "
    if metrics["frc_heldout"] is not None:
        text += f"held-out FRC {metrics['frc_heldout_start']:.4f} -> {metrics['frc_heldout']:.4f}, "
    text += f"moved {metrics['moved_angstrom']:.2f} Å, best cycle {metrics['best_cycle']}, "
    return text + f"{metrics['seconds']:.0f} s, {metrics['peak_memory_gb']:.2f} GB"
