"""What is found of single residues: errors by twin runs, and which of them moved together, by what motion.

Twin runs are fits to random halves of the particles, whose differences say how wrong each residue may be.

Twins of a pair share no particle. If each is fitted as the whole was, with half as many images a step, their squared
distance is on average four times that of the answer from what it would be with ever more particles (half-samples:
McCarthy, Rev. Int. Stat. Inst. 37, 239, 1969). That is the random part of the error. What twins share, of the start,
the poses and the resolution, does not show in their differences: it is modelled from where a residue lies and how much
its surroundings were bent, with weights that were found on data whose truth is known (``benchmarks.calibration``).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cocofold.assessment.what_changed import WhatChanged, what_changed
from cocofold.finetuning import option_rules
from cocofold.finetuning.holdout import mean_of_finite, spread_draw
from cocofold.finetuning.options import Options
from cocofold.finetuning.preparation import PreparedRun
from cocofold.finetuning.run_folder import SECOND_START, ModelState, RunFolder
from cocofold.finetuning.training_loop import load_checkpoint
from cocofold.likelihood.residue_support import LEAST_ANISOTROPY, ViewCoverage, stretches_of
from cocofold.structure.geometry import residue_centres, superpose_onto
from cocofold.structure.model import Model, add_table
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.system.atomic_files import write_atomically
from cocofold.system.errors import InputError
from cocofold.system.hardware import peak_resident_bytes

# Reach (Å) over which squared distances of twins are averaged: one pair has three numbers a residue, neighbours err
# alike. Farther hides loops, nearer leaves chance. That over which strains are: with them the true errors of adenylate
# kinase go best.
_TWIN_REACH_ANGSTROM, _STRAIN_REACH_ANGSTROM = 5.0, 3.0
# Surroundings that a residue moves against, those of the chain that bend, and points that fix a superposition
_SURROUNDINGS_ANGSTROM, _WINDOW_REACH, _FEWEST_TO_SUPERPOSE = 7.0, 8, 4
# Residues whose CA lies that near are neighbours; so many of them a residue in the core has.
_NEAR_ANGSTROM, _NEAR_IN_CORE = 10.0, 20.0
# Squared error (Å²) of a residue = sum of these times its features (``error_features``), by benchmarks.calibration.
ERROR_WEIGHTS = (0.875, 0.0175, 1.85, 0.283, 0.119)
CATEGORY = "_cocofold_residue_error."
_ITEMS = "label_asym_id label_seq_id auth_asym_id auth_seq_id pdbx_PDB_ins_code label_comp_id"
_FIGURES = "error_angstrom random_angstrom systematic_angstrom"
ELLIPSOID_CATEGORY = "_cocofold_residue_error_ellipsoid."
_COMPONENTS = " ".join(f"covariance_{place}" for place in (11, 12, 13, 22, 23, 33))
_AXES = "axis_1_angstrom axis_2_angstrom axis_3_angstrom"
# Ellipsoids are drawn at so many sigmas: within them lies nearly every residue, and they show beside a cartoon.
_DRAWN_SIGMAS = 2
_METRIC_ID = 3
# Residues that are named as uncertain: side chains and neighbours cannot be told from this on.
_UNCERTAIN_ANGSTROM = 2.0
# Images by which it is told what a motion added
_MOST_IMAGES_OF_MOTIONS = 200
# Colours of ChimeraX from 0 Å to these errors
_COLOURS = ((0.5, "#2166ac"), (1.0, "#92c5de"), (1.5, "#f7f7f7"), (2.5, "#f4a582"), (4.0, "#b2182b"))


@dataclass(frozen=True)
class ResidueErrors:
    """How wrong each residue's position may be.

    Attributes
    ----------
    total_angstrom : (n_residues,) float
        One sigma of the distance of the CA from its true place: 95 % of residues should be within two.
    random_angstrom, systematic_angstrom : (n_residues,) float
        Its parts: what other particles would change, and what twins share.
    views : ViewCoverage, optional
        Of the images, which gives errors their directions.
    """

    total_angstrom: np.ndarray
    random_angstrom: np.ndarray
    systematic_angstrom: np.ndarray
    views: ViewCoverage | None = None

    @classmethod
    def of(
        cls, features: np.ndarray, weights: tuple[float, ...] = ERROR_WEIGHTS, views: ViewCoverage | None = None
    ) -> ResidueErrors:
        """Of the residues' features, (n_residues, 5); see ``error_features``."""
        squares = features * np.asarray(weights)
        random, shared = squares[:, 0], squares[:, 1:].sum(1)
        return cls(np.sqrt(random + shared), np.sqrt(random), np.sqrt(shared), views)

    def covariances(self) -> np.ndarray | None:
        """Covariance of each residue's error, (n_residues, 3, 3) Å²; None where all directions are about alike.

        With even views it would be a third of the squared total error in each direction.
        """
        if self.views is None or self.views.anisotropy <= LEAST_ANISOTROPY:
            return None
        return self.total_angstrom[:, None, None] ** 2 * self.views.covariance()

    def as_dict(self, model: Model) -> dict[str, Any]:
        """Figures for ``metrics.json``; the residues' own are in the model's file."""
        uncertain, covariances = self.total_angstrom > _UNCERTAIN_ANGSTROM, self.covariances()
        squares = None if covariances is None else np.linalg.eigvalsh(np.median(covariances, axis=0))[::-1]
        return {
            "median_angstrom": round(float(np.median(self.total_angstrom)), 3),
            "largest_angstrom": round(float(self.total_angstrom.max()), 3),
            "median_random_angstrom": round(float(np.median(self.random_angstrom)), 3),
            "median_axes_angstrom": None if squares is None else np.sqrt(squares).round(3).tolist(),
            "uncertain": [str(stretch) for stretch in stretches_of(model, uncertain)],
        }


def finish_twin(
    prepared: PreparedRun, state: ModelState, folder: RunFolder, options: Options, seconds: float
) -> dict[str, Any]:
    """End a run that is a twin: its model and the figures that the run around it needs."""
    folder.write_model("model.cif", state.to_output(prepared.model), prepared.start.placed_as)
    metrics = {
        "verdict": "undecided",
        "twin": options.twin_number,
        "particles": len(prepared.particles),
        "seconds": round(seconds, 1),
        "peak_memory_gb": round(peak_resident_bytes() / 1e9, 3),
    }
    folder.write_metrics(metrics)
    return metrics


def fit_twins(
    prepared: PreparedRun,
    answer: ModelState,
    folder: RunFolder,
    options: Options,
    fit: dict[str, Any],
    run_inside: Callable[[Options, Path], dict[str, Any]],
) -> ResidueErrors | None:
    """Fit to halves of the particles, as the answer was fitted, and compare.

    None where no twins are asked for, or the answer is the start. ``fit`` has the metrics of the fit whose cycle
    ``best_cycle`` is the answer; of the run itself only that is known. ``run_inside`` fine-tunes in a folder of this
    run; the twins' runs go to ``twins``. Those of a second fit begin where that began.
    """
    if options.twin is None or fit["best_cycle"] == 0:
        return None
    start, twins = prepared.start, folder.path / "twins"
    place, aside = twins / "start.cif", options.set_aside == "on"
    twins.mkdir(exist_ok=True)
    if "verdict" in fit:
        second = Options.read(folder.path / "set_aside" / "config.yaml")
        aside = second.set_aside == "on"
        if Path(second.starts[0]).name == SECOND_START:
            place = folder.path / "models" / SECOND_START
    if not place.is_file():
        subunit = start.model if start.subunit is None else start.subunit
        plddt = None if start.plddt is None else start.plddt[: len(subunit.residues)]
        write_model(place, subunit, details="start, placed in the map", plddt=plddt, placed_as={"hand": start.hand})
    fitted = []
    for number in range(options.twin):
        run = twins / f"twin_{number + 1:02d}"
        folder.log(f"twin {number + 1} of {options.twin}: the start is fitted to half of the particles; see {run}")
        run_inside(twin_options(options, place, number, fit["best_cycle"], start.symmetry, aside), run)
        tensors, _ = load_checkpoint(run / "checkpoints" / "latest.safetensors")
        state = ModelState.pop_from_checkpoint(tensors, prepared.device)
        fitted.append(state.positions.cpu().double().numpy())
    ended = prepared.model.moved_to(answer.positions.cpu().double().numpy())
    views = ViewCoverage.of_images(prepared.observations, start.symmetry or "C1")
    return ResidueErrors.of(error_features(prepared.model, ended, fitted), views=views)


def twin_options(
    options: Options, start: Path, number: int, last_cycle: int, symmetry: str | None, sets_aside: bool
) -> Options:
    """Options of a run from a placed start that fits a half of the particles, half as many images a step."""
    own: dict[str, Any] = {one.name: one.default for one in fields(options) if option_rules(one).map_only}
    own |= {"map": None, "placement": None, "remove_below": None, "remove_unseen": False, "check": False}
    own |= {"twin": None, "twin_number": number, "twin_cycle": last_cycle}
    own |= {"set_aside": "on" if sets_aside else "off", "batch_size": math.ceil(options.batch_size / 2)}
    return replace(options, model=str(start), symmetry=symmetry, **own)


def error_features(start: Model, answer: Model, twins: list[np.ndarray]) -> np.ndarray:
    """What a residue's error is told from, (n_residues, 5), each zero or more.

    The first four in Å², averaged over neighbours: the twins' squared distances, for the whole set; 1, for what all
    residues share; how far the residue moved against its surroundings within 7 Å, squared; how much its chain was bent
    within eight residues, squared. Last how few neighbours it has, 0 to 1.

    Parameters
    ----------
    start, answer : Model
        The same atoms at both places.
    twins : list of (n_atoms, 3) float
        Å. Twins 2k and 2k + 1 share no particle; a last one without a partner is compared with the answer.
    """
    points = [residue_centres(answer, positions) for positions in (start.positions, answer.positions, *twins)]
    before, after, fitted = points[0], points[1], points[2:]
    squares = [((one - other) ** 2).sum(1) / 4 for one, other in zip(fitted[::2], fitted[1::2])]
    if len(fitted) % 2:
        # A half lies as far from the whole as the whole does from ever more particles.
        squares.append(((fitted[-1] - after) ** 2).sum(1))
    random = _smoothed(after, np.mean(squares, axis=0), _TWIN_REACH_ANGSTROM)
    tree = cKDTree(after)
    chains = np.array([key.chain for key in answer.residues])
    moved, bent = np.zeros(len(after)), np.zeros(len(after))
    for row, (near, window) in enumerate(zip(tree.query_ball_point(after, _SURROUNDINGS_ANGSTROM), _windows(chains))):
        moved[row] = _left_after_superposition(before, after, np.array(near))[near.index(row)]
        bent[row] = _left_after_superposition(before, after, window).mean()
    strains = [_smoothed(after, values, _STRAIN_REACH_ANGSTROM) for values in (moved, bent)]
    neighbours = tree.query_ball_point(after, _NEAR_ANGSTROM, return_length=True) - 1
    alone = np.clip(1 - neighbours / _NEAR_IN_CORE, 0, 1)
    return np.column_stack([random, np.ones(len(after)), *strains, alone])


def _windows(chains: np.ndarray) -> list[np.ndarray]:
    """For each residue those up to eight before and after it in its chain, (m,) int."""
    found = []
    for row, chain in enumerate(chains):
        rows = np.arange(max(0, row - _WINDOW_REACH), min(len(chains), row + _WINDOW_REACH + 1))
        found.append(rows[chains[rows] == chain])
    return found


def _left_after_superposition(before: np.ndarray, after: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Squared distances, (n,) Å², of some points before from those after, once superposed; zeros for few points."""
    if len(rows) < _FEWEST_TO_SUPERPOSE:
        return np.zeros(len(rows))
    return ((superpose_onto(before[rows], after[rows]) - after[rows]) ** 2).sum(1)


def _smoothed(points: np.ndarray, values: np.ndarray, reach: float) -> np.ndarray:
    """Means of values, (n,), over neighbours, with weights that fall with the distance of points, (n, 3) Å."""
    pairs = cKDTree(points).query_pairs(3 * reach, output_type="ndarray")
    one, other = pairs.T
    weights = np.exp(-0.5 * ((points[one] - points[other]) ** 2).sum(1) / reach**2)
    count, total = len(points), values.copy()
    total += np.bincount(one, weights * values[other], count) + np.bincount(other, weights * values[one], count)
    return total / (1 + np.bincount(one, weights, count) + np.bincount(other, weights, count))


def explain_changes(prepared: PreparedRun, state: ModelState, folder: RunFolder, seed: int) -> WhatChanged | None:
    """Bodies that moved from the start to an answer, and what each motion added to the ring correlation.

    None where the models have no CA atoms to be compared by.
    """
    answer = prepared.model.moved_to(state.positions.cpu().double().numpy())
    try:
        changed = what_changed(prepared.model, answer)
    except InputError:
        return None
    rows = spread_draw(torch.arange(len(prepared.particles)), _MOST_IMAGES_OF_MOTIONS, seed)
    rings = prepared.observations.rings(prepared.observations.finest_rings)

    def correlation(positions: np.ndarray) -> float:
        placed = torch.as_tensor(positions, dtype=torch.float32, device=prepared.device)
        scores = prepared.comparison.score(placed, state.gaussians, rows, rings, prepared.memory.images_at_once)
        return mean_of_finite(scores.cpu())

    gains = []
    for body in changed.moved:
        # As if it had stayed with the body at rest
        back, atoms = answer.positions.copy(), np.isin(answer.residue_of_atom, body.residues)
        if changed.at_rest is not None:
            back[atoms] = prepared.model.positions[atoms] @ changed.at_rest.rotation.T + changed.at_rest.translation
        gains.append(correlation(answer.positions) - correlation(back))
    changed = changed.with_gains(gains)
    for sentence in changed.sentences():
        folder.log(f"changed: {sentence}")
    return changed


def write_errors(folder: Path, name: str, model: Model, errors: ResidueErrors) -> None:
    """Add errors to a model that was written, and write what ChimeraX shows of them beside it.

    Parameters
    ----------
    folder : Path
    name : str
        Of the model's file; ``model.cif`` gets ``model_errors.defattr`` and ``model_errors.cxc``, and with ellipsoids
        ``model_ellipsoids.bild``.
    model : Model
        Whose residues have the errors.
    errors : ResidueErrors
        Of these, or of more that follow them.
    """
    path = folder / name
    written = read_model(path)
    rows = {key: row for row, key in enumerate(model.residues)}
    chosen = [rows[key] for key in written.residues]
    document = gemmi.cif.read(str(path))
    figures = np.column_stack([errors.total_angstrom, errors.random_angstrom, errors.systematic_angstrom])[chosen]
    names = _names_of_residues(written)
    _add_tables(document.sole_block(), names, figures)
    covariances = errors.covariances()
    stem, shown = path.stem, []
    if covariances is not None:
        drawn = _add_ellipsoids(document.sole_block(), written, names, covariances[chosen])
        write_atomically(folder / f"{stem}_ellipsoids.bild", drawn)
        shown = [f'open "{stem}_ellipsoids.bild" name ellipsoids', "transparency #1 50 target c"]
    write_atomically(path, document.as_string())
    attribute = [
        f"#1/{key.chain}:{key.number}{key.insertion_code}\t{error:.3f}"
        for key, error in zip(written.residues, figures[:, 0])
    ]
    head = ["attribute: position_error", "match mode: 1-to-1", "recipient: residues"]
    write_atomically(folder / f"{stem}_errors.defattr", "\n".join([*head, *(f"\t{line}" for line in attribute)]) + "\n")
    palette = ":".join(f"{limit:g},{colour}" for limit, colour in _COLOURS)
    lines = [
        "# Opens a model, coloured by how wrong each residue may be (one sigma of the CA's position, Å).",
        f'open "{name}"',
        f'open "{stem}_errors.defattr" models #1',
        "cartoon #1",
        f"color byattribute r:position_error #1 palette {palette}",
        "key " + " ".join(f"{colour}:{limit:g}" for limit, colour in _COLOURS) + " pos 0.7,0.08 size 0.25,0.03",
        *shown,
    ]
    write_atomically(folder / f"{stem}_errors.cxc", "\n".join(lines) + "\n")


def _names_of_residues(model: Model) -> list[list[Any]]:
    """What the categories call each residue, in the order of ``_ITEMS``."""
    residues = [residue for chain in model.structure[0] for residue in chain]
    return [
        [residue.subchain, residue.label_seq, key.chain, key.number, key.insertion_code, key.name]
        for residue, key in zip(residues, model.residues)
    ]


def _add_ellipsoids(block: gemmi.cif.Block, model: Model, names: list[list[Any]], covariances: np.ndarray) -> str:
    """Ellipsoids of residues, (n_residues, 3, 3) Å², as a category; what ChimeraX draws of them in its BILD format."""
    squares, vectors = np.linalg.eigh(covariances)
    lengths, vectors = np.sqrt(np.maximum(squares, 0))[:, ::-1], vectors[:, :, ::-1]
    # No -0.0000 in the file
    figures = np.column_stack([covariances[(slice(None), *np.triu_indices(3))], lengths]).round(4) + 0.0
    rows = [[*name, *(f"{value:.4f}" for value in some)] for name, some in zip(names, figures)]
    add_table(block, ELLIPSOID_CATEGORY, f"{_ITEMS} {_COMPONENTS} {_AXES}", rows)
    turns = Rotation.from_matrix(vectors * np.linalg.det(vectors)[:, None, None]).as_rotvec(degrees=True)
    lines = [f".comment Errors of residues at {_DRAWN_SIGMAS} sigma, longest along the axis that views tell least of"]
    for centre, turn, length in zip(residue_centres(model, model.positions), turns, _DRAWN_SIGMAS * lengths):
        angle = float(np.linalg.norm(turn))
        axis = turn / angle if angle > 0 else np.array([0.0, 0.0, 1.0])
        steps = ((".translate", centre), (".rotate", [angle, *axis]), (".scale", length), (".sphere", [0, 0, 0, 1]))
        lines += [f"{step} " + " ".join(f"{value:.4f}" for value in values) for step, values in steps]
        lines += [".pop"] * 3
    return "\n".join(lines) + "\n"


def _add_tables(block: gemmi.cif.Block, names: list[list[Any]], figures: np.ndarray) -> None:
    """Errors of residues, (n_residues, 3) Å, as a category of their own and as a metric of ModelCIF."""
    rows = [[*name, *(f"{value:.3f}" for value in some)] for name, some in zip(names, figures)]
    add_table(block, CATEGORY, f"{_ITEMS} {_FIGURES}", rows)
    what = "one sigma of the CA's distance from its true place, by twin runs"
    metric = [_METRIC_ID, "position error", what, "distance", "local", 1]
    _add_rows(block, "_ma_qa_metric.", "id name description type mode software_group_id", [metric])
    known = block.find_loop("_ma_qa_metric_local.ordinal_id")
    placed = [
        [number, 1, name[0], name[1], name[5], _METRIC_ID, f"{error:.3f}"]
        for number, (name, error) in enumerate(
            ((name, error) for name, error in zip(names, figures[:, 0]) if name[1] is not None), start=len(known) + 1
        )
    ]
    items = "ordinal_id model_id label_asym_id label_seq_id label_comp_id metric_id metric_value"
    _add_rows(block, "_ma_qa_metric_local.", items, placed)


def _add_rows(block: gemmi.cif.Block, category: str, items: str, rows: Sequence[Sequence[object]]) -> None:
    """Add rows to a category, which may be there already."""
    table = block.find(category, items.split())
    add_table(block, category, items, [*(list(row) for row in table), *rows])


def read_errors(path: str | os.PathLike[str]) -> dict[tuple[str, int, str], tuple[float, ...]]:
    """Errors of residues that ``write_errors`` added to a model (total, random, systematic; Å); empty without any."""
    return _figures_of_residues(path, CATEGORY, _FIGURES)


def read_ellipsoids(path: str | os.PathLike[str]) -> dict[tuple[str, int, str], tuple[float, ...]]:
    """Covariances (xx, xy, xz, yy, yz, zz; Å²) and axes (longest first; Å) that were added; empty without any."""
    return _figures_of_residues(path, ELLIPSOID_CATEGORY, f"{_COMPONENTS} {_AXES}")


def _figures_of_residues(
    path: str | os.PathLike[str], category: str, items: str
) -> dict[tuple[str, int, str], tuple[float, ...]]:
    block, names = gemmi.cif.read(os.fspath(path)).sole_block(), ["auth_asym_id", "auth_seq_id", "pdbx_PDB_ins_code"]
    return {
        (row.str(0), int(row.str(1)), row.str(2)): tuple(float(row.str(place)) for place in range(3, len(row)))
        for row in block.find(category, names + items.split())
    }
