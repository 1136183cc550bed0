"""A prediction put together, and held against the atoms that its program wrote."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import gemmi
import numpy as np
import torch

from cocofold.errors import InputError
from cocofold.network import read_weights
from cocofold.structure import read_model
from cocofold.trunk.chains import AMINO_ACIDS, Chains
from cocofold.trunk.prediction import Origin, Prediction
from cocofold.trunk.rebuilding import Atoms, rebuild

CA = 1


@dataclass(frozen=True)
class Found:
    """A prediction and the atoms that it gives.

    Attributes
    ----------
    prediction : Prediction
    atoms : Atoms
    """

    prediction: Prediction
    atoms: Atoms


def assemble(
    chains: Chains,
    single: torch.Tensor,
    pair: torch.Tensor,
    weight_file: Path,
    origin: Origin,
    program_ca: np.ndarray,
    max_deviation_angstrom: float,
    plddt: torch.Tensor | None = None,
    pae: torch.Tensor | None = None,
) -> Found:
    """Put a prediction together, and refuse it if it does not give the program's own atoms.

    Parameters
    ----------
    chains : Chains
    single : (n, 384) float32
    pair : (n, n, 128) float
    weight_file : Path
    origin : Origin
    program_ca : (n, 3) float
        CA atoms as the program wrote them, Å; NaN where it has none.
    max_deviation_angstrom : float
        Largest root mean square deviation of CA atoms, in place.
    plddt : (n,) float, optional
    pae : (n, n) float, optional

    Raises
    ------
    InputError
        If parts do not fit together, or the weights are not those of the prediction.
    """
    prediction = Prediction(
        single=single,
        pair=pair,
        aatype=torch.from_numpy(chains.aatype()),
        mask=torch.ones(len(chains), dtype=torch.bool),
        chain_index=torch.from_numpy(chains.index()),
        residue_numbers=torch.from_numpy(chains.residue_numbers()),
        chains=chains,
        weights=read_weights(weight_file),
        origin=origin,
        plddt=plddt,
        pae=pae,
    )
    prediction.check(f"{origin.program}'s {origin.job}")
    if not np.isfinite(program_ca).all(1).any():
        raise InputError(f"{origin.program}'s {origin.job}: has no CA atoms; a protein is needed")
    atoms = rebuild(prediction)
    rmsd, largest = _deviation(atoms.positions[:, CA], program_ca)
    if not rmsd <= max_deviation_angstrom:
        raise InputError(
            f"{weight_file}: the weights are not those of this prediction: they give CA atoms that are {rmsd:.2f} Å "
            f"(root mean square; at most {largest:.2f} Å) from the {origin.program} model of {origin.job}; up to "
            f"{max_deviation_angstrom:g} Å is allowed. Give the weight file that {origin.program} used for model "
            f"{origin.model_number}"
        )
    noted = replace(origin, ca_rmsd_to_program=round(rmsd, 4), ca_max_to_program=round(largest, 4))
    return Found(replace(prediction, origin=noted), atoms)


def _deviation(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    distance = np.linalg.norm(ours - theirs, axis=1)
    distance = distance[np.isfinite(theirs).all(1)]
    return float(np.sqrt((distance**2).mean())), float(distance.max())


def ca_of_model(path: Path, chains: Chains) -> np.ndarray:
    """CA atoms that a program wrote for these chains, by chain name and residue number; (n, 3) Å, NaN where missing.

    Raises
    ------
    InputError
        If the model is of other chains.
    """
    model = read_model(path)
    ca = model.atoms_named("CA")
    rows = {(key.chain, key.number): row for row, key in enumerate(model.residues)}
    positions = np.full((len(chains), 3), np.nan)
    chain_names = np.array(chains.names)[chains.index()].tolist()
    expected = zip(chain_names, chains.residue_numbers().tolist(), "".join(chains.sequences))
    for index, (chain, number, letter) in enumerate(expected):
        row = rows.pop((chain, number), None)
        # AlphaFold gives no atoms to X.
        if row is None and letter == "X":
            continue
        found = "missing" if row is None else model.residues[row].name
        if row is None or ca[row] < 0 or (letter != "X" and _letter(found) != letter):
            raise InputError(f"{path}: residue {number} of chain {chain} is {found}, where the sequence has {letter}")
        positions[index] = model.positions[ca[row]]
    if rows:
        chain, number = next(iter(rows))
        raise InputError(f"{path}: residue {number} of chain {chain} is in none of the sequences: chains {chains}")
    return positions


def chains_of_model(path: Path) -> Chains:
    """Chains of a model that a program wrote, every residue of them."""
    sequences: dict[str, str] = {}
    for key in read_model(path).residues:
        sequences[key.chain] = sequences.get(key.chain, "") + _letter(key.name)
    return Chains.of(tuple(sequences.values()))


def _letter(residue_name: str) -> str:
    letter = gemmi.find_tabulated_residue(residue_name).one_letter_code.upper()
    return letter if letter in AMINO_ACIDS else "X"
