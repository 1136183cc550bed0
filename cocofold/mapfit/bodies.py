"""Bodies of a model: the text that selects them, their molecules, and where a placement or a search puts them.

All of ``mapfit`` that looks into a model's chains and residues stands here; searches see molecules alone.
"""

from __future__ import annotations

import re

import numpy as np
from scipy.cluster.hierarchy import average, fcluster
from scipy.spatial import cKDTree
from scipy.spatial.distance import squareform

from cocofold.mapfit.map_files import Placement
from cocofold.mapfit.rigid_refinement import MAX_CLASH_FRACTION, RigidMolecule, RigidPoses, clash_fraction
from cocofold.mapfit.search_pipeline import (
    TRUSTED_STANDARD_ERRORS,
    RankedPlacements,
    assess_significance,
    difference_in_standard_errors,
    find_placements,
    find_placements_near,
    refine_at_full_resolution,
    symmetric_copies_of,
)
from cocofold.mapfit.target_map import TargetMap
from cocofold.structure.confidence import ordered_residues
from cocofold.structure.model import Model
from cocofold.system.errors import InputError
from cocofold.system.progress import ProgressCallback

# One part of a selection: a chain, or a range of its residues.
_PART = re.compile(r"(?P<chain>[^:]+?)(?::(?P<first>-?\d{1,9})-(?P<last>-?\d{1,9}))?")
# Residues that a message names.
_SHOWN = 5


def selection_of_all(model: Model) -> str:
    """The selection of a whole model."""
    return format_selection(model, np.ones(len(model.residues), dtype=bool))


def parse_bodies(model: Model, text: str) -> list[str]:
    """Selections of the bodies that ``--bodies`` names, so that every residue is in one of them.

    Parameters
    ----------
    model : Model
    text : str
        Bodies separated by ``;``, each of chains (``A``) and ranges of residues (``A:1-120``, both ends included)
        separated by ``,``; or ``auto``: each chain with a protein's backbone is a body, and
        without any protein each chain of nucleotides.

    Returns
    -------
    list of str
        Ligands, waters and nucleic acids that are in none follow the body whose atoms are nearest to them.

    Raises
    ------
    InputError
        Of chains that are not there, residues in two bodies, protein residues in none, and bodies without a backbone.
    """
    has_backbone = np.zeros(len(model.residues), dtype=bool)
    has_backbone[_traced(model)[0]] = True
    chains = _chain_names(model)
    if text.strip().lower() == "auto":
        texts = [chain for chain in dict.fromkeys(chains) if has_backbone[chains == chain].any()]
    else:
        texts = [part.strip() for part in text.split(";")]
    owner = np.full(len(model.residues), -1)
    for number, part in enumerate(texts):
        chosen = select_residues(model, part, "--bodies")
        twice = chosen & (owner >= 0)
        if twice.any():
            raise InputError(
                f"--bodies {text}: {_list_residues(model, twice)} in two bodies, '{texts[owner[twice][0]]}' and "
                f"'{part}'; give each residue to one"
            )
        if not (chosen & has_backbone).any():
            raise InputError(f"--bodies {text}: '{part}' has no residue with a protein's backbone; join it to a body")
        owner[chosen] = number
    left = has_backbone & (owner < 0)
    if left.any():
        raise InputError(f"--bodies {text}: {_list_residues(model, left)} in no body; add them to one")
    _assign_rest_to_nearest(model, owner)
    return [format_selection(model, owner == number) for number in range(len(texts))]


def select_residues(model: Model, selection: str, what: str = "selection") -> np.ndarray:
    """Residues of a selection such as ``A:1-120,B``; (n_residues,) bool.

    Raises
    ------
    InputError
        If it cannot be read or selects nothing.
    """
    chains = _chain_names(model)
    numbers = np.array([residue.number for residue in model.residues])
    chosen = np.zeros(len(model.residues), dtype=bool)
    for part in selection.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise InputError(f"{what}: '{part.strip()}' is neither; give chains (A) or ranges of residues (A:1-120)")
        of_chain = chains == match["chain"]
        if not of_chain.any():
            there = ", ".join(dict.fromkeys(chains))
            raise InputError(f"{what}: there is no chain {match['chain']} in the model; its chains are {there}")
        if match["first"] is not None:
            first, last = int(match["first"]), int(match["last"])
            inside = of_chain & (numbers >= first) & (numbers <= last)
            if not inside.any():
                own = numbers[of_chain]
                raise InputError(
                    f"{what}: no residue in {part.strip()}; chain {match['chain']} goes from {own.min()} to {own.max()}"
                )
            of_chain = inside
        chosen |= of_chain
    return chosen


def format_selection(model: Model, chosen: np.ndarray) -> str:
    """The selection of some residues, chains as a whole where all of them are in it."""
    chains = _chain_names(model)
    parts = []
    for chain in dict.fromkeys(chains):
        of_chain = chains == chain
        if chosen[of_chain].all():
            parts.append(chain)
            continue
        runs: list[list[int]] = []
        for number, is_chosen in sorted(
            {model.residues[row].number: chosen[row] for row in np.flatnonzero(of_chain)}.items()
        ):
            if not is_chosen:
                runs.append([])
            elif runs and runs[-1]:
                runs[-1][1] = number
            else:
                runs.append([number, number])
        parts += [f"{chain}:{run[0]}-{run[1]}" for run in runs if run]
    return ",".join(parts)


def _assign_rest_to_nearest(model: Model, owner: np.ndarray) -> None:
    """Give residues in no body to the nearest, all of one number in a chain to the same."""
    of_atom = owner[model.residue_of_atom]
    free = of_atom < 0
    if not free.any():
        return
    distance, nearest = cKDTree(model.positions[~free]).query(model.positions[free])
    nearest_owner = of_atom[~free][nearest]
    keys = [(residue.chain, residue.number) for residue in model.residues]
    given = {keys[row]: body for row, body in enumerate(owner) if body >= 0}
    rows = model.residue_of_atom[free]
    for atom in np.argsort(distance, kind="stable"):
        given.setdefault(keys[rows[atom]], int(nearest_owner[atom]))
    owner[:] = [given[key] for key in keys]


def _chain_names(model: Model) -> np.ndarray:
    return np.array([residue.chain for residue in model.residues])


def _list_residues(model: Model, chosen: np.ndarray) -> str:
    rows = np.flatnonzero(chosen)
    names = [
        f"{model.residues[row].name} {model.residues[row].number} of chain {model.residues[row].chain}"
        for row in rows[:_SHOWN]
    ]
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return ", ".join(names) + more + (" is" if len(rows) == 1 else " are")


# Mean predicted aligned error up to which residues are one body. Larger values join domains whose arrangement the
# prediction is not sure of, smaller ones split what it is sure of.
_MAX_MEAN_PAE_ANGSTROM = 10.0
# Fewer residues (loops, linkers, tails) are not placed on their own, for they look like any other piece of density.
_MIN_BODY_RESIDUES = 30


def bodies_from_pae(model: Model, error_angstrom: np.ndarray) -> str:
    """Bodies for ``parse_bodies``, split where the predicted aligned error is large.

    Residues are clustered by average linkage up to a mean error of 10 Å; a cluster of fewer than 30 residues joins the
    one that it has the least error to.

    Parameters
    ----------
    model : Model
        Of amino acids alone.
    error_angstrom : (n_residues, n_residues) float
        Expected error of a residue (column) in the frame of another (row).
    """
    error = np.asarray(error_angstrom, dtype=float)
    error = (error + error.T) / 2
    np.fill_diagonal(error, 0.0)
    if len(error) < 2 * _MIN_BODY_RESIDUES:
        return format_selection(model, np.ones(len(error), dtype=bool))
    of_residue = fcluster(average(squareform(error, checks=False)), _MAX_MEAN_PAE_ANGSTROM, criterion="distance")
    large = [name for name in np.unique(of_residue) if (of_residue == name).sum() >= _MIN_BODY_RESIDUES]
    if not large:
        return format_selection(model, np.ones(len(error), dtype=bool))
    to_each = np.stack([error[:, of_residue == name].mean(1) for name in large], axis=1)
    nearest = np.array(large)[to_each.argmin(1)]
    of_residue = np.where(np.isin(of_residue, large), of_residue, nearest)
    in_order = dict.fromkeys(of_residue.tolist())
    return ";".join(format_selection(model, of_residue == name) for name in in_order)


def molecule_of(model: Model, residues: np.ndarray | None = None) -> RigidMolecule:
    """The atoms other than hydrogen of a model's ordered residues, or of some of them, (n_residues,) bool.

    A body without any ordered residue is all of its atoms.
    """
    wanted = np.ones(len(model.residues), dtype=bool) if residues is None else residues
    is_ordered = ordered_residues(model)
    if (wanted & is_ordered).any():
        wanted = wanted & is_ordered
    heavy = wanted[model.residue_of_atom] & (model.atomic_numbers > 1)
    with_backbone, centres = _traced(model)
    ca_positions = model.positions[centres[wanted[with_backbone]]]
    return RigidMolecule(model.positions[heavy], model.atomic_numbers[heavy], ca_positions)


def _traced(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Residues with a protein's backbone and their CA; of a model without protein its nucleotides and their C1'."""
    residues, atoms = model.backbone()
    if len(residues) == 0:
        residues, atoms = model.nucleotides()
    return residues, atoms[:, 1]


def apply_placement(model: Model, placement: Placement) -> Model:
    """The model with each body where the placement puts it.

    Raises
    ------
    InputError
        If the bodies are not those of the model: residues in none or in two of them, or chains that it has not.
    """
    positions = model.positions.copy()
    owner = body_of_each_atom(model, placement)
    for number, body in enumerate(placement.bodies):
        positions[owner == number] = body.apply(model.positions[owner == number])
    return model.moved_to(positions)


def body_of_each_atom(model: Model, placement: Placement) -> np.ndarray:
    """Row in ``placement.bodies`` of each atom, (n_atoms,) int.

    Raises
    ------
    InputError
        As ``apply_placement``.
    """
    chosen = np.stack([select_residues(model, body.selection, "placement") for body in placement.bodies])
    times = chosen.sum(0)
    if (times != 1).any():
        row = int(np.flatnonzero(times != 1)[0])
        residue, found = model.residues[row], "no body" if times[row] == 0 else "two bodies"
        raise InputError(
            f"placement: {residue.name} {residue.number} of chain {residue.chain} is in {found}; the placement must be "
            "of this model: run cocofold fit with it"
        )
    return chosen.argmax(0)[model.residue_of_atom]


def place_bodies(
    bodies: list[RigidMolecule], target: TargetMap, whole: RigidPoses, centroid: np.ndarray, progress: ProgressCallback
) -> list[RankedPlacements]:
    """Place bodies one after the other, each in the density that those before it leave.

    Each is sought within 40° and 12 Å of where the whole model has it; if no place there stands out, everywhere. At the
    end all are moved uphill again in the density that all others leave.

    Parameters
    ----------
    bodies : list of RigidMolecule
        In the model's frame.
    target : TargetMap
    whole : RigidPoses
        The pose of the whole model, one row.
    centroid : (3,) float
        Centroid of the whole model in its own frame, Å.
    progress
        Called with what is being done, and what share of it is done, from 0 to 1.

    Returns
    -------
    list of RankedPlacements
        For each body, with correlations in the density that the others leave.
    """
    found: list[RigidPoses] = []
    placed: list[RigidMolecule] = []
    for number, body in enumerate(bodies, start=1):
        progress(f"body {number}", 0.0)
        centre = whole.rotations[0] @ (body.centroid - centroid) + whole.centres[0]
        start = RigidPoses.unscored(whole.rotations, centre[None])
        best = _search_body(body, target, start, placed, progress)
        found.append(best)
        placed.append(body.moved(best.rotations[0], best.centres[0]))
    for number, body in enumerate(bodies):
        others = placed[:number] + placed[number + 1 :]
        settled = refine_at_full_resolution(body, target, found[number][:1], RigidMolecule.concatenated(others))
        moved = body.moved(settled.rotations[0], settled.centres[0])
        if clash_fraction(moved, others) <= max(MAX_CLASH_FRACTION, clash_fraction(placed[number], others)):
            placed[number] = moved
            found[number] = RigidPoses.concatenated([settled, found[number][1:]])
    return [RankedPlacements.of(body, target, poses) for body, poses in zip(bodies, found)]


def _search_body(
    body: RigidMolecule, target: TargetMap, start: RigidPoses, placed: list[RigidMolecule], progress: ProgressCallback
) -> RigidPoses:
    """Where a body goes, then other places: near the start if a place there stands out, or else anywhere."""
    subtracted = RigidMolecule.concatenated(placed)
    near = find_placements_near(body, target, start, subtracted)
    is_free = _without_clashes(body, near, placed)
    near_free = near[is_free]
    ranked = RigidPoses.concatenated([near_free, near[~is_free]])
    if len(near_free) and assess_significance(body, target, ranked).trusted:
        return ranked
    (far,) = find_placements(body, [target], subtracted, progress)
    far_free = far[_without_clashes(body, far, placed)]
    others = RigidPoses.merged_best_first([near, far])
    if not len(far_free):
        return RigidPoses.concatenated([near_free[:1] if len(near_free) else start, others])
    if not len(near_free):
        return RigidPoses.concatenated([far_free[:1], others])
    gain = difference_in_standard_errors(body, target.resolution_angstrom, far_free.scores[0], near_free.scores[0])
    return RigidPoses.concatenated([far_free[:1] if gain > TRUSTED_STANDARD_ERRORS else near_free[:1], others])


def _without_clashes(body: RigidMolecule, poses: RigidPoses, placed: list[RigidMolecule]) -> np.ndarray:
    """Which poses put the body where no other is, (n,) bool."""
    moved = [body.moved(turn, centre) for turn, centre in zip(poses.rotations, poses.centres)]
    return np.array([clash_fraction(one, placed) <= MAX_CLASH_FRACTION for one in moved], dtype=bool)


# Largest share of a subunit's CA atoms within 3 Å of a copy's. Smaller, it refuses subunits whose interfaces still
# clash; larger, it lets pass what lies on an axis or is an assembly itself.
_MOST_OVERLAPPING = 0.2


def refuse_overlapping_copies(model: Model, symmetry: str, rotations: np.ndarray, centre: np.ndarray) -> None:
    """Refuse a subunit whose copies lie on each other."""
    first, *others = symmetric_copies_of(molecule_of(model), rotations, centre)
    share = clash_fraction(first, others)
    if share > _MOST_OVERLAPPING:
        raise InputError(
            f"--symmetry {symmetry}: {share:.0%} of the subunit's CA atoms lie within 3 Å of a copy's; give one "
            f"subunit in its place (the axes meet at {centre[0]:g} Å on each axis), or --map to place it"
        )
