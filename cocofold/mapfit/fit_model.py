"""``cocofold fit``: the whole way from a model and a map to a placement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from cocofold.mapfit.bodies import (
    MAX_CLASH_FRACTION,
    clash_fraction,
    parse_bodies,
    place_bodies,
    select_residues,
    selection_of_all,
)
from cocofold.mapfit.density_map import DensityMap
from cocofold.mapfit.placement_file import AS_IS, MIRRORED, PlacedBody, Placement, apply_placement
from cocofold.mapfit.rigid_refinement import RigidPoses
from cocofold.mapfit.search_pipeline import (
    TRUSTED_STANDARD_ERRORS,
    PlacementSignificance,
    Rescore,
    assess_significance,
    difference_in_standard_errors,
    find_placements,
)
from cocofold.mapfit.target_map import RigidMolecule, TargetMap, compute_model_density
from cocofold.structure.model import Model
from cocofold.structure.point_groups import build_assembly, copy_positions, normalise_point_group, point_group_rotations
from cocofold.system.errors import InputError
from cocofold.system.progress import ProgressCallback

AUTO, HAND_UNDECIDED = "auto", "undecided"
HANDS = (AUTO, AS_IS, MIRRORED)
_WARN_UNCOVERED_FRACTION = 0.25
_REPORTED_CLASH_FRACTION = 0.01


@dataclass(frozen=True)
class FitResult:
    """A placement, the model there, and the map it is placed in (mirrored where the hand was wrong).

    In a symmetric map the model is a ``subunit``, and ``placed`` are all its copies.
    """

    placement: Placement
    placed: Model
    subunit: Model
    density: DensityMap
    warnings: tuple[str, ...]


def fit_in_map(
    model: Model,
    density: DensityMap,
    resolution_angstrom: float,
    bodies: str | None = None,
    hand: str = AUTO,
    symmetry: str | None = None,
    device: torch.device | str = "cpu",
    tell: ProgressCallback = lambda what, done: None,
) -> FitResult:
    """Place a model rigidly in a map, from any start.

    Parameters
    ----------
    model : Model
    density : DensityMap
    resolution_angstrom : float
        Finer detail is not compared.
    bodies : str, optional
        Parts that move on their own after the whole; see ``parse_bodies``.
    hand : str
        ``auto`` to compare the map with its mirror image, ``as-is`` or ``mirrored`` to take one of them.
    symmetry : str, optional
        Point group of the map, of which the model is one subunit; ``auto`` to find it.
    device
    tell
        Told what is done, and how much of it, from 0 to 1.

    Raises
    ------
    InputError
        If the model is larger than the map, the bodies are not the model's, or there is no such symmetry.
    """
    device = torch.device(device)
    if bodies is not None and symmetry is not None:
        raise InputError("--bodies and --symmetry: a subunit is placed as a whole; leave one of the two out")
    group = None if symmetry in (None, AUTO) else normalise_point_group(str(symmetry))
    atoms = RigidMolecule.of(model)
    _check_sizes(atoms, density, resolution_angstrom)
    selections = None if bodies is None else parse_bodies(model, bodies)
    as_is, mirror = (TargetMap(one, resolution_angstrom, device) for one in (density, density.mirrored()))
    targets = {AUTO: [as_is, mirror], AS_IS: [as_is], MIRRORED: [mirror]}[hand]
    symmetry_scores: dict[str, float] = {}
    if symmetry == AUTO:
        group, symmetry_scores = detect_symmetry(as_is)
    turns = None if group is None else point_group_rotations(group)
    judge = None if turns is None else rescore_by_assembly(atoms, turns)
    hands = find_placements(atoms, targets, tell=tell, judge=judge)
    if turns is not None:
        hands = [rank_without_clashes_first(atoms, one, motions, turns) for one, motions in zip(targets, hands)]
    chosen, scores = _choose_hand(atoms, as_is, hands, hand)
    target = mirror if chosen == MIRRORED else as_is
    motions = hands[1] if hand == AUTO and chosen == MIRRORED else hands[0]
    standing = assess_significance(atoms, target, motions)
    warnings = _ambiguity_warnings("the model", motions, standing)
    if scores["verdict"] == HAND_UNDECIDED:
        warnings.insert(0, _hand_warning(scores, resolution_angstrom))
    if selections is None:
        placed_bodies = [_placed_body(selection_of_all(model), atoms, motions, standing)]
    else:
        parts = [RigidMolecule.of(model, select_residues(model, selection)) for selection in selections]
        found = place_bodies(parts, target, motions[:1], atoms.centroid, tell)
        placed_bodies = [_placed_body(name, part, *one) for name, part, one in zip(selections, parts, found)]
        # A model of bodies that have moved fits nowhere as a whole: what counts is how its bodies stand.
        warnings = [line for line in warnings if not line.startswith("the model")]
        for name, one in zip(selections, found):
            warnings += _ambiguity_warnings(f"body {name}", *one)
        warnings += _clash_warnings(
            selections, [part.moved(one.rotations[0], one.centres[0]) for part, (one, _) in zip(parts, found)]
        )
    placement = Placement(chosen, scores, tuple(placed_bodies), symmetry=group)
    subunit = placed = apply_placement(model, placement)
    if turns is not None:
        centre = density.centre_angstrom
        placed = build_assembly(subunit, turns, centre)
        copies = symmetric_copies_of(RigidMolecule.of(subunit), turns, centre)
        warnings += _clash_warnings([f"copy {number}" for number in range(1, len(copies) + 1)], copies)[:1]
    uncovered = uncovered_share(target, RigidMolecule.of(placed))
    if uncovered > _WARN_UNCOVERED_FRACTION:
        warnings.append(
            f"{uncovered:.0%} of the map's density lies outside the model: the model is part of what is there, there "
            "are more copies, or its parts have moved (--bodies)"
        )
    facts: dict[str, Any] = {
        "resolution_angstrom": round(resolution_angstrom, 3),
        "whole": {"correlation": round(float(motions.scores[0]), 4), **_against_runner_up(motions, standing)},
        "uncovered_share": round(uncovered, 4),
        "equivalent_placements": standing.n_equivalent,
        "map": {
            "box": list(density.values.shape[::-1]),
            "pixel_size_angstrom": density.pixel_size_angstrom,
            "header_origin_angstrom": list(density.header_origin_angstrom),
            "frame": "voxel (0, 0, 0) at 0 Å; the header's origin is not used",
        },
        "warnings": warnings,
    }
    if symmetry_scores:
        facts["symmetry_scores"] = {name: round(score, 3) for name, score in symmetry_scores.items()}
    return FitResult(replace(placement, facts=facts), placed, subunit, target.density, tuple(warnings))


def _check_sizes(atoms: RigidMolecule, density: DensityMap, resolution: float) -> None:
    if len(atoms.positions) == 0:
        raise InputError("the model has no atoms other than hydrogen; give one with its atoms")
    # The longest extent in any direction, nearly: twice the largest distance from the centroid is at least as long.
    axes = np.linalg.svd(atoms.positions - atoms.centroid, full_matrices=False)[2]
    length = float(np.ptp((atoms.positions - atoms.centroid) @ axes[0]))
    extent = density.extent_angstrom
    diagonal = float(np.linalg.norm(extent))
    if length > diagonal or float(atoms.volume_a3) > float(np.prod(extent)):
        raise InputError(
            f"the model is larger than the map: {length:.0f} Å long, in a box of "
            f"{' x '.join(f'{side:.0f}' for side in extent)} Å; check the map's pixel size "
            f"({density.pixel_size_angstrom:g} Å; --pixel-size), or give the part of the model that is in the map"
        )
    if resolution < 2 * density.pixel_size_angstrom:
        raise InputError(
            f"--resolution {resolution:g}: voxels of {density.pixel_size_angstrom:g} Å hold nothing finer than "
            f"{2 * density.pixel_size_angstrom:g} Å; give a coarser resolution"
        )


def _choose_hand(
    atoms: RigidMolecule, target: TargetMap, hands: list[RigidPoses], hand: str
) -> tuple[str, dict[str, Any]]:
    """The hand to use, and the scores that speak for it; as it is where they cannot tell."""
    best = [round(float(motions.scores[0]), 4) for motions in hands]
    if hand != AUTO:
        return hand, {AS_IS: None, MIRRORED: None, hand: best[0], "verdict": "given"}
    margin = difference_in_standard_errors(atoms, target, hands[0].scores[0], hands[1].scores[0])
    verdict = HAND_UNDECIDED if abs(margin) < TRUSTED_STANDARD_ERRORS else AS_IS if margin > 0 else MIRRORED
    scores = {AS_IS: best[0], MIRRORED: best[1], "margin_standard_errors": round(abs(margin), 2), "verdict": verdict}
    return MIRRORED if verdict == MIRRORED else AS_IS, scores


def _hand_warning(scores: dict[str, Any], resolution: float) -> str:
    return (
        f"the map's hand is undecided: at {resolution:.1f} Å the model correlates by {scores[AS_IS]:.3f} with the map "
        f"and by {scores[MIRRORED]:.3f} with its mirror image; taken as it is (else give --hand mirrored)"
    )


def _ambiguity_warnings(what: str, motions: RigidPoses, standing: PlacementSignificance) -> list[str]:
    if standing.trusted or standing.runner_up is None:
        return []
    best, other = motions.scores[0], motions.scores[standing.runner_up]
    return [
        f"{what} fits nearly as well elsewhere: correlation {best:.3f} against {other:.3f} ({standing.margin:.1f} "
        f"standard errors, {TRUSTED_STANDARD_ERRORS:g} are trusted); look at the placement before it is used"
    ]


def _clash_warnings(selections: list[str], placed: list[RigidMolecule]) -> list[str]:
    lines = []
    for number, (name, body) in enumerate(zip(selections, placed)):
        share = clash_fraction(body, placed[:number] + placed[number + 1 :])
        if share > _REPORTED_CLASH_FRACTION:
            lines.append(f"{share:.1%} of the CA atoms of body {name} lie within 3 Å of another body's")
    return lines


def _placed_body(
    selection: str, atoms: RigidMolecule, motions: RigidPoses, standing: PlacementSignificance
) -> PlacedBody:
    rotation = motions.rotations[0]
    shift = motions.centres[0] - rotation @ atoms.centroid
    runner_up = None if standing.runner_up is None else round(float(motions.scores[standing.runner_up]), 4)
    return PlacedBody(selection, rotation, shift, round(float(motions.scores[0]), 4), runner_up)


def _against_runner_up(motions: RigidPoses, standing: PlacementSignificance) -> dict[str, Any]:
    if standing.runner_up is None:
        return {"runner_up": None, "margin_standard_errors": None, "trusted": True}
    return {
        "runner_up": round(float(motions.scores[standing.runner_up]), 4),
        "margin_standard_errors": round(standing.margin, 2),
        "trusted": standing.trusted,
    }


MIN_SELF_CORRELATION = 0.8
_SYMMETRY_POINTS = 15_000
_SYMMETRY_RESOLUTION_ANGSTROM = 12.0
_MOLECULE_LEVEL_FRACTION = 0.4
_CANDIDATE_GROUPS = (
    *(f"{kind}{fold}" for fold in range(12, 1, -1) for kind in "DC"), "O", "T", "I1", "I2", "I3", "I4"
)  # fmt: skip


def symmetric_copies_of(atoms: RigidMolecule, rotations: np.ndarray, centre: np.ndarray) -> list[RigidMolecule]:
    """A placed molecule and its copies about a centre (Å)."""
    positions = copy_positions(atoms.positions, rotations, centre).reshape(len(rotations), -1, 3)
    alphas = copy_positions(atoms.alphas, rotations, centre).reshape(len(rotations), -1, 3)
    return [RigidMolecule(one, atoms.atomic_numbers, other) for one, other in zip(positions, alphas)]


def rescore_by_assembly(atoms: RigidMolecule, rotations: np.ndarray) -> Rescore:
    """Scores for placements of a subunit: the whole map's correlation with all of its copies.

    At the points of one subunit a symmetric map says too little, as it is full of density on all sides; the copies
    together must explain all of it. Of a placement and its copies one is taken.
    """

    def judge(target: TargetMap, resolution_angstrom: float, motions: RigidPoses) -> RigidPoses:
        centre = target.density.centre_angstrom
        grid = target.grid(resolution_angstrom)
        folded = motions.folded(rotations, centre)
        scores = [
            _correlation(
                compute_model_density(_assembly_at(atoms, folded[row : row + 1], rotations, centre), grid), grid.values
            )
            for row in range(len(folded))
        ]
        return RigidPoses(folded.rotations, folded.centres, np.array(scores))

    return judge


def rank_without_clashes_first(
    atoms: RigidMolecule, target: TargetMap, motions: RigidPoses, rotations: np.ndarray
) -> RigidPoses:
    """Placements in the order given, those first whose copies do not run into each other."""
    centre = target.density.centre_angstrom
    clear = np.array(
        [
            clash_fraction(copies[0], copies[1:]) <= MAX_CLASH_FRACTION
            for copies in (
                symmetric_copies_of(_subunit_at(atoms, motions[row : row + 1]), rotations, centre)
                for row in range(len(motions))
            )
        ]
    )
    return RigidPoses.concatenated([motions[clear], motions[~clear]])


def _assembly_at(atoms: RigidMolecule, motion: RigidPoses, rotations: np.ndarray, centre: np.ndarray) -> RigidMolecule:
    placed = _subunit_at(atoms, motion)
    numbers = np.tile(atoms.atomic_numbers, len(rotations))
    return RigidMolecule(
        copy_positions(placed.positions, rotations, centre), numbers, copy_positions(placed.alphas, rotations, centre)
    )


def detect_symmetry(target: TargetMap) -> tuple[str, dict[str, float]]:
    """The point group of highest order under which a map looks the same, and what speaks for each that was tried.

    A map is turned by the group's rotations about its box's centre; the least correlation with itself, at 12 Å or
    coarser, within the sphere that holds the molecule, must be 0.8.

    Returns
    -------
    group : str
        C1 if there is no other.
    scores : dict
        Least correlation by group.
    """
    grid = target.grid(max(_SYMMETRY_RESOLUTION_ANGSTROM, target.resolution_angstrom))
    centre = torch.as_tensor(target.density.centre_angstrom, dtype=torch.float32, device=grid.values.device)
    dense = torch.nonzero(
        grid.values
        > _MOLECULE_LEVEL_FRACTION * grid.values.flatten().topk(max(8, grid.values.numel() // 500)).values.mean()
    )
    radius = float((dense.flip(1) * grid.voxel_angstrom - centre).norm(dim=1).max())
    every = torch.nonzero(torch.ones_like(grid.values)).flip(1) * grid.voxel_angstrom - centre
    points = every[every.norm(dim=1) <= radius]
    points = points[:: max(1, len(points) // _SYMMETRY_POINTS)]
    seen = grid.at((points + centre)[None])[0]
    scores = {}
    for group in _CANDIDATE_GROUPS:
        turns = torch.as_tensor(point_group_rotations(group)[1:], dtype=torch.float32, device=points.device)
        scores[group] = min(_correlation(seen, grid.at((points @ turn.T + centre)[None])[0]) for turn in turns)
    same = [group for group in _CANDIDATE_GROUPS if scores[group] >= MIN_SELF_CORRELATION]
    return max(same, key=lambda group: len(point_group_rotations(group)), default="C1"), scores


def _subunit_at(atoms: RigidMolecule, motions: RigidPoses) -> RigidMolecule:
    return atoms.moved(motions.rotations[0], motions.centres[0])


def _correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


_COVERAGE_RESOLUTION_ANGSTROM = 8.0
_MOLECULE_LEVEL_FRACTION = 0.4
_REACH_ANGSTROM = 3.0
_MIN_BLOB_A3 = 2000.0


def uncovered_share(target: TargetMap, placed: RigidMolecule) -> float:
    """Share of the map's density, at 8 Å or coarser, that lies far from all atoms.

    Density counts where it is more than 0.4 of its median at the atoms, in pieces of at least 2,000 Å^3 (some 15
    residues), so that noise does not. Far is more than 3 Å and half the resolution.
    """
    grid = target.grid(max(_COVERAGE_RESOLUTION_ANGSTROM, target.resolution_angstrom))
    values, voxel = grid.values.cpu().numpy(), grid.voxel_angstrom.cpu().numpy().astype(float)
    at = np.rint(placed.positions / voxel).astype(int)
    at = at[((at >= 0) & (at < values.shape[::-1])).all(1)]
    if len(at) == 0:
        return 1.0
    level = float(np.median(values[at[:, 2], at[:, 1], at[:, 0]]))
    if level <= 0:
        return 1.0
    pieces, count = ndimage.label(values > _MOLECULE_LEVEL_FRACTION * level)
    if count == 0:
        return 1.0
    sizes = np.bincount(pieces.ravel()) * voxel.prod()
    sizes[0] = 0
    dense = np.argwhere((sizes >= _MIN_BLOB_A3)[pieces])
    if len(dense) == 0:
        return 1.0
    reach = _REACH_ANGSTROM + grid.resolution_angstrom / 2
    distance, _ = cKDTree(placed.positions).query(dense[:, ::-1] * voxel, distance_upper_bound=reach)
    weight = values[tuple(dense.T)]
    return float(weight[~np.isfinite(distance)].sum() / weight.sum())
