"""What a run starts from: a model that is moved, or a prediction whose network is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cocofold.alphafold.pair_representation import PairRepresentation, choose_pair_dtypes, normalise_pair
from cocofold.alphafold.prediction import Prediction
from cocofold.alphafold.rebuild import model_from_prediction, predict_atoms
from cocofold.alphafold.sequences import ATOM14_NAMES
from cocofold.alphafold.weights import load_structure_module
from cocofold.finetuning.options import Options
from cocofold.finetuning.run_folder import RunFolder
from cocofold.mapfit.bodies import apply_placement, body_of_each_atom, refuse_overlapping_copies
from cocofold.mapfit.fit_model import AUTO
from cocofold.mapfit.map_files import AS_IS, MIRRORED, Placement
from cocofold.mapfit.workflow import PLACEMENT_FILE, SUBUNIT_FILE, MapFiles, MapOptionNames, place_and_write
from cocofold.particles.particle_set import ParticleSet
from cocofold.sources.base import AtomSource, SymmetricCopies
from cocofold.sources.deformation import DeformationSource
from cocofold.sources.motion_field import FieldOnTopSource
from cocofold.sources.structure_module import (
    AtomPlacement,
    DistillationTarget,
    Schedule,
    StructureModuleSource,
    TrainingRates,
    TrunkOutput,
)
from cocofold.structure.confidence import ResidueOrder, read_order
from cocofold.structure.geometry import build_assembly, find_superposition, normalise_point_group, point_group_rotations
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.structure.topology import Backbone
from cocofold.system.errors import InputError
from cocofold.system.hardware import find_device
from cocofold.system.progress import share_progress_bar

# Least number of CA atoms that a chain must share with the model that shows its place: three fix a rotation, if they
# are not on a line.
_FEWEST_IN_COMMON = 4


@dataclass(frozen=True)
class StartingModel:
    """Where a run starts.

    Attributes
    ----------
    model : Model
        In the map's frame.
    plddt : (n_residues,) float, optional
        Of a prediction.
    order : ResidueOrder, optional
        Of the model, or of the subunit.
    source : callable
        What gives atoms, made anew for each pass.
    hand : str
        Of the map that the model is placed in; the poses follow it.
    symmetry : str, optional
        Point group of the model, which is then an assembly.
    subunit : Model, optional
        Of an assembly, whose first copy it is.
    placing_seconds : float
        Time of the fit into a map.
    teacher_seconds, teacher_memory_gb : float
        Time and peak memory of the run that moved a prediction's model first.
    """

    model: Model
    plddt: np.ndarray | None
    source: Callable[[], AtomSource]
    hand: str = AS_IS
    symmetry: str | None = None
    subunit: Model | None = None
    placing_seconds: float = 0.0
    teacher_seconds: float = 0.0
    teacher_memory_gb: float = 0.0
    order: ResidueOrder | None = None

    def apply_hand(self, particles: ParticleSet) -> ParticleSet:
        """The particles with the poses that they have in this start's hand."""
        return particles.mirrored() if self.hand == MIRRORED else particles

    @property
    def placed_as(self) -> dict[str, str]:
        """What its files say of its place."""
        return {"hand": self.hand, "symmetry": self.symmetry or "C1"}

    def placed_at(self, place: StartPlacement, particles: ParticleSet) -> StartingModel:
        """With the map's hand, and with all copies if the model is one subunit.

        Raises
        ------
        InputError
            If the copies run into each other.
        """
        if place.symmetry is None:
            return replace(self, hand=place.hand, placing_seconds=place.seconds)
        rotations, centre = symmetry_axes(place.symmetry, particles)
        refuse_overlapping_copies(self.model, place.symmetry, rotations, centre)
        return replace(
            self,
            model=build_assembly(self.model, rotations, centre),
            plddt=None if self.plddt is None else np.tile(self.plddt, len(rotations)),
            source=lambda: SymmetricCopies(self.source(), rotations, centre),
            hand=place.hand,
            symmetry=place.symmetry,
            subunit=self.model,
            placing_seconds=place.seconds,
        )


def start_from_model(
    options: Options, particles: ParticleSet, folder: RunFolder, device: torch.device
) -> StartingModel:
    """The model, placed, under a field of motions."""
    read, order = read_order(read_model(options.model or ""), options.b_factors, name=str(options.model))
    order.require_plddt(options.remove_below)
    order.tell(folder.log)
    place = find_start_placement(read, read, options, particles, folder)
    model = place.move_into_place(read)
    start = StartingModel(model, None, lambda: DeformationSource(model, device, options.effort), order=order)
    return start.placed_at(place, particles)


@dataclass(frozen=True)
class AtomTransforms:
    """Rotations (n_atoms, 3, 3) and translations (n_atoms, 3) Å that move atoms rigidly into the map's frame."""

    rotations: np.ndarray
    translations: np.ndarray

    def apply(self, positions: np.ndarray) -> np.ndarray:
        """Positions (n_atoms, 3) Å in the map's frame."""
        return np.einsum("nij,nj->ni", self.rotations, positions) + self.translations


@dataclass
class PredictedStart:
    """Prediction whose network is trained: its model in the map's frame, pLDDT (n_residues,), how it is placed."""

    model: Model
    plddt: np.ndarray
    place: StartPlacement
    order: ResidueOrder
    _options: Options
    _particles: ParticleSet
    _device: torch.device
    _prediction: Prediction
    _transforms: AtomTransforms
    _pair: PairRepresentation | None = None

    @classmethod
    def read(cls, options: Options, particles: ParticleSet, folder: RunFolder, device: torch.device) -> PredictedStart:
        """Read a prediction and place it: by a placement, in a map, or where a model of it lies.

        Raises
        ------
        InputError
            If the prediction cannot be read, or the model is not one of it.
        """
        prediction = Prediction.read(options.prediction or "")
        unplaced, plddt = model_from_prediction(prediction, predict_atoms(prediction))
        unplaced, order = read_order(unplaced, options.b_factors, plddt)
        order.tell(folder.log)
        shown = None if options.model is None else read_model(options.model)
        place = find_start_placement(unplaced, shown, options, particles, folder)
        transforms = place.atom_transforms(unplaced)
        if shown is not None:
            transforms = superpose_chains(unplaced, shown, str(options.model))
        model = unplaced.moved_to(transforms.apply(unplaced.positions))
        return cls(model, plddt, place, order, options, particles, device, prediction, transforms)

    def with_teacher(self, teacher: Model | None) -> StartingModel:
        """The start of a run whose network first learns a teacher's model of the same atoms."""
        target, device = None, self._device
        if teacher is not None:
            backbone = torch.as_tensor(Backbone.of(self.model).atoms, device=device)
            positions = torch.as_tensor(teacher.positions, dtype=torch.float32, device=device)
            target = DistillationTarget(backbone, positions)
        start = StartingModel(self.model, self.plddt, lambda: self._source(target, device), order=self.order)
        return start.placed_at(self.place, self._particles)

    def _normalised_pair(self) -> PairRepresentation:
        """The pair as the network wants it; the prediction's own, of up to the same size, is let go of."""
        if self._pair is None:
            given = self._prediction.pair
            types = choose_pair_dtypes(self._options.pair_precision, len(self._prediction), self._device)
            self._pair = normalise_pair(given.to(self._device), *types)
            self._prediction = replace(self._prediction, pair=given.new_empty(0))
        return self._pair

    def _source(self, target: DistillationTarget | None, device: torch.device) -> AtomSource:
        known, options = self._prediction, self._options
        trunk = TrunkOutput(known.single, self._normalised_pair(), known.aatype, known.mask, known.chain_index)
        module = load_structure_module(known.weights)
        course, rates = Schedule(options.effort, options.epochs), self._training_rates()
        network = StructureModuleSource(module, trunk, self._atom_placement(), rates, target, course, device)
        return FieldOnTopSource(network, self.model, device) if options.deform else network

    def _atom_placement(self) -> AtomPlacement:
        """Row and slot in the network's atoms of each of the model's, and how each is moved into the map."""
        known = self._prediction
        residues = np.flatnonzero(known.mask.numpy() & (known.aatype.numpy() < len(ATOM14_NAMES) - 1))
        row = residues[self.model.residue_of_atom]
        slots = [
            ATOM14_NAMES[int(known.aatype[residue])].index(name)
            for residue, name in zip(row, self.model.atom_names.tolist())
        ]
        return AtomPlacement(
            residue=torch.as_tensor(row),
            slot=torch.as_tensor(np.array(slots)),
            residues=torch.as_tensor(residues),
            rotations=torch.as_tensor(self._transforms.rotations, dtype=torch.float32),
            translations=torch.as_tensor(self._transforms.translations, dtype=torch.float32),
        )

    def _training_rates(self) -> TrainingRates:
        options = self._options
        return TrainingRates(
            weights_rate=options.weights_rate,
            adapter_rate=options.adapter_rate,
            single_rate=options.single_rate,
            pair_rate=options.pair_rate,
            distil_rate=options.distil_rate,
            pair_segments=options.pair_segments,
            gated=options.adapter_gate,
            dropout=options.dropout,
            seed=options.seed,
        )


def superpose_chains(model: Model, placed: Model, name: str) -> AtomTransforms:
    """Rigid transform of each chain of a model onto a placed one with the same chains and numbers.

    Raises
    ------
    InputError
        If the placed model has other chains or another sequence.
    """
    known = {(key.chain, key.number, key.insertion_code): row for row, key in enumerate(placed.residues)}
    ours, theirs = model.atoms_named("CA"), placed.atoms_named("CA")
    chains = list(dict.fromkeys(key.chain for key in model.residues))
    rotations, translations = [], []
    remedy = "give a model of this prediction, with its chain names and numbers"
    for chain in chains:
        pairs = []
        for row, key in enumerate(model.residues):
            other = known.get((key.chain, key.number, key.insertion_code)) if key.chain == chain else None
            if other is None:
                continue
            if placed.residues[other].name != key.name:
                raise InputError(
                    f"--model {name}: its sequence is not the prediction's: residue {chain}{key.number} is "
                    f"{placed.residues[other].name}, in the prediction {key.name}; {remedy}"
                )
            if ours[row] >= 0 and theirs[other] >= 0:
                pairs.append((ours[row], theirs[other]))
        if len(pairs) < _FEWEST_IN_COMMON:
            raise InputError(
                f"--model {name}: chain {chain} of the prediction has {len(pairs)} residues in common with it; {remedy}"
            )
        first, second = np.array(pairs).T
        rotation, translation = find_superposition(model.positions[first], placed.positions[second])
        rotations.append(rotation)
        translations.append(translation)
    of_residue = np.array([chains.index(key.chain) for key in model.residues])
    of_atom = of_residue[model.residue_of_atom]
    return AtomTransforms(np.stack(rotations)[of_atom], np.stack(translations)[of_atom])


# Centres of map and particles that differ by less are taken as the same: headers round pixel sizes.
_SAME_CENTRE_PIXELS = 0.05


@dataclass(frozen=True)
class StartPlacement:
    """How a model comes into the particles' frame.

    Attributes
    ----------
    placement : Placement or None
        None if it is there already.
    hand : str
        ``mirrored`` if the poses are to be mirrored.
    symmetry : str or None
        Point group of the assembly of which the model is one subunit.
    seconds : float
        That the fit took.
    """

    placement: Placement | None
    hand: str
    symmetry: str | None
    seconds: float = 0.0

    def move_into_place(self, model: Model) -> Model:
        """The model there."""
        return model if self.placement is None else apply_placement(model, self.placement)

    def atom_transforms(self, model: Model) -> AtomTransforms:
        """Rigid transform of each of the model's atoms."""
        if self.placement is None:
            return AtomTransforms(np.tile(np.eye(3), (len(model), 1, 1)), np.zeros((len(model), 3)))
        owner, bodies = body_of_each_atom(model, self.placement), self.placement.bodies
        rotations = np.stack([body.rotation for body in bodies])
        translations = np.stack([body.translation_angstrom for body in bodies])
        return AtomTransforms(rotations[owner], translations[owner])


def find_start_placement(
    model: Model, given: Model | None, options: Options, particles: ParticleSet, folder: RunFolder
) -> StartPlacement:
    """Read the placement, or fit the model into the map, or take it to be in place.

    ``given`` is the model of the option ``--model``, if there is one: it may say how it is placed. A fit goes to
    ``placement`` in the run's folder.

    Raises
    ------
    InputError
        If it says that it is placed and is to be placed again, or symmetries contradict each other.
    """
    placed_as = {} if given is None else given.placed_as
    option = "--map" if options.map else "--placement" if options.placement else None
    if placed_as and option is not None:
        raise InputError(
            f"--model {options.model}: says that it is placed in a map already; leave {option} out, or give the model "
            "as it was before cocofold fit"
        )
    symmetry = None if options.symmetry in (None, AUTO) else normalise_point_group(str(options.symmetry))
    if symmetry is not None and placed_as.get("symmetry", "C1") != "C1":
        raise InputError(
            f"--model {options.model}: holds all copies of its subunit already ({placed_as['symmetry']}); with "
            f"--symmetry give one subunit, {SUBUNIT_FILE} beside it, or leave --symmetry out"
        )
    if option is None:
        return StartPlacement(None, placed_as.get("hand", AS_IS), symmetry)
    placement = _fit_in_map(model, options, folder) if options.map else Placement.read(str(options.placement))
    if symmetry is not None and placement.symmetry not in (None, symmetry):
        raise InputError(
            f"--symmetry {options.symmetry}: the placement was made with {placement.symmetry}; give that, or fit anew"
        )
    placement = _shift_to_particle_box(placement, particles, folder)
    symmetry = symmetry or placement.symmetry
    seconds = float(placement.facts.get("seconds", 0.0)) if options.map else 0.0
    return StartPlacement(placement, placement.hand, None if symmetry == "C1" else symmetry, seconds)


def _fit_in_map(model: Model, options: Options, folder: RunFolder) -> Placement:
    """The model placed in the map; a run that is resumed finds what it had."""
    out = folder.path / "placement"
    if not (out / PLACEMENT_FILE).is_file():
        folder.log(f"placing the model in {options.map}; see {out}")
        names = MapOptionNames("--map-resolution", "--map-pixel-size", half_maps=None)
        known = (options.map_resolution, options.map_pixel_size)
        files = MapFiles(Path(str(options.map)), None, None, None, *known, option_names=names)
        with share_progress_bar() as tell:
            chosen = options.bodies, options.hand, options.symmetry, find_device(options.device)
            _, lines = place_and_write(model, files, out, *chosen, tell)
        for line in lines:
            folder.log(line)
    placement = Placement.read(out / PLACEMENT_FILE)
    if placement.doubt is not None and not options.accept_placement:
        raise InputError(
            f"--map {options.map}: where the model lies is not certain: {placement.doubt}. Look at it with cocofold "
            "fit, whose placement.json has both places; then give --placement with the right one, or "
            "--accept-placement to go on from the first"
        )
    return placement


def _shift_to_particle_box(placement: Placement, particles: ParticleSet, folder: RunFolder) -> Placement:
    """The placement in the particles' box, whose centre is the map's, whatever the sizes of the two."""
    known = placement.facts.get("map")
    if not isinstance(known, dict) or not {"box", "pixel_size_angstrom"} <= set(known):
        return placement
    of_map = np.array([int(n) // 2 for n in known["box"]]) * float(known["pixel_size_angstrom"])
    shift = particles.box // 2 * particles.pixel_size_angstrom - of_map
    if np.abs(shift).max() < _SAME_CENTRE_PIXELS * particles.pixel_size_angstrom:
        return placement
    x, y, z = shift.round(2).tolist()
    folder.log(
        f"map and particles have boxes of different size: the model is shifted by ({x:g}, {y:g}, {z:g}) Å, so that "
        "their centres meet"
    )
    moved = [replace(body, translation_angstrom=body.translation_angstrom + shift) for body in placement.bodies]
    return replace(placement, bodies=tuple(moved))


def symmetry_axes(symmetry: str, particles: ParticleSet) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (n, 3, 3) of a point group, and the centre (3,) Å about which they turn: that of the particles' box."""
    return point_group_rotations(symmetry), np.full(3, particles.box // 2 * particles.pixel_size_angstrom)
