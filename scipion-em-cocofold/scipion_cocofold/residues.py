"""What viewers and wizards ask of models: chains, and figures of each residue."""

import numpy as np
from Bio.PDB.MMCIF2Dict import MMCIF2Dict

from .frames import isMmcif


def chainsOf(path):
    """Return the numbers of protein residues of each chain of a model, by its name, in order."""
    lengths = {}
    for chain, _ in _alphaCarbons(path):
        lengths[chain] = lengths.get(chain, 0) + 1
    return lengths


def displacements(start, result):
    """Return how far (Å) the CA atoms of two models of one protein lie apart, by (chain, number)."""
    before, after = _alphaCarbons(start), _alphaCarbons(result)
    return {key: float(np.linalg.norm(after[key] - before[key])) for key in after if key in before}


def bFactors(path):
    """Return the B factors, or pLDDT, of a model's CA atoms by (chain, number)."""
    return {key: row[3] for key, row in _rows(path).items()}


def widths(path):
    """Return the learned widths (Å) of the Gaussians of a model's atoms, shape (n,); empty if the file has none."""
    content = MMCIF2Dict(path)
    return np.array(content.get("_cocofold_gaussian.width_angstrom", []), dtype=float)


def _alphaCarbons(path):
    return {key: np.array(row[:3]) for key, row in _rows(path).items()}


def _rows(path):
    """Position and B factor of each CA atom by (chain, number with insertion code)."""
    if isMmcif(path):
        content = MMCIF2Dict(path)
        names = ("auth_asym_id", "auth_seq_id", "pdbx_PDB_ins_code", "label_atom_id", "group_PDB")
        columns = [content["_atom_site." + name] for name in names]
        numbers = [content["_atom_site." + name] for name in ("Cartn_x", "Cartn_y", "Cartn_z", "B_iso_or_equiv")]
        return {
            (chain, number + code.strip("?.")): [float(value) for value in values]
            for chain, number, code, atom, group, *values in zip(*columns, *numbers)
            if atom == "CA" and group == "ATOM"
        }
    with open(path) as lines:
        return {
            (line[21].strip(), line[22:27].strip()): [float(line[at : at + w]) for at, w in _PDB_NUMBERS]
            for line in lines
            if line.startswith("ATOM") and line[12:16].strip() == "CA"
        }


_PDB_NUMBERS = ((30, 8), (38, 8), (46, 8), (60, 6))
