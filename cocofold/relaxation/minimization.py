"""Relaxation: energy is brought down while restraints to the positions that the images gave fade."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import gemmi
import numpy as np

from cocofold.likelihood.residue_support import ImageAgreement, ParticlesOfModel
from cocofold.relaxation import residue_label
from cocofold.relaxation.clash_figures import Stereochemistry, measure_stereochemistry
from cocofold.relaxation.force_field import (
    ANGSTROM_PER_NM,
    ForceFieldParts,
    build_parts,
    build_system,
    image_force_of,
    load_force_field,
)
from cocofold.structure.geometry import root_mean_square
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.system.atomic_files import refuse_unwritable
from cocofold.system.errors import InputError, require_within
from cocofold.system.progress import ProgressCallback


class RelaxationStage(NamedTuple):
    """Restraint to the start (kJ/mol/nm²), iterations of the minimiser at most, and whether in solvent."""

    hold_kj_per_nm2: float
    iterations: int
    solvent: bool


# In vacuum a step takes a twelfth of the time, and strong restraints leave no room for artefacts of it. A tenth of the
# strength lets atoms move about three times as far; weaker restraints than the last leave more to the force field and
# less to the images that gave the positions.
RELAXATION_STAGES = (
    RelaxationStage(40_000.0, 300, False),
    RelaxationStage(4_000.0, 300, False),
    RelaxationStage(400.0, 200, True),
)
_SOLVENT_STEP_COST = 12  # in steps in vacuum, for the progress alone
# The minimiser stops at this root mean square force; smaller takes more iterations for changes that do not show
_TOLERANCE_KJ_PER_NM = 5.0
# How often the images' force is computed anew in the last stage, whose iterations are shared out among the rounds
_IMAGE_ROUNDS = 3
# The images pull displaced atoms back as strongly as the last restraint: measured by a displacement of this size
_TRIAL_DISPLACEMENT_ANGSTROM = 0.5
_SEED = 0  # fixed, so that a model always gets the same strength
# An integrator that a context needs and minimisation does not use
_UNUSED_STEP_PS = 0.001
_MOST_THREADS = 10_000  # beyond any machine's cores
_PLATFORMS = {"cpu": ("CPU",), "cuda": ("CUDA", "OpenCL"), "auto": ("CUDA", "OpenCL", "CPU")}

# Gradient of the agreement with the images with respect to the model's positions, (n_atoms, 3) per Å
ImageGradient = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class RelaxSettings:
    """How a model is relaxed.

    Attributes
    ----------
    hydrogens : bool
        Keep the hydrogens in the result.
    device : str
        auto, cpu, cuda or cuda:N.
    threads : int or None
        Number of the processor's threads; None: one for each core that the process may use.
    """

    hydrogens: bool = False
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot work, in the words of the command line."""
        if self.threads is not None:
            require_within("--threads", self.threads, 1, _MOST_THREADS)


@dataclass(frozen=True)
class RelaxedModel:
    """A relaxed model and what is known about it.

    Attributes
    ----------
    model : Model
        The result, with the heavy atoms that were missing, and hydrogens if they were asked for.
    before, after : Stereochemistry
        Figures of the protein, and clashes of nucleic acids too.
    added_atoms : int
        Missing heavy atoms that were built.
    moved_angstrom : float
        Root mean square displacement of CA atoms (C1' without any protein), without superposition.
    platform : str
        OpenMM's platform.
    notes : tuple of str
        What was held, left out or handled in a particular way; a line each.
    frc : dict or None
        Mean Fourier ring correlation with the particles that pulled, ``before`` and ``after``; None without any.
    """

    model: Model
    before: Stereochemistry
    after: Stereochemistry
    added_atoms: int
    moved_angstrom: float
    platform: str
    notes: tuple[str, ...]
    frc: dict[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "before": asdict(self.before),
            "after": asdict(self.after),
            "added_atoms": self.added_atoms,
            "moved_angstrom": self.moved_angstrom,
            "platform": self.platform,
            "notes": list(self.notes),
            "frc": self.frc,
        }


def relax_with_particles(
    model: Model,
    out: Path | None,
    settings: RelaxSettings,
    particles: ParticlesOfModel | None = None,
    tell: ProgressCallback = lambda what, done: None,
) -> RelaxedModel:
    """Relax a model under the pull of its particles, if there are any, and write it as mmCIF, if a file is named.

    Raises
    ------
    InputError
        For the reasons of ``relax``, particles that cannot be used, and a file that cannot be written.
    """
    with contextlib.ExitStack() as at_end:
        images = None
        if particles is not None:
            images = at_end.enter_context(ImageAgreement.read(model, particles, settings.device))
        found = relax(model, settings, None if images is None else images.gradient, tell)
        if images is not None:
            frc = {
                when: images.mean(one.positions, one.atomic_numbers)
                for when, one in (("before", model), ("after", found.model))
            }
            left_out = () if images.left_out is None else (images.left_out,)
            found = replace(found, frc=frc, notes=(*found.notes, *left_out))
    if out is not None:
        details = "relaxed by Amber14 in implicit solvent"
        with refuse_unwritable(out):
            write_model(out, found.model, details=details, placed_as=found.model.placed_as)
    return found


def relax(
    model: Model,
    settings: RelaxSettings | None = None,
    image_gradient: ImageGradient | None = None,
    tell: ProgressCallback = lambda what, done: None,
) -> RelaxedModel:
    """Relax a model by Amber14 in implicit solvent.

    Restraints to the start fade in three stages. With the images' gradient there is a constant force along it, which is
    computed anew for each stage and several times in the last one, so that relaxation does not undo the fit. The same
    model gives the same result on the CPU platform with one thread; with several, OpenMM's sums differ from run to run,
    also where it is asked for deterministic forces.

    Parameters
    ----------
    model : Model
    settings : RelaxSettings, optional
    image_gradient : callable, optional
        Gives the gradient of the mean Fourier ring correlation, (n_atoms, 3) per Å, for positions of the model's atoms.
    tell : callable
        Told what is done, and the share of all that is done.

    Raises
    ------
    InputError
        If OpenMM is missing, or there is nothing that the force field knows.
    """
    settings = settings or RelaxSettings()
    openmm = _import_openmm()
    platform, properties = _platform(openmm, settings)
    fields = {solvent: load_force_field(solvent) for solvent in (False, True)}
    tell("building missing atoms and hydrogens", 0.0)
    parts = build_parts(model, fields[True], platform)
    systems = {
        solvent: build_system(parts, field, model, image_gradient is not None) for solvent, field in fields.items()
    }
    pull = None if image_gradient is None else _ImageForce.calibrated(parts, model, image_gradient)

    def context(solvent: bool, positions: np.ndarray) -> Any:
        return _context(openmm, systems[solvent], platform, properties, positions)

    positions = _minimize_stages(openmm, context, parts.positions, pull, tell)
    if not np.isfinite(positions).all():
        raise InputError("relaxation did not converge: positions are no numbers; look at the model's clashes first")
    tell("done", 1.0)
    return _result(model, parts, positions, settings, platform.getName())


def _minimize_stages(
    openmm: Any,
    context_of: Callable[[bool, np.ndarray], Any],
    positions: np.ndarray,
    pull: _ImageForce | None,
    tell: ProgressCallback,
) -> np.ndarray:
    """Positions of the protein after all stages, (n, 3) Å; ``context_of`` makes a context with or without solvent."""
    context, in_solvent = None, None
    for number, stage in enumerate(RELAXATION_STAGES):
        if context is None or stage.solvent != in_solvent:
            context, in_solvent = context_of(stage.solvent, positions), stage.solvent
        context.setParameter("hold", stage.hold_kj_per_nm2)
        is_last = number == len(RELAXATION_STAGES) - 1
        rounds = _IMAGE_ROUNDS if pull is not None and is_last else 1
        for repeat in range(rounds):
            restraints = f"minimising, restraints at {stage.hold_kj_per_nm2:g} kJ/mol/nm²"
            tell(restraints, _fraction_done(number, repeat / rounds))
            if pull is not None:
                pull.refresh_force(context, positions)
            openmm.LocalEnergyMinimizer.minimize(context, _TOLERANCE_KJ_PER_NM, stage.iterations // rounds)
            positions = _positions(context)
    return positions


def _fraction_done(stage: int, part: float) -> float:
    """Share of the time after some stages and a part of the next: a step in solvent counts for twelve."""
    costs = [stage.iterations * (_SOLVENT_STEP_COST if stage.solvent else 1) for stage in RELAXATION_STAGES]
    return (sum(costs[:stage]) + part * costs[stage]) / sum(costs)


class _ImageForce:
    """The images' force on each atom of the protein that the model has."""

    def __init__(self, parts: ForceFieldParts, model: Model, gradient: ImageGradient) -> None:
        self._parts, self._model, self._gradient = parts, model, gradient
        self._known = parts.model_row >= 0
        self._weight = 0.0

    @classmethod
    def calibrated(cls, parts: ForceFieldParts, model: Model, gradient: ImageGradient) -> _ImageForce:
        """The force with the weight that pulls atoms displaced at random by 0.5 Å as strongly as the last restraint.

        Computes two gradients, for which all images are read.
        """
        force = cls(parts, model, gradient)
        rng = np.random.default_rng(_SEED)
        trial = rng.normal(0, _TRIAL_DISPLACEMENT_ANGSTROM / np.sqrt(3), (int(force._known.sum()), 3))
        start = parts.positions[force._known]
        change = force._gradient_at(start + trial) - force._gradient_at(start)
        size = float(np.sqrt((change**2).sum(1).mean()))
        if size > 0:
            hold = RELAXATION_STAGES[-1].hold_kj_per_nm2
            force._weight = hold * _TRIAL_DISPLACEMENT_ANGSTROM / ANGSTROM_PER_NM / size
        return force

    def refresh_force(self, context: Any, positions: np.ndarray) -> None:
        """Set the force in a context to that at these positions of the protein, (n, 3) Å."""
        pull = image_force_of(context.getSystem())
        gradient = self._weight * self._gradient_at(positions[self._known])
        for atom, force in zip(np.flatnonzero(self._known).tolist(), gradient.tolist()):
            pull.setParticleParameters(atom, atom, force)
        pull.updateParametersInContext(context)

    def _gradient_at(self, positions: np.ndarray) -> np.ndarray:
        """Gradient for the protein's known atoms at these positions of them, (n, 3) per Å."""
        moved = self._model.positions.copy()
        moved[self._parts.model_row[self._known]] = positions
        return self._gradient(moved)[self._parts.model_row[self._known]]


def _import_openmm() -> Any:
    try:
        import openmm
        import pdbfixer  # noqa: F401
    except ImportError as error:
        raise InputError(f"relaxation needs OpenMM and pdbfixer ({error}); run: pip install openmm pdbfixer") from error
    return openmm


def _platform(openmm: Any, settings: RelaxSettings) -> tuple[Any, dict[str, str]]:
    kind, _, number = settings.device.partition(":")
    if kind not in _PLATFORMS:
        raise InputError(f"--device {settings.device}: give auto, cpu, cuda or cuda:N")
    there = {openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())}
    for name in _PLATFORMS[kind]:
        if name in there:
            platform = openmm.Platform.getPlatformByName(name)
            if name != "CPU":
                return platform, {"DeviceIndex": number} if number else {}
            threads = settings.threads or len(os.sched_getaffinity(0))
            # Atoms are added in contexts that take no properties. With several threads the forces that place hydrogens
            # differ from run to run, and so would the start.
            for key, value in (("Threads", "1"), ("DeterministicForces", "true")):
                platform.setPropertyDefaultValue(key, value)
            return platform, {"Threads": str(threads), "DeterministicForces": "true"}
    raise InputError(f"--device {settings.device}: OpenMM has {', '.join(sorted(there))} here; give cpu")


def _context(openmm: Any, system: Any, platform: Any, properties: dict[str, str], positions: np.ndarray) -> Any:
    context = openmm.Context(system, openmm.VerletIntegrator(_UNUSED_STEP_PS), platform, properties)
    context.setPositions(positions / ANGSTROM_PER_NM)
    return context


def _positions(context: Any) -> np.ndarray:
    from openmm import unit

    return np.array(context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom))


def _result(
    model: Model, parts: ForceFieldParts, positions: np.ndarray, settings: RelaxSettings, platform: str
) -> RelaxedModel:
    known = parts.model_row >= 0
    moved = model.positions.copy()
    moved[parts.model_row[known]] = positions[known]
    names = np.array([atom.name for atom in parts.topology.atoms()])
    traced = known & (names == ("CA" if "CA" in names else "C1'"))
    shift = np.linalg.norm(positions[traced] - parts.positions[traced], axis=1)
    labels = [residue_label(model.residues[row]) for row in dict.fromkeys(parts.model_residue.tolist())]
    added = ~known & (parts.is_heavy | settings.hydrogens) & ~parts.is_stand_in
    return RelaxedModel(
        model=_relaxed_structure(model, parts, moved, positions, added),
        before=measure_stereochemistry(parts.topology, parts.positions, labels),
        after=measure_stereochemistry(parts.topology, positions, labels),
        added_atoms=int((added & parts.is_heavy).sum()),
        moved_angstrom=root_mean_square(shift),
        platform=platform,
        notes=parts.chosen.describe(model, parts.n_disulphides),
    )


def _relaxed_structure(
    model: Model, parts: ForceFieldParts, moved: np.ndarray, positions: np.ndarray, added: np.ndarray
) -> Model:
    """The model at other positions, without the hydrogens of the protein that it had, with atoms that were added."""
    structure = model.structure.clone()
    atoms = list(parts.topology.atoms())
    extra: dict[int, list[int]] = {}
    for number in np.flatnonzero(added).tolist():
        extra.setdefault(int(parts.model_residue[number]), []).append(number)
    new_positions = iter(moved)
    residues = (residue for chain in structure[0] for residue in chain)
    for number, residue in enumerate(residues):
        for atom, position in zip(residue, new_positions):
            atom.pos = gemmi.Position(*position)
        if not parts.chosen.left_out[number]:
            for place in reversed([place for place, atom in enumerate(residue) if atom.is_hydrogen()]):
                del residue[place]
        b_factor = float(np.mean([atom.b_iso for atom in residue]))
        for place in extra.get(number, []):
            new = gemmi.Atom()
            new.name, new.element = atoms[place].name, gemmi.Element(atoms[place].element.symbol)
            new.pos, new.occ, new.b_iso = gemmi.Position(*positions[place]), 1.0, b_factor
            residue.add_atom(new)
    return replace(Model.of(structure), **model.facts_of_file())
