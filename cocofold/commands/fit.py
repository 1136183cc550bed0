"""``cocofold fit``: place a model in a map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from cocofold.errors import InputError, require_within

if TYPE_CHECKING:
    from cocofold.placement import DensityMap, Fit

_HANDS = ("auto", "as-is", "mirrored")


def fit(
    model: Path = typer.Option(..., help="Model to place, from anywhere: mmCIF or PDB."),
    map_file: Path = typer.Option(..., "--map", help="Map of the particles: MRC or CCP4, may be gzip-compressed."),
    out: Path = typer.Option(..., help="Folder for placed.cif and placement.json, made anew."),
    bodies: Optional[str] = typer.Option(
        None,
        help='Parts that are placed one after the other after the whole: "A,B;C" or "A:1-120;A:121-214,B"; auto: each '
        "chain. Ligands and nucleic acids that are not named follow the nearest body.",
    ),
    mask: Optional[Path] = typer.Option(None, help="Map of 0 to 1 on the same grid: where the model may be."),
    half1: Optional[Path] = typer.Option(None, help="First half map; with --half2 it tells the resolution."),
    half2: Optional[Path] = typer.Option(None, help="Second half map."),
    resolution: Optional[float] = typer.Option(
        None, help="Of the map, Å: finer detail is not compared. By default from half maps, or else from the map."
    ),
    pixel_size: Optional[float] = typer.Option(None, help="Å; in place of that in the headers."),
    hand: str = typer.Option(
        "auto", help="auto: compare the map with its mirror image. as-is, mirrored: take the one or the other."
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
) -> None:
    """Place a model in a map.

    The whole model is sought in all orientations and positions, whatever its start, in the map and in its mirror
    image. Writes placed.cif in the frame of the map's box (voxel (0, 0, 0) at 0 Å), placement.json, placement.png, and
    mirrored.mrc where the map has the wrong hand.
    """
    if hand not in _HANDS:
        raise InputError(f"--hand {hand}: give {', '.join(_HANDS[:-1])} or {_HANDS[-1]}")
    if (half1 is None) != (half2 is None):
        raise InputError("one half map alone says nothing of the resolution; give --half1 and --half2, or --resolution")
    if resolution is not None:
        require_within("--resolution", resolution, 0.5, 100)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is {'a folder with files' if out.is_dir() else 'a file'}; give another folder")
    import torch

    from cocofold.finetuning.inputs import find_device
    from cocofold.placement import fit as place
    from cocofold.placement import read_map
    from cocofold.placement.progress import shown
    from cocofold.structure import read_model

    chosen_device = find_device(device)
    torch.set_num_threads(max(1, min(torch.get_num_threads(), 4)))
    read = read_model(model)
    density = read_map(map_file, pixel_size)
    used, source = _resolution(density, mask, half1, half2, resolution, pixel_size)
    masked = density if mask is None else _masked(density, mask, pixel_size)
    with shown() as tell:
        found = place(read, masked, used, bodies, hand, chosen_device, tell)
    _write(found, density, out, used, source)
    _print(found, density, out, used, source)


def _resolution(
    density: DensityMap,
    mask: Path | None,
    half1: Path | None,
    half2: Path | None,
    given: float | None,
    pixel_size: float | None,
) -> tuple[float, str]:
    """The resolution to compare at, and where it is from."""
    from cocofold.placement.resolution import resolution_of_halves, resolution_of_map, soft_region

    if given is not None:
        return given, "given"
    if half1 is not None and half2 is not None:
        halves = [
            _same_as(density, path, option, pixel_size) for path, option in ((half1, "--half1"), (half2, "--half2"))
        ]
        region = soft_region(density) if mask is None else _same_as(density, mask, "--mask", pixel_size).values
        return resolution_of_halves(halves[0], halves[1], region), "where the half maps' FSC falls below 0.143"
    estimate = resolution_of_map(density)
    if estimate is None:
        raise InputError(
            "the map is masked or filtered, so that no noise tells its resolution; give --resolution, or --half1 and "
            "--half2"
        )
    return estimate, "estimated from the noise around the molecule"


def _same_as(density: DensityMap, path: Path, option: str, pixel_size: float | None) -> DensityMap:
    from cocofold.placement import read_map, same_grid

    other = read_map(path, pixel_size, option)
    if not same_grid(density, other):
        sizes = [" x ".join(map(str, one.values.shape[::-1])) for one in (other, density)]
        raise InputError(
            f"{option} {path}: {sizes[0]} voxels of {other.pixel_size_angstrom:g} Å; it must have the map's grid, "
            f"{sizes[1]} of {density.pixel_size_angstrom:g} Å"
        )
    return other


def _masked(density: DensityMap, path: Path, pixel_size: float | None) -> DensityMap:
    from dataclasses import replace

    import numpy as np

    weight = _same_as(density, path, "--mask", pixel_size).values
    if weight.min() < -0.01 or weight.max() > 1.01:
        raise InputError(f"--mask {path}: values from {weight.min():g} to {weight.max():g}; a mask goes from 0 to 1")
    solvent = np.median(density.values)
    return replace(density, values=(density.values - solvent) * weight)


def _write(found: Fit, density: DensityMap, out: Path, resolution: float, source: str) -> None:
    from dataclasses import replace

    from cocofold.placement.picture import draw_placement
    from cocofold.structure import write_model

    try:
        out.mkdir(parents=True, exist_ok=True)
        shown = density
        if found.placement.hand == "mirrored":
            shown = density.mirrored()
            shown.write(out / "mirrored.mrc")
        placement = replace(found.placement, facts={"resolution_from": source, **found.placement.facts})
        draw_placement(out / "placement.png", placement, found.placed, shown, resolution)
        name = found.placed.structure.name
        where = "the map's mirror image" if found.placement.hand == "mirrored" else "the map"
        write_model(out / "placed.cif", found.placed, details=f"{name}, placed in {where} by cocofold fit")
        # Last, so that a placement is there only with all that belongs to it.
        placement.write(out / "placement.json")
    except OSError as error:
        raise InputError(
            f"{error.filename or out}: cannot be written ({error.strerror}); give another folder"
        ) from error


def _print(found: Fit, density: DensityMap, out: Path, resolution: float, source: str) -> None:
    placement, scores = found.placement, found.placement.hand_scores
    typer.echo(f"resolution  {resolution:.2f} Å, {source}")
    figures = [f"{name} {scores[name]:.3f}" for name in ("as-is", "mirrored") if scores[name] is not None]
    typer.echo(f"hand        {placement.hand} ({scores['verdict']}; correlation {', '.join(figures)})")
    for body in placement.bodies:
        other = "nothing else found" if body.runner_up is None else f"{body.runner_up:.3f} at the next best place"
        typer.echo(f"placed      {body.selection}: correlation {body.correlation:.3f}; {other}")
    copies = placement.facts["equivalent_placements"]
    if copies:
        typer.echo(f"symmetry    the map looks the same at {copies} other places of the model")
    typer.echo(f"uncovered   {placement.facts['uncovered_share']:.0%} of the map's density")
    if density.has_origin:
        x, y, z = density.header_origin_angstrom
        typer.echo(
            f"origin      the map's header puts it at ({x:g}, {y:g}, {z:g}) Å; as the particles' poses do, placed.cif "
            "does without: add it to see the model in the map with ChimeraX"
        )
    for line in found.warnings:
        typer.echo(f"warning     {line}")
    written = ["placed.cif", "placement.json", "placement.png"] + ["mirrored.mrc"] * (placement.hand == "mirrored")
    typer.echo(f"written     {', '.join(str(out / name) for name in written)}")
