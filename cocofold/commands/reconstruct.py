"""``cocofold reconstruct``: a map from particles, and what of it a model does not explain."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

import typer

from cocofold.system.errors import require_within


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
    first: Optional[int] = typer.Option(None, help="Use the first so many particles."),
    max_particles: Optional[int] = typer.Option(None, help="Use so many particles at most, drawn with the seed."),
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
    import numpy as np
    import torch

    from cocofold.mapfit.particle_map import reconstruct_particles
    from cocofold.particles import read_particles
    from cocofold.system.hardware import prepare_short_work
    from cocofold.system.progress import image_progress_bar

    prepare_short_work(device)
    if threads is not None:
        require_within("--threads", threads, 1, 1024)
        torch.set_num_threads(threads)
    read = read_particles(particles, particles_dir, passthrough)
    for note in read.notes:
        typer.echo(note)
    if first is not None:
        read = read.subset(np.arange(min(first, len(read))))
    if max_particles is not None and max_particles < len(read):
        read = read.subset(np.sort(np.random.default_rng(seed).choice(len(read), max_particles, replace=False)))
    with image_progress_bar("reconstructing") as progress:
        found = reconstruct_particles(
            read, model, out, half_maps=half_maps, symmetry=symmetry, seed=seed, device=device, progress=progress
        )
    for line in found.lines:
        typer.echo(line)
