"""What a run ends with: its answer, its curves and the figures of ``metrics.json``."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cocofold.assessment.backbone_geometry import measure_geometry
from cocofold.assessment.what_changed import WhatChanged
from cocofold.finetuning.holdout import TrainingPass, answer_curves, answer_pass, highest_gain, spread_draw
from cocofold.finetuning.options import Options
from cocofold.finetuning.preparation import PreparedRun
from cocofold.finetuning.residue_findings import ResidueErrors, write_errors
from cocofold.finetuning.run_folder import SECOND_START, ModelState, RunFolder
from cocofold.finetuning.verdict import NO_SINGLE_MODEL, Evidence, gather_evidence, verdict_text
from cocofold.likelihood.explained_signal import ExplainedSignal
from cocofold.likelihood.frc_loss import AtomGaussians
from cocofold.likelihood.image_comparison import PoseRefiner
from cocofold.likelihood.memory_plan import EXAMINED_RESOLUTION_ANGSTROM
from cocofold.likelihood.particle_optics import ERRORS_PER_POSE, with_pose_errors
from cocofold.likelihood.reconstruction import Reconstruction, reconstruct
from cocofold.likelihood.residue_support import ViewCoverage
from cocofold.mapfit.unexplained_density import find_unexplained_density
from cocofold.mapfit.workflow import SUBUNIT_FILE
from cocofold.particles.mrc import write_map
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.star_write import write_star
from cocofold.structure.confidence import ResidueOrder, only_ordered, ordered_residues, runs_of, with_order
from cocofold.structure.geometry import find_superposition
from cocofold.structure.model import Model
from cocofold.structure.modelcif import residues_of
from cocofold.system.errors import InputError
from cocofold.system.hardware import peak_memory_gb, versions

# Images that are looked at for the evidence: of more, its errors are small beside what models leave unexplained. Fewer
# than the least show nothing.
_MOST_IMAGES_EXAMINED, _FEWEST_IMAGES_EXAMINED = 2000, 20
# Images whose states are told apart, one by one; of more the shares would be known better than to 3 %.
_MOST_IMAGES_TOLD_APART = 500
# Figures of a run that are those of its second fit, where the answer is
_OF_SECOND_FIT = ("frc_work", "frc_heldout", "moved_angstrom", "worst_link_angstrom", "link_rms_angstrom")
# Residues beside an unseen end of a chain, and nearest to an unseen chain, with which it is put back
_ANCHORS, _CHAIN_ANCHORS = 10, 30


def reconstruct_run(prepared: PreparedRun, rows: torch.Tensor, seed: int) -> Reconstruction:
    """Maps of the run's particles in these rows, (n,) int, or of some of them."""
    drawn = prepared.particles.subset(spread_draw(rows, _MOST_IMAGES_EXAMINED, seed).numpy())
    if prepared.observations.contrast_sign < 0:
        drawn = replace(drawn, contrast=-drawn.contrast)
    return reconstruct(drawn, None, seed, prepared.device, None, EXAMINED_RESOLUTION_ANGSTROM)


def examine_answer(
    prepared: PreparedRun, state: ModelState, other: ModelState, folder: RunFolder, seed: int
) -> Evidence | None:
    """What the particles' own reconstruction and single images say of an answer; None where they say too little.

    Single images are asked whether they show the start or ``other``, which is the answer unless that is the start.
    Writes ``reconstruction.mrc`` and, where much of the signal is unexplained, ``unexplained.mrc``.
    """
    everything = torch.arange(len(prepared.particles))
    rows = spread_draw(everything, _MOST_IMAGES_TOLD_APART, seed)
    if len(rows) < _FEWEST_IMAGES_EXAMINED:
        return None
    try:
        maps = reconstruct_run(prepared, everything, seed)
    except InputError as error:  # the fit itself has ended well
        folder.log(f"whether all parts are right cannot be told: {error}")
        return None
    write_map(folder.path / "reconstruction.mrc", maps.map, maps.pixel_size_angstrom)
    rings = prepared.observations.rings(prepared.observations.finest_rings)

    def gains() -> np.ndarray:
        start, answer = (
            prepared.comparison.score(
                positions, prepared.start_gaussians(), rows, rings, prepared.memory.images_at_once
            ).mean(1)
            for positions in (prepared.start_positions, other.positions)
        )
        found = (answer - start).cpu().double().numpy()
        return found[np.isfinite(found)]

    moved = prepared.model.moved_to(state.positions.cpu().double().numpy())
    start, answer = only_ordered(prepared.model), only_ordered(moved)
    evidence = gather_evidence(ExplainedSignal(maps, prepared.context), start, answer, gains)
    if evidence is None or not evidence.may_miss_something:
        return evidence
    seen = ~evidence.unseen()
    atoms = seen[answer.residue_of_atom] if seen.any() else np.ones(len(answer), dtype=bool)
    positions, numbers = answer.positions[atoms], answer.atomic_numbers[atoms]
    if prepared.context is not None:
        positions = np.concatenate([positions, prepared.context.positions])
        numbers = np.concatenate([numbers, prepared.context.atomic_numbers])
    try:
        missing = find_unexplained_density(maps, positions, numbers, seed)
    except InputError:  # the model has no density at all
        return evidence
    write_map(folder.path / "unexplained.mrc", missing.map, maps.pixel_size_angstrom)
    return replace(evidence, missing=missing)


def write_answer(
    prepared: PreparedRun,
    state: ModelState,
    folder: RunFolder,
    options: Options,
    evidence: Evidence | None,
    errors: ResidueErrors | None = None,
) -> int:
    """Write ``model.cif``, the first subunit of an assembly, and ``density.mrc``.

    Parameters
    ----------
    prepared : PreparedRun
    state : ModelState
        Atoms of the answer.
    folder : RunFolder
    options : Options
        Which residues are left out.
    evidence : Evidence, optional
        Parts that no image shows are put back to where they were beside the parts that moved, with the occupancy that
        was found.
    errors : ResidueErrors, optional
        Of the whole model's residues, added to the files.

    Returns
    -------
    int
        Number of residues that are left out.
    """
    start, particles = prepared.start, prepared.particles
    whole = state.to_output(prepared.model)
    kept = whole.above_plddt(options.remove_below, None if start.order is None else start.order.plddt)
    if evidence is not None and evidence.unseen().any():
        occupancies = np.ones(len(kept))
        occupancies[ordered_residues(prepared.model)] = evidence.occupancies()
        occupancies[~ordered_residues(prepared.model)] = 0
        unseen = (occupancies < 1) & ordered_residues(prepared.model)
        whole = replace(whole, model=put_back(prepared.model, whole.model, unseen, occupancies))
        if options.remove_unseen:
            kept &= ~unseen
    if kept.all() or not kept.any():
        kept[:] = True
    written = whole.only(kept) if not kept.all() else whole
    folder.write_model("model.cif", written, start.placed_as)
    if start.subunit is not None:
        first = whole.first_copy(start.subunit)
        own = kept[: len(start.subunit.residues)]
        folder.write_model(SUBUNIT_FILE, first if own.all() else first.only(own), {"hand": start.hand})
        if errors is not None:
            write_errors(folder.path, SUBUNIT_FILE, first.model, errors)
    if errors is not None:
        write_errors(folder.path, "model.cif", whole.model, errors)
    folder.write_density(written, particles.box, particles.pixel_size_angstrom)
    removed = int((~kept).sum())
    if removed:
        folder.log(f"{removed} residues are left out, as asked")
    return removed


def start_of_second_fit(prepared: PreparedRun, evidence: Evidence, folder: RunFolder) -> tuple[Path, ModelState]:
    """File and atoms of a start in which parts that no image shows are marked as disordered, and have no weight."""
    if not evidence.has_surplus:
        return folder.path / "models" / "cycle_00.cif", prepared.start_state()
    unseen = ~ordered_residues(prepared.model)
    unseen[~unseen] = evidence.unseen()
    marked = with_order(prepared.model, ResidueOrder(unseen, None, "", ()))
    start = replace(prepared.start_state(), gaussians=AtomGaussians.of_model(marked, prepared.device))
    file = folder.path / "models" / SECOND_START
    if not file.is_file():  # a later version would write another one, with which its run would not go on
        folder.write_model(f"models/{SECOND_START}", start.to_output(marked), prepared.start.placed_as)
    return file, start


def put_back(start: Model, answer: Model, unseen: np.ndarray, occupancies: np.ndarray) -> Model:
    """An answer whose unseen chains and ends of chains lie as they did in the start beside what moved.

    Within a chain, unseen stretches stay where both of their ends have led them.

    Parameters
    ----------
    start, answer : Model
        The same atoms at both places.
    unseen : (n_residues,) bool
    occupancies : (n_residues,) float
        Of the atoms of unseen residues, as they are written.
    """
    positions, centres = answer.positions.copy(), start.atoms_named("CA")
    anchors = np.flatnonzero(~unseen & (centres >= 0))
    chains = np.array([key.chain for key in start.residues])
    for chain in dict.fromkeys(chains[unseen].tolist()):
        rows = np.flatnonzero(chains == chain)
        for first, after in runs_of(unseen[rows]):
            if first > 0 and after < len(rows):
                continue
            gone = rows[first:after]
            beside = anchors
            if after - first < len(rows):
                near = rows[after : after + _ANCHORS] if first == 0 else rows[max(0, first - _ANCHORS) : first]
                beside = near[centres[near] >= 0]
            else:
                middle = start.positions[np.isin(start.residue_of_atom, gone)].mean(0)
                distance = np.linalg.norm(start.positions[centres[anchors]] - middle, axis=1)
                beside = anchors[np.argsort(distance, kind="stable")[:_CHAIN_ANCHORS]]
            if len(beside) < 3:
                continue
            rotation, translation = find_superposition(
                start.positions[centres[beside]], answer.positions[centres[beside]]
            )
            atoms = np.isin(start.residue_of_atom, gone)
            positions[atoms] = start.positions[atoms] @ rotation.T + translation
    structure = answer.structure.clone()
    for residue, occupancy, gone in zip(residues_of(structure), occupancies.tolist(), unseen.tolist()):
        for atom in residue if gone else ():
            atom.occ = round(occupancy, 2)
    return replace(answer, structure=structure, positions=positions)


def poses_as_given(prepared: PreparedRun, options: Options) -> None:
    """Forget how far poses are off."""
    if options.refine_poses != "off":
        every = torch.arange(len(prepared.particles))
        prepared.comparison.move_poses(every, torch.zeros(len(every), ERRORS_PER_POSE))


def refine_answer_poses(
    prepared: PreparedRun,
    state: ModelState,
    folder: RunFolder,
    options: Options,
    given: ParticleSet,
    passes: list[TrainingPass],
    verdict: str,
) -> dict[str, Any] | None:
    """Refine the poses of all particles with the answer, by all rings, and write them as ``particles.star``.

    Nothing is judged by these poses. ``given`` are the particles as they were read, in their own hand. Returns figures
    for ``metrics.json``, None if nobody asked, or the model is no single right one.
    """
    are_off = any(this.judging_rings for this in passes)
    every = torch.arange(len(prepared.particles))
    rings = prepared.observations.rings(prepared.observations.finest_rings)
    poses = PoseRefiner.of_run(
        options.refine_poses, prepared.comparison, prepared.observations, every, rings, prepared.memory.images_at_once
    )
    if poses is None or verdict in NO_SINGLE_MODEL:
        return None
    atoms = (state.positions, state.gaussians)
    found: dict[str, Any] = {"refined": are_off or poses.decide(*atoms)}
    if found["refined"]:
        poses.refine_all(*atoms)
        moved = with_pose_errors(prepared.start.apply_hand(given), poses.errors.double().numpy())
        write_star(folder.path / "particles.star", moved)
        turns, shifts = (part.double().square().sum(1).mean().sqrt() for part in poses.errors.split([3, 2], 1))
        found |= {
            "prior_turn_deg": round(poses.prior.turn_deg, 3),
            "prior_shift_angstrom": round(poses.prior.shift_angstrom, 3),
            "turned_deg": round(math.degrees(turns), 3),
            "shifted_angstrom": round(float(shifts), 3),
            "judging_rings": poses.judging if are_off else None,
            "particles": "particles.star",
        }
    folder.log(f"poses: {poses.prior}" if found["refined"] else "poses: the images do not show that they are off")
    poses_as_given(prepared, options)
    return found


def run_metrics(
    prepared: PreparedRun,
    passes: list[TrainingPass],
    *,
    verdict: str,
    reasons: list[str],
    evidence: Evidence | None,
    second_fit: dict[str, Any] | None,
    answer: ModelState | None,
    cycles_that_lost_the_fold: int,
    residues_removed: int,
    poses: dict[str, Any] | None,
    errors: ResidueErrors | None,
    changed: WhatChanged | None,
    seconds: float,
) -> dict[str, Any]:
    """Content of ``metrics.json``.

    Parameters
    ----------
    prepared : PreparedRun
    passes : list of TrainingPass
    verdict, reasons
        See ``judge``.
    evidence : Evidence, optional
    second_fit : dict, optional
        Figures of the fit that set density aside, where the answer is its.
    answer : ModelState, optional
        The model, where it is another one than the start.
    cycles_that_lost_the_fold, residues_removed : int
    poses : dict, optional
        See ``refine_answer_poses``.
    errors : ResidueErrors, optional
        By twin runs.
    changed : WhatChanged, optional
        From the start to the answer.
    seconds : float
        Time of the run without the fit into a map and the teacher's run.
    """
    start, judged, fitted = prepared.start, passes[0], answer_pass(passes)
    best = fitted.cycles[0 if answer is None else fitted.best]
    geometry, said = _geometry(prepared, answer)
    ways = [(this.cycles[this.shared_cycles], this.cycles[-1]) for this in passes if this.cycles]
    heldout_start, heldout = (judged.cycles[n].frc_heldout for n in (0, min(best.number, len(judged.cycles) - 1)))
    views = ViewCoverage.of_images(prepared.observations, start.symmetry or "C1")
    fit = second_fit or {"frc_heldout": heldout, "best_cycle": best.number}
    says = verdict_text(verdict, len(judged.heldout), heldout_start, fit["frc_heldout"], fit["best_cycle"])
    found: dict[str, Any] = {
        "verdict": verdict,
        "verdict_headline": says.headline,
        "verdict_explanation": " ".join(filter(None, [says.explanation, *reasons, *said, views.sentence()])),
        "geometry": geometry,
        "evidence": None if evidence is None else evidence.as_dict(only_ordered(prepared.model)),
        "best_cycle": best.number,
        **{name: getattr(best, name) for name in _OF_SECOND_FIT},
        "frc_heldout": heldout,
        "frc_work_start": fitted.cycles[0].frc_work,
        "frc_heldout_start": heldout_start,
        **highest_gain(judged),
        "cycles_that_lost_the_fold": cycles_that_lost_the_fold,
        "residues_removed": residues_removed,
        "poses": poses,
        "disordered": list(start.order.stretches) if start.order else [],
        "hand": start.hand,
        "source": prepared.source_description,
        "symmetry": start.symmetry or "C1",
        "changed": None if changed is None else changed.as_dict(),
        "errors": None if errors is None else errors.as_dict(prepared.model),
        "views": views.as_dict(),
        "particles": len(prepared.particles),
        "heldout_particles": len(judged.heldout),
        "passes": len(passes),
        "steps": sum(last.step - first.step for first, last in ways),
        "images": sum(last.images - first.images for first, last in ways),
        "seconds": round(seconds + start.placing_seconds + start.teacher_seconds, 1),
        "placing_seconds": start.placing_seconds,
        "teacher_seconds": start.teacher_seconds,
        "expected_memory_gb": round(prepared.memory.expected / 1e9, 3),
        "peak_memory_gb": round(max(peak_memory_gb(), start.teacher_memory_gb), 3),
        "device": str(prepared.device),
        "threads": torch.get_num_threads(),
        "processes": prepared.process_count,
        "frc_curves": {"resolution_angstrom": prepared.resolutions_angstrom, **answer_curves(passes)},
        "versions": versions(),
    }
    if second_fit is not None:
        found |= {name: second_fit[name] for name in _OF_SECOND_FIT}
        without = "without density that no atom explains and without parts that no image shows"
        found["verdict_explanation"] += f" The model is that of a second fit, in set_aside, {without}."
    return found


def _geometry(prepared: PreparedRun, answer: ModelState | None) -> tuple[dict[str, Any], list[str]]:
    """What is new in an answer's backbone geometry, for ``metrics.json`` and in a sentence where it is worse."""
    start = only_ordered(prepared.model)
    if not len(start.backbone()[0]):
        return {}, []
    before = measure_geometry(start)
    if answer is None:
        return {"ramachandran_favoured_start": round(before.ramachandran_favoured, 4)}, []
    moved = prepared.model.moved_to(answer.positions.cpu().double().numpy())
    after = measure_geometry(only_ordered(moved), start)
    new = {
        "twisted": after.new_twisted or (),
        "cis": after.new_cis or (),
        "ramachandran_outliers": after.new_ramachandran_outliers or (),
    }
    figures: dict[str, Any] = {f"new_{name}": list(where) for name, where in new.items()}
    figures["ramachandran_favoured"] = round(after.ramachandran_favoured, 4)
    figures["ramachandran_favoured_start"] = round(before.ramachandran_favoured, 4)
    if not any(new.values()):
        return figures, []
    counts = f"{len(new['twisted'])} twisted and {len(new['cis'])} cis peptides"
    return figures, [
        f"New since the start: {counts}, {len(new['ramachandran_outliers'])} Ramachandran outliers; "
        f"{100 * after.ramachandran_favoured:.0f} % are favoured (start {100 * before.ramachandran_favoured:.0f} %)."
    ]


def summary_line(metrics: dict[str, Any]) -> str:
    """The figures of a run in a line."""
    text = f"verdict: {metrics['verdict']}. {metrics['verdict_headline']} "
    if metrics["frc_heldout"] is not None:
        text += f"Held-out FRC {metrics['frc_heldout_start']:.4f} -> {metrics['frc_heldout']:.4f}, "
    text += f"moved {metrics['moved_angstrom']:.2f} Å, best cycle {metrics['best_cycle']}, "
    return text + f"{metrics['seconds']:.0f} s, {metrics['peak_memory_gb']:.2f} GB"
