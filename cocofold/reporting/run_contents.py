"""What the folder of a finished run holds, read for its report, and how the result differs from the start."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import yaml

from cocofold.finetuning.options import Options
from cocofold.finetuning.residue_findings import read_ellipsoids, read_errors
from cocofold.mapfit.map_files import MIRRORED
from cocofold.mapfit.workflow import MIRRORED_MAP_FILE
from cocofold.particles.mrc import open_map
from cocofold.structure.geometry import find_superposition, root_mean_square
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_gaussians, read_model
from cocofold.system.atomic_files import read_json
from cocofold.system.errors import InputError, refuse_damaged

_CYCLE_COLUMNS = ("number", "stage", "frc_work", "frc_heldout", "moved_angstrom")
_ANSWER, _START, _DENSITY = Path("model.cif"), Path("models") / "cycle_00.cif", Path("density.mrc")


@dataclass(frozen=True)
class FinishedRun:
    """A run that came to its end.

    Attributes
    ----------
    path : Path
    options : Options
    metrics : dict
        Content of ``metrics.json``.
    cycles : list of dict
        Rows of ``metrics.csv`` of the last pass: numbers, ``stage`` as text, None where there is no value.
    start, answer : Model
        Both in the map's frame; the answer may lack residues.
    amplitudes, widths_angstrom : (n_atoms,) float
        Gaussians of the answer.
    plddt : (n_residues,) float or None
        pLDDT of the answer's residues, NaN where none is stated.
    errors_angstrom : (n_residues,) float or None
        One sigma of the position of each of the answer's residues, where twin runs told it.
    longest_axes_angstrom : (n_residues,) float or None
        One sigma along the longest axis of each residue's ellipsoid, where views tell some directions less.
    """

    path: Path
    options: Options
    metrics: dict[str, Any]
    cycles: list[dict[str, Any]]
    start: Model
    answer: Model
    amplitudes: np.ndarray
    widths_angstrom: np.ndarray
    plddt: np.ndarray | None
    errors_angstrom: np.ndarray | None
    longest_axes_angstrom: np.ndarray | None

    @property
    def answer_file(self) -> Path:
        """The model that is the answer."""
        return self.path / _ANSWER

    @property
    def start_file(self) -> Path:
        """The model from which the run started, in the map's frame."""
        return self.path / _START

    @property
    def density_file(self) -> Path:
        """The density of the answer's Gaussians."""
        return self.path / _DENSITY

    @property
    def has_candidate(self) -> bool:
        """Whether the fit gave another model, and the answer is the start."""
        return (self.path / "candidate.cif").is_file()

    def found_before(self, name: str) -> dict[str, Any] | None:
        """What the check (``check.json``) or the placement (``placement/placement.json``) found; None without it."""
        path = self.path / name
        found: dict[str, Any] | None = read_json(path, path, "run it anew") if path.is_file() else None
        return found

    @property
    def cycles_fit_all(self) -> bool:
        """Whether the cycles are those of a pass that fitted all particles, after one that held some out."""
        return self.metrics["heldout_particles"] > 0 and all(row["frc_heldout"] is None for row in self.cycles)

    @property
    def result_cycle_row(self) -> int | None:
        """Which of the cycles is the answer; None if it is of a pass before theirs."""
        best = (self.metrics["best_cycle"], self.metrics["frc_work"])
        return next((row for row, one in enumerate(self.cycles) if (one["number"], one["frc_work"]) == best), None)

    @property
    def second_pass(self) -> bool:
        """Whether the answer is of a pass that fitted all particles."""
        return self.cycles_fit_all and self.result_cycle_row is not None

    @property
    def start_name(self) -> str:
        """What the run started from, as it was given."""
        return self.options.prediction or self.options.model or ""


def read_run(path: Path) -> FinishedRun:
    """Read the folder of a finished run.

    Raises
    ------
    InputError
        If there is no run, it is not finished, or a file of it is missing or damaged.
    """
    if not (path / "config.yaml").is_file():
        raise InputError(f"{path}: holds no run (no config.yaml); give the folder that cocofold finetune wrote")
    if not (path / "metrics.json").is_file():
        raise InputError(
            f"{path}: the run in it is not finished (no metrics.json); let it end, or go on with it by the same "
            "cocofold finetune command and --resume, then report"
        )
    anew, answer_file = "run it anew", path / _ANSWER
    with refuse_damaged(path / "config.yaml", anew):
        options = _read_options(path / "config.yaml")
    metrics = read_json(path / "metrics.json", path / "metrics.json", anew)
    with refuse_damaged(path / "metrics.csv", anew):
        cycles = _read_cycles(path / "metrics.csv")
    with refuse_damaged(path / "metrics.json", anew):
        _require_metrics(metrics)
    answer = read_model(answer_file)
    amplitudes, widths = read_gaussians(answer_file, len(answer))
    start, plddt = read_model(path / _START), _stated_plddt(answer_file, answer)
    errors = _of_residues(answer, {key: found[0] for key, found in read_errors(answer_file).items()})
    # After the covariance's six components
    axes = _of_residues(answer, {key: found[6] for key, found in read_ellipsoids(answer_file).items()})
    return FinishedRun(path, options, metrics, cycles, start, answer, amplitudes, widths, plddt, errors, axes)


def _of_residues(model: Model, found: dict[tuple[str, int, str], float]) -> np.ndarray | None:
    """A figure of each residue, (n_residues,), NaN where it is not stated; None where it is of none."""
    keys = [(one.chain, one.number, one.insertion_code) for one in model.residues]
    return np.array([found.get(key, np.nan) for key in keys]) if found else None


def read_density(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A map's values, (z, y, x) float32, and its voxel size as (x, y, z) in Å; voxel (0, 0, 0) lies at 0 Å.

    Raises
    ------
    InputError
    """
    with open_map(path, f"map {path}") as file:
        values = np.array(file.data, dtype=np.float32)
        voxel = np.array([float(file.voxel_size[axis]) for axis in "xyz"])
        in_order = (int(file.header.mapc), int(file.header.mapr), int(file.header.maps)) == (1, 2, 3)
    if values.ndim != 3 or not in_order or not (voxel > 0).all() or not np.isfinite(values).all():
        raise InputError(
            f"map {path}: is not one volume of finite numbers with axes x, y, z and a voxel size; convert it first"
        )
    return values, voxel


def find_run_map(run: FinishedRun) -> Path | None:
    """The map in which the run placed its model, mirrored if its hand was wrong; None if it is not there as it was.

    A map whose voxels are not those of the particles lies elsewhere than the model, and is not used.
    """
    mirrored = run.path / "placement" / MIRRORED_MAP_FILE
    found = mirrored if mirrored.is_file() else Path(run.options.map or "")
    if not found.is_file() or (found != mirrored and run.metrics.get("hand") == MIRRORED):
        return None
    (values, voxel), (own, own_voxel) = read_density(found), read_density(run.density_file)
    return found if values.shape == own.shape and np.allclose(voxel, own_voxel, rtol=1e-3) else None


def _read_options(config: Path) -> Options:
    stored = yaml.safe_load(config.read_text(encoding="utf-8"))
    if not isinstance(stored, dict) or "particles" not in stored:
        raise InputError(f"{config}: holds no settings of a run; give the folder that cocofold finetune wrote")
    known = {option.name for option in fields(Options)}
    return Options(**{name: value for name, value in stored.items() if name in known})


def _require_metrics(metrics: dict[str, Any]) -> None:
    needed = ("verdict", "best_cycle", "frc_work", "frc_curves", "particles", "heldout_particles", "versions")
    missing = [name for name in needed if name not in metrics]
    if missing:
        raise ValueError(f"metrics.json lacks {', '.join(missing)}")


def _read_cycles(table: Path) -> list[dict[str, Any]]:
    with open(table, newline="", encoding="utf-8") as file:
        rows = [
            {name: value if name == "stage" else _number(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]
    if missing := set(_CYCLE_COLUMNS) - set(rows[0] if rows else ()):
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    # Older runs have no column "pass": their rows are those of the last one alone.
    return [row for row in rows if row.get("pass") == rows[-1].get("pass")]


def _number(text: str) -> float | None:
    return float(text) if text else None


def _stated_plddt(path: Path, model: Model) -> np.ndarray | None:
    """What an mmCIF states as pLDDT of residues; B factors alone do not say what they are."""
    block = gemmi.cif.read(str(path)).sole_block()
    kinds = {row[0] for row in block.find("_ma_qa_metric.", ["id", "type"]) if gemmi.cif.as_string(row[1]) == "pLDDT"}
    items = ["label_asym_id", "label_seq_id", "metric_id", "metric_value"]
    stated = {
        (gemmi.cif.as_string(row[0]), row[1]): float(row[3])
        for row in block.find("_ma_qa_metric_local.", items)
        if row[2] in kinds
    }
    if not stated:
        return None
    residues = (residue for chain in model.structure[0] for residue in chain)
    return np.array([stated.get((residue.subchain, str(residue.label_seq)), np.nan) for residue in residues])


@dataclass(frozen=True)
class ModelChanges:
    """Residues of the result, with where they were in the start.

    Attributes
    ----------
    row_in_start : (n,) int
        Row in the start's residues of each of the result's.
    in_place, superposed : (n,) float
        Distance (Å) of CA from start to result as they lie, and after one superposition of all; NaN without CA.
    gap_aware_numbers : (n_start,) int
        Numbers of the start's residues that rise by one where the author's do, and by two elsewhere.
    """

    row_in_start: np.ndarray
    in_place: np.ndarray
    superposed: np.ndarray
    gap_aware_numbers: np.ndarray

    @property
    def rms_in_place(self) -> float:
        """Root mean square displacement (Å) of CA as they lie."""
        return root_mean_square(self.in_place)

    @property
    def rms_superposed(self) -> float:
        """CA RMSD (Å) of the result from the start."""
        return root_mean_square(self.superposed)


def compare_with_start(start: Model, answer: Model) -> ModelChanges:
    """Compare a result with its start, of which it has all residues or some.

    Raises
    ------
    InputError
        If the result has residues that the start has not.
    """
    known = {key: row for row, key in enumerate(start.residues)}
    unknown = [key for key in answer.residues if key not in known]
    if unknown:
        key = unknown[0]
        raise InputError(f"the result has residue {key.name} {key.chain}{key.number}, which its start has not")
    rows = np.array([known[key] for key in answer.residues])
    framed, atoms, _ = answer.framed_residues()
    start_framed, start_atoms, _ = start.framed_residues()
    before = dict(zip(start_framed.tolist(), start_atoms[:, 1].tolist()))
    in_place, superposed = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    there = answer.positions[atoms[:, 1]]
    here = start.positions[[before[row] for row in rows[framed].tolist()]]
    in_place[framed] = np.linalg.norm(there - here, axis=1)
    rotation, translation = find_superposition(there, here)
    superposed[framed] = np.linalg.norm(there @ rotation.T + translation - here, axis=1)
    return ModelChanges(rows, in_place, superposed, _gap_aware_numbers(start))


def _gap_aware_numbers(model: Model) -> np.ndarray:
    """A number for each residue, from 0: one more than the last where the author's numbers go on, else two more."""
    steps = [
        1 if after.chain == before.chain and after.number - before.number in (0, 1) else 2
        for before, after in zip(model.residues, model.residues[1:])
    ]
    return np.cumsum([0, *steps])
