"""Readers of models for viewers and wizards: chains, displacements of residues, widths of Gaussians."""

from __future__ import annotations

import re

import numpy as np
from Bio.PDB.MMCIF2Dict import MMCIF2Dict

from .frames import isMmcif


def chainLengths(path: str) -> dict[str, int]:
    """Return the number of residues with a CA atom of each chain of a model, by the chain's name, in order."""
    lengths: dict[str, int] = {}
    for chain, _ in _alphaCarbons(path):
        lengths[chain] = lengths.get(chain, 0) + 1
    return lengths


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
    content = MMCIF2Dict(path)
    return np.array(content.get("_cocofold_gaussian.width_angstrom", []), dtype=float)


def _alphaCarbons(path: str) -> dict[tuple[str, str], np.ndarray]:
    """Return the position (Å) of each CA atom by (chain, number with insertion code)."""
    if isMmcif(path):
        content = MMCIF2Dict(path)
        atoms = content["_atom_site.label_atom_id"]
        # Author's names and insertion codes are optional in mmCIF
        columns = [
            content.get("_atom_site.auth_asym_id") or content["_atom_site.label_asym_id"],
            content.get("_atom_site.auth_seq_id") or content["_atom_site.label_seq_id"],
            content.get("_atom_site.pdbx_PDB_ins_code") or ["?"] * len(atoms),
            atoms,
            content["_atom_site.group_PDB"],
        ]
        numbers = [content["_atom_site." + name] for name in ("Cartn_x", "Cartn_y", "Cartn_z")]
        return {
            (chain, number + code.strip("?.")): np.array(values, dtype=float)
            for chain, number, code, atom, group, *values in zip(*columns, *numbers)
            if atom == "CA" and group == "ATOM"
        }
    with open(path) as lines:
        return {
            (line[21].strip(), line[22:27].strip()): np.array([line[at : at + 8] for at in (30, 38, 46)], dtype=float)
            for line in lines
            if line.startswith("ATOM") and line[12:16].strip() == "CA"
        }
