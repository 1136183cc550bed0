"""Inputs that differ from the images in more than shape, and the verdict on them: ``python -m benchmarks.composition``.

Each case simulates new particles by its seed, begins at a model that lacks parts, has too many, is of another protein
or simply in another state, and fine-tunes it with the defaults. One table is printed: the verdict and whether it is the
right one, CA RMSD in place of the residues that the images show at the start and at the end, the number of residues
that are falsely supported, and figures of the evidence. A residue is falsely supported if it lies more than 1.5 Å off,
or 0.5 Å farther than at the start, in a model that is supported, and is not named. The exit status is 1 if any is, or
if a verdict is wrong.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from benchmarks.accuracy import ROOT, cocofold
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.structure.topology import Backbone, residue_frames

_FAR_ANGSTROM = 1.5
# Residues of a stretch that is put out of register, and of each of its flanks
_STRETCH, _FLANK = 14, 12
_LID, _NMP = range(118, 161), range(30, 60)
_COLUMNS = ("case", "seed", "verdict", "right", "CA RMSD in place (Å)", "false residues")
_COLUMNS += ("explained", "z", "missing", "mixed", "s")
SUPPORTED = ("supported", "supported in part")


@dataclass(frozen=True)
class Case:
    """What is imaged, where the fit begins, and the verdicts that are right."""

    images: Callable[[Path], list[Model]]
    start: Callable[[Path, int], Model]
    right: tuple[str, ...]
    count: int = 600
    pixel_size: float = 2.5
    check: bool = True


def _read(name: str) -> Callable[[Path], list[Model]]:
    return lambda data: [read_model(data / name)]


def _chains(model: Model, names: str) -> Model:
    return model.only(np.array([key.chain in names for key in model.residues]))


def _without(model: Model, numbers: range) -> Model:
    return model.only(np.array([key.number not in numbers for key in model.residues]))


def _displaced(model: Model, chain: str, degrees: float, shift: float, seed: int) -> Model:
    """One chain turned about its centre and shifted, in directions of the seed."""
    random = np.random.default_rng([seed, 7])
    axis, along = (vector / np.linalg.norm(vector) for vector in random.normal(size=(2, 3)))
    atoms = np.array([key.chain == chain for key in model.residues])[model.residue_of_atom]
    positions = model.positions.copy()
    centre = positions[atoms].mean(0)
    turn = Rotation.from_rotvec(np.deg2rad(degrees) * axis).as_matrix()
    positions[atoms] = (positions[atoms] - centre) @ turn.T + centre + shift * along
    return model.moved_to(positions)


def _out_of_register(model: Model, seed: int) -> Model:
    """A stretch of the seed's choice takes the places of residues two or three farther on; its flanks give way.

    Residues beside it follow the chain's path at a changed pace, so that the chain stays whole and bonds are wrong by
    as much as a fit can mend.
    """
    random, backbone = np.random.default_rng([seed, 11]), Backbone.of(model)
    beyond = _STRETCH + 2 * _FLANK
    begins = [row for row in range(len(backbone) - beyond) if backbone.linked[row : row + beyond].all()]
    pace = np.interp(np.arange(beyond), [0, _FLANK, _FLANK + _STRETCH - 1, beyond - 1], [0, 1, 1, 0])
    at = np.arange(beyond) + random.choice([-3, -2, 2, 3]) * pace
    for begin in random.permutation(begins):
        rows = begin + np.arange(beyond)
        axes, alpha = residue_frames(model.positions[backbone.atoms[rows]]), model.positions[backbone.atoms[rows, 1]]
        new_axes = Slerp(np.arange(beyond), Rotation.from_matrix(axes))(at).as_matrix()
        new_alpha = np.stack([np.interp(at, np.arange(beyond), one) for one in alpha.T], axis=1)
        positions = model.positions.copy()
        for row, old, new, before, after in zip(rows, axes, new_axes, alpha, new_alpha):
            atoms = backbone.frame_of_atom == row
            positions[atoms] = (model.positions[atoms] - before) @ old @ new.T + after
        moved = model.moved_to(positions)
        if np.array_equal(Backbone.of(moved).linked, backbone.linked):
            return moved
    raise ValueError("no stretch of the model can be put out of register without a break")


def _placed_at(model: Model, other: Model) -> Model:
    """A model at the centre of another, as a fit in its map would leave it at best."""
    return model.moved_to(model.positions - model.positions.mean(0) + other.positions.mean(0))


def _adk(data: Path, state: str) -> Model:
    return read_model(data / "adk" / f"{state}.cif")


def _tcr(data: Path) -> Model:
    return read_model(data / "tcr" / "truth.cif")


_OPEN = _read("adk/truth_open.cif")
CASES: dict[str, Case] = {
    "closed": Case(_OPEN, lambda data, _: _adk(data, "start_closed"), ("supported",)),
    "closed, 200": Case(_OPEN, lambda data, _: _adk(data, "start_closed"), ("supported",), count=200),
    "truth": Case(_OPEN, lambda data, _: _adk(data, "truth_open"), ("nothing to change", "supported")),
    "open to closed": Case(_read("adk/start_closed.cif"), lambda data, _: _adk(data, "truth_open"), ("supported",)),
    "without LID": Case(_OPEN, lambda data, _: _without(_adk(data, "start_closed"), _LID), ("supported in part",)),
    "without NMP": Case(_OPEN, lambda data, _: _without(_adk(data, "start_closed"), _NMP), ("supported in part",)),
    "chain moved": Case(
        lambda data: [_tcr(data)],
        lambda data, seed: _displaced(_tcr(data), "B", 20, 7, seed),
        ("supported",),
        300,
        2.75,
    ),
    "chains missing, one moved": Case(
        lambda data: [_tcr(data)],
        lambda data, seed: _displaced(_chains(_tcr(data), "ABC"), "B", 20, 7, seed),
        ("supported in part",),
        600,
        2.75,
    ),
    "too many chains": Case(
        lambda data: [_chains(_tcr(data), "ABC")], lambda data, _: _tcr(data), ("supported in part",), 600, 2.75
    ),
    "too many, two of five": Case(
        lambda data: [_chains(_tcr(data), "DE")], lambda data, _: _tcr(data), ("supported in part",), 600, 2.75
    ),
    "out of register": Case(
        _OPEN, lambda data, seed: _out_of_register(_adk(data, "truth_open"), seed), ("supported", "supported in part")
    ),
    "out of register, five chains": Case(
        lambda data: [_tcr(data)],
        lambda data, seed: _out_of_register(_tcr(data), seed),
        ("supported", "supported in part"),
        600,
        2.75,
    ),
    "two states": Case(
        lambda data: [_adk(data, "truth_open"), _adk(data, "start_closed")],
        lambda data, _: _adk(data, "start_closed"),
        ("mixed",),
    ),
    "another protein": Case(
        lambda data: [_tcr(data)],
        lambda data, _: _placed_at(_adk(data, "truth_open"), _tcr(data)),
        ("does not belong",),
        600,
        2.75,
        check=False,
    ),
    "another protein, larger": Case(
        _OPEN,
        lambda data, _: _placed_at(_chains(_tcr(data), "ABC"), _adk(data, "truth_open")),
        ("does not belong",),
        check=False,
    ),
}


def run(case: Case, data: Path, seed: int, folder: Path) -> dict:
    """Simulate, fine-tune and judge one case; figures of its row."""
    images, start = case.images(data), case.start(data, seed)
    stars = []
    for row, model in enumerate(images):
        truth, out = folder / f"truth_{row}.cif", folder / f"particles_{row}"
        write_model(truth, model)
        words = ["simulate", "--model", truth, "--out", out, "--box", 64, "--pixel-size", case.pixel_size, "--snr", 0.1]
        cocofold([*words, "--count", case.count // len(images), "--seed", 100 * seed + row])
        stars.append(out / "particles.star")
    particles = stars[0] if len(stars) == 1 else _joined(stars, folder / "joined.star")
    write_model(folder / "start.cif", start)
    words = ["finetune", "--particles", particles, "--model", folder / "start.cif", "--out", folder / "run"]
    cocofold([*words, "--seed", seed, *([] if case.check else ["--no-check"])])
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    end, evidence = read_model(folder / "run" / "model.cif"), metrics["evidence"] or {}
    before, after = _distances(start, images[0]), _distances(end, images[0])
    return {
        "verdict": metrics["verdict"],
        "right": metrics["verdict"] in case.right,
        "before": float(np.sqrt(np.nanmean(before**2))),
        "after": float(np.sqrt(np.nanmean(after**2))),
        "false": false_residues(start, end, images[0], metrics),
        "seconds": metrics["seconds"],
        "explained": evidence.get("explained"),
        "z": evidence.get("placement_z_score"),
        "missing": (evidence.get("missing") or {}).get("missing_mass"),
        "mixed": evidence.get("share_preferring_start"),
    }


def false_residues(start: Model, end: Model, truth: Model, metrics: dict) -> int:
    """Number of residues that are falsely supported by a run with these metrics; 0 where its model is not supported."""
    if metrics["verdict"] not in SUPPORTED:
        return 0
    evidence = metrics["evidence"] or {}
    before, after = _distances(start, truth), _distances(end, truth)
    kinds = ("unseen", "doubtful", "misplaced")
    named = _named(end, [stretch for kind in kinds for stretch in evidence.get(kind, [])])
    worse = (after > _FAR_ANGSTROM) | (after > before + 0.5)
    return int((worse & ~named & ~np.isnan(after)).sum())


def _joined(stars: list[Path], out: Path) -> Path:
    """One file of several sets with one table of optics, by the absolute names of their stacks."""
    head, rows = "", []
    for star in stars:
        text = star.read_text()
        split = re.search(r"(?s)(.*data_particles.*?\n(?:_\S+ #\d+[^\n]*\n)+)(.*)", text)
        assert split is not None, "the simulated STAR has one table of particles"
        head = split[1]
        rows.append(split[2].strip().replace("particles.mrcs", str(star.parent / "particles.mrcs")))
    out.write_text(head + "\n".join(rows) + "\n")
    return out


def _distances(model: Model, truth: Model) -> np.ndarray:
    """Distance in place of each residue's CA from the truth's, (n_residues,) Å; NaN where the truth has none."""
    known = {(key.chain, key.number): row for row, key in enumerate(truth.residues)}
    ours, theirs = model.atoms_named("CA"), truth.atoms_named("CA")
    found = np.full(len(model.residues), np.nan)
    for row, key in enumerate(model.residues):
        other = known.get((key.chain, key.number))
        if other is not None and ours[row] >= 0 and theirs[other] >= 0 and truth.residues[other].name == key.name:
            found[row] = np.linalg.norm(model.positions[ours[row]] - truth.positions[theirs[other]])
    return found


def _named(model: Model, stretches: list[str]) -> np.ndarray:
    """Residues of stretches such as ``A 1-24``, (n_residues,) bool."""
    named = np.zeros(len(model.residues), dtype=bool)
    for stretch in stretches:
        found = re.fullmatch(r"(\S+) (-?\d+)-(-?\d+)", stretch)
        assert found is not None, stretch
        chain, first, last = found.groups()
        named |= [key.chain == chain and int(first) <= key.number <= int(last) for key in model.residues]
    return named


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", action="append", choices=CASES, help="by default all")
    parser.add_argument("--seeds", type=int, default=1, help="sets of particles for each case")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    given = parser.parse_args()
    print(f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}")
    failed = 0
    for name in given.case or CASES:
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as folder:
                row = run(CASES[name], given.data, seed, Path(folder))
            failed += not row["right"] or row["false"] > 0
            shown = ["-" if row[key] is None else f"{row[key]:.3g}" for key in ("explained", "z", "missing", "mixed")]
            print(
                f"| {name} | {seed} | {row['verdict']} | {'yes' if row['right'] else 'NO'} | {row['before']:.2f} → "
                f"{row['after']:.2f} | {row['false']} | {' | '.join(shown)} | {row['seconds']:.0f} |",
                flush=True,
            )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
