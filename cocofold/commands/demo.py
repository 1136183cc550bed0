"""``cocofold demo``: the whole way on two bundled states of adenylate kinase; ``cocofold simulate``: images of a model.

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
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

import typer

from cocofold import __version__
from cocofold.commands import echo, own_command
from cocofold.simulation.simulation_settings import LIFE_LIKE, SimulationSettings, ViewDistribution
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
_TITLE = "Adenylate kinase, demo"
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
        echo(f"particles   {simulated.star}", f"map         {simulated.map}", f"start       {start}")
        echo(f"truth       {simulated.model}")
        return
    console.print("2. Fine-tuning the closed state (PDB 1AKE) against them; about a minute on two CPU cores")
    with console_log():
        metrics = finetune(options, out / "run")
    closed, truth = read_model(start), read_model(simulated.model)
    models = {"before": closed, "after": read_model(out / "run" / "model.cif")}
    if relaxing:
        console.print("3. Relaxing it with its particles")
        pulling = ParticlesOfModel(simulated.star)
        relaxed = relax_with_particles(models["after"], out / "relaxed.cif", RelaxSettings(device=device), pulling)
        models["relaxed"] = relaxed.model
    write_report(out / "run", title=_TITLE, relaxed=out / "relaxed.cif" if relaxing else None)
    found = {name: _figures(assess(model, truth), measure_geometry(model, closed)) for name, model in models.items()}
    _write_marker(out, {**found, "verdict": metrics["verdict"]})
    console.print("\nCompared with the structure that was imaged")
    console.print(_table(found, metrics))
    echo(*_next_steps(out, relaxing))


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


def _next_steps(out: Path, relaxed: bool) -> tuple[str, ...]:
    result = out / "relaxed.cif" if relaxed else out / "run" / "model.cif"
    models = [out / "start.cif", result, out / "particles" / "truth.cif"]
    density = out / "run" / "density.mrc"
    return (
        "",
        f"Before, after, truth: {', '.join(map(str, models))}",
        f"All of it on one page, for a browser: {out / 'run' / 'report.html'}; log and metrics beside it",
        f"See them in ChimeraX:  chimerax {' '.join(shlex.quote(str(path)) for path in [*models, density])}",
        f"On your own particles: {own_command()} finetune --particles run_data.star --model model.cif --map map.mrc "
        "--out RUN",
    )


def _list_disturbances(settings: Dict[str, Any]) -> str:
    return ", ".join(
        name.replace("_", "-") + ("" if value is True else f" {value:g}") for name, value in settings.items()
    )


def simulate(
    model: Path = typer.Option(..., help="What is imaged: mmCIF or PDB, all atoms of it, in the frame of the box."),
    out: Path = typer.Option(..., help="Folder for the particles, made anew."),
    box: int = typer.Option(..., help="Pixels along each side of the images; even."),
    pixel_size: float = typer.Option(..., help="Å."),
    count: int = typer.Option(..., help="Number of images; with --tilts of particles."),
    snr: float = typer.Option(
        ...,
        help="Signal to noise: variance of the noise-free images, each as a whole with the empty part around the "
        "particle, over the variance of the noise, which is the same for all images.",
    ),
    views: Optional[ViewDistribution] = typer.Option(
        None,
        metavar="<kind>",
        help="uniform: all orientations alike (default). missing-cone: without those of --missing-cone. "
        "preferred: most as --preferred says.",
    ),
    missing_cone: Optional[float] = typer.Option(
        None,
        help="Leave out views nearer than this (degrees, 0 to 89) to the map's z axis, from above and from below: the "
        "tilt is then from DEG to 180 - DEG. With 80 only side views within 10 degrees of the equator are left.",
    ),
    preferred: Optional[float] = typer.Option(
        None,
        help="Preferred orientation: most views lie about the map's z axis, from above and below, with this spread "
        "(standard deviation, degrees).",
    ),
    preferred_share: Optional[float] = typer.Option(
        None,
        help=f"Share of the views that do; the others are uniform. Default {SimulationSettings.preferred_share:g}.",
    ),
    defocus: Tuple[float, float] = typer.Option(
        SimulationSettings.defocus,
        metavar="<low> <high>",
        help="Å, lowest and highest; each image's mean of U and V is drawn evenly between them.",
    ),
    astigmatism: float = typer.Option(
        SimulationSettings.astigmatism,
        help="Å; each image's U - V is drawn evenly from 0 to this, its angle from 0 to 180.",
    ),
    voltage: float = typer.Option(SimulationSettings.voltage, help="kV."),
    cs: float = typer.Option(SimulationSettings.cs, help="Spherical aberration, mm."),
    amplitude_contrast: float = typer.Option(
        SimulationSettings.amplitude_contrast, metavar="<float>", help="Fraction, 0 to 1."
    ),
    phase_shift: float = typer.Option(SimulationSettings.phase_shift, help="Of a phase plate, degrees; 0 for none."),
    shift_spread: float = typer.Option(
        SimulationSettings.shift_spread, help="Particles lie off the centre: standard deviation of x and of y, Å."
    ),
    tilts: int = typer.Option(
        SimulationSettings.tilts,
        help="Images of each particle, as of a tilt series: evenly from -60 to 60 degrees, the least tilted first.",
    ),
    tilt_dose: float = typer.Option(
        SimulationSettings.tilt_dose, help="With --tilts: electrons per Å^2 of each; the signal fades with them."
    ),
    pose_noise: Optional[float] = typer.Option(
        None,
        help="Error of the rotations in the STAR: a turn about a random axis by a normal angle, root mean square in "
        "degrees. The images have the true ones. Default 0.",
    ),
    shift_noise: Optional[float] = typer.Option(
        None, help="Error of the shifts in the STAR: standard deviation in x and in y, Å. Default 0."
    ),
    defocus_noise: Optional[float] = typer.Option(
        None, help="Error of the defocus in the STAR: standard deviation of U and of V, Å. Default 0."
    ),
    bfactor: Optional[float] = typer.Option(
        None, help="The images fade as exp(-B k^2 / 4); B in Å^2, not in the STAR. Default 0."
    ),
    ice: Optional[float] = typer.Option(
        None,
        help="Share (0 to 1) of the noise's variance that comes from the ice: coloured, and seen through the CTF. "
        "The rest is white. Default 0.",
    ),
    solvent: Optional[bool] = typer.Option(
        None, help="Whether flat solvent is around the atoms and none where they are. Default: vacuum."
    ),
    belt: Optional[float] = typer.Option(
        None,
        help="A belt of detergent of this height (Å) about the middle of the model's longest axis, 15 Å thick. "
        "Default 0: none.",
    ),
    neighbours: Optional[float] = typer.Option(
        None, help="Mean number of other particles that reach into an image. Default 0."
    ),
    junk: Optional[float] = typer.Option(
        None, help="Share (0 to 0.9) of images without a particle: empty, or a shapeless blob. Default 0."
    ),
    life_like: bool = typer.Option(
        False,
        "--life-like",
        help="All that disturbs real images, at usual strengths: "
        f"{_list_disturbances(LIFE_LIKE)}. Options given besides replace these.",
    ),
    centre: bool = typer.Option(False, "--centre", help="First move the mean of the atoms to the centre of the box."),
    clean: bool = typer.Option(False, "--clean", help="Also write the noise-free images, clean.mrcs."),
    map_too: bool = typer.Option(
        False, "--map", help="Also reconstruct map.mrc from the images, at the poses of particles.star."
    ),
    seed: int = typer.Option(SimulationSettings.seed, help="The same seed gives the same particles, bit by bit."),
) -> None:
    """Simulate particle images of a model.

    Writes particles.mrcs and particles.star (RELION 3.1) into the folder --out, with white protein and noise of
    standard deviation 1; true_poses.star with the poses and defoci that were imaged, truth.cif with the model in the
    frame of the box, and truth.json with the settings and which images are junk.
    """
    from cocofold.simulation.particle_simulation import simulate as run

    given = {
        "preferred": preferred,
        "preferred_share": preferred_share,
        "pose_noise": pose_noise,
        "shift_noise": shift_noise,
        "defocus_noise": defocus_noise,
        "bfactor": bfactor,
        "ice": ice,
        "solvent": solvent,
        "belt": belt,
        "neighbours": neighbours,
        "junk": junk,
    }
    disturbances: Dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    make = SimulationSettings.life_like if life_like else SimulationSettings
    settings = make(
        model=str(model),
        box=box,
        pixel_size=pixel_size,
        count=count,
        snr=snr,
        views=views,
        missing_cone=missing_cone,
        defocus=defocus,
        astigmatism=astigmatism,
        voltage=voltage,
        cs=cs,
        amplitude_contrast=amplitude_contrast,
        phase_shift=phase_shift,
        shift_spread=shift_spread,
        tilts=tilts,
        tilt_dose=tilt_dose,
        centre=centre,
        clean=clean,
        map=map_too,
        seed=seed,
        **disturbances,
    )
    written = run(settings, out)
    of_tilts = f" of {tilts} tilts each" if tilts > 1 else ""
    echo(
        f"{written.star}: {count} particles{of_tilts}, box {box}, {pixel_size:g} Å/pixel, "
        f"SNR {written.signal_variance:.4g}; the model in their frame is {written.model}"
    )
