"""Relaxation: energy is brought down while restraints to the positions that the images gave fade."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import gemmi
import numpy as np

from cocofold.relaxation.clash_figures import Stereochemistry, measure_stereochemistry
from cocofold.relaxation.force_field import ForceFieldProtein, build_protein, build_system, load_force_field
from cocofold.structure.model import Model
from cocofold.system.errors import InputError
from cocofold.system.progress import ProgressCallback

# Strength of the restraint to the start in each stage (kJ/mol/nm²), iterations of the minimiser at most, and whether in
# solvent: in vacuum a step takes a twelfth of the time, and the restraints leave no room for artefacts of it
RELAXATION_STAGES = ((40_000.0, 300, False), (4_000.0, 300, False), (400.0, 200, True))
_TOLERANCE_KJ_PER_NM = 5.0
_IMAGE_ROUNDS = 3
_SOLVENT_STEP_COST = 12
# The images pull displaced atoms back as strongly as the last restraint: measured by a displacement of this size
_TRIAL_DISPLACEMENT_ANGSTROM = 0.5
_SEED = 0
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
        Of the processor; None: as many as torch would take.
    """

    hydrogens: bool = False
    device: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class RelaxedModel:
    """A relaxed model and what is known about it.

    Attributes
    ----------
    model : Model
        With the heavy atoms that were missing, and hydrogens if they were asked for.
    before, after : Figures
        Of the protein.
    added_atoms : int
        Missing heavy atoms that were built.
    moved_angstrom : float
        Root mean square over CA atoms, without superposition.
    platform : str
        Of OpenMM.
    notes : tuple of str
        What was held, left out or taken in a particular way; a line each.
    """

    model: Model
    before: Stereochemistry
    after: Stereochemistry
    added_atoms: int
    moved_angstrom: float
    platform: str
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "before": asdict(self.before),
            "after": asdict(self.after),
            "added_atoms": self.added_atoms,
            "moved_angstrom": self.moved_angstrom,
            "platform": self.platform,
            "notes": list(self.notes),
        }


def relax(
    model: Model,
    settings: RelaxSettings | None = None,
    image_gradient: ImageGradient | None = None,
    tell: ProgressCallback = lambda what, done: None,
) -> RelaxedModel:
    """Relax a model by Amber14 in implicit solvent.

    Restraints to the start fade in three stages. With the images' gradient each of the last rounds is minimised under a
    constant force along it, so that relaxation does not undo the fit. The same model gives the same result on the CPU
    platform with the same number of threads.

    Parameters
    ----------
    model : Model
    settings : RelaxSettings, optional
    image_gradient : callable, optional
        Of the mean Fourier ring correlation, for positions of the model's atoms.
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
    field = load_force_field()
    tell("building missing atoms and hydrogens", 0.0)
    parts = build_protein(model, field, platform)
    others = model.positions[parts.left_out[model.residue_of_atom]]
    systems = {
        solvent: build_system(parts, load_force_field(solvent), others, image_gradient is not None)
        for solvent in (False, True)
    }
    pull = _ImageForce(parts, model, image_gradient) if image_gradient is not None else None
    positions, context = (
        parts.positions,
        _context(openmm, systems[RELAXATION_STAGES[0][2]], platform, properties, parts.positions),
    )
    for number, (hold, count, solvent) in enumerate(RELAXATION_STAGES):
        if number > 0 and solvent != RELAXATION_STAGES[number - 1][2]:
            context = _context(openmm, systems[solvent], platform, properties, positions)
        context.setParameter("hold", hold)
        rounds = _IMAGE_ROUNDS if pull is not None and number == len(RELAXATION_STAGES) - 1 else 1
        for repeat in range(rounds):
            tell(f"minimising, restraints at {hold:g} kJ/mol/nm²", _fraction_done(number, repeat / rounds))
            if pull is not None:
                pull.refresh_force(context, systems[solvent], positions)
            openmm.LocalEnergyMinimizer.minimize(context, _TOLERANCE_KJ_PER_NM, count // rounds)
            positions = _positions(context)
    if not np.isfinite(positions).all():
        raise InputError("relaxation did not converge: positions are no numbers; look at the model's clashes first")
    tell("done", 1.0)
    return _result(model, parts, positions, settings, platform.getName())


def _fraction_done(stage: int, part: float) -> float:
    """Share of the time after some stages and a part of the next: a step in solvent counts for twelve."""
    costs = [count * (_SOLVENT_STEP_COST if solvent else 1) for _, count, solvent in RELAXATION_STAGES]
    return (sum(costs[:stage]) + part * costs[stage]) / sum(costs)


class _ImageForce:
    """The images' force on each atom, renewed from time to time.

    Its weight is such that atoms displaced at random by 0.5 Å are pulled back as strongly as by the last restraint.
    """

    def __init__(self, parts: ForceFieldProtein, model: Model, gradient: ImageGradient) -> None:
        self._parts, self._model, self._gradient = parts, model, gradient
        self._known = parts.row >= 0
        rng = np.random.default_rng(_SEED)
        trial = rng.normal(0, _TRIAL_DISPLACEMENT_ANGSTROM / np.sqrt(3), (int(self._known.sum()), 3))
        start = parts.positions[self._known]
        change = self._at(start + trial) - self._at(start)
        size = float(np.sqrt((change**2).sum(1).mean()))
        self._weight = RELAXATION_STAGES[-1][0] * _TRIAL_DISPLACEMENT_ANGSTROM / 10 / size if size > 0 else 0.0

    def refresh_force(self, context: Any, system: Any, positions: np.ndarray) -> None:
        """Set the force at these positions of the protein, (n, 3) Å."""
        pull = system.getForce(system.getNumForces() - 1)
        gradient = self._weight * self._at(positions[self._known])
        for atom, force in zip(np.flatnonzero(self._known).tolist(), gradient.tolist()):
            pull.setParticleParameters(atom, atom, force)
        pull.updateParametersInContext(context)

    def _at(self, positions: np.ndarray) -> np.ndarray:
        """Gradient for the protein's atoms at these positions, (n, 3) per Å."""
        moved = self._model.positions.copy()
        moved[self._parts.row[self._known]] = positions
        return self._gradient(moved)[self._parts.row[self._known]]


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
            for key, value in (("Threads", str(threads)), ("DeterministicForces", "true")):
                platform.setPropertyDefaultValue(key, value)
            return platform, {"Threads": str(threads), "DeterministicForces": "true"}
    raise InputError(f"--device {settings.device}: OpenMM has {', '.join(sorted(there))} here; give cpu")


def _context(openmm: Any, system: Any, platform: Any, properties: dict[str, str], positions: np.ndarray) -> Any:
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform, properties)
    context.setPositions(positions / 10)
    return context


def _positions(context: Any) -> np.ndarray:
    from openmm import unit

    return np.array(context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom))


def _result(
    model: Model, parts: ForceFieldProtein, positions: np.ndarray, settings: RelaxSettings, platform: str
) -> RelaxedModel:
    known = parts.row >= 0
    moved = model.positions.copy()
    moved[parts.row[known]] = positions[known]
    alpha = known & np.array([atom.name == "CA" for atom in parts.topology.atoms()])
    shift = np.linalg.norm(positions[alpha] - parts.positions[alpha], axis=1)
    labels = [
        f"{model.residues[r].chain} {model.residues[r].number} {model.residues[r].name}"
        for r in dict.fromkeys(parts.residue.tolist())
    ]
    added = ~known & (parts.heavy | settings.hydrogens) & np.array([a.name != "OXT" for a in parts.topology.atoms()])
    return RelaxedModel(
        model=_relaxed_structure(model, parts, moved, positions, added),
        before=measure_stereochemistry(parts.topology, parts.positions, labels),
        after=measure_stereochemistry(parts.topology, positions, labels),
        added_atoms=int((added & parts.heavy).sum()),
        moved_angstrom=float(np.sqrt((shift**2).mean())),
        platform=platform,
        notes=_notes(model, parts),
    )


def _relaxed_structure(
    model: Model, parts: ForceFieldProtein, moved: np.ndarray, positions: np.ndarray, added: np.ndarray
) -> Model:
    """The model at other positions, without the hydrogens of the protein that it had, with atoms that were added."""
    from dataclasses import replace

    structure = model.structure.clone()
    atoms = list(parts.topology.atoms())
    extra: dict[int, list[int]] = {}
    for number in np.flatnonzero(added).tolist():
        extra.setdefault(int(parts.residue[number]), []).append(number)
    row = 0
    residues = (residue for chain in structure[0] for residue in chain)
    for number, residue in enumerate(residues):
        for atom in residue:
            atom.pos = gemmi.Position(*moved[row])
            row += 1
        if not parts.left_out[number]:
            for place in reversed([place for place, atom in enumerate(residue) if atom.is_hydrogen()]):
                del residue[place]
        b_factor = float(np.mean([atom.b_iso for atom in residue]))
        for place in extra.get(number, []):
            new = gemmi.Atom()
            new.name, new.element = atoms[place].name, gemmi.Element(atoms[place].element.symbol)
            new.pos, new.occ, new.b_iso = gemmi.Position(*positions[place]), 1.0, b_factor
            residue.add_atom(new)
    return replace(Model.of(structure), notes=model.notes, described=model.described)


def _notes(model: Model, parts: ForceFieldProtein) -> tuple[str, ...]:
    names = [model.residues[row].name for row in np.flatnonzero(parts.left_out)]
    pieces = "1 piece" if parts.pieces == 1 else f"{parts.pieces} pieces"
    notes = [f"{pieces} of protein without gaps, {parts.disulphides} disulphides"]
    if names:
        kinds = ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names))[:8])
        notes.append(
            f"{len(names)} residues that the force field does not know stay where they are, and protein atoms within "
            f"4.5 Å of them too: {kinds}"
        )
    selenium = sum(model.residues[row].name == "MSE" for row in np.flatnonzero(~parts.left_out))
    if selenium:
        notes.append(f"{selenium} selenomethionines were moved as methionines")
    return tuple(notes)
