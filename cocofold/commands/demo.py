"""``cocofold demo``: the whole way on two bundled states of adenylate kinase.

Protein atoms of chain A of the PDB entries 1AKE (closed; Müller & Schulz 1992) and 4AKE (open; Müller et al. 1996),
in the public domain (CC0). Both lie in the frame of a box of 64 pixels of 2.5 Å, their CORE domains (residues 1-29,
68-117, 161-214) superposed; the files themselves say where they come from.
"""

from __future__ import annotations

import json
import shlex
import shutil
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cocofold import __version__
from cocofold.system.atomic_files import write_atomically, write_json
from cocofold.system.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from cocofold.assessment.backbone_geometry import BackboneGeometry
    from cocofold.assessment.comparison import Assessment


# Small and coarse, so that the demo is fast: images are 160 Å wide and hold detail to 5 Å (Nyquist) at best
DEMO_BOX = 64
DEMO_PIXEL_SIZE_ANGSTROM = 2.5


def closed_state() -> Path:
    """Path of the closed state, 1AKE."""
    return _bundled("adenylate_kinase_closed.cif")


def open_state() -> Path:
    """Path of the open state, 4AKE."""
    return _bundled("adenylate_kinase_open.cif")


def _bundled(name: str) -> Path:
    return Path(str(files("cocofold") / "demonstration" / name))


DEMO_SNR = 0.1  # clear images, so that few particles and little time are enough
_MARKER_FILE = "demo.json"
_DEMO_FILES = {_MARKER_FILE, "start.cif", "particles", "run", "relaxed.cif"}


def demo(
    out: Path = typer.Option(Path("demo_run"), help="Folder for all files; an earlier demo in it is replaced."),
    count: int = typer.Option(500, help="Particles to simulate; from 20 on, some are held out."),
    effort: float = typer.Option(1.0, help="Factor on the number of optimiser steps, as in finetune."),
    seed: int = typer.Option(0, help="Seed of the particles and of the run."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
    data_only: bool = typer.Option(
        False, "--data-only", help="Only make the particles, a map reconstructed from them, and the models."
    ),
    relaxing: bool = typer.Option(True, "--relax/--no-relax", help="Relax the model at the end."),
) -> None:
    """See the whole way in minutes: no data, GPU or network weights are needed.

    Simulates particles of adenylate kinase in its open state (PDB 4AKE), starts from the closed state (1AKE), 7 Å away,
    fine-tunes it against the particles, relaxes the result and compares it with the structure that was imaged.
    """
    from rich.console import Console

    from cocofold.assessment.backbone_geometry import measure_geometry
    from cocofold.assessment.comparison import assess
    from cocofold.finetuning.options import Options
    from cocofold.finetuning.run import finetune
    from cocofold.likelihood.residue_support import ParticlesOfModel
    from cocofold.relaxation.minimization import RelaxSettings, relax_with_particles
    from cocofold.reporting.run_report import write_report
    from cocofold.simulation.particle_simulation import simulate
    from cocofold.simulation.simulation_settings import SimulationSettings
    from cocofold.structure.read_model import read_model
    from cocofold.system.progress import console_log

    settings = SimulationSettings(
        model=str(open_state()),
        box=DEMO_BOX,
        pixel_size=DEMO_PIXEL_SIZE_ANGSTROM,
        count=count,
        snr=DEMO_SNR,
        seed=seed,
        map=data_only,
    )
    start = out / "start.cif"
    options = Options(
        particles=str(out / "particles" / "particles.star"), model=str(start), effort=effort, seed=seed, device=device
    )
    _prepare_folder(out)
    console = Console(highlight=False, soft_wrap=True)
    write_atomically(start, closed_state().read_text())
    console.print(f"1. Simulating {count} particles of adenylate kinase, open state (PDB 4AKE), SNR {DEMO_SNR:g}")
    simulated = simulate(settings, out / "particles")
    if data_only:
        console.print(f"particles   {simulated.star}\nmap         {simulated.map}\nstart       {start}")
        console.print(f"truth       {simulated.model}")
        return
    console.print("2. Fine-tuning the closed state (PDB 1AKE) against them; about a minute on two CPU cores")
    with console_log():
        metrics = finetune(options, out / "run")
    write_report(out / "run")
    closed, truth = read_model(start), read_model(simulated.model)
    models = {"before": closed, "after": read_model(out / "run" / "model.cif")}
    if relaxing:
        console.print("3. Relaxing it with its particles")
        pulling = ParticlesOfModel(simulated.star)
        relaxed = relax_with_particles(models["after"], out / "relaxed.cif", RelaxSettings(device=device), pulling)
        models["relaxed"] = relaxed.model
    found = {name: _figures(assess(model, truth), measure_geometry(model, closed)) for name, model in models.items()}
    _write_marker(out, {**found, "verdict": metrics["verdict"]})
    console.print("\nCompared with the structure that was imaged")
    console.print(_table(found, metrics))
    console.print(_next_steps(out, relaxing))


def _prepare_folder(out: Path) -> None:
    """Have an empty folder that is marked as a demo's; only what an earlier demo wrote is removed."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; give a folder")
    found = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    if found and not _is_demo(out):
        raise InputError(f"--out {out}: the folder is not empty and holds no earlier demo; give another one")
    foreign = sorted(found - _DEMO_FILES)
    if foreign:
        raise InputError(
            f"--out {out}: holds an earlier demo and also {', '.join(foreign)}; move these away, or give another folder"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in sorted(found - {_MARKER_FILE}):
            if (out / name).is_dir() and not (out / name).is_symlink():
                shutil.rmtree(out / name)
            else:
                (out / name).unlink()
        _write_marker(out, {})
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror}); give another folder") from error


def _is_demo(out: Path) -> bool:
    try:
        return "cocofold_demo" in json.loads((out / _MARKER_FILE).read_text())
    except (OSError, ValueError, TypeError):
        return False


def _write_marker(out: Path, results: dict[str, Any]) -> None:
    write_json(out / _MARKER_FILE, {"cocofold_demo": __version__, **results})


def _figures(found: Assessment, geometry: BackboneGeometry) -> dict[str, float]:
    return {
        "ca_rmsd": found.ca_rmsd,
        "ca_rmsd_in_place": found.ca_rmsd_in_place,
        "tm_score": found.alignment.tm_score,
        "bond_deviation_worst_angstrom": geometry.bond_deviation_worst_angstrom,
        "ramachandran_favoured": geometry.ramachandran_favoured,
    }


def _table(found: dict[str, dict[str, float]], metrics: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
    for label, name, shape in (
        ("CA RMSD, superposed (Å)", "ca_rmsd", "{:.2f}"),
        ("CA RMSD, in place (Å)", "ca_rmsd_in_place", "{:.2f}"),
        ("TM-score", "tm_score", "{:.3f}"),
        ("C-N bonds, largest deviation (Å)", "bond_deviation_worst_angstrom", "{:.2f}"),
        ("Ramachandran favoured", "ramachandran_favoured", "{:.1%}"),
    ):
        table.add_row(label, *(shape.format(figures[name]) for figures in found.values()))
    correlations = [metrics["frc_heldout_start"], metrics["frc_heldout"]]
    table.add_row(
        "FRC, mean over rings, of particles held out",
        *("-" if value is None else f"{value:.3f}" for value in correlations),
    )
    return table


def _next_steps(out: Path, relaxed: bool) -> str:
    result = out / "relaxed.cif" if relaxed else out / "run" / "model.cif"
    models = [out / "start.cif", result, out / "particles" / "truth.cif"]
    density = out / "run" / "density.mrc"
    return (
        f"\nBefore, after, truth: {', '.join(map(str, models))}\n"
        f"All of it on one page, for a browser: {out / 'run' / 'report.html'}; log and metrics beside it\n"
        f"See them in ChimeraX:  chimerax {' '.join(shlex.quote(str(path)) for path in [*models, density])}\n"
        "On your own particles: cocofold finetune --particles run_data.star --model model.cif --map map.mrc --out RUN"
    )
