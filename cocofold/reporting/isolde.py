"""A script by which ChimeraX opens a run for ISOLDE: model, start, map, contour and restraints."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cocofold.errors import InputError
from cocofold.reporting.molecules import contour_level
from cocofold.reporting.run_files import FinishedRun, read_density

SCRIPT = Path("isolde") / "open_in_isolde.cxc"
# ChimeraX expands these in names of files, or ends the name there.
_UNSAFE = re.compile(r'["\\*?\[\]\x00-\x1f\x7f]')


def isolde_script(run: FinishedRun, map_file: Path | None = None) -> str:
    """Commands of ``isolde/open_in_isolde.cxc`` in the folder of a run.

    Paths in it are relative: ChimeraX runs a script in the script's own folder. Commands are those of ISOLDE's
    documentation for its versions 1.4 and later.

    Parameters
    ----------
    run : FinishedRun
    map_file : Path, optional
        The reconstruction. Without it the density of the model itself is what ISOLDE pulls atoms into, which holds the
        model where it is and says nothing new.

    Raises
    ------
    InputError
        If the map cannot be read, or its name cannot be given to ChimeraX.
    """
    folder = (run.path / SCRIPT).parent
    density = map_file or run.density_file
    opened = [_quoted(path, folder) for path in (run.answer_file, density, run.start_file)]
    values, voxel = read_density(density)
    level = contour_level(values, float(voxel.prod()), run.answer)
    note = (
        "The map that was given."
        if map_file is not None
        else "The density of the model's own Gaussians: give cocofold report --map the reconstruction to fit into it."
    )
    lines = [
        "# Opens a CoCoFold result for ISOLDE, in ChimeraX with the ISOLDE bundle (Tools > More Tools).",
        "close session",
        f"open {opened[0]} name result",
        f"# {note}",
        f"open {opened[1]} name density",
        "# Models lie in the frame in which the map's first voxel is at 0 Å, whatever its header says.",
        "volume #2 origin 0,0,0",
        f"volume #2 level {level:.6g} style surface color #6b8fb580",
        f"open {opened[2]} name start",
        "color #3 #8f959d",
        "hide #3 models",
        "view #1",
        "# ISOLDE simulates all atoms, hydrogens too.",
        "addh #1",
        "isolde start",
        "isolde select #1",
        "clipper associate #2 toModel #1",
        "# Adaptive restraints to the result as it is; they give way where the map says otherwise.",
        "isolde restrain distances #1 perChain false",
        "isolde restrain torsions #1 adjustForConfidence false",
        "# To begin: select atoms and press play, or: isolde sim start #1",
    ]
    return "\n".join(lines) + "\n"


def _quoted(path: Path, folder: Path) -> str:
    """A path relative to the script's folder, in quotes."""
    relative = Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    if _UNSAFE.search(relative):
        raise InputError(
            f"{path}: has characters in its name that ChimeraX's open command does not take as they are; rename it, "
            "or give a link with a plain name"
        )
    return f'"{relative}"'
