"""A report of a finished run: ``report.html`` and ``isolde/`` in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cocofold.errors import InputError
from cocofold.files import write_atomically
from cocofold.reporting.changes import changes
from cocofold.reporting.isolde import SCRIPT, isolde_script
from cocofold.reporting.page import look_at_particles, render_page
from cocofold.reporting.run_files import map_of, read_run


@dataclass(frozen=True)
class Report:
    """What was written; ``missing`` says why sections that show particles are empty, if they are."""

    page: Path
    script: Path
    missing: str | None


def write_report(
    path: Path, map_file: Path | None = None, particles: Path | None = None, particles_dir: Path | None = None
) -> Report:
    """Write ``report.html`` and ``isolde/open_in_isolde.cxc`` into the folder of a finished run.

    Parameters
    ----------
    path : Path
        The run's folder.
    map_file : Path, optional
        The reconstruction, to be contoured and for ISOLDE to fit into; by default the map in which the run placed its
        model, if there is one.
    particles, particles_dir : Path, optional
        Where the particles and their stacks are now, if not where they were.

    Raises
    ------
    InputError
        If the run is not finished or cannot be read, and for files that were given and cannot be used.
    """
    run = read_run(path)
    map_file = map_file or map_of(run)
    commands = isolde_script(run, map_file)
    changed = changes(run.start, run.answer)
    seen = look_at_particles(run, particles, particles_dir)
    text = render_page(run, changed, seen, map_file)
    page, script = path / "report.html", path / SCRIPT
    try:
        script.parent.mkdir(exist_ok=True)
        write_atomically(script, commands)
        write_atomically(page, text)
    except OSError as error:
        raise InputError(
            f"{error.filename or page}: not written ({error.strerror}); make room, or make the folder writable"
        ) from error
    return Report(page, script, seen.missing)
