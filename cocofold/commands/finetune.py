"""``cocofold finetune``: move a model until it explains particle images."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import List, Optional

import typer

from cocofold.system.workers import WorkerProcess


def finetune(
    particles: Path = typer.Option(..., help="Particles with poses and CTFs: RELION .star or CryoSPARC .cs."),
    model: Optional[Path] = typer.Option(
        None,
        help="Predicted model in the map's frame: mmCIF or PDB. With --prediction: its model where it lies in the map.",
    ),
    prediction: Optional[Path] = typer.Option(
        None, help="Folder of cocofold predict: AlphaFold-Multimer's structure module itself is trained."
    ),
    map_file: Optional[Path] = typer.Option(
        None, "--map", help="Map of the particles: the model is placed in it first, from anywhere (see cocofold fit)."
    ),
    map_resolution: Optional[float] = typer.Option(
        None, help="With --map: its resolution (Å); by default estimated from the map."
    ),
    bodies: Optional[str] = typer.Option(
        None, help='With --map: parts that are placed one by one after the whole: "A,B;C", "A:1-120;A:121-214".'
    ),
    hand: str = typer.Option("auto", help="With --map: as-is, mirrored, or auto to find out the map's hand."),
    placement: Optional[Path] = typer.Option(
        None, help="placement.json of cocofold fit; the model or prediction is then the one that was given to it."
    ),
    symmetry: Optional[str] = typer.Option(
        None,
        help="Point group (C3, D2, T, O, I, ...; with --map also auto): the model is one subunit, and all copies move "
        "alike.",
    ),
    out: Path = typer.Option(..., help="Folder of the run, made anew."),
    particles_dir: Optional[Path] = typer.Option(None, help="Folder from which the stacks' paths start."),
    passthrough: List[Path] = typer.Option([], help="CryoSPARC passthrough file of the .cs; may be given again."),
    check: bool = typer.Option(
        True,
        "--check/--no-check",
        help="Ask first whether poses, hand, shifts, CTF and pixel size agree with the model (see cocofold check), and "
        "stop if something is clearly wrong.",
    ),
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
        "the change; 0: none, follow all stages. By default those that cocofold select has marked, or else 5 %, at "
        "least 50, or a fifth of fewer than 500.",
    ),
    cycles: Optional[int] = typer.Option(
        None,
        help="Intervals at whose ends the run is scored and a model written, 1 to 30; by default one for each stage "
        "from coarse to fine. The length of the run does not depend on it.",
    ),
    batch_size: Optional[int] = typer.Option(
        None, help="Images per optimiser step; by default 16, with --preset paper 32."
    ),
    resolution: Optional[float] = typer.Option(None, help="Finest resolution compared (Å); by default all rings."),
    effort: float = typer.Option(1.0, help="Factor on the number of optimiser steps: 0.3 for a quick look."),
    preset: str = typer.Option(
        "default",
        help="With --prediction: default keeps the fold, paper trains as the paper's authors did; a cycle is then a "
        "pass over the particles (10 of them unless --cycles says otherwise).",
    ),
    teacher: Optional[bool] = typer.Option(
        None,
        "--teacher/--no-teacher",
        help="With --prediction: move its model first; the network then learns the result. Keeps the fold best, and is "
        "the default, but for --preset paper.",
    ),
    no_adapter: bool = typer.Option(False, "--no-adapter", help="With --prediction: train without the image adapter."),
    no_weights: bool = typer.Option(
        False, "--no-weights", help="With --prediction: leave the structure module's weights as they are."
    ),
    no_additions: bool = typer.Option(
        False, "--no-additions", help="With --prediction: learn no additions to the single and pair representations."
    ),
    no_penalty: bool = typer.Option(
        False, "--no-penalty", help="Leave amplitudes and widths of the atoms' Gaussians unbounded (paper eq. 4)."
    ),
    deform: bool = typer.Option(
        False, "--deform", help="With --prediction: a field of rigid motions moves the network's atoms further."
    ),
    pair_precision: str = typer.Option(
        "auto",
        help="With --prediction: what its pair representation is kept in: float32, bfloat16 or float16; "
        "auto is float32, with a copy in bfloat16 for the gradient of large molecules where that is faster.",
    ),
    remove_below: Optional[float] = typer.Option(
        None, help="With --prediction: leave residues out of the answer whose pLDDT ends below this; the paper's is 30."
    ),
    seed: int = typer.Option(0, help="Seed: on CPU the same seed gives the same model, bit by bit."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
    processes: int = typer.Option(
        1,
        help="Processes on this machine that share the images, one for each GPU or core; the model is the same. With "
        "OMP_NUM_THREADS=1 each has one thread.",
    ),
    stop_with: Optional[int] = typer.Option(
        None,
        help="End, with a checkpoint, when the process of this number is gone; for programs that start runs.",
    ),
    resume: bool = typer.Option(False, "--resume", help="Go on with the run in --out, with the same settings."),
) -> None:
    """Move a predicted model until it explains raw particle images.

    Writes model.cif (the answer), models/cycle_NN.cif, density.mrc, metrics.json, metrics.csv, frc.png, config.yaml,
    log.txt and checkpoints/ into the folder --out. On several machines, torchrun --nnodes ... -m cocofold finetune ...
    starts processes that share the images.
    """
    # Others are started before anything large is imported, which they do at the same time.
    with WorkerProcess.start_or_join(processes) as member, contextlib.ExitStack() as at_end:
        from cocofold.finetuning.options import Options, paper_options
        from cocofold.finetuning.run import finetune as run
        from cocofold.likelihood.distributed import WorkerGroup

        together = WorkerGroup(member) if member.count > 1 else None
        if together is not None and member.rank > 0:
            together.serve(device)
            return
        if together is not None:
            at_end.enter_context(together)
        given = {
            "teacher": teacher,
            "batch_size": batch_size,
            "adapter_rate": 0.0 if no_adapter else None,
            "weights_rate": 0.0 if no_weights else None,
            "single_rate": 0.0 if no_additions else None,
            "pair_rate": 0.0 if no_additions else None,
            "penalty": False if no_penalty else None,
        }
        settings = paper_options if preset == "paper" else partial(Options, preset=preset)
        options = settings(
            **{name: value for name, value in given.items() if value is not None},
            particles=str(particles),
            model=None if model is None else str(model),
            prediction=None if prediction is None else str(prediction),
            map=None if map_file is None else str(map_file),
            map_resolution=map_resolution,
            bodies=bodies,
            hand=hand,
            placement=None if placement is None else str(placement),
            symmetry=symmetry,
            deform=deform,
            pair_precision=pair_precision,
            remove_below=remove_below,
            particles_dir=None if particles_dir is None else str(particles_dir),
            passthrough=[str(path) for path in passthrough],
            check=check,
            contrast=contrast,
            scratch=None if scratch is None else str(scratch),
            max_particles=max_particles,
            first=first,
            heldout=heldout,
            cycles=cycles,
            resolution=resolution,
            effort=effort,
            seed=seed,
            device=device,
        )
        run(options, out, resume, stop_with, together)
