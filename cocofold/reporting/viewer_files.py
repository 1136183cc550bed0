"""What viewers read of a run: a script by which ChimeraX opens it for ISOLDE, models and map for the page."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Tuple

import gemmi
import numpy as np

from cocofold.reporting.run_contents import FinishedRun, read_density
from cocofold.structure.model import Model
from cocofold.structure.read_model import write_moved_model
from cocofold.system.errors import InputError

ISOLDE_SCRIPT = Path("isolde") / "open_in_isolde.cxc"
MOTION_SCRIPT = Path("motions") / "show_motions.cxc"
# ChimeraX expands these in names of files, or ends the name there.
_UNSAFE_IN_CHIMERAX = re.compile(r'["\\*?\[\]\x00-\x1f\x7f]')
_Vector = Tuple[float, float, float]


@dataclass(frozen=True)
class ViewerFrame:
    """Frame in which map and models are shown in ISOLDE; by default the box's, with its first voxel at 0 Å.

    Attributes
    ----------
    map_origin_angstrom : (3,) float
        Where the map's first voxel lies.
    model_shift_angstrom : (3,) float
        What is added to the positions of the run's models.
    """

    map_origin_angstrom: _Vector = (0.0, 0.0, 0.0)
    model_shift_angstrom: _Vector = (0.0, 0.0, 0.0)

    @property
    def moves_models(self) -> bool:
        """Whether models lie elsewhere than in the run."""
        return any(self.model_shift_angstrom)

    @property
    def map_in_box(self) -> np.ndarray:
        """Where the map's first voxel lies in the frame of the run, (3,) Å."""
        return np.subtract(self.map_origin_angstrom, self.model_shift_angstrom)


def isolde_models(run: FinishedRun, frame: ViewerFrame) -> tuple[Path, Path]:
    """Files of result and start that the script opens: the run's own, or copies beside the script that are moved."""
    if not frame.moves_models:
        return run.answer_file, run.start_file
    folder = (run.path / ISOLDE_SCRIPT).parent
    return folder / "result.cif", folder / "start.cif"


def write_isolde_models(run: FinishedRun, frame: ViewerFrame) -> None:
    """Write the moved copies of result and start, where the frame asks for them."""
    if frame.moves_models:
        for source, target in zip((run.answer_file, run.start_file), isolde_models(run, frame)):
            write_moved_model(source, target, frame.model_shift_angstrom)


def isolde_script(run: FinishedRun, map_file: Path | None = None, frame: ViewerFrame | None = None) -> str:
    """Commands of ``isolde/open_in_isolde.cxc`` in the folder of a run.

    Paths in it are relative: ChimeraX runs a script in the script's own folder. Commands are those of ISOLDE's
    documentation for its versions 1.4 and later.

    Parameters
    ----------
    run : FinishedRun
    map_file : Path, optional
        The reconstruction. Without it the density of the model itself is what ISOLDE pulls atoms into, which holds the
        model where it is and says nothing new.
    frame : ViewerFrame, optional

    Raises
    ------
    InputError
        If the map cannot be read, or its name cannot be given to ChimeraX.
    """
    folder = (run.path / ISOLDE_SCRIPT).parent
    density, frame = map_file or run.density_file, frame or ViewerFrame()
    result, start = isolde_models(run, frame)
    opened = [_quoted(path, folder) for path in (result, density, start)]
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
        "# Models lie in the frame in which the map's first voxel is here, whatever its header says.",
        f"volume #2 origin {','.join(f'{value:g}' for value in frame.map_origin_angstrom)}",
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


# ChimeraX's colours of bodies that moved
_BODY_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# Half the length (Å) that an axis has at least where it is drawn
_AXIS_REACH = 15.0


def motion_files(run: FinishedRun) -> dict[str, str]:
    """Contents of ``motions/show_motions.cxc`` and of the arrows that it opens; empty where nothing moved as a body.

    An arrow leads from where each body's centre would be without its motion to where it is; rods are the axes.
    """
    bodies = (run.metrics.get("changed") or {}).get("moved", [])
    if not bodies:
        return {}
    folder = (run.path / MOTION_SCRIPT).parent
    opened = [_quoted(path, folder) for path in (run.answer_file, run.start_file)]
    lines = [
        "# Opens start and result with the motions between them, in ChimeraX.",
        f"open {opened[0]} name result",
        f"open {opened[1]} name start",
        "cartoon",
        "hide atoms",
        "color #1 #b8bdc4",
        "color #2 #8f959d transparency 60",
        'open "motions.bild" name motions',
    ]
    arrows = []
    for number, body in enumerate(bodies):
        colour = _BODY_COLOURS[number % len(_BODY_COLOURS)]
        lines.append(
            f"# {', '.join(body['residues'])}: {body['angle_degrees']:.0f}°, {body['centre_shift_angstrom']:.1f} Å"
        )
        lines += [f"color #1/{' '.join(one.split()).replace(' ', ':')} {colour}" for one in body["residues"]]
        arrows.append(f".color {colour}")
        ends = [" ".join(f"{value:.2f}" for value in body[end]) for end in ("from_angstrom", "to_angstrom")]
        if body["centre_shift_angstrom"] > 0:
            arrows.append(f".arrow {ends[0]} {ends[1]} 0.5 1.2 0.75")
        if body["axis"] is not None:
            axis, point = np.array(body["axis"]), np.array(body["point_angstrom"])
            rod = np.r_[point - _AXIS_REACH * axis, point + _AXIS_REACH * axis]
            arrows.append(".cylinder " + " ".join(f"{value:.2f}" for value in rod) + " 0.3")
    lines.append("view")
    return {MOTION_SCRIPT.name: "\n".join(lines) + "\n", "motions.bild": "\n".join(arrows) + "\n"}


def _quoted(path: Path, folder: Path) -> str:
    """A path relative to the script's folder, in quotes."""
    relative = Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    if _UNSAFE_IN_CHIMERAX.search(relative):
        raise InputError(
            f"{path}: has characters in its name that ChimeraX's open command does not take as they are; rename it, "
            "or give a link with a plain name"
        )
    return f'"{relative}"'


_HYDROGEN = 1
# Sizes of what the page holds: larger models lose their side chains, and larger maps are binned. More makes the page
# slow to load and to turn.
_MOST_ATOMS = 40_000
_MOST_VOXELS = 80**3
# Part of the map that is shown around the model
_VIEW_MARGIN_ANGSTROM = 8.0
# Volume of protein, from its partial specific volume of 0.73 cm³/g
_CUBIC_ANGSTROM_PER_DALTON = 1.21
_BACKBONE = ("N", "CA", "C", "O", "P", "O5'", "C5'", "C4'", "C3'", "O3'")
_UNSAFE_IN_MMCIF = re.compile(r"[^A-Za-z0-9'*+-]")
_ITEMS = "group_PDB id type_symbol label_atom_id label_comp_id auth_asym_id auth_seq_id Cartn_x Cartn_y Cartn_z"


def viewer_model(model: Model, places: np.ndarray) -> str:
    """Atoms as a small mmCIF: chains are called by their order and residues by their place, so that no name can harm.

    Parameters
    ----------
    model : Model
    places : (n_residues,) int
        Numbers that are consecutive where the chain is.
    """
    chains = {name: f"c{order}" for order, name in enumerate(dict.fromkeys(key.chain for key in model.residues))}
    residues = [residue for chain in model.structure[0] for residue in chain]
    polymer = np.array([residue.entity_type == gemmi.EntityType.Polymer for residue in residues])
    # A model without entities may yet have residues with a backbone.
    polymer[model.framed_residues()[0]] = True
    kept = model.atomic_numbers != _HYDROGEN
    if kept.sum() > _MOST_ATOMS:
        kept &= np.isin(model.atom_names, _BACKBONE) | ~polymer[model.residue_of_atom]
    lines = ["data_model", "loop_", *(f"_atom_site.{item}" for item in _ITEMS.split())]
    for row in np.flatnonzero(kept):
        owner = model.residue_of_atom[row]
        key = model.residues[owner]
        x, y, z = model.positions[row]
        name = _safe_name(str(model.atom_names[row]))
        lines.append(
            f"{'ATOM' if polymer[owner] else 'HETATM'} {row + 1} {gemmi.Element(int(model.atomic_numbers[row])).name} "
            f'"{name}" {_safe_name(key.name)} {chains[key.chain]} {places[owner]} {x:.2f} {y:.2f} {z:.2f}'
        )
    return "\n".join(lines) + "\n"


def _safe_name(name: str) -> str:
    return _UNSAFE_IN_MMCIF.sub("_", name) or "X"


def contour_level(values: np.ndarray, voxel_volume: float, model: Model) -> float:
    """Level at which a map encloses a model's volume, at 1.21 Å³ a dalton of it."""
    masses = np.array([gemmi.Element(int(number)).weight for number in model.atomic_numbers])
    wanted = _CUBIC_ANGSTROM_PER_DALTON * masses.sum() / voxel_volume
    count = int(np.clip(round(wanted), 1, values.size - 1))
    return float(np.partition(values.reshape(-1), values.size - count)[values.size - count])


def viewer_density(
    values: np.ndarray, voxel: np.ndarray, model: Model, first_voxel: np.ndarray | None = None
) -> dict[str, Any]:
    """The part of a map around a model as bytes from 0 to 255 with a level; coarser if it is large.

    Parameters
    ----------
    values : (nz, ny, nx) float
    voxel : (3,) float
        Å, of x, y and z.
    model : Model
    first_voxel : (3,) float, optional
        Where voxel (0, 0, 0) lies in the model's frame, Å; by default at 0.
    """
    level = contour_level(values, float(np.prod(voxel)), model)
    first = np.zeros(3) if first_voxel is None else first_voxel
    low = np.floor((model.positions.min(0) - first - _VIEW_MARGIN_ANGSTROM) / voxel).astype(int)
    high = np.ceil((model.positions.max(0) - first + _VIEW_MARGIN_ANGSTROM) / voxel).astype(int) + 1
    size = np.array(values.shape[::-1])
    low, high = np.clip(low, 0, size - 1), np.clip(high, 1, size)
    part = values[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
    step = 1
    while part.size / step**3 > _MOST_VOXELS:
        step += 1
    part = _bin_voxels(part, step)
    least, most = float(part.min()), float(part.max())
    scale = 255 / ((most - least) or 1.0)
    return {
        "bytes": base64.b64encode(
            np.round((part.transpose(2, 1, 0) - least) * scale).astype(np.uint8).tobytes()
        ).decode("ascii"),
        "size": list(part.shape[::-1]),
        "origin": [round(float(value), 3) for value in first + (low + (step - 1) / 2) * voxel],
        "voxel": [round(float(value), 5) for value in voxel * step],
        "level": round((level - least) * scale, 2),
    }


def _bin_voxels(values: np.ndarray, step: int) -> np.ndarray:
    """Means over blocks of ``step`` voxels along each axis; what is left over at the end is dropped."""
    if step == 1:
        return values
    counts = [length // step for length in values.shape]
    cut = values[tuple(slice(0, count * step) for count in counts)]
    shape = [number for count in counts for number in (count, step)]
    return cut.reshape(shape).mean(axis=(1, 3, 5))
