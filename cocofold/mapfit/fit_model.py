"""A model placed in a map: the whole, its bodies or the subunit of a symmetric map, the map's hand, and warnings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from cocofold.mapfit.bodies import (
    apply_placement,
    molecule_of,
    parse_bodies,
    place_bodies,
    select_residues,
    selection_of_all,
)
from cocofold.mapfit.density_map import DensityMap
from cocofold.mapfit.map_files import AS_IS, MIRRORED, PlacedBody, Placement
from cocofold.mapfit.rigid_refinement import RigidMolecule, RigidPoses, angles_between, clash_fraction
from cocofold.mapfit.search_pipeline import (
    TRUSTED_STANDARD_ERRORS,
    RankedPlacements,
    difference_in_standard_errors,
    find_placements,
    rank_without_clashes_first,
    rescore_by_assembly,
    search_again,
    symmetric_copies_of,
    uncovered_share,
)
from cocofold.mapfit.target_map import (
    ShellCorrelation,
    TargetMap,
    correlate_shells,
    detect_symmetry,
    refuse_unsuitable_sizes,
)
from cocofold.structure.geometry import (
    build_assembly,
    normalise_point_group,
    point_group_rotations,
)
from cocofold.structure.model import Model
from cocofold.system.errors import InputError
from cocofold.system.progress import ProgressCallback

AUTO, HAND_UNDECIDED = "auto", "undecided"
HANDS = (AUTO, AS_IS, MIRRORED)
# Share of the map's density outside the model from which a warning is given: a chain of four, for example.
_WARN_UNCOVERED_FRACTION = 0.25
# Standard errors by which the Fourier shells must prefer the rival for a placement not to be trusted for that alone.
_SHELLS_OBJECT_STANDARD_ERRORS = 1.0
# Share of CA atoms near another body's from which a warning is given: one atom in a hundred is a contact drawn a little
# too close.
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


def refuse_unknown_hand(hand: str) -> None:
    """Raise an ``InputError`` for what is not one of ``HANDS``."""
    if hand not in HANDS:
        raise InputError(f"--hand {hand}: give {', '.join(HANDS[:-1])} or {HANDS[-1]}")


def fit_in_map(
    model: Model,
    density: DensityMap,
    resolution_angstrom: float,
    bodies: str | None = None,
    hand: str = AUTO,
    symmetry: str | None = None,
    device: torch.device | str = "cpu",
    progress: ProgressCallback = lambda what, done: None,
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
        ``auto`` to compare the map with its mirror image, ``as-is`` or ``mirrored`` to use one of them.
    symmetry : str, optional
        Point group of the map, of which the model is one subunit; ``auto`` to find it.
    device
    progress
        Called with what is being done, and what share of it is done, from 0 to 1.

    Raises
    ------
    InputError
        If the model is larger than the map, the bodies are not the model's, there is no such hand or symmetry, or both
        bodies and a symmetry are given.
    """
    refuse_unknown_hand(hand)
    if bodies is not None and symmetry is not None:
        raise InputError("--bodies and --symmetry: a subunit is placed as a whole; leave one of the two out")
    if symmetry not in (None, AUTO):
        symmetry = normalise_point_group(str(symmetry))
    molecule = molecule_of(model)
    refuse_unsuitable_sizes(molecule, density, resolution_angstrom)
    selections = None if bodies is None else parse_bodies(model, bodies)
    whole = _place_whole(molecule, density, resolution_angstrom, hand, symmetry, torch.device(device), progress)
    parts = _place_parts(model, selections, molecule, whole, progress)
    placement = Placement(
        whole.hand, whole.hand_scores, tuple(part.placed_body() for part in parts), symmetry=whole.symmetry
    )
    subunit = placed = apply_placement(model, placement)
    copies: list[RigidMolecule] = []
    if whole.rotations is not None:
        placed = build_assembly(subunit, whole.rotations, density.centre_angstrom)
        copies = symmetric_copies_of(molecule_of(subunit), whole.rotations, density.centre_angstrom)
    uncovered = uncovered_share(whole.target, molecule_of(placed))
    warnings = [
        *_hand_warnings(whole, resolution_angstrom),
        *_ambiguity_warnings(parts),
        *_clash_warnings(parts, copies),
        *_coverage_warnings(uncovered),
    ]
    facts = {
        **_facts(whole, density, resolution_angstrom, uncovered),
        "places": [part.facts() for part in parts],
        "warnings": warnings,
        **whole.symmetry_facts(),
    }
    return FitResult(placement.with_facts(facts), placed, subunit, whole.target.density, tuple(warnings))


@dataclass(frozen=True)
class _PlacedWhole:
    """Where the whole model goes.

    Attributes
    ----------
    hand : str
        ``as-is`` or ``mirrored``.
    hand_scores : dict
        See ``Placement``.
    target : TargetMap
        The map of that hand.
    found : RankedPlacements
    symmetry : str or None
        Point group of the map.
    rotations : (c, 3, 3) float64 or None
        Of that group.
    symmetry_scores : dict
        Least correlation of the map with itself by group, where the group was sought.
    """

    hand: str
    hand_scores: dict[str, Any]
    target: TargetMap
    found: RankedPlacements
    symmetry: str | None
    rotations: np.ndarray | None
    symmetry_scores: dict[str, float]

    def symmetry_facts(self) -> dict[str, Any]:
        """The scores for ``placement.json``, if there are any."""
        scores = {name: round(score, 3) for name, score in self.symmetry_scores.items()}
        return {"symmetry_scores": scores} if scores else {}


@dataclass(frozen=True)
class _PlacedPart:
    """A body, or the whole model, and where it goes; ``name`` is what warnings call it."""

    selection: str
    name: str
    molecule: RigidMolecule
    found: RankedPlacements
    target: TargetMap

    @cached_property
    def shells(self) -> tuple[ShellCorrelation | None, ShellCorrelation | None]:
        """Fourier shell correlation with the map of the placed molecule, and of its rival if it has one."""
        rows = (0, self.found.significance.runner_up)
        poses = self.found.poses
        one, other = (
            None
            if row is None
            else correlate_shells(self.molecule.moved(poses.rotations[row], poses.centres[row]), self.target)
            for row in rows
        )
        return one, other

    @property
    def shell_margin(self) -> float | None:
        """Standard errors by which the shells prefer this place to the rival's; None where there are none."""
        one, other = self.shells
        return None if one is None or other is None else one.excess_over(other)

    @property
    def trusted(self) -> bool:
        """Whether the correlation stands out, and the map's shells do not speak for the rival."""
        margin = self.shell_margin
        return self.found.significance.trusted and (margin is None or margin > -_SHELLS_OBJECT_STANDARD_ERRORS)

    def facts(self) -> dict[str, Any]:
        """What ``placement.json`` says of the place and its rival."""
        poses, row = self.found.poses, self.found.significance.runner_up
        one, other = self.shells
        margin = self.found.significance.margin_standard_errors
        known: dict[str, Any] = {"selection": self.selection, "trusted": self.trusted}
        known["centre_angstrom"] = poses.centres[0].round(2).tolist()
        known["correlation"] = round(self.found.correlation, 4)
        known["shell_correlation"] = None if one is None else round(one.mean, 4)
        if row is None:
            return {**known, "rival": None}
        (turn,) = angles_between(poses.rotations[:1], poses.rotations[row : row + 1])[0]
        rival = {
            "rotation": poses.rotations[row].tolist(),
            "translation_angstrom": self._shift_of(row).tolist(),
            "centre_angstrom": poses.centres[row].round(2).tolist(),
            "turned_by_degrees": round(float(turn), 1),
            "correlation": round(float(poses.scores[row]), 4),
            "shell_correlation": None if other is None else round(other.mean, 4),
            "margin_standard_errors": round(margin, 2),
            "shell_margin_standard_errors": None if self.shell_margin is None else round(self.shell_margin, 2),
        }
        return {**known, "rival": rival}

    def _shift_of(self, row: int) -> np.ndarray:
        return self.found.poses.centres[row] - self.found.poses.rotations[row] @ self.molecule.centroid

    def placed_body(self) -> PlacedBody:
        """The body of ``placement.json``."""
        runner_up = None if self.found.runner_up is None else round(self.found.runner_up, 4)
        rotation, shift = self.found.poses.rotations[0], self._shift_of(0)
        return PlacedBody(self.selection, rotation, shift, round(self.found.correlation, 4), runner_up)

    def placed_molecule(self) -> RigidMolecule:
        """The molecule in the map's frame."""
        return self.molecule.moved(self.found.poses.rotations[0], self.found.poses.centres[0])


def _place_whole(
    molecule: RigidMolecule,
    density: DensityMap,
    resolution_angstrom: float,
    hand: str,
    symmetry: str | None,
    device: torch.device,
    progress: ProgressCallback,
) -> _PlacedWhole:
    """Search for the whole model in the hands and under the symmetry that are asked for."""
    targets = {
        name: TargetMap(density.mirrored() if name == MIRRORED else density, resolution_angstrom, device)
        for name in ((AS_IS, MIRRORED) if hand == AUTO else (hand,))
    }
    group = symmetry
    symmetry_scores: dict[str, float] = {}
    if symmetry == AUTO:
        as_is = targets.get(AS_IS) or TargetMap(density, resolution_angstrom, device)
        group, symmetry_scores = detect_symmetry(as_is)
    rotations = None if group is None else point_group_rotations(group)
    rescore = None if rotations is None else rescore_by_assembly(molecule, rotations)
    found = dict(zip(targets, find_placements(molecule, list(targets.values()), progress=progress, rescore=rescore)))
    if rotations is not None:
        found = {
            name: rank_without_clashes_first(molecule, targets[name], poses, rotations) for name, poses in found.items()
        }
    chosen, hand_scores = _choose_hand(molecule, resolution_angstrom, found)
    ranked = RankedPlacements.of(molecule, targets[chosen], found[chosen])
    if rotations is None and not ranked.significance.trusted:
        again = search_again(molecule, list(targets.values()), list(found.values()), progress)
        found = dict(zip(targets, again))
        chosen, hand_scores = _choose_hand(molecule, resolution_angstrom, found)
        ranked = RankedPlacements.of(molecule, targets[chosen], found[chosen])
    return _PlacedWhole(chosen, hand_scores, targets[chosen], ranked, group, rotations, symmetry_scores)


def _place_parts(
    model: Model,
    selections: list[str] | None,
    molecule: RigidMolecule,
    whole: _PlacedWhole,
    progress: ProgressCallback,
) -> list[_PlacedPart]:
    """The bodies that are asked for, placed after the whole model, or the whole model as one."""
    if selections is None:
        return [_PlacedPart(selection_of_all(model), "the model", molecule, whole.found, whole.target)]
    # A model of bodies that have moved fits nowhere as a whole: what counts is how its bodies stand.
    molecules = [molecule_of(model, select_residues(model, selection)) for selection in selections]
    found = place_bodies(molecules, whole.target, whole.found.poses[:1], molecule.centroid, progress)
    return [
        _PlacedPart(name, f"body {name}", part, one, whole.target)
        for name, part, one in zip(selections, molecules, found)
    ]


def _choose_hand(
    molecule: RigidMolecule, resolution_angstrom: float, found: dict[str, RigidPoses]
) -> tuple[str, dict[str, Any]]:
    """The hand to use, and the scores that speak for it; as it is where two cannot be told apart."""
    best = {name: float(poses.scores[0]) for name, poses in found.items()}
    rounded = {name: round(score, 4) for name, score in best.items()}
    if len(best) == 1:
        (hand,) = best
        return hand, {AS_IS: None, MIRRORED: None, **rounded, "verdict": "given"}
    margin = difference_in_standard_errors(molecule, resolution_angstrom, best[AS_IS], best[MIRRORED])
    verdict = HAND_UNDECIDED if abs(margin) < TRUSTED_STANDARD_ERRORS else AS_IS if margin > 0 else MIRRORED
    scores = {**rounded, "margin_standard_errors": round(abs(margin), 2), "verdict": verdict}
    return MIRRORED if verdict == MIRRORED else AS_IS, scores


def _hand_warnings(whole: _PlacedWhole, resolution: float) -> list[str]:
    scores = whole.hand_scores
    if scores["verdict"] != HAND_UNDECIDED:
        return []
    return [
        f"the map's hand is undecided: at {resolution:.1f} Å the model correlates by {scores[AS_IS]:.3f} with the map "
        f"and by {scores[MIRRORED]:.3f} with its mirror image; taken as it is (else give --hand mirrored)"
    ]


def _ambiguity_warnings(parts: list[_PlacedPart]) -> list[str]:
    lines = [
        f"{part.name} fits nearly as well elsewhere: correlation {part.found.correlation:.3f} against "
        f"{part.found.runner_up:.3f} ({part.found.significance.margin_standard_errors:.1f} standard errors, "
        f"{TRUSTED_STANDARD_ERRORS:g} are trusted); look at the placement before it is used"
        for part in parts
        if part.found.runner_up is not None and not part.found.significance.trusted
    ]
    return lines + [
        f"{part.name} fits nearly as well elsewhere: its correlation here is higher, {part.found.correlation:.3f} "
        f"against {part.found.runner_up:.3f}, but the map's Fourier shells speak for the other place by "
        f"{-(part.shell_margin or 0):.1f} standard errors; look at the placement before it is used"
        for part in parts
        if part.found.significance.trusted and not part.trusted
    ]


def _clash_warnings(parts: list[_PlacedPart], copies: list[RigidMolecule]) -> list[str]:
    """Of bodies that lie in each other, and of symmetric copies that do, which are all alike."""
    lines = []
    placed = [part.placed_molecule() for part in parts]
    for number, part in enumerate(parts):
        share = clash_fraction(placed[number], placed[:number] + placed[number + 1 :])
        if share > _REPORTED_CLASH_FRACTION:
            lines.append(f"{share:.1%} of the CA atoms of {part.name} lie within 3 Å of another body's")
    share = clash_fraction(copies[0], copies[1:]) if copies else 0.0
    if share > _REPORTED_CLASH_FRACTION:
        lines.append(f"{share:.1%} of each copy's CA atoms lie within 3 Å of another copy's")
    return lines


def _coverage_warnings(uncovered: float) -> list[str]:
    if uncovered <= _WARN_UNCOVERED_FRACTION:
        return []
    return [
        f"{uncovered:.0%} of the map's density lies outside the model: the model is part of what is there, there "
        "are more copies, or its parts have moved (--bodies)"
    ]


def _facts(whole: _PlacedWhole, density: DensityMap, resolution_angstrom: float, uncovered: float) -> dict[str, Any]:
    """What ``placement.json`` tells besides the placement."""
    found, significance = whole.found, whole.found.significance
    known = found.runner_up is not None
    return {
        "resolution_angstrom": round(resolution_angstrom, 3),
        "whole": {
            "correlation": round(found.correlation, 4),
            "runner_up": None if found.runner_up is None else round(found.runner_up, 4),
            "margin_standard_errors": round(significance.margin_standard_errors, 2) if known else None,
            "trusted": significance.trusted,
        },
        "uncovered_share": round(uncovered, 4),
        "equivalent_placements": significance.n_equivalent,
        "map": {
            "box": list(density.values.shape[::-1]),
            "pixel_size_angstrom": density.pixel_size_angstrom,
            "header_origin_angstrom": list(density.header_origin_angstrom),
            "frame": "voxel (0, 0, 0) at 0 Å; the header's origin is not used",
        },
    }
