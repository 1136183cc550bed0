"""``cocofold finetune``: move a model until it explains particle images."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

import typer


def finetune(
    particles: Path = typer.Option(..., help="Particles with poses and CTFs: RELION .star or CryoSPARC .cs."),
    model: Optional[Path] = typer.Option(
        None,
        help="Predicted model in the map's frame: mmCIF or PDB. With --prediction: its model where it lies in the map.",
    ),
    prediction: Optional[Path] = typer.Option(
        None, help="Folder of cocofold predict: AlphaFold-Multimer's structure module itself is trained."
    ),
    out: Path = typer.Option(..., help="Folder of the run, made anew."),
    particles_dir: Optional[Path] = typer.Option(None, help="Folder from which the stacks' paths start."),
    passthrough: List[Path] = typer.Option([], help="CryoSPARC passthrough file of the .cs; may be given again."),
    contrast: str = typer.Option(
        "auto", help="How protein appears in the images: white, dark, or auto to find out with the model."
    ),
    scratch: Optional[Path] = typer.Option(
        None, help="Folder on a fast disk to which the images are copied for the time of the run."
    ),
    max_particles: Optional[int] = typer.Option(None, help="Use so many particles, drawn with the seed."),
    first: Optional[int] = typer.Option(None, help="Use the first so many particles."),
    heldout: Optional[float] = typer.Option(
        None,
        help="Share of the particles (0 to 0.5) that are not fitted but tell when to stop and whether the data support "
        "the change; 0: none, follow all stages. By default 5 %, at least 50, or a fifth of fewer than 500.",
    ),
    cycles: Optional[int] = typer.Option(
        None,
        help="Intervals at whose ends the run is scored and a model written, 1 to 30; by default one for each stage "
        "from coarse to fine. The length of the run does not depend on it.",
    ),
    batch_size: int = typer.Option(16, help="Images per optimiser step."),
    resolution: Optional[float] = typer.Option(None, help="Finest resolution compared (Å); by default all rings."),
    effort: float = typer.Option(1.0, help="Factor on the number of optimiser steps: 0.3 for a quick look."),
    teacher: bool = typer.Option(
        True, help="With --prediction: move its model first; the network then learns the result. Keeps the fold best."
    ),
    remove_below: Optional[float] = typer.Option(
        None, help="With --prediction: leave residues out of the answer whose pLDDT ends below this; the paper's is 30."
    ),
    seed: int = typer.Option(0, help="Seed: on CPU the same seed gives the same model, bit by bit."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
    stop_with: Optional[int] = typer.Option(
        None,
        help="End, with a checkpoint, when the process of this number is gone; for programs that start runs.",
    ),
    resume: bool = typer.Option(False, "--resume", help="Go on with the run in --out, with the same settings."),
) -> None:
    """Move a predicted model until it explains raw particle images.

    Writes model.cif (the answer), models/cycle_NN.cif, density.mrc, metrics.json, metrics.csv, frc.png, config.yaml,
    log.txt and checkpoints/ into the folder --out.
    """
    from cocofold.finetuning import Options
    from cocofold.finetuning import finetune as run

    options = Options(
        particles=str(particles),
        model=None if model is None else str(model),
        prediction=None if prediction is None else str(prediction),
        teacher=teacher,
        remove_below=remove_below,
        particles_dir=None if particles_dir is None else str(particles_dir),
        passthrough=[str(path) for path in passthrough],
        contrast=contrast,
        scratch=None if scratch is None else str(scratch),
        max_particles=max_particles,
        first=first,
        heldout=heldout,
        cycles=cycles,
        batch_size=batch_size,
        resolution=resolution,
        effort=effort,
        seed=seed,
        device=device,
    )
    run(options, out, resume, stop_with)
