"""``cocofold check``: whether particles, model and map belong together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, List, Optional

import typer

from cocofold.system.atomic_files import check_writable, refuse_unwritable, write_json
from cocofold.system.errors import InputError

if TYPE_CHECKING:
    from cocofold.preflight.check_report import CheckReport


def check(
    particles: Path = typer.Option(..., help="Particles with poses and CTFs: RELION .star or CryoSPARC .cs."),
    model: Path = typer.Option(..., help="Model in the map's frame: mmCIF or PDB."),
    map_file: Optional[Path] = typer.Option(
        None, "--map", help="Map of the particles: whether model and particles go with it is asked too."
    ),
    map_pixel_size: Optional[float] = typer.Option(None, help="Å; in place of that in the map's header."),
    particles_dir: Optional[Path] = typer.Option(None, help="Folder from which the stacks' paths start."),
    passthrough: List[Path] = typer.Option([], help="CryoSPARC passthrough file of the .cs; may be given again."),
    count: int = typer.Option(200, help="Particles that are looked at, drawn with the seed."),
    seed: int = typer.Option(0, help="Of the draw."),
    contrast: str = typer.Option("white", help="What protein is said to be in the images: white, dark, or auto."),
    b_factors: str = typer.Option(
        "auto",
        help="What the model's B factors are: plddt, experimental, or auto to find out. Residues of a pLDDT below 50 "
        "in stretches, or that touch nothing, are not compared.",
    ),
    json_file: Optional[Path] = typer.Option(None, "--json", help="File for scores, margins and verdicts."),
    picture: Optional[Path] = typer.Option(None, help="PNG file: the scores of all alternatives."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
) -> None:
    """Check particles and a model before fine-tuning.

    Some of the images are compared with the model as the particles' file says, and with contrast, poses, hand, shifts,
    CTF and pixel size changed, one question after the other. Prints a verdict each. The exit status is 1 if something
    is clearly wrong.
    """
    for option, path in (("--json", json_file), ("--picture", picture)):
        check_writable(option, path)
    if picture is not None and picture.suffix.lower() != ".png":
        raise InputError(f"--picture {picture}: only PNG is written; give a name that ends in .png")
    if map_pixel_size is not None and map_file is None:
        raise InputError("--map-pixel-size: is about a map; add --map FILE, or leave it out")
    from cocofold.mapfit.density_map import read_map
    from cocofold.particles import read_particles
    from cocofold.preflight.check_inputs import CheckSettings
    from cocofold.preflight.check_inputs import check as look
    from cocofold.structure.confidence import only_ordered, read_order
    from cocofold.structure.read_model import read_model
    from cocofold.system.hardware import prepare_short_work

    settings = CheckSettings(count=count, seed=seed, contrast=contrast)
    chosen_device = prepare_short_work(device)
    option = "--map-pixel-size"
    density = None if map_file is None else read_map(map_file, map_pixel_size, pixel_size_option=option)
    read, start = read_particles(particles, particles_dir, passthrough), read_model(model)
    for note in read.notes:
        typer.echo(note)
    if start.in_mirror_image:
        typer.echo("the model was placed in the map's mirror image: poses are mirrored, as in fine-tuning")
        read = read.mirrored()
    marked, order = read_order(start, b_factors, name=str(model))
    order.tell(typer.echo)
    report = look(read, only_ordered(marked), settings, density, chosen_device)
    _write(report, json_file, picture, {"particles_file": str(particles), "model": str(model)})
    for line in report.lines:
        typer.echo(line)
    if report.contradictions:
        raise typer.Exit(1)


def _write(report: CheckReport, json_file: Path | None, picture: Path | None, files: dict[str, str]) -> None:
    from cocofold.preflight.check_report import plot_check

    with refuse_unwritable(json_file or picture):
        if json_file is not None:
            write_json(json_file, {**files, **report.as_dict()})
        if picture is not None:
            plot_check(picture, report)
