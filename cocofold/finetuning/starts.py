"""What a run starts from: a model that is moved, or a prediction whose network is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cocofold.atoms import AtomSource
from cocofold.deformation import DeformationSource
from cocofold.errors import InputError
from cocofold.finetuning.options import Options
from cocofold.network import ATOM14_NAMES, load_structure_module
from cocofold.network.distillation import Target
from cocofold.network.source import Frozen, Learned, NetworkSource, Placed
from cocofold.structure import Backbone, Model, read_model
from cocofold.trunk import Prediction
from cocofold.trunk.rebuilding import model_of, rebuild

_FEWEST_IN_COMMON = 4


@dataclass(frozen=True)
class Start:
    """A model in the map's frame, its pLDDT if it is a prediction, and what gives atoms, made anew for each pass."""

    model: Model
    plddt: np.ndarray | None
    source: Callable[[], AtomSource]


def start_from_model(options: Options, device: torch.device) -> Start:
    """The model as it was given, under a field of motions."""
    model = read_model(options.model or "")
    return Start(model, None, lambda: DeformationSource(model, device, options.effort))


class PredictedStart:
    """A prediction, placed in the map: by itself, or where a model of it lies.

    Parameters
    ----------
    options : Options

    Raises
    ------
    InputError
        If the prediction cannot be read, or the model is not one of it.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._prediction = Prediction.read(options.prediction or "")
        unplaced, self.plddt = model_of(self._prediction, rebuild(self._prediction))
        self._moves = [(np.eye(3), np.zeros(3))] * len(self._prediction.chains.names)
        if options.model is not None:
            self._moves = place_on(unplaced, read_model(options.model), options.model)
        order = {name: row for row, name in enumerate(dict.fromkeys(key.chain for key in unplaced.residues))}
        chain = np.array([order[key.chain] for key in unplaced.residues])[unplaced.residue_of_atom]
        self._rotations = np.stack([rotation for rotation, _ in self._moves])[chain]
        self._translations = np.stack([translation for _, translation in self._moves])[chain]
        moved = np.einsum("nij,nj->ni", self._rotations, unplaced.positions) + self._translations
        self.model = unplaced.moved_to(moved)

    def taught_by(self, teacher: Model | None, device: torch.device) -> Start:
        """The start of a run whose network first learns a teacher's model of the same atoms."""
        target = None
        if teacher is not None:
            backbone = torch.as_tensor(Backbone.of(self.model).atoms, device=device)
            target = Target(backbone, torch.as_tensor(teacher.positions, dtype=torch.float32, device=device))
        return Start(self.model, self.plddt, lambda: self._source(target, device))

    def _source(self, target: Target | None, device: torch.device) -> NetworkSource:
        known, options = self._prediction, self._options
        residues = np.flatnonzero(known.mask.numpy() & (known.aatype.numpy() < len(ATOM14_NAMES) - 1))
        row = residues[self.model.residue_of_atom]
        slots = [
            ATOM14_NAMES[int(known.aatype[residue])].index(name)
            for residue, name in zip(row, self.model.atom_names.tolist())
        ]
        placed = Placed(
            torch.as_tensor(row),
            torch.as_tensor(np.array(slots)),
            torch.as_tensor(residues),
            torch.as_tensor(self._rotations, dtype=torch.float32),
            torch.as_tensor(self._translations, dtype=torch.float32),
        )
        learned = Learned(
            options.weights_rate,
            options.adapter_rate,
            options.single_rate,
            options.pair_rate,
            options.pair_rank,
            options.seed,
        )
        frozen = Frozen(known.single, known.pair, known.aatype, known.mask)
        module = load_structure_module(known.weights)
        return NetworkSource(module, frozen, placed, learned, target, options.effort, device)


def place_on(model: Model, placed: Model, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rotation and translation (Å) of each chain of a model onto a placed one with the same chains and numbers.

    Raises
    ------
    InputError
        If the placed model has other chains or another sequence.
    """
    known = {(key.chain, key.number, key.insertion_code): row for row, key in enumerate(placed.residues)}
    ours, theirs = model.atoms_named("CA"), placed.atoms_named("CA")
    moves = []
    for chain in dict.fromkeys(key.chain for key in model.residues):
        pairs = []
        for row, key in enumerate(model.residues):
            other = known.get((key.chain, key.number, key.insertion_code)) if key.chain == chain else None
            if other is None:
                continue
            if placed.residues[other].name != key.name:
                raise InputError(
                    f"--model {name}: its sequence is not the prediction's: residue {chain}{key.number} is "
                    f"{placed.residues[other].name}, in the prediction {key.name}; give a model of this prediction, "
                    "with its chain names and numbers"
                )
            if ours[row] >= 0 and theirs[other] >= 0:
                pairs.append((ours[row], theirs[other]))
        if len(pairs) < _FEWEST_IN_COMMON:
            raise InputError(
                f"--model {name}: chain {chain} of the prediction has {len(pairs)} residues in common with it; give a "
                "model of this prediction, with its chain names and numbers"
            )
        first, second = np.array(pairs).T
        here, there = model.positions[first], placed.positions[second]
        rotation = Rotation.align_vectors(there - there.mean(0), here - here.mean(0))[0].as_matrix()
        moves.append((rotation, there.mean(0) - rotation @ here.mean(0)))
    return moves
