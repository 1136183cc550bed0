"""``cocofold report``: a finished run as one page, and a folder for ISOLDE."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import typer


def report(
    run: Path = typer.Argument(..., help="Folder that cocofold finetune wrote."),
    map_file: Optional[Path] = typer.Option(
        None, "--map", help="The reconstruction (MRC): contoured on the page, and what ISOLDE fits the model into."
    ),
    particles: Optional[Path] = typer.Option(
        None, help="Where the particles' file is now, if not where it was in the run."
    ),
    particles_dir: Optional[Path] = typer.Option(
        None, help="Folder from which the stacks' paths start now, if it is another."
    ),
    map_origin: Tuple[float, float, float] = typer.Option(
        (0.0, 0.0, 0.0),
        help="Å: where ISOLDE shows the map's first voxel, for programs with a frame of their own.",
    ),
    model_shift: Tuple[float, float, float] = typer.Option(
        (0.0, 0.0, 0.0), help="Å: what is added to the models' positions for ISOLDE, so that they lie on that map."
    ),
) -> None:
    """Show what a finished run did, on one page that works offline.

    Writes report.html, with the models in 3D, curves, particles beside projections, orientations, and methods and
    citations to paste; and isolde/open_in_isolde.cxc, which opens the result in ChimeraX for ISOLDE.
    """
    from cocofold.reporting.run_report import write_report
    from cocofold.reporting.viewer_files import ViewerFrame

    written = write_report(run, map_file, particles, particles_dir, ViewerFrame(map_origin, model_shift))
    typer.echo(f"{written.page}: open it in any browser; it needs no network")
    if written.missing is not None:
        typer.echo(f"without pictures of particles and orientations: {written.missing}")
    typer.echo(f"{written.script}: open it in ChimeraX to go on with ISOLDE")
