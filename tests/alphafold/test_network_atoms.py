"""Atoms from frames and torsions, for every amino acid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cocofold.alphafold.invariant_attention import HeavyAtoms, Rigid, build_atoms
from cocofold.alphafold.sequences import AMINO_ACIDS, ATOM14_NAMES, RESIDUE_NAMES

RINGS = {"HIS": 1, "PHE": 1, "TYR": 1, "TRP": 2}
CHI_ATOMS = {
    "ARG": "N CA CB CG CD NE CZ", "LYS": "N CA CB CG CD CE NZ", "MET": "N CA CB CG SD CE", "GLU": "N CA CB CG CD OE1",
    "GLN": "N CA CB CG CD OE1", "ASP": "N CA CB CG OD1", "ASN": "N CA CB CG OD1", "ILE": "N CA CB CG1 CD1",
    "LEU": "N CA CB CG CD1", "HIS": "N CA CB CG ND1", "TRP": "N CA CB CG CD1", "TYR": "N CA CB CG CD1",
    "PHE": "N CA CB CG CD1", "PRO": "N CA CB CG CD", "CYS": "N CA CB SG", "SER": "N CA CB OG", "THR": "N CA CB OG1",
    "VAL": "N CA CB CG1", "ALA": "", "GLY": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def angles() -> torch.Tensor:
    """Torsions of 21 residues, radian; about 180°, so that side chains are stretched and nothing meets."""
    return torch.rand(21, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.5 + 2.9


@pytest.fixture(scope="module")
def built(angles: torch.Tensor) -> HeavyAtoms:
    """Each amino acid once, and the unknown one, in frames of all kinds."""
    update = torch.randn(21, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return build_atoms(torch.arange(21), Rigid.from_update(update), torch.stack([angles.sin(), angles.cos()], dim=-1))


def _atoms(built: HeavyAtoms, row: int) -> dict[str, np.ndarray]:
    return dict(zip(ATOM14_NAMES[row], built.positions[row].numpy()))


def _dihedral(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
    axis = (c - b) / np.linalg.norm(c - b)
    first, second = (v - (v @ axis) * axis for v in (a - b, d - c))
    return float(np.arctan2(np.cross(axis, first) @ second, first @ second))


@pytest.mark.parametrize("row", range(20))
def test_bonds_are_those_of_the_amino_acid(built: HeavyAtoms, row: int) -> None:
    """Atoms closer than 1.95 Å are bonded: a tree but for rings; proline's ring closes only at its own chi angles."""
    name, atoms = RESIDUE_NAMES[row], _atoms(built, row)
    positions = np.array([place for atom, place in atoms.items() if (name, atom) != ("PRO", "CD")])
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)[np.triu_indices(len(positions), 1)]
    assert distances.min() > 1.2
    assert (distances < 1.95).sum() == len(positions) - 1 + RINGS.get(name, 0)


@pytest.mark.parametrize("row", range(20))
def test_chi_angles_are_those_asked_for(built: HeavyAtoms, angles: torch.Tensor, row: int) -> None:
    atoms, chain = _atoms(built, row), CHI_ATOMS[RESIDUE_NAMES[row]].split()
    assert AMINO_ACIDS[row].chi_atoms == tuple(chain or ("N", "CA", "CB"))
    for chi in range(max(0, len(chain) - 3)):
        found = _dihedral(*(atoms[name] for name in chain[chi : chi + 4]))
        assert np.cos(found - float(angles[row, 3 + chi])) == pytest.approx(1, abs=2e-5)


def test_alpha_carbons_are_left_handed(built: HeavyAtoms) -> None:
    for row in range(20):
        atoms = _atoms(built, row)
        if "CB" in atoms:
            n, c, beta = (atoms[name] - atoms["CA"] for name in ("N", "C", "CB"))
            assert np.cross(n, c) @ beta > 1


def test_oxygen_stands_opposite_to_where_psi_puts_the_next_nitrogen(built: HeavyAtoms, angles: torch.Tensor) -> None:
    for row in range(20):
        found = _dihedral(*(_atoms(built, row)[name] for name in ("N", "CA", "C", "O")))
        assert np.cos(found - float(angles[row, 2])) == pytest.approx(-1, abs=1e-4)


def test_an_unknown_residue_has_no_atoms(built: HeavyAtoms) -> None:
    assert not built.exist[20].any()
    assert not built.positions[20].any()
    assert ATOM14_NAMES[20] == ()
    assert RESIDUE_NAMES[20] == "UNK"


def test_a_motion_of_frames_moves_all_atoms(built: HeavyAtoms, angles: torch.Tensor) -> None:
    motion = Rigid.from_update(torch.tensor([0.3, -2, 0.7, 5, -9, 1], dtype=torch.float64))
    update = torch.randn(21, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    frames = motion.compose(Rigid.from_update(update))
    moved = build_atoms(torch.arange(21), frames, torch.stack([angles.sin(), angles.cos()], dim=-1))
    torch.testing.assert_close(moved.positions[built.exist], motion.apply(built.positions[built.exist]))
