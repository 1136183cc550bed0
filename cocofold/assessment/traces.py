"""The CA trace of each protein chain of a model."""

from __future__ import annotations

from dataclasses import dataclass

import gemmi
import numpy as np

from cocofold.structure import Model

_CARBON = 6


@dataclass(frozen=True)
class Trace:
    """Residues of one chain that have a CA atom, in file order.

    Attributes
    ----------
    name : str
        Author's chain name.
    residues : (n,) int
        Rows in ``Model.residues``.
    numbers : tuple of (number, insertion code)
    sequence : str
        One letter a residue; modified residues as what they derive from, unknown ones X.
    positions : (n, 3) float
        CA, Å.
    """

    name: str
    residues: np.ndarray
    numbers: tuple[tuple[int, str], ...]
    sequence: str
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.residues)

    def moved_to(self, positions: np.ndarray) -> Trace:
        """The same residues at other positions, (n, 3) Å."""
        return Trace(self.name, self.residues, self.numbers, self.sequence, positions)


def traces_of(model: Model) -> list[Trace]:
    """One trace for each chain with amino acids, in file order."""
    alpha = model.atoms_named("CA")
    complete = np.zeros(len(model.residues), bool)
    complete[model.backbone()[0]] = True
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(model.residues):
        # A calcium ion is called CA too; a ligand may have a carbon of that name.
        if alpha[row] < 0 or model.atomic_numbers[alpha[row]] != _CARBON:
            continue
        if complete[row] or gemmi.find_tabulated_residue(key.name).is_amino_acid():
            rows.setdefault(key.chain, []).append(row)
    return [
        Trace(
            name,
            np.array(chain),
            tuple((model.residues[row].number, model.residues[row].insertion_code) for row in chain),
            "".join(_letter(model.residues[row].name) for row in chain),
            model.positions[alpha[chain]],
        )
        for name, chain in rows.items()
    ]


def _letter(name: str) -> str:
    letter = gemmi.find_tabulated_residue(name).one_letter_code.upper()
    return letter if letter.isalpha() else "X"
