"""Models, as the engine reads and moves them: the plugin has no reader of mmCIF or PDB of its own."""

from __future__ import annotations

import json
import os
import re
import tempfile
from functools import lru_cache
from typing import Any

import numpy as np

from .engine import callEngine

_PLACEMENT_CATEGORY = b"_cocofold_placement."
# Models of which atoms are kept in memory: those of a run's start, result and reference, and a few that forms name
_MODELS_KEPT = 8


def readPositions(path: str) -> np.ndarray:
    """Return the positions (Å) of a model's atoms, shape (n, 3)."""
    return np.array(_readModel(path)["positions"], dtype=float)


def writeMoved(source: str, target: str, shift: np.ndarray) -> None:
    """Write a model as mmCIF with all atoms moved by a vector; everything else in an mmCIF is kept.

    Parameters
    ----------
    source : str
        Any model that the engine reads.
    target : str
        mmCIF file; it appears whole or not at all.
    shift : (3,) float
        In Å.

    Raises
    ------
    PyworkflowException
        If the engine refuses the model, with its message.
    """
    callEngine("move", {"--model": source, "--shift": [float(value) for value in shift], "--out": target})


def isPlaced(path: str) -> bool:
    """Return whether the engine wrote this model in its place in a map; False if the file is gone."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as lines:
        return any(line.startswith(_PLACEMENT_CATEGORY) for line in lines)


def chainLengths(path: str) -> dict[str, int]:
    """Return the number of residues with a CA atom of each chain of a model, by the chain's name, in order."""
    lengths: dict[str, int] = {}
    for chain, _ in _alphaCarbons(path):
        lengths[chain] = lengths.get(chain, 0) + 1
    return lengths


def chainRanges(path: str) -> dict[str, tuple[str, str]]:
    """Return the first and the last number of the residues with a CA atom of each chain, by the chain's name."""
    ranges: dict[str, tuple[str, str]] = {}
    for chain, number in _alphaCarbons(path):
        ranges[chain] = (ranges.get(chain, (number, number))[0], number)
    return ranges


def displacements(start: str, result: str) -> dict[tuple[str, str], float]:
    """Return the distances (Å) between the CA atoms of two models of one protein, by (chain, number)."""
    before, after = _alphaCarbons(start), _alphaCarbons(result)
    return {key: float(np.linalg.norm(after[key] - before[key])) for key in after if key in before}


def numberWithoutCode(number: str) -> int:
    """Return a residue's number without its insertion code."""
    found = re.match(r"-?\d+", number)
    return int(found.group()) if found else 0


def gaussianWidths(path: str) -> np.ndarray:
    """Return the learned widths (Å) of the Gaussians of a model's atoms, shape (n,); empty if the file has none."""
    return np.array(_readModel(path)["widths_angstrom"], dtype=float)


def _alphaCarbons(path: str) -> dict[tuple[str, str], np.ndarray]:
    """Return the position (Å) of each CA atom by (chain, number with insertion code)."""
    return {
        (one["chain"], one["number"]): np.array(one["alpha_carbon"], dtype=float)
        for one in _readModel(path)["residues"]
        if one["alpha_carbon"] is not None
    }


def _readModel(path: str) -> dict[str, Any]:
    """Return what the engine says of a model's atoms and residues; it is asked again if the file has changed."""
    found = os.stat(path)
    return _askEngine(os.path.abspath(path), found.st_mtime_ns, found.st_size)


@lru_cache(_MODELS_KEPT)
def _askEngine(path: str, modified: int, size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        facts = os.path.join(folder, "facts.json")
        callEngine("move", {"--model": path, "--json": facts})
        with open(facts, encoding="utf-8") as content:
            read: dict[str, Any] = json.load(content)
            return read
