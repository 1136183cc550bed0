"""Files and figures of a run that tells particles apart: model and map of each state, and whose each particle is."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cocofold.assessment.matching import FEWEST_RESIDUES
from cocofold.assessment.what_changed import what_changed
from cocofold.finetuning.holdout import heldout_count, split_into_passes
from cocofold.finetuning.options import Options
from cocofold.finetuning.preparation import find_start
from cocofold.finetuning.run_folder import OutputModel, RunFolder
from cocofold.finetuning.run_result import peak_memory_gb
from cocofold.likelihood.image_likelihood import Mixture
from cocofold.likelihood.reconstruction import reconstruct
from cocofold.particles.mrc import write_map
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.star_read import find_particle_and_optics_blocks
from cocofold.particles.star_tables import read_star_blocks
from cocofold.particles.star_write import write_star_subset
from cocofold.structure.confidence import only_ordered
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_gaussians, read_model
from cocofold.system.atomic_files import atomic_path
from cocofold.system.errors import InputError

# Share of the particles held out, least number, and most of few: a state of one particle in ten should have ten.
_HELD_OUT_SHARE, _FEWEST_HELD_OUT, _MOST_HELD_OUT_SHARE = 0.1, 60, 0.25
# What held-out particles must say for a state: a log-likelihood that they lose without it ("very strong" evidence from
# 5 on; images are noisier than the model of their noise), and so many of them that are its for nearly certain.
LEAST_EVIDENCE, _FEWEST_CERTAIN = 10.0, 3
# Particles for each state at least: fewer fit no model.
FEWEST_PARTICLES = 50
# Probability from which a particle is nearly certain to show its state, and above which it shows none
CERTAIN, JUNK_FROM = 0.9, 0.5
# Verdicts from the worst on; that of several states is the worst of theirs.
_WORST_FIRST = (
    "does not belong",
    "mixed",
    "not supported",
    "undecided",
    "supported in part",
    "nothing to change",
    "supported",
)
# Models are the same state where fewer CA atoms (C1' of nucleotides) than this lie apart by more than that (Å): a loop
# that moves alone is no state.
_FEWEST_APART, _APART_ANGSTROM = 20, 3.0
# Files of the most populated state's run that are the whole run's too
_OF_FIRST_STATE = ("density.mrc", "frc.png", "metrics.csv", "reconstruction.mrc", "unexplained.mrc", "candidate.cif")


@dataclass(frozen=True, eq=False)
class FittedState:
    """A state and the run that fitted it.

    Attributes
    ----------
    run : Path
    model_file : Path
        What is written as its model.
    model : Model
    metrics : dict
        Of its run, with the verdict on the state.
    """

    run: Path
    model_file: Path
    model: Model
    metrics: dict[str, Any]


@dataclass(frozen=True, eq=False)
class ParticleClasses:
    """Whose each particle is.

    Attributes
    ----------
    number : (n,) int
        Of its state, from 1; 0 where it shows none.
    probability : (n,) float
        Of that state, if it shows one; of junk that of the most probable.
    junk : (n,) float
        Probability that it shows none.
    """

    number: np.ndarray
    probability: np.ndarray
    junk: np.ndarray

    @classmethod
    def of(cls, found: Mixture, count: int, sets_junk_aside: bool) -> ParticleClasses:
        """From probabilities of ``count`` models and of none."""
        chances = found.chances[:, :count].numpy()
        junk = found.chances[:, count].numpy() if sets_junk_aside else np.zeros(len(chances))
        total = np.maximum(chances.sum(1, keepdims=True), np.finfo(float).tiny)
        best = chances.argmax(1)
        probability = np.where(chances.sum(1) > 0, (chances / total)[np.arange(len(best)), best], 1 / count)
        return cls(np.where(junk > JUNK_FROM, 0, best + 1), probability, junk)


def write_states(
    folder: RunFolder,
    source: Path,
    particles: ParticleSet,
    rows: np.ndarray,
    in_hand: ParticleSet,
    states: Sequence[FittedState],
    found: Mixture,
    sets_junk_aside: bool,
    device: torch.device,
) -> dict[str, Any]:
    """Write the models and maps of all states and ``particles.star``; returns what ``metrics.json`` says of them.

    Parameters
    ----------
    folder : RunFolder
    source : Path
        Particles' file.
    particles : ParticleSet
        Those of them that are used.
    rows : (n,) int
        Their rows in the file.
    in_hand : ParticleSet
        These, in the hand of the models and protein white.
    states : sequence of FittedState
        As in ``found``.
    found : Mixture
        Of the particles that are used.
    sets_junk_aside : bool
    device
        Where maps are computed.
    """
    count = len(states)
    order = np.argsort(-found.shares[:count].numpy(), kind="stable")
    states = [states[row] for row in order]
    columns = [*order.tolist(), count]
    found = replace(found, shares=found.shares[columns], chances=found.chances[:, columns])
    classes = ParticleClasses.of(found, count, sets_junk_aside)
    shares, errors = _shares(found, count)
    told = []
    for number, one in enumerate(states, 1):
        _copy(one.model_file, folder.path / f"model_{number}.cif")
        _write_reconstruction(folder, number, in_hand, classes, device)
        mine = classes.number == number
        told.append(
            {
                "model": f"model_{number}.cif",
                "share": round(float(shares[number - 1]), 4),
                "share_error": round(float(errors[number - 1]), 4),
                "verdict": one.metrics["verdict"],
                "particles": int(mine.sum()),
                "certain_particles": int((classes.probability[mine] > CERTAIN).sum()),
                "run": str(one.run.relative_to(folder.path)),
                "frc_work": one.metrics.get("frc_work"),
                "frc_heldout": one.metrics.get("frc_heldout"),
            }
        )
    _write_particles(folder.path / "particles.star", source, particles, rows, classes)
    _copy_first(states[0], folder, in_hand)
    return {
        "states": told,
        "junk": {"particles": int((classes.number == 0).sum()), "share": round(float((classes.number == 0).mean()), 4)}
        if sets_junk_aside
        else None,
        "certainty": _certainty(classes),
        "differences": differences_of(told, [one.model for one in states]),
        "verdict": min((one["verdict"] for one in told), key=_WORST_FIRST.index),
    }


def differences_of(told: Sequence[dict[str, Any]], models: Sequence[Model]) -> list[dict[str, Any]]:
    """What differs between any two states, in words."""
    found = []
    for first, second in itertools.combinations(range(len(models)), 2):
        changed = what_changed(only_ordered(models[first]), only_ordered(models[second]))
        names = {"from": told[first]["model"], "to": told[second]["model"]}
        found.append({**names, "ca_rmsd": round(changed.ca_rmsd, 3), "sentences": changed.sentences()})
    return found


def _shares(found: Mixture, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the states among the particles that show one, and their errors."""
    shares, errors = found.shares[:count].numpy(), found.share_errors()[:count].numpy()
    total = max(float(shares.sum()), np.finfo(float).tiny)
    # A single state has all particles that show one, for certain.
    return shares / total, errors / total if count > 1 else np.zeros(1)


def _certainty(classes: ParticleClasses) -> dict[str, Any]:
    """How many particles have which probability of their state, in tenths."""
    known = classes.probability[classes.number > 0]
    counts, _ = np.histogram(known, np.linspace(0, 1, 11))
    return {"from": [round(0.1 * step, 1) for step in range(10)], "particles": counts.tolist()}


def _write_reconstruction(
    folder: RunFolder, number: int, in_hand: ParticleSet, classes: ParticleClasses, device: torch.device
) -> None:
    mine = np.flatnonzero(classes.number == number)
    if len(mine) < 2:
        return
    try:
        maps = reconstruct(in_hand.subset(mine), device=device)
    except InputError as error:
        folder.log(f"reconstruction_{number}.mrc is not written: {error}")
        return
    write_map(folder.path / f"reconstruction_{number}.mrc", maps.map, maps.pixel_size_angstrom)


def _write_particles(
    path: Path, source: Path, particles: ParticleSet, rows: np.ndarray, classes: ParticleClasses
) -> None:
    columns = {
        "rlnClassNumber": classes.number,
        "cocofoldStateProbability": np.round(classes.probability, 6),
        "cocofoldJunkProbability": np.round(classes.junk, 6),
    }
    write_star_subset(path, particles, source, rows, columns)


def _copy_first(state: FittedState, folder: RunFolder, particles: ParticleSet) -> None:
    """What a run has one of is that of the most populated state."""
    to, is_candidate = folder.path, state.model_file.name == "candidate.cif"
    _copy(state.model_file, to / "model.cif")
    for name in _OF_FIRST_STATE:
        if (state.run / name).is_file() and not (name == "candidate.cif" and is_candidate):
            _copy(state.run / name, to / name)
    if is_candidate:
        # The density of its run is that of the start.
        gaussians = read_gaussians(state.model_file, len(state.model))
        folder.write_density(OutputModel(state.model, *gaussians, None), particles.box, particles.pixel_size_angstrom)
    for cycle in sorted((state.run / "models").glob("cycle_*.cif")):
        _copy(cycle, to / "models" / cycle.name)


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as partial:
        shutil.copyfile(source, partial)


def metrics_of_states(
    told: dict[str, Any], states: Sequence[dict[str, Any]], heldout: np.ndarray, seconds: float
) -> dict[str, Any]:
    """Content of ``metrics.json``: figures of the most populated state's run, and what is said of all.

    Parameters
    ----------
    told : dict
        What ``write_states`` gave.
    states : sequence of dict
        Metrics of all runs that were made.
    heldout : (n,) bool
        Particles that were held out of all fits.
    seconds : float
        Of the whole.
    """
    first = next(one for one in states if one["run"] == told["states"][0]["run"])
    count = len(told["states"])
    shares = ", ".join(
        f"{one['model']} {100 * one['share']:.1f} % (± {100 * one['share_error']:.1f}), {one['verdict']}"
        for one in told["states"]
    )
    headline = f"The particles show {count} states." if count > 1 else first["verdict_headline"]
    said = first["verdict_explanation"]
    if first["verdict"] != told["states"][0]["verdict"]:
        said = (
            "Its own held-out particles do not decide on the first model; all held-out particles together support it."
        )
    explanation = f"{shares}. {said}" if count > 1 else said
    junk = told["junk"]
    aside = (
        []
        if junk is None
        else [
            f"{junk['particles']} particles ({100 * junk['share']:.1f} %) show none of the states (rlnClassNumber 0)."
        ]
    )
    return {
        **{name: value for name, value in first.items() if name != "run"},
        **told,
        "verdict_headline": headline,
        "verdict_explanation": " ".join([explanation, *aside]),
        "particles": len(heldout),
        "heldout_particles": int(heldout.sum()),
        "seconds": round(seconds, 1),
        "steps": sum(one["steps"] for one in states),
        "images": sum(one["images"] for one in states),
        "peak_memory_gb": round(max(peak_memory_gb(), *(one["peak_memory_gb"] for one in states)), 3),
    }


def tensor_of(rows: np.ndarray) -> torch.Tensor:
    """Rows, (n,) int, of chosen particles, (n,) bool."""
    return torch.as_tensor(np.flatnonzero(rows))


def answer_of(run: Path) -> Model:
    """What a run's fit gave, whether or not its own particles support it."""
    candidate = run / "candidate.cif"
    return read_model(candidate if candidate.is_file() else run / "model.cif")


def are_same(one: Model, other: Model) -> bool:
    """Whether two models of one molecule, of which residues may be left out, are one state."""
    first, second = (
        {model.residues[row]: model.positions[atom] for row, atom in zip(rows.tolist(), atoms[:, 1].tolist())}
        for model in (one, other)
        for rows, atoms, _ in [model.framed_residues()]
    )
    between = np.array([first[key] - second[key] for key in first if key in second]).reshape(-1, 3)
    apart = np.linalg.norm(between, axis=1) > _APART_ANGSTROM
    return int(apart.sum()) < min(_FEWEST_APART, max(1, len(apart) // 4))


def require_possible_states(options: Options, particles: ParticleSet) -> None:
    """Refuse more states than there are particles for, tilt series, and starts of different molecules."""
    if particles.particle_index is not None:
        raise InputError(
            f"--states, --junk: {options.particles} holds tilt series, whose particles are not told apart yet; leave "
            "these options out"
        )
    wanted, count = options.fewest_states, len(particles)
    if count < FEWEST_PARTICLES * wanted:
        raise InputError(
            f"--states {options.states}: there are {count} particles, and {wanted} states need "
            f"{FEWEST_PARTICLES * wanted} at least, {FEWEST_PARTICLES} each; give fewer states or more particles"
        )
    models = [read_model(path) for path in options.starts]
    for path, model in zip(options.starts, models):
        if (count := len(model.framed_residues()[0])) < FEWEST_RESIDUES:
            needed = f"{count} residues have a backbone, and states need {FEWEST_RESIDUES}"
            raise InputError(f"--model {path}: {needed}; give a larger model, or leave --states and --junk out")
        if model.residues != models[0].residues or not np.array_equal(model.atom_names, models[0].atom_names):
            raise InputError(
                f"--model {path}: has {len(model.residues)} residues and {len(model)} atoms, and not the same ones as "
                f"{options.starts[0]} ({len(models[0].residues)} and {len(models[0])}); give starts with the same "
                "chains, numbers and atoms"
            )
        if model.in_mirror_image != models[0].in_mirror_image:
            raise InputError(
                f"--model {path}: was placed in a map of the other hand than {options.starts[0]}; place both in one map"
            )


def start_as_fitted(
    options: Options,
    path: str,
    particles: ParticleSet,
    folder: RunFolder,
    run_inside: Callable[[Options, Path], dict[str, Any]],
) -> Model:
    """One of several starts as the run of its state begins with it, with all copies; the first of them is checked."""
    check = options.check and path == options.model
    own = replace(options, model=path, other_models=[], check=check)
    start = find_start(own, particles, folder, run_inside)
    return replace(start.model, placed_as=start.placed_as)


def held_out_particles(particles: ParticleSet, options: Options) -> np.ndarray:
    """Particles that are held out of the fits of all states, (n,) bool: a tenth and at least 60, or those marked."""
    count, share = len(particles), 0.0
    if options.heldout != 0 and heldout_count(count):
        share = min(_MOST_HELD_OUT_SHARE, max(options.heldout or _HELD_OUT_SHARE, _FEWEST_HELD_OUT / count))
    first = split_into_passes(count, options.seed, share, marked=particles.held_out, images=particles.particle_numbers)[
        0
    ]
    found = np.zeros(count, dtype=bool)
    found[first.heldout.numpy()] = True
    return found


def class_numbers(path: Path) -> np.ndarray:
    """``rlnClassNumber`` of each particle in a STAR that a run wrote, (n,) int.

    Raises
    ------
    InputError
        If it is gone or holds none.
    """
    blocks = read_star_blocks(path, as_text=True)
    table = find_particle_and_optics_blocks(path, blocks)[0].table
    try:
        return table["rlnClassNumber"].astype(int).to_numpy()
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: holds no classes of particles (rlnClassNumber); run it anew") from error


def is_enough(evidence: tuple[float, int]) -> bool:
    """Whether held-out particles support a state: evidence, and the number that are certain."""
    return evidence[0] > LEAST_EVIDENCE and evidence[1] >= _FEWEST_CERTAIN
