"""Atoms from a prediction: running the structure module, making a model, comparing with the program's own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import gemmi
import numpy as np
import torch
from safetensors import SafetensorError

from cocofold.alphafold.prediction import FILE_NAME, MODEL_NAME, Prediction, Provenance, refuse_occupied_folder
from cocofold.alphafold.sequences import ATOM14_NAMES, ONE_LETTER_CODES, Chains
from cocofold.alphafold.weights import load_structure_module, read_weights
from cocofold.structure.labels import complete_labels
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

CA_COLUMN = 1
"""Column of CA in AlphaFold's arrays of 14 and of 37 atoms."""

MAX_DEVIATION_ANGSTROM = 0.5
"""Largest CA RMSD between the atoms of a prediction and the program's own, by default.

Representations in float16 or bfloat16 cost up to 0.1 Å; weights of another of the five models move atoms by far more.
"""


@dataclass(frozen=True)
class PredictedAtoms:
    """Atoms and confidence that the structure module gives.

    Attributes
    ----------
    positions : (n, 14, 3) float
        Å; atoms of each residue in AlphaFold's order, N, CA, C, O, CB, ...
    plddt : (n,) float
        Confidence, 0 to 100.
    """

    positions: np.ndarray
    plddt: np.ndarray


def predict_atoms(prediction: Prediction) -> PredictedAtoms:
    """Run the structure module with the prediction's own weights.

    Raises
    ------
    InputError
        If weights are missing or of wrong shape.
    """
    module = load_structure_module(prediction.weights)
    with torch.no_grad():
        out = module(prediction.single, prediction.pair, prediction.aatype, prediction.mask)
    return PredictedAtoms(out.atom14.numpy(), out.plddt.numpy())


def predict_aligned_error(prediction: Prediction) -> np.ndarray:
    """Expected error (Å) of each modelled residue's position after superposition of another's frame, (n, n)."""
    module = load_structure_module(prediction.weights)
    with torch.no_grad():
        error = module.aligned_error(prediction.pair.float()).numpy()
    kept = [row for row, names in enumerate(atom_names(prediction)) if names]
    return error[np.ix_(kept, kept)]


def model_from_prediction(prediction: Prediction, atoms: PredictedAtoms) -> tuple[Model, np.ndarray]:
    """The model of a prediction's atoms, and the pLDDT of its residues, (n_residues,).

    Residues of X, which have no atoms, and masked residues are left out; the sequences of the entities include them.
    """
    structure = gemmi.Structure()
    structure.name = prediction.origin.job
    structure.add_model(gemmi.Model(1))
    chain_index, numbers = prediction.chain_index.tolist(), prediction.residue_numbers.tolist()
    letters, kept = "".join(prediction.chains.sequences), []
    for name in prediction.chains.names:
        structure[0].add_chain(gemmi.Chain(name))
    for row, names in enumerate(atom_names(prediction)):
        if names:
            residue = gemmi.Residue()
            residue.name = gemmi.expand_one_letter(letters[row], gemmi.ResidueKind.AA)
            residue.subchain = prediction.chains.names[chain_index[row]]
            residue.entity_type = gemmi.EntityType.Polymer
            residue.seqid = gemmi.SeqId(numbers[row], " ")
            for name, position in zip(names, atoms.positions[row]):
                residue.add_atom(_atom(name, position, float(atoms.plddt[row])))
            structure[0][chain_index[row]].add_residue(residue)
            kept.append(row)
    _name_entities(structure, prediction.chains)
    complete_labels(structure)
    return Model.of(structure), atoms.plddt[kept]


def _name_entities(structure: gemmi.Structure, chains: Chains) -> None:
    """One entity for each different sequence, with the residues that have no atoms."""
    structure.remove_empty_chains()
    structure.ensure_entities()
    sequences = dict(zip(chains.names, chains.sequences))
    for entity in structure.entities:
        entity.polymer_type = gemmi.PolymerType.PeptideL
        entity.full_sequence = gemmi.expand_one_letter_sequence(sequences[entity.subchains[0]], gemmi.ResidueKind.AA)
    structure.deduplicate_entities()
    for number, entity in enumerate(structure.entities, start=1):
        entity.name = str(number)


def atom_names(prediction: Prediction) -> list[tuple[str, ...]]:
    """Names of each residue's atoms, in the order of ``PredictedAtoms.positions``; none for X and masked residues."""
    mask = prediction.mask.tolist()
    return [ATOM14_NAMES[kind] if mask[row] else () for row, kind in enumerate(prediction.aatype.tolist())]


def _atom(name: str, position: np.ndarray, plddt: float) -> gemmi.Atom:
    atom = gemmi.Atom()
    atom.name = name
    # In names of amino acids' atoms the first letter is the element.
    atom.element = gemmi.Element(name[0])
    atom.pos = gemmi.Position(*map(float, position))
    atom.b_iso = plddt
    return atom


def write_predicted_model(path: Path, prediction: Prediction, atoms: PredictedAtoms) -> None:
    """Write a prediction's atoms as mmCIF, with the pLDDT as B factors."""
    model, plddt = model_from_prediction(prediction, atoms)
    origin = prediction.origin
    details = f"Structure module of AlphaFold-Multimer on representations of {origin.program} {origin.job}"
    write_model(path, model, details=details, plddt=plddt)


def write_prediction(
    prediction: Prediction, folder: str | os.PathLike[str], atoms: PredictedAtoms | None = None
) -> None:
    """Write ``model.cif`` and ``prediction.safetensors`` into a folder; both files appear, whole, or neither.

    Parameters
    ----------
    prediction : Prediction
    folder
        Made if need be; it must hold neither file.
    atoms : PredictedAtoms, optional
        Atoms of the prediction, if they are known already.

    Raises
    ------
    InputError
        If the folder holds a prediction, or cannot be written to.
    """
    folder = Path(folder)
    refuse_occupied_folder(folder)
    is_new = not folder.exists()
    model = folder / MODEL_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_predicted_model(model, prediction, predict_atoms(prediction) if atoms is None else atoms)
        prediction.write_bundle(folder / FILE_NAME, mode_of=model)
    except BaseException as error:
        with contextlib.suppress(OSError):
            model.unlink(missing_ok=True)
            if is_new:
                folder.rmdir()
        if isinstance(error, (OSError, SafetensorError)):
            raise InputError(f"{folder}: cannot be written ({error}); give another folder") from error
        raise


@dataclass(frozen=True)
class ProgramOutput:
    """What a program wrote of one prediction.

    Attributes
    ----------
    chains : Chains
    single : (n, 384) float32
    pair : (n, n, 128) float
    origin : Provenance
    ca_positions : (n, 3) float
        CA atoms of the program's model, Å; NaN where it has none.
    plddt : (n,) float32, optional
    pae : (n, n) float32, optional
        Å.
    """

    chains: Chains
    single: torch.Tensor
    pair: torch.Tensor
    origin: Provenance
    ca_positions: np.ndarray
    plddt: torch.Tensor | None = None
    pae: torch.Tensor | None = None

    @property
    def name(self) -> str:
        """Program and job, for messages."""
        return f"{self.origin.program}'s {self.origin.job}"

    def with_weights(self, weights: Mapping[str, torch.Tensor]) -> Prediction:
        """The prediction with these weights, in AlphaFold's names and layout; all residues count."""
        return Prediction(
            single=self.single,
            pair=self.pair,
            aatype=torch.from_numpy(self.chains.aatype()),
            mask=torch.ones(len(self.chains), dtype=torch.bool),
            chain_index=torch.from_numpy(self.chains.chain_index()),
            residue_numbers=torch.from_numpy(self.chains.residue_numbers()),
            chains=self.chains,
            weights=weights,
            origin=self.origin,
            plddt=self.plddt,
            pae=self.pae,
        )


@dataclass(frozen=True)
class VerifiedPrediction:
    """A prediction whose atoms were compared with the program's own.

    Attributes
    ----------
    prediction : Prediction
    atoms : PredictedAtoms
        The atoms that the prediction gives.
    """

    prediction: Prediction
    atoms: PredictedAtoms


def build_verified_prediction(
    output: ProgramOutput, weight_file: Path, max_deviation_angstrom: float
) -> VerifiedPrediction:
    """Put a prediction together, and refuse it if it does not give the program's own atoms.

    Parameters
    ----------
    output : ProgramOutput
    weight_file : Path
    max_deviation_angstrom : float
        Largest root mean square deviation of CA atoms, without superposition.

    Raises
    ------
    InputError
        If parts do not fit together, or the weights are not those of the prediction.
    """
    prediction, origin = output.with_weights(read_weights(weight_file)), output.origin
    prediction.check(output.name)
    if not np.isfinite(output.ca_positions).all(1).any():
        raise InputError(f"{output.name}: has no CA atoms; a protein is needed")
    atoms = predict_atoms(prediction)
    rmsd, largest = _ca_deviation_angstrom(atoms.positions[:, CA_COLUMN], output.ca_positions)
    if not rmsd <= max_deviation_angstrom:
        raise InputError(
            f"{weight_file}: the weights are not those of this prediction: they give CA atoms that are {rmsd:.2f} Å "
            f"(root mean square; at most {largest:.2f} Å) from the {origin.program} model of {origin.job}; up to "
            f"{max_deviation_angstrom:g} Å is allowed. Give the weight file that {origin.program} used for model "
            f"{origin.model_number}"
        )
    noted = replace(origin, ca_rmsd_to_program=round(rmsd, 4), ca_max_to_program=round(largest, 4))
    return VerifiedPrediction(replace(prediction, origin=noted), atoms)


def _ca_deviation_angstrom(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    distance = np.linalg.norm(ours - theirs, axis=1)
    distance = distance[np.isfinite(theirs).all(1)]
    return float(np.sqrt((distance**2).mean())), float(distance.max())


def read_ca_positions(path: Path, chains: Chains) -> np.ndarray:
    """CA atoms of a program's model, by chain name and residue number; (n, 3) Å, NaN where X has none.

    Raises
    ------
    InputError
        If the model is of other chains.
    """
    model = read_model(path)
    ca = model.atoms_named("CA")
    rows = {(key.chain, key.number): row for row, key in enumerate(model.residues)}
    positions = np.full((len(chains), 3), np.nan)
    chain_names = np.array(chains.names)[chains.chain_index()].tolist()
    expected = zip(chain_names, chains.residue_numbers().tolist(), "".join(chains.sequences))
    for index, (chain, number, letter) in enumerate(expected):
        row = rows.pop((chain, number), None)
        # AlphaFold gives no atoms to X.
        if row is None and letter == "X":
            continue
        found = "missing" if row is None else model.residues[row].name
        if row is None or ca[row] < 0 or (letter != "X" and _one_letter_code(found) != letter):
            raise InputError(f"{path}: residue {number} of chain {chain} is {found}, where the sequence has {letter}")
        positions[index] = model.positions[ca[row]]
    if rows:
        chain, number = next(iter(rows))
        raise InputError(f"{path}: residue {number} of chain {chain} is in none of the sequences: chains {chains}")
    return positions


def read_model_chains(path: Path) -> Chains:
    """Chains of a program's model, which must have all residues."""
    sequences: dict[str, str] = {}
    for key in read_model(path).residues:
        sequences[key.chain] = sequences.get(key.chain, "") + _one_letter_code(key.name)
    return Chains.of(tuple(sequences.values()))


def _one_letter_code(residue_name: str) -> str:
    letter = gemmi.find_tabulated_residue(residue_name).one_letter_code.upper()
    return letter if letter in ONE_LETTER_CODES else "X"
