"""Whether ``cocofold check`` finds what is wrong, and nothing where all is right: ``python -m benchmarks.preflight``.

Each fault is planted in particles of a known structure and looked for with that structure as the model, and with the
closed state besides, for which it need not be found but nothing else may be claimed. Correct sets are checked with
every start that the test data have, and with life-like simulations. One table is printed: for each question the score
as given, that of the best alternative, and by how many standard errors the given one is better; what is claimed to be
wrong; and whether that is as it should be. The exit status is 1 if any row is not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
import numpy as np
import torch

from benchmarks.accuracy import ROOT
from cocofold.imaging.fourier import RingPixels
from cocofold.likelihood.particle_optics import ParticleOptics
from cocofold.particles import read_particles
from cocofold.particles.particle_set import OpticsGroup, ParticleSet
from cocofold.preflight.check_inputs import CheckSettings, check
from cocofold.preflight.check_report import CheckReport
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import LIFE_LIKE
from cocofold.simulation.simulation_settings import SimulationSettings as Simulation
from cocofold.structure.read_model import read_model

QUESTIONS = ("contrast", "poses", "hand", "shifts", "CTF", "pixel size")
COUNT = 200
_UNIFORM = "adk/uniform/particles.star"
_TRUTH, _CLOSED = "adk/truth_open.cif", "adk/start_closed.cif"
_STARTS = (_TRUTH, _CLOSED, "adk/start_closed_small.cif", "adk/start_closed_moved.cif")
_FRAMES = tuple(f"adk/trajectory/dims_{frame:03d}.cif" for frame in (0, 8, 17, 26, 35, 44, 52, 61, 70, 79, 88, 97))
_TCR = ("tcr/truth.cif", "tcr/start_tcr_displaced.cif")
_VARIANTS = ("perturbed_poses", "relion_refined_local_it004_data")

Plant = Callable[[ParticleSet, Path], ParticleSet]


@dataclass(frozen=True)
class Case:
    """A set of particles, a model, and which questions must be answered with wrong."""

    particles: str
    model: str
    fault: str = ""
    wrong: tuple[str, ...] = ()
    must_be_found: bool = True


def _optics(particles: ParticleSet, **changed: float | bool) -> ParticleSet:
    return replace(particles, optics=tuple(replace(one, **changed) for one in particles.optics))  # type: ignore[arg-type]


def _pixel_size(factor: float, origins: float = 1.0) -> Plant:
    def plant(particles: ParticleSet, folder: Path) -> ParticleSet:
        size = particles.pixel_size_angstrom * factor
        return replace(
            _optics(particles, pixel_size_angstrom=size), origins_angstrom=particles.origins_angstrom * origins
        )

    return plant


def _mirrored(*axes: float) -> Plant:
    def plant(particles: ParticleSet, folder: Path) -> ParticleSet:
        return replace(particles, rotations=np.array([[1.0], [1.0], [-1.0]]) * particles.rotations * np.array(axes))

    return plant


def _transposed(particles: ParticleSet, folder: Path) -> ParticleSet:
    return replace(particles, rotations=particles.rotations.transpose(0, 2, 1))


def _dark(particles: ParticleSet, folder: Path) -> ParticleSet:
    return replace(particles, contrast=-particles.contrast)


def _shifts(factor: float) -> Plant:
    return lambda particles, folder: replace(particles, origins_angstrom=factor * particles.origins_angstrom)


def _defoci(factor: float) -> Plant:
    def plant(particles: ParticleSet, folder: Path) -> ParticleSet:
        u, v = particles.defocus_u_angstrom * factor, particles.defocus_v_angstrom * factor
        return replace(particles, defocus_u_angstrom=u, defocus_v_angstrom=v)

    return plant


def _flipped_images(particles: ParticleSet, folder: Path) -> ParticleSet:
    """Phases of the images flipped by the sign of the CTF, which the metadata keep to themselves."""
    rings = RingPixels.up_to(particles.box, particles.box // 2 - 1)
    transfer = ParticleOptics(particles, rings).transfer(torch.arange(len(particles)), rings)
    planes = torch.fft.rfft2(torch.as_tensor(particles.images(np.arange(len(particles)))))
    flat = planes.view(len(particles), -1)
    flat[:, rings.flat_indices_in(particles.box)] *= transfer.sign()
    return _restacked(particles, torch.fft.irfft2(planes).numpy(), folder)


def _images_without_ctf(particles: ParticleSet, folder: Path) -> ParticleSet:
    """Images of nearly constant CTF, whose metadata have the defoci of others."""
    model = str(ROOT.parent / "shared" / "data" / _TRUTH)
    flat = Simulation(
        model=model, box=64, pixel_size=2.5, count=COUNT, snr=0.1, defocus=(100.0, 100.0), astigmatism=0.0, cs=0.0,
        amplitude_contrast=1.0,
    )  # fmt: skip
    simulated = read_particles(simulate(flat, folder / "flat").star)
    rows = np.arange(COUNT)
    u, v = particles.defocus_u_angstrom[rows], particles.defocus_v_angstrom[rows]
    group: OpticsGroup = replace(simulated.optics[0], cs_mm=2.7, amplitude_contrast=0.1)
    return replace(simulated, optics=(group,), defocus_u_angstrom=u, defocus_v_angstrom=v)


def _restacked(particles: ParticleSet, images: np.ndarray, folder: Path) -> ParticleSet:
    stack = folder / "planted.mrcs"
    mrcfile.write(stack, images.astype(np.float32), overwrite=True)
    count = len(particles)
    return replace(
        particles,
        stacks=(stack,),
        stack_index=np.zeros(count, dtype=int),
        slice_index=np.arange(count),
        contrast=np.ones(count),
    )


def _both(*plants: Plant) -> Plant:
    def plant(particles: ParticleSet, folder: Path) -> ParticleSet:
        for one in plants:
            particles = one(particles, folder)
        return particles

    return plant


FAULTS: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "dark images (or sign of the CTF)": (_dark, ("contrast",)),
    "transposed poses": (_transposed, ("poses",)),
    "mirrored poses (x)": (_mirrored(-1, 1, 1), ("hand",)),
    "mirrored poses (y)": (_mirrored(1, -1, 1), ("hand",)),
    "mirrored poses (z)": (_mirrored(1, 1, -1), ("hand",)),
    "mirrored poses (centre)": (_mirrored(-1, -1, -1), ("hand",)),
    "negated shifts": (_shifts(-1.0), ("shifts",)),
    "shifts applied already": (_shifts(0.0), ()),
    "sign of defocus": (_defoci(-1.0), ("CTF",)),
    "defoci wiped": (_defoci(0.0), ("CTF",)),
    "defoci in µm": (_defoci(1e-4), ("CTF",)),
    "images without CTF": (_images_without_ctf, ("CTF",)),
    "phase-flipped images": (_flipped_images, ("CTF",)),
    "pixel size * 1.02": (_pixel_size(1.02), ("pixel size",)),
    "pixel size * 1.03": (_pixel_size(1.03), ("pixel size",)),
    "pixel size / 1.03": (_pixel_size(1 / 1.03), ("pixel size",)),
    "pixel size * 1.05": (_pixel_size(1.05), ("pixel size",)),
    "pixel size * 2": (_pixel_size(2.0), ("pixel size",)),
    "pixel size / 2": (_pixel_size(0.5), ("pixel size",)),
    "pixel size and origins * 2": (_pixel_size(2.0, 2.0), ("pixel size",)),
    "dark, negated shifts": (_both(_dark, _shifts(-1.0)), ("contrast", "shifts")),
    "dark, mirrored poses (z)": (_both(_dark, _mirrored(1, 1, -1)), ("contrast", "hand")),
    "transposed poses, negated shifts": (_both(_transposed, _shifts(-1.0)), ("poses", "shifts")),
    "mirrored poses (y), phase-flipped": (_both(_flipped_images, _mirrored(1, -1, 1)), ("hand", "CTF")),
    "dark, pixel size * 1.03": (_both(_dark, _pixel_size(1.03)), ("contrast", "pixel size")),
    "mirrored poses (z), pixel size * 1.03": (_both(_mirrored(1, 1, -1), _pixel_size(1.03)), ("hand", "pixel size")),
    "negated shifts, pixel size * 2": (_both(_shifts(-1.0), _pixel_size(2.0)), ("shifts", "pixel size")),
    "dark, defoci wiped": (_both(_dark, _defoci(0.0)), ("contrast", "CTF")),
}  # fmt: skip


def cases(seeds: int) -> Iterator[Case]:
    """Faults with the true model, then correct sets, then faults with another model."""
    for fault, (_, wrong) in FAULTS.items():
        yield Case(_UNIFORM, _TRUTH, fault, wrong)
    for model in (*_STARTS, *_FRAMES):
        yield Case(_UNIFORM, model)
    for model in _STARTS:
        yield Case("adk/small300/particles.star", model)
        for name in _VARIANTS:
            yield Case(f"adk/small300/star_variants/{name}.star", model)
        yield Case("adk/two_optics/particles.star", model)
    for model in _TCR:
        yield Case("tcr/particles.star", model)
    for seed in range(seeds):
        for model in (*_STARTS, _FRAMES[4]):
            yield Case(f"life-like {seed}, SNR 0.1", model)
        yield Case(f"life-like {seed}, SNR 0.02", _CLOSED)
        yield Case(f"life-like {seed}, SNR 0.02", _STARTS[3])
        for model in _TCR:
            yield Case(f"life-like tcr {seed}, SNR 0.1", model)
        yield Case(f"noise {seed}", _TRUTH)
    for fault, (_, wrong) in FAULTS.items():
        yield Case(_UNIFORM, _CLOSED, fault, wrong, must_be_found=False)


class Sets:
    """Particles by name: read, or simulated once."""

    def __init__(self, data: Path, folder: Path) -> None:
        self._data, self._folder = data, folder
        self._known: dict[str, ParticleSet] = {}

    def __getitem__(self, name: str) -> ParticleSet:
        if name not in self._known:
            star = self._data / name if name.endswith(".star") else self._simulated(name)
            self._known[name] = read_particles(star)
        return self._known[name]

    def _simulated(self, name: str) -> Path:
        words = name.replace(",", "").split()
        tcr = "tcr" in words
        seed = next(int(word) for word in words if word.isdigit())
        noise = words[0] == "noise"
        settings = Simulation(
            model=str(self._data / (_TCR[0] if tcr else _TRUTH)),
            box=64,
            pixel_size=2.75 if tcr else 2.5,
            count=COUNT,
            snr=1e-9 if noise else float(words[-1]),
            seed=seed,
            shift_spread=1.5 if tcr else 3.0,
            **({} if noise else LIFE_LIKE),  # type: ignore[arg-type]
        )
        return simulate(settings, self._folder / name.replace(" ", "_").replace(",", "")).star


def run(case: Case, sets: Sets, data: Path, folder: Path) -> tuple[CheckReport, float]:
    """Plant and check; the report, and the seconds that the check took."""
    particles = sets[case.particles]
    if case.fault:
        particles = FAULTS[case.fault][0](particles.subset(np.arange(min(COUNT, len(particles)))), folder)
    model = read_model(data / case.model)
    began = time.process_time()
    report = check(particles, model, CheckSettings(count=COUNT))
    return report, time.process_time() - began


def judge(case: Case, report: CheckReport) -> bool:
    """Whether what is claimed is what was planted."""
    claimed = {verdict.question for verdict in report.verdicts if verdict.verdict == "wrong"}
    return claimed == set(case.wrong) if case.must_be_found else claimed <= set(case.wrong)


def row_of(case: Case, report: CheckReport, seconds: float, passed: bool) -> str:
    """A row of the table."""
    cells = [case.fault or "none", case.particles.replace(".star", ""), Path(case.model).stem]
    for name in QUESTIONS:
        given, *others = report[name].alternatives
        best = max(others, key=lambda one: one.score)
        mark = {"agrees": "", "undecided": "?", "wrong": "**"}[report[name].verdict]
        cells.append(f"{mark}{given.score:.2f}/{best.score:.2f} {-best.margin:+.0f}{mark}")
    cells += [f"{seconds:.1f}", "yes" if passed else "NO"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the test data")
    parser.add_argument("--seeds", type=int, default=2, help="of the simulated sets")
    parser.add_argument("--part", type=int, nargs=2, default=(0, None), help="only the cases from one to another")
    parser.add_argument("--json", type=Path, help="file for all reports")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data}: the test data are not there; give their folder with --data")
    torch.set_num_threads(1)
    headings = ("planted", "particles", "model", *QUESTIONS, "CPU s", "as it should be")
    print("| " + " | ".join(headings) + " |\n" + "| --- " * len(headings) + "|")
    failed, records = 0, []
    with tempfile.TemporaryDirectory() as name:
        sets = Sets(options.data, Path(name))
        first, last = options.part
        for number, case in enumerate(list(cases(options.seeds))[first:last]):
            folder = Path(name) / str(number)
            folder.mkdir()
            report, seconds = run(case, sets, options.data, folder)
            passed = judge(case, report)
            failed += not passed
            print(row_of(case, report, seconds, passed), flush=True)
            records.append({**vars(case), "as_it_should_be": passed, "seconds": seconds, **report.as_dict()})
    if options.json is not None:
        options.json.write_text(json.dumps(records, indent=1) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
