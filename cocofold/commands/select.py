"""What is done with particles alone: ``cocofold select``, ``reconstruct`` and ``check``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional

import typer

from cocofold.commands import echo
from cocofold.system.atomic_files import check_writable, refuse_unwritable, write_json
from cocofold.system.errors import SKIP_HELP, SKIP_OPTION, InputError, require_within

if TYPE_CHECKING:
    from cocofold.particles.particle_set import ParticleSet
    from cocofold.preflight.check_report import CheckReport
    from cocofold.selection import ParticleSelection


def select(
    particles: Path = typer.Option(..., help="Particles with poses and CTFs: RELION .star or CryoSPARC .cs."),
    model: Optional[Path] = typer.Option(None, help="Model in the map's frame, mmCIF or PDB: for --by frc."),
    count: int = typer.Option(..., help="Particles in the new file, those held out included."),
    by: str = typer.Option(
        ...,
        help="random: drawn with the seed. views: drawn evenly from all directions of view; opposite ones are alike. "
        "frc: those that agree best with the model. A model that selects its own images biases the result towards "
        "itself: prefer random or views where you can.",
    ),
    out: Path = typer.Option(..., help="STAR file to write; the images stay where they are."),
    particles_dir: Optional[Path] = typer.Option(None, help="Folder from which the stacks' paths start."),
    passthrough: List[Path] = typer.Option([], help="CryoSPARC passthrough file of the .cs; may be given again."),
    ignore_aberrations: bool = typer.Option(
        False, "--ignore-aberrations", help="Leave out aberrations of CryoSPARC that cannot be applied."
    ),
    skip_bad_images: bool = typer.Option(False, SKIP_OPTION, help=SKIP_HELP),
    seed: int = typer.Option(0, help="Of what is drawn."),
    json_file: Optional[Path] = typer.Option(None, "--json", help="File for positions, scores and settings."),
    device: str = typer.Option("auto", help="With --by frc: auto, cpu, cuda or cuda:N."),
) -> None:
    """Select some of the particles, and hold some of these out.

    Before anything is selected, as many particles are drawn at random as cocofold finetune holds out of --count: 5 %,
    at least 50, or a fifth of fewer than 500. They are marked in the STAR (cocofoldHeldOut), and finetune judges by
    exactly them. With --by frc every fourth Fourier ring up to 10 Å gives the score; the STAR names these rings
    (cocofoldScoredRings), and finetune does not fit them. That keeps noise from being selected and then fitted, but
    molecules that differ from the model are still passed over.
    """
    for option, path in (("--out", out), ("--json", json_file)):
        check_writable(option, path)
    if out.exists():
        raise InputError(f"--out {out}: is there already; give another file")
    if out.suffix.lower() != ".star":
        raise InputError(f"--out {out}: a STAR file is written; give a name that ends in .star")
    import numpy as np

    from cocofold.likelihood.observed_images import refuse_incompatible_input
    from cocofold.likelihood.particle_optics import leave_out_aberrations
    from cocofold.particles import read_particles, without_bad_images
    from cocofold.selection import SCORING_RESOLUTION_ANGSTROM
    from cocofold.selection import select_particles as choose
    from cocofold.structure.read_model import read_model
    from cocofold.system.hardware import prepare_short_work
    from cocofold.system.progress import image_progress_bar

    chosen_device = prepare_short_work(device)
    every = read_particles(particles, particles_dir, passthrough, ignore_aberrations)
    read = None
    if by == "frc" and model is not None:
        read = read_model(model)
        applied = leave_out_aberrations(every, str(particles), SCORING_RESOLUTION_ANGSTROM)
        refuse_incompatible_input(read, applied, str(model), str(particles))
    usable, rows = every, np.arange(len(every))
    if skip_bad_images:
        with image_progress_bar("looking at images") as progress:
            usable, rows = without_bad_images(every, progress)
        echo(usable.notes[-1])
    with image_progress_bar("comparing images with the model") as progress:
        found = choose(usable, count, by, seed, read, chosen_device, progress)
    found = replace(found, selected=rows[found.selected], held_out=rows[found.held_out])
    files = {"particles_file": str(particles), "model": None if model is None else str(model), "out": str(out)}
    _write(found, every, particles, out, json_file, {**files, "of_particles": len(every), "seed": seed})
    for line in _lines(found, len(every)):
        echo(line)


def _write(
    found: ParticleSelection,
    every: ParticleSet,
    particles: Path,
    out: Path,
    json_file: Path | None,
    facts: dict[str, Any],
) -> None:
    """Write the STAR of what was selected from ``every``, which was read from ``particles``, and the JSON."""
    from cocofold.particles.star_write import write_star_subset

    with refuse_unwritable(out):
        # The STAR last: where it is, the command is not run again.
        if json_file is not None:
            write_json(json_file, {**facts, **found.as_dict()})
        write_star_subset(out, found.apply_to(every), particles, found.rows)


def _lines(found: ParticleSelection, of: int) -> list[str]:
    lines = [
        f"{len(found.rows)} of {of} particles: {len(found.selected)} by {found.by}, "
        f"{len(found.held_out)} held out, drawn from all before"
    ]
    whole, chosen = (found.statistics.get(name, {}) for name in ("all", "selected"))
    if found.by == "views":
        lines.append(
            f"views in {found.statistics['bins']} bins: {chosen['fewest']} to {chosen['most']} particles in each that "
            f"has any, in all {whole['fewest']} to {whole['most']}; {found.statistics['empty_bins']} bins have none"
        )
    if found.by == "frc":
        coarsest, finest = (found.statistics["resolutions_angstrom"][row] for row in (0, -1))
        lines += [
            f"mean ring correlation with the model, {len(found.scored_rings)} rings from {coarsest:.0f} to "
            f"{finest:.0f} Å: {chosen['mean']:.3f}, in all {whole['mean']:.3f}",
            "selected by agreement with the model: the result is biased towards it; compare with --by random",
        ]
    return lines


def reconstruct(
    particles: Path = typer.Option(..., help="Particles with poses and CTFs: RELION .star or CryoSPARC .cs."),
    model: Optional[Path] = typer.Option(
        None, help="All atoms of the particle in the map's frame, mmCIF or PDB: what it does not explain is weighed."
    ),
    out: Path = typer.Option(..., help="Folder for the maps and reconstruction.json, made anew."),
    half_maps: bool = typer.Option(
        False, "--half-maps", help="Also write half1.mrc and half2.mrc: of the particles' half sets, or drawn."
    ),
    particles_dir: Optional[Path] = typer.Option(None, help="Folder from which the stacks' paths start."),
    passthrough: List[Path] = typer.Option([], help="CryoSPARC passthrough file of the .cs; may be given again."),
    ignore_aberrations: bool = typer.Option(
        False, "--ignore-aberrations", help="Leave out aberrations of CryoSPARC that cannot be applied."
    ),
    first: Optional[int] = typer.Option(None, help="Use the first so many particles."),
    max_particles: Optional[int] = typer.Option(None, help="Use so many particles at most, drawn with the seed."),
    skip_bad_images: bool = typer.Option(False, SKIP_OPTION, help=SKIP_HELP),
    symmetry: Optional[str] = typer.Option(
        None,
        help="Point group of the particle: C3, D2, T, O, I, ... with axes as in RELION. Each image is put in at all of "
        "its rotations, which takes as many times as long.",
    ),
    seed: int = typer.Option(0, help="Of what is drawn, and of the noise that gives errors."),
    threads: Optional[int] = typer.Option(None, help="Number of processor threads; by default 4 at most."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
) -> None:
    """Reconstruct a map from particles at the poses and CTFs of their file.

    Writes reconstruction.mrc (voxel (0, 0, 0) at 0 Å, rotation centre at voxel N // 2, protein positive) and
    reconstruction.json with the FSC of two half maps. With --model also unexplained.mrc, the map less the model's
    density, and the mass that the model lacks: its share of the particle's, and the place and size of its pieces. A
    domain in the wrong place is not missing; a missing domain and a surplus one of the same mass are not told from one.
    """
    for option, value in (("--first", first), ("--max-particles", max_particles)):
        if value is not None:
            require_within(option, value, 1, 10**9)
    require_within("--seed", seed, 0, 2**63 - 1)
    import torch

    from cocofold.likelihood.particle_optics import leave_out_aberrations
    from cocofold.mapfit.map_files import reconstruct_particles
    from cocofold.particles import read_particles, without_bad_images
    from cocofold.system.hardware import prepare_short_work
    from cocofold.system.progress import image_progress_bar

    prepare_short_work(device)
    if threads is not None:
        torch.set_num_threads(threads)
    read = read_particles(particles, particles_dir, passthrough, ignore_aberrations)
    read = leave_out_aberrations(read, str(particles))
    for note in read.notes:
        echo(note)
    read = read.limited(first, max_particles, seed)
    if skip_bad_images:
        with image_progress_bar("looking at images") as progress:
            read, _ = without_bad_images(read, progress)
        echo(read.notes[-1])
    with image_progress_bar("reconstructing") as progress:
        found = reconstruct_particles(
            read, model, out, half_maps=half_maps, symmetry=symmetry, seed=seed, device=device, progress=progress
        )
    for line in found.lines:
        echo(line)


def check(
    particles: Path = typer.Option(..., help="Particles with poses and CTFs: RELION .star or CryoSPARC .cs."),
    model: Path = typer.Option(..., help="Model in the map's frame: mmCIF or PDB."),
    map_file: Optional[Path] = typer.Option(
        None, "--map", help="Map of the particles: whether model and particles go with it is asked too."
    ),
    map_pixel_size: Optional[float] = typer.Option(None, help="Å; in place of that in the map's header."),
    particles_dir: Optional[Path] = typer.Option(None, help="Folder from which the stacks' paths start."),
    passthrough: List[Path] = typer.Option([], help="CryoSPARC passthrough file of the .cs; may be given again."),
    ignore_aberrations: bool = typer.Option(
        False, "--ignore-aberrations", help="Leave out aberrations of CryoSPARC that cannot be applied."
    ),
    count: int = typer.Option(200, help="Particles that are looked at, drawn with the seed."),
    seed: int = typer.Option(0, help="Of the draw."),
    contrast: str = typer.Option(
        "auto", help="What protein is said to be in the images: white, dark, or auto if either is right."
    ),
    skip_bad_images: bool = typer.Option(False, SKIP_OPTION, help=SKIP_HELP),
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
    from cocofold.likelihood.particle_optics import leave_out_aberrations
    from cocofold.mapfit.density_map import read_map
    from cocofold.particles import read_particles
    from cocofold.preflight.check_inputs import CheckSettings
    from cocofold.preflight.check_inputs import check as look
    from cocofold.structure.confidence import only_ordered, read_order
    from cocofold.structure.read_model import read_model
    from cocofold.system.hardware import prepare_short_work

    settings = CheckSettings(count=count, seed=seed, contrast=contrast, skip_bad_images=skip_bad_images)
    chosen_device = prepare_short_work(device)
    option = "--map-pixel-size"
    density = None if map_file is None else read_map(map_file, map_pixel_size, pixel_size_option=option)
    read, start = read_particles(particles, particles_dir, passthrough, ignore_aberrations), read_model(model)
    read = leave_out_aberrations(read, str(particles), settings.resolution_angstrom)
    for note in read.notes:
        echo(note)
    if start.in_mirror_image:
        echo("the model was placed in the map's mirror image: poses are mirrored, as in fine-tuning")
        read = read.mirrored()
    marked, order = read_order(start, b_factors, name=str(model))
    order.tell(echo)
    report = look(read, only_ordered(marked), settings, density, chosen_device)
    _write_check(report, json_file, picture, {"particles_file": str(particles), "model": str(model)})
    if skip_bad_images:
        echo(report.facts["images_left_out"])
    for line in report.lines:
        echo(line)
    if report.contradictions:
        raise typer.Exit(1)


def _write_check(report: CheckReport, json_file: Path | None, picture: Path | None, files: dict[str, str]) -> None:
    from cocofold.preflight.check_report import plot_check

    with refuse_unwritable(json_file or picture):
        if json_file is not None:
            write_json(json_file, {**files, **report.as_dict()})
        if picture is not None:
            plot_check(picture, report)
