"""Atoms from a prediction: the structure module run on its representations, and the model that they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gemmi
import numpy as np
import torch

from cocofold.network import ATOM14_NAMES, load_structure_module
from cocofold.structure import Model, write_model
from cocofold.structure.labels import settle_labels

if TYPE_CHECKING:
    from cocofold.trunk.prediction import Prediction


@dataclass(frozen=True)
class Atoms:
    """What the structure module gives.

    Attributes
    ----------
    positions : (n, 14, 3) float
        Å; atoms of each residue in AlphaFold's order, N, CA, C, O, CB, ...
    plddt : (n,) float
        Confidence, 0 to 100.
    """

    positions: np.ndarray
    plddt: np.ndarray


def rebuild(prediction: Prediction) -> Atoms:
    """Run the structure module with the prediction's own weights.

    Raises
    ------
    InputError
        If weights are missing or of wrong shape.
    """
    module = load_structure_module(prediction.weights)
    with torch.no_grad():
        out = module(prediction.single, prediction.pair, prediction.aatype, prediction.mask)
    return Atoms(out.atom14.numpy(), out.plddt.numpy())


def aligned_error(prediction: Prediction) -> np.ndarray:
    """Expected error (Å) of each modelled residue's position where another's frame is superposed, (n, n)."""
    module = load_structure_module(prediction.weights)
    with torch.no_grad():
        error = module.aligned_error(prediction.pair.float()).numpy()
    kept = [row for row, names in enumerate(atom_names(prediction)) if names]
    return error[np.ix_(kept, kept)]


def model_of(prediction: Prediction, atoms: Atoms) -> tuple[Model, np.ndarray]:
    """The model that a prediction's atoms make, and the pLDDT of its residues.

    Residues of X, to which AlphaFold gives no atoms, and those that are masked are left out; the sequences have them.
    """
    structure = gemmi.Structure()
    structure.name = prediction.origin.job
    structure.add_model(gemmi.Model(1))
    chain_index, numbers = prediction.chain_index.tolist(), prediction.residue_numbers.tolist()
    kept = []
    for name in prediction.chains.names:
        structure[0].add_chain(gemmi.Chain(name))
    for row, names in enumerate(atom_names(prediction)):
        if names:
            residue = gemmi.Residue()
            residue.name = gemmi.expand_one_letter("".join(prediction.chains.sequences)[row], gemmi.ResidueKind.AA)
            residue.subchain = prediction.chains.names[chain_index[row]]
            residue.entity_type = gemmi.EntityType.Polymer
            residue.seqid = gemmi.SeqId(numbers[row], " ")
            for name, position in zip(names, atoms.positions[row]):
                residue.add_atom(_atom(name, position, float(atoms.plddt[row])))
            structure[0][chain_index[row]].add_residue(residue)
            kept.append(row)
    structure.remove_empty_chains()
    structure.ensure_entities()
    sequences = dict(zip(prediction.chains.names, prediction.chains.sequences))
    for entity in structure.entities:
        entity.polymer_type = gemmi.PolymerType.PeptideL
        entity.full_sequence = gemmi.expand_one_letter_sequence(sequences[entity.subchains[0]], gemmi.ResidueKind.AA)
    structure.deduplicate_entities()
    for number, entity in enumerate(structure.entities, start=1):
        entity.name = str(number)
    settle_labels(structure)
    return Model.of(structure), atoms.plddt[kept]


def atom_names(prediction: Prediction) -> list[tuple[str, ...]]:
    """Names of the atoms of each residue, in the order of ``Atoms.positions``; none for X and masked residues."""
    mask = prediction.mask.tolist()
    return [ATOM14_NAMES[kind] if mask[row] else () for row, kind in enumerate(prediction.aatype.tolist())]


def _atom(name: str, position: np.ndarray, plddt: float) -> gemmi.Atom:
    atom = gemmi.Atom()
    atom.name = name
    # Atoms of amino acids: the first letter is the element.
    atom.element = gemmi.Element(name[0])
    atom.pos = gemmi.Position(*map(float, position))
    atom.b_iso = plddt
    return atom


def write_atoms(path: Path, prediction: Prediction, atoms: Atoms) -> None:
    """Write a prediction's atoms as mmCIF, pLDDT in place of B factors."""
    model, plddt = model_of(prediction, atoms)
    origin = prediction.origin
    details = f"Structure module of AlphaFold-Multimer on representations of {origin.program} {origin.job}"
    write_model(path, model, details=details, plddt=plddt)
