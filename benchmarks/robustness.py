"""How far data may be scarce, noisy, partial or wrong, where the truth is known: ``python -m benchmarks.robustness``.

The paper's experiments on adenylate kinase: a fit begins at the closed state, the images show the open one. One axis
varies at a time; the rest is a base case of 600 particles in boxes of 64 pixels of 2.5 Å, signal-to-noise ratio 0.1,
even views and exact poses. Every run is independent. Its figures are kept in the folder ``--out``, where they appear
whole or not at all, so that the program can be stopped and called again: what is finished is not run again.

Views may be absent in two ways, since "a missing cone of ±80°" can be read in two ways. On the axis ``cone`` views
nearer than this to z are absent, so that side views are left. On the axis ``equator`` views nearer than this to the
equator are absent, so that views about z are left and a cone of Fourier space about z, of this half-angle, is not
sampled. Views of the latter are drawn about z and those within the limit are kept; they are at most 1.7 times as dense
at its centre as at its rim.

The table has one row for each level of an axis, with the figures of its seeds beside each other: SCF* of the views and
of as many even ones, CA RMSD superposed and in place (Å), TM-score, verdict, residues that are falsely supported (as
``benchmarks.composition`` counts them) and seconds. Runs that are not finished are left out and counted.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from scipy.spatial.transform import Rotation

from benchmarks.accuracy import ROOT, assess, cocofold
from benchmarks.composition import false_residues
from cocofold.particles import read_particles
from cocofold.particles.poses import view_directions
from cocofold.particles.star_write import write_star
from cocofold.reporting.plots import measure_view_sampling
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.system.atomic_files import write_json

START, TRUTH = "adk/start_closed.cif", "adk/truth_open.cif"
_BOX, _PIXEL_SIZE = 64, 2.5
_EVERYWHERE_DEG = 90
# Share of views within the limit when they are drawn about z with a spread of the limit: 1 - exp(-1/2)
_SHARE_KEPT = 0.39
# Seconds of a run on one core: simulation and judgement, each pass of the fit, of which a set of few particles has two
_SECONDS_AROUND, _SECONDS_OF_A_PASS, _ONE_PASS_FROM = 20.0, 46.0, 500
_HEADINGS = ("axis", "level", "SCF* (even)", "CA RMSD", "in place", "TM-score", "verdict", "false residues", "s")


@dataclass(frozen=True)
class Cell:
    """Particles, start and fit of one run, but for the seed.

    Attributes
    ----------
    count : int
        Particles that are fitted.
    snr : float
        Signal-to-noise ratio as ``cocofold simulate`` defines it.
    cone_deg, within_deg : float
        Views nearer than the first to z, or farther than the second from it, are absent.
    pose_noise_deg : float
        Root mean square of the turns by which poses are off; shifts are off by a third as many Å.
    defocus_noise_angstrom : float
        Standard deviation.
    junk : float
        Share of the images that show no particle.
    turned_deg : float
        Turn of the start about its centroid.
    supervision : {"images", "map"}
    life_like : bool
        All that disturbs real images, as ``cocofold simulate --life-like`` has it.
    effort : float
        Factor on the number of steps.
    """

    count: int = 600
    snr: float = 0.1
    cone_deg: float = 0
    within_deg: float = _EVERYWHERE_DEG
    pose_noise_deg: float = 0
    defocus_noise_angstrom: float = 0
    junk: float = 0
    turned_deg: float = 0
    supervision: str = "images"
    life_like: bool = False
    effort: float = 1.0

    def file_name(self, seed: int) -> str:
        """Of the run's figures: what differs from the base case, and the seed."""
        differs = [f"{one.name}={getattr(self, one.name)}" for one in fields(self) if self._differs(one.name)]
        return ",".join([*(differs or ["base"]), f"seed={seed}"]) + ".json"

    def _differs(self, name: str) -> bool:
        return getattr(self, name) != getattr(Cell(), name)

    def seconds(self) -> float:
        """About how long the run takes on one core."""
        return _SECONDS_AROUND + self.effort * _SECONDS_OF_A_PASS * (1 if self.count >= _ONE_PASS_FROM else 2)


@dataclass(frozen=True)
class Axis:
    """Levels of what varies, in order, and RMSD (Å) that the paper states of the like, on other data."""

    title: str
    cells: dict[str, Cell]
    paper: dict[str, float] = field(default_factory=dict)

    def ends_and_middle(self) -> dict[str, Cell]:
        """First, middle and last level."""
        names = list(self.cells)
        return {names[row]: self.cells[names[row]] for row in sorted({0, len(names) // 2, len(names) - 1})}


_ABSENT = (0, 30, 60, 70, 80)
_SUPERVISED = (100, 300, 1100)
_MISSING_VIEWS = {"mean of 26 cases": 1.86}
AXES = {
    "particles": Axis(
        "particles",
        {f"{count}": Cell(count=count) for count in (25, 50, 100, 200, 600, 2000, 5000)},
        {"mean of 29 cases": 1.82, "worst of them": 3.29},
    ),
    "snr": Axis(
        "signal-to-noise ratio, 2,000 particles",
        {f"{snr}": Cell(count=2000, snr=snr) for snr in (0.1, 0.05, 0.02, 0.01, 0.005)},
    ),
    "cone": Axis(
        "views absent about z", {f"±{angle}°": Cell(cone_deg=angle) for angle in _ABSENT}, paper=_MISSING_VIEWS
    ),
    "equator": Axis(
        "views absent about the equator",
        {f"±{angle}°": Cell(within_deg=_EVERYWHERE_DEG - angle) for angle in _ABSENT},
        paper=_MISSING_VIEWS,
    ),
    "poses": Axis(
        "poses off by (shifts by a third as many Å)",
        {f"{angle}°": Cell(pose_noise_deg=angle) for angle in (0, 1, 2, 3, 5)},
        {"no noise": 1.82, "3° and more about each axis": 3.66},
    ),
    "defocus": Axis("defocus off by", {f"{off} Å": Cell(defocus_noise_angstrom=off) for off in (0, 150, 500, 1500)}),
    "junk": Axis("images without a particle", {f"{share:.0%}": Cell(junk=share) for share in (0, 0.1, 0.3, 0.5)}),
    "start": Axis("start turned by", {f"{angle}°": Cell(turned_deg=angle) for angle in (0, 5, 10, 15, 20)}),
    "images": Axis(
        "particles, supervision by images", {f"{count}": Cell(count=count) for count in _SUPERVISED}, {"1,100": 1.82}
    ),
    "map": Axis(
        "particles, supervision by their map",
        {f"{count}": Cell(count=count, supervision="map") for count in _SUPERVISED},
        {"1,100": 4.91},
    ),
    "life-like": Axis("life-like images", {"off": Cell(), "on": Cell(life_like=True)}),
}


def keep_views(star: Path, out: Path, within_deg: float, count: int) -> None:
    """Write the first so many particles whose view lies within an angle of z, seen from above or below.

    Raises
    ------
    ValueError
        If there are fewer.
    """
    particles = read_particles(star)
    x, y, z = view_directions(particles.rotations).T
    kept = np.flatnonzero(np.degrees(np.arctan2(np.hypot(x, y), np.abs(z))) <= within_deg)
    if len(kept) < count:
        raise ValueError(f"{star}: {len(kept)} of {len(particles)} views are within {within_deg}° of z, not {count}")
    write_star(out, particles.subset(kept[:count]))


def particles_of(cell: Cell, data: Path, seed: int, folder: Path) -> Path:
    """STAR of the cell's particles, simulated in a folder."""
    out, count, views = folder / "particles", cell.count, []
    if cell.within_deg < _EVERYWHERE_DEG:
        # Four standard deviations more than are expected to be needed
        count = math.ceil((cell.count + 5 * math.sqrt(cell.count)) / _SHARE_KEPT)
        views = ["--preferred", cell.within_deg, "--preferred-share", 1]
    elif cell.cone_deg > 0:
        views = ["--missing-cone", cell.cone_deg]
    disturbed = {
        "--pose-noise": cell.pose_noise_deg,
        "--shift-noise": cell.pose_noise_deg / 3,
        "--defocus-noise": cell.defocus_noise_angstrom,
        "--junk": cell.junk,
    }
    words = [word for option, value in disturbed.items() if value > 0 for word in (option, value)]
    words += ["--box", _BOX, "--pixel-size", _PIXEL_SIZE, "--snr", cell.snr, "--count", count, "--seed", seed]
    words += ["--life-like"] if cell.life_like else []
    cocofold(["simulate", "--model", data / TRUTH, "--out", out, *words, *views])
    if cell.within_deg == _EVERYWHERE_DEG:
        return out / "particles.star"
    keep_views(out / "particles.star", out / "kept.star", cell.within_deg, cell.count)
    return out / "kept.star"


def turned(model: Model, degrees: float, seed: int) -> Model:
    """A model turned about its centroid, around an axis of the seed."""
    axis = np.random.default_rng([seed, 13]).normal(size=3)
    turn = Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis))
    centre = model.positions.mean(0)
    return model.moved_to(turn.apply(model.positions - centre) + centre)


def run(cell: Cell, data: Path, seed: int, folder: Path) -> dict:
    """Simulate, fine-tune and assess one cell; its figures."""
    particles, start, truth, out = particles_of(cell, data, seed, folder), data / START, data / TRUTH, folder / "run"
    if cell.turned_deg:
        start = folder / "start.cif"
        write_model(start, turned(read_model(data / START), cell.turned_deg, seed))
    words = ["finetune", "--particles", particles, "--model", start, "--out", out, "--seed", seed]
    cocofold([*words, "--supervision", cell.supervision, "--effort", cell.effort])
    metrics = json.loads((out / "metrics.json").read_text())
    before, after = assess(start, truth, start, folder), assess(out / "model.cif", truth, start, out)
    sampling = measure_view_sampling(view_directions(read_particles(particles).rotations))
    models = (read_model(path) for path in (start, out / "model.cif", truth))
    return {
        "cell": asdict(cell),
        "seed": seed,
        "start": {key: before[key] for key in ("ca_rmsd", "ca_rmsd_in_place")},
        **{key: after[key] for key in ("ca_rmsd", "ca_rmsd_in_place", "tm_score")},
        "verdict": metrics["verdict"],
        "false_residues": false_residues(*models, metrics),
        "seconds": metrics["seconds"],
        "scf": sampling.scf,
        "scf_of_random_views": sampling.scf_of_random_views,
    }


def read_finished(out: Path, cell: Cell, seed: int) -> dict | None:
    """Figures of a run that is finished; None if there are none, or if they are of other settings."""
    try:
        found = json.loads((out / cell.file_name(seed)).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("cell") == asdict(cell) else None


def run_missing(cells: list[Cell], seeds: int, data: Path, out: Path) -> int:
    """Run what is not finished, all cells with a seed before the next seed; number of runs that failed.

    A run that fails is told, and leaves nothing, so that it is tried again by the next call.
    """
    todo = [
        (cell, seed) for seed in range(seeds) for cell in dict.fromkeys(cells) if read_finished(out, cell, seed) is None
    ]
    minutes = sum(cell.seconds() for cell, _ in todo) / 60
    print(f"{len(todo)} runs to do, about {minutes:.0f} minutes on one core", file=sys.stderr, flush=True)
    failed = 0
    for cell, seed in todo:
        name = cell.file_name(seed)
        with tempfile.TemporaryDirectory() as folder:
            try:
                figures = run(cell, data, seed, Path(folder))
            except SystemExit as ended:
                failed += 1
                print(f"{name}: {ended}", file=sys.stderr, flush=True)
                continue
        write_json(out / name, figures)
        told = f"{figures['ca_rmsd']:.2f} Å, {figures['verdict']}, {figures['seconds']:.0f} s"
        print(f"{name}: {told}", file=sys.stderr, flush=True)
    return failed


Found = dict[str, dict[str, list[dict]]]


def rows(found: Found) -> Iterator[str]:
    """Rows of the table, in Markdown."""
    yield f"| {' | '.join(_HEADINGS)} |"
    yield f"|{' --- |' * len(_HEADINGS)}"
    shown = {"ca_rmsd": ".2f", "ca_rmsd_in_place": ".2f", "tm_score": ".3f"}
    for axis, levels in found.items():
        for level, runs in levels.items():
            if not runs:
                continue
            verdicts = " / ".join(dict.fromkeys(one["verdict"] for one in runs))
            scf, even = (statistics.mean(one[key] for one in runs) for key in ("scf", "scf_of_random_views"))
            cells = [AXES[axis].title, level, f"{scf:.2f} ({even:.2f})"]
            cells += [" / ".join(format(one[key], form) for one in runs) for key, form in shown.items()]
            cells += [verdicts, " / ".join(str(one["false_residues"]) for one in runs)]
            yield f"| {' | '.join([*cells, ' / '.join(format(one['seconds'], '.0f') for one in runs)])} |"


def draw(found: Found, path: Path) -> None:
    """Draw CA RMSD along each axis, with what the paper states of the like on other data."""
    columns = min(4, len(found))
    size = 3.4 * columns, 2.9 * math.ceil(len(found) / columns)
    figure, panels = plt.subplots(math.ceil(len(found) / columns), columns, figsize=size, squeeze=False)
    for panel, (axis, levels) in zip(panels.flat, found.items()):
        _draw_axis(panel, AXES[axis], levels)
    for panel in list(panels.flat)[len(found) :]:
        panel.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_axis(panel: Axes, axis: Axis, levels: dict[str, list[dict]]) -> None:
    places = {level: place for place, level in enumerate(levels)}
    for key, colour, label in (("ca_rmsd", "#0072b2", "superposed"), ("ca_rmsd_in_place", "#d55e00", "in place")):
        known = {places[level]: [one[key] for one in runs] for level, runs in levels.items() if runs}
        panel.plot(list(known), [statistics.median(of) for of in known.values()], color=colour, label=label)
        points = [(place, value) for place, of in known.items() for value in of]
        panel.scatter([x for x, _ in points], [y for _, y in points], color=colour, s=12)
    for stated, angstrom in axis.paper.items():
        panel.axhline(angstrom, color="#777777", linestyle=":")
        panel.annotate(
            f"paper, other data: {stated}, {angstrom} Å", (0.02, angstrom), fontsize=6, color="#555555",
            xycoords=("axes fraction", "data"), va="bottom",
        )  # fmt: skip
    panel.set_xticks(list(places.values()), list(places), fontsize=7)
    panel.set_xlim(-0.5, len(places) - 0.5)
    panel.set_ylim(0, 1.25 * panel.get_ylim()[1])
    panel.tick_params(axis="y", labelsize=7)
    panel.set_xlabel(axis.title, fontsize=8)
    panel.set_ylabel("CA RMSD (Å)", fontsize=8)
    panel.legend(fontsize=6, loc="upper right")


def _parsed() -> argparse.Namespace:
    """Options, which are refused with status 2 and one message where they make no sense."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures, kept")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the test data")
    parser.add_argument("--axis", action="append", choices=AXES, help="by default all")
    parser.add_argument("--level", action="append", help="only these levels of the axes, as the table names them")
    parser.add_argument("--default", action="store_true", help="only both ends and the middle of each axis")
    parser.add_argument("--seeds", type=int, default=2, help="seeds 0 ... N-1 of particles, axes and fits")
    parser.add_argument("--effort", type=float, default=1.0, help="of the fits")
    parser.add_argument("--show", action="store_true", help="run nothing; only show what is finished")
    parser.add_argument("--figure", type=Path, help="PNG file in which the axes are drawn")
    given = parser.parse_args()
    if not (given.data / TRUTH).is_file():
        parser.error(f"{given.data / TRUTH}: the test data are not there; give their folder with --data")
    if given.seeds < 1 or not 0 < given.effort <= 100:
        parser.error(f"--seeds {given.seeds} --effort {given.effort}: give at least 1 seed, and an effort of 0 to 100")
    if given.out.exists() and not given.out.is_dir():
        parser.error(f"--out {given.out}: a file, not a folder; give a folder, which is made if it is not there")
    if given.figure and (given.figure.suffix != ".png" or not given.figure.absolute().parent.is_dir()):
        parser.error(f"--figure {given.figure}: give a file FILE.png in a folder that is there")
    given.cells = chosen_cells(given.axis, given.level, given.default, given.effort)
    if not any(given.cells.values()):
        known = ", ".join(level for axis in given.axis or AXES for level in AXES[axis].cells)
        parser.error(f"--level {' '.join(given.level)}: none of the axes' levels, which are {known}")
    return given


def chosen_cells(
    axes: list[str] | None, levels: list[str] | None, default: bool, effort: float
) -> dict[str, dict[str, Cell]]:
    """Cells by axis and level."""
    chosen = {}
    for name in axes or AXES:
        cells = AXES[name].ends_and_middle() if default else AXES[name].cells
        kept = {level: cell for level, cell in cells.items() if levels is None or level in levels}
        chosen[name] = {level: replace(cell, effort=effort) for level, cell in kept.items()}
    return chosen


def main() -> None:
    """Run what is missing, print the table and draw the figure."""
    given = _parsed()
    given.out.mkdir(parents=True, exist_ok=True)
    cells = [cell for levels in given.cells.values() for cell in levels.values()]
    failed = 0 if given.show else run_missing(cells, given.seeds, given.data, given.out)
    found: Found = {
        axis: {
            level: [one for seed in range(given.seeds) if (one := read_finished(given.out, cell, seed)) is not None]
            for level, cell in levels.items()
        }
        for axis, levels in given.cells.items()
        if levels
    }
    print("\n".join(rows(found)))
    finished = sum(len(runs) for levels in found.values() for runs in levels.values())
    if finished < len(cells) * given.seeds:
        print(f"\n{len(cells) * given.seeds - finished} of {len(cells) * given.seeds} runs are not finished.")
    if given.figure:
        draw(found, given.figure)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
