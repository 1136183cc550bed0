"""A model placed in a map: the map and its resolution read from files, the placement and its picture written."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cocofold.mapfit.bodies import molecule_of, select_residues
from cocofold.mapfit.density_map import DensityMap, read_map, same_grid
from cocofold.mapfit.fit_model import AUTO, HANDS, FitResult, fit_in_map, refuse_unknown_hand
from cocofold.mapfit.map_files import MIRRORED
from cocofold.mapfit.rigid_refinement import RigidMolecule
from cocofold.mapfit.target_map import (
    TargetMap,
    compute_model_density,
    resolution_from_half_maps,
    resolution_from_noise,
    soft_molecule_mask,
)
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.system.atomic_files import atomic_path, new_folder
from cocofold.system.errors import InputError, require_within
from cocofold.system.progress import ProgressCallback

PLACED_FILE, SUBUNIT_FILE, PLACEMENT_FILE, MIRRORED_MAP_FILE = (
    "placed.cif",
    "subunit.cif",
    "placement.json",
    "mirrored.mrc",
)


@dataclass(frozen=True)
class MapOptionNames:
    """What a command calls the options that messages about maps name; None where it has no such option."""

    resolution: str = "--resolution"
    pixel_size: str | None = "--pixel-size"
    half_maps: tuple[str, str] | None = ("--half1", "--half2")


@dataclass(frozen=True)
class MapFiles:
    """A map and what is known of it; see ``cocofold fit``.

    Attributes
    ----------
    density : Path
    mask, half1, half2 : Path, optional
        On the same grid.
    resolution_angstrom : float, optional
        Finer detail is not compared; by default from the half maps, or else from the map.
    pixel_size_angstrom : float, optional
        Replaces that of the headers.
    option_names : MapOptionNames
        For messages.
    """

    density: Path
    mask: Path | None = None
    half1: Path | None = None
    half2: Path | None = None
    resolution_angstrom: float | None = None
    pixel_size_angstrom: float | None = None
    option_names: MapOptionNames = MapOptionNames()

    def __post_init__(self) -> None:
        if (self.half1 is None) != (self.half2 is None):
            raise InputError(f"one half map alone says nothing of the resolution; give {self.resolution_remedy}")
        if self.resolution_angstrom is not None:
            require_within(self.option_names.resolution, self.resolution_angstrom, 0.5, 100)

    @property
    def resolution_remedy(self) -> str:
        """The options that tell the resolution."""
        names = self.option_names
        halves = "" if names.half_maps is None else f", or {names.half_maps[0]} and {names.half_maps[1]}"
        return f"{names.resolution}{halves}"

    def read(self, path: Path, what: str) -> DensityMap:
        """Read one of the maps; ``what`` is what messages call it."""
        return read_map(path, self.pixel_size_angstrom, what, self.option_names.pixel_size)


def place_and_write(
    model: Model,
    files: MapFiles,
    out: Path | None,
    bodies: str | None = None,
    hand: str = AUTO,
    symmetry: str | None = None,
    device: torch.device | str = "cpu",
    progress: ProgressCallback = lambda what, done: None,
) -> tuple[FitResult, list[str]]:
    """Place a model and write what came of it into a folder, if one is given.

    The files are ``placed.cif``, ``placement.json`` and ``placement.png``; ``mirrored.mrc`` where the map has the wrong
    hand, ``subunit.cif`` where it is symmetric.

    Returns
    -------
    found : FitResult
    lines : list of str
        What to tell the user.

    Raises
    ------
    InputError
        For input that cannot be used, and files that cannot be written.
    """
    refuse_unknown_hand(hand)
    began = time.monotonic()
    density = files.read(files.density, "map")
    resolution, known_from = _choose_resolution(density, files)
    masked = density if files.mask is None else _apply_mask(density, files)
    found = fit_in_map(model, masked, resolution, bodies, hand, symmetry, device, progress)
    facts = {"resolution_from": known_from, **found.placement.facts, "seconds": round(time.monotonic() - began, 1)}
    found = _marked_as_placed(replace(found, placement=replace(found.placement, facts=facts)))
    lines = list(_summary_lines(found, density, resolution, known_from))
    if out is None:
        return found, lines
    with new_folder(out):
        written = _write_outputs(found, density, out, resolution)
    return found, [*lines, f"written     {', '.join(map(str, written))}"]


def _marked_as_placed(found: FitResult) -> FitResult:
    """With models that say how they are placed, as their files do."""
    hand, symmetry = found.placement.hand, found.placement.symmetry
    return replace(
        found,
        placed=replace(found.placed, placed_as={"hand": hand, "symmetry": symmetry or "C1"}),
        subunit=replace(found.subunit, placed_as={"hand": hand}),
    )


def _choose_resolution(density: DensityMap, files: MapFiles) -> tuple[float, str]:
    """The resolution to compare at, and where it is from."""
    if files.resolution_angstrom is not None:
        return files.resolution_angstrom, "given"
    if files.half1 is not None and files.half2 is not None:
        halves = [
            _read_on_same_grid(density, path, option, files)
            for path, option in ((files.half1, "--half1"), (files.half2, "--half2"))
        ]
        masked = files.mask is not None
        region = (
            _read_on_same_grid(density, files.mask, "--mask", files).values
            if files.mask
            else soft_molecule_mask(density)
        )
        where = "within the mask " if masked else ""
        return resolution_from_half_maps(
            halves[0], halves[1], region
        ), f"where the half maps' FSC {where}falls below 0.143"
    estimate = resolution_from_noise(density)
    if estimate is None:
        raise InputError(
            f"the map is masked or filtered, so that no noise tells its resolution; give {files.resolution_remedy}"
        )
    return estimate, "estimated from the noise around the molecule"


def _read_on_same_grid(density: DensityMap, path: Path, option: str, files: MapFiles) -> DensityMap:
    other = files.read(path, option)
    if not same_grid(density, other):
        sizes = [" x ".join(map(str, one.values.shape[::-1])) for one in (other, density)]
        raise InputError(
            f"{option} {path}: {sizes[0]} voxels of {other.pixel_size_angstrom:g} Å; it must have the map's grid, "
            f"{sizes[1]} of {density.pixel_size_angstrom:g} Å"
        )
    return other


def _apply_mask(density: DensityMap, files: MapFiles) -> DensityMap:
    assert files.mask is not None
    weight = _read_on_same_grid(density, files.mask, "--mask", files).values
    if weight.min() < -0.01 or weight.max() > 1.01:
        raise InputError(
            f"--mask {files.mask}: values from {weight.min():g} to {weight.max():g}; a mask goes from 0 to 1"
        )
    solvent = np.median(density.values)
    return replace(density, values=(density.values - solvent) * weight)


def _write_outputs(found: FitResult, density: DensityMap, out: Path, resolution: float) -> list[Path]:
    placement, shown = found.placement, density
    written = [out / PLACED_FILE, out / PLACEMENT_FILE, out / "placement.png"]
    if placement.hand == MIRRORED:
        shown = density.mirrored()
        shown.write(out / MIRRORED_MAP_FILE)
        written.append(out / MIRRORED_MAP_FILE)
    bodies = {
        f"{body.selection}: {body.correlation:.3f}": molecule_of(
            found.placed, select_residues(found.placed, body.selection)
        )
        for body in placement.bodies
    }
    plot_placement(out / "placement.png", bodies, shown, resolution)
    name, where = found.subunit.structure.name, "the map's mirror image" if placement.hand == MIRRORED else "the map"
    details = f"{name}, placed in {where} by cocofold fit"
    if placement.symmetry is not None:
        write_model(out / SUBUNIT_FILE, found.subunit, details=details, placed_as=found.subunit.placed_as)
        written.append(out / SUBUNIT_FILE)
    write_model(out / PLACED_FILE, found.placed, details=details, placed_as=found.placed.placed_as)
    # Last, so that a placement is there only with all that belongs to it.
    placement.write(out / PLACEMENT_FILE)
    return written


def _summary_lines(found: FitResult, density: DensityMap, resolution: float, known_from: str) -> list[str]:
    placement, scores = found.placement, found.placement.hand_scores
    figures = [f"{name} {scores[name]:.3f}" for name in HANDS[1:] if scores[name] is not None]
    lines = [
        f"resolution  {resolution:.2f} Å, {known_from}",
        f"hand        {placement.hand} ({scores['verdict']}; correlation {', '.join(figures)})",
    ]
    for body in placement.bodies:
        other = "nothing else found" if body.runner_up is None else f"{body.runner_up:.3f} at the next best place"
        lines.append(f"placed      {body.selection}: correlation {body.correlation:.3f}; {other}")
    copies = placement.facts["equivalent_placements"]
    if placement.symmetry is not None:
        lines.append(f"symmetry    {placement.symmetry}{_symmetry_evidence(placement.facts, placement.symmetry)}")
    elif copies:
        lines.append(f"symmetry    the map looks the same at {copies} other places of the model (--symmetry)")
    lines.append(f"uncovered   {placement.facts['uncovered_share']:.0%} of the map's density")
    if density.has_origin:
        x, y, z = density.header_origin_angstrom
        lines.append(
            f"origin      the map's header puts it at ({x:g}, {y:g}, {z:g}) Å; as the particles' poses do, "
            f"{PLACED_FILE} "
            "does without: add it to see the model in the map with ChimeraX"
        )
    return lines + [f"warning     {line}" for line in found.warnings]


def _symmetry_evidence(facts: dict, group: str) -> str:
    """What speaks for a symmetry that was found, and for the best of those that were not chosen."""
    scores = facts.get("symmetry_scores")
    if not scores:
        return ""
    others = {name: score for name, score in scores.items() if score < scores.get(group, 1.0) and name != group}
    best = max(others, key=lambda name: others[name], default=None)
    next_best = "" if best is None else f"; next {best} {others[best]:.2f}"
    own = f"least correlation {scores[group]:.2f}" if group in scores else "no other looks the same"
    return f" (found: {own}{next_best})"


# Finer detail makes outlines ragged.
_FINEST_DRAWN_ANGSTROM = 8.0
# Share of a body's projected maximum at which its outline is drawn.
_OUTLINE_FRACTION = 0.15
# As many as there are colours.
_BODIES_IN_LEGEND = 10
# Panels: title, axis of the map's array (z, y, x) that is summed over, labels of the axes across and up
_SIDES = (("along z", 0, "x (Å)", "y (Å)"), ("along y", 1, "x (Å)", "z (Å)"), ("along x", 2, "y (Å)", "z (Å)"))


def plot_placement(
    path: str | os.PathLike[str], bodies: dict[str, RigidMolecule], density: DensityMap, resolution_angstrom: float
) -> None:
    """Write a PNG of the map's projections along z, y and x, and each body's outline in a colour of its own.

    Parameters
    ----------
    path
    bodies : dict of RigidMolecule
        Placed bodies by the label that the legend gives them.
    density : DensityMap
    resolution_angstrom : float
        At which both are drawn, or 8 Å where it is finer.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grid = TargetMap(density, resolution_angstrom, torch.device("cpu")).grid(
        max(_FINEST_DRAWN_ANGSTROM, resolution_angstrom)
    )
    extent = density.extent_angstrom
    models = [compute_model_density(body, grid).numpy() for body in bodies.values()]
    figure = Figure(figsize=(11, 4.1), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, squeeze=False)[0]
    for panel, (title, axis, across, up) in zip(panels, _SIDES):
        width, height = np.delete(extent, 2 - axis)
        sides = (0.0, float(width), 0.0, float(height))
        panel.imshow(grid.values.numpy().sum(axis), origin="lower", cmap="gray_r", extent=sides)
        for number, model in enumerate(models):
            seen = model.sum(axis)
            panel.contour(
                seen,
                [_OUTLINE_FRACTION * seen.max()],
                colors=f"C{number % _BODIES_IN_LEGEND}",
                linewidths=1.2,
                extent=sides,
                origin="lower",
            )
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(across)
        panel.set_ylabel(up)
    lines = [
        panels[0].plot([], [], color=f"C{number % _BODIES_IN_LEGEND}", label=label)[0]
        for number, label in enumerate(list(bodies)[:_BODIES_IN_LEGEND])
    ]
    figure.legend(handles=lines, loc="outside upper right", frameon=False, ncols=min(4, len(lines)), fontsize=9)
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
