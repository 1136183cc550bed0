"""A picture of a placement: the map from three sides with the outline of the model."""

from __future__ import annotations

import os

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cocofold.files import appearing_whole
from cocofold.placement.maps import DensityMap
from cocofold.placement.placement import Placement
from cocofold.placement.selections import select
from cocofold.placement.target import Atoms, Target, draw
from cocofold.structure import Model

_COARSEST_ANGSTROM = 8.0
_OUTLINE = 0.15
_SIDES = (("along z", 0, "x (Å)", "y (Å)"), ("along y", 1, "x (Å)", "z (Å)"), ("along x", 2, "y (Å)", "z (Å)"))


def draw_placement(
    path: str | os.PathLike[str], placement: Placement, placed: Model, density: DensityMap, resolution_angstrom: float
) -> None:
    """Write a PNG of the map's projections along z, y and x, and each body's outline in a colour of its own."""
    grid = Target(density, resolution_angstrom, torch.device("cpu")).grid(max(_COARSEST_ANGSTROM, resolution_angstrom))
    extent = density.extent_angstrom
    bodies = [Atoms.of(placed, select(placed, body.selection)) for body in placement.bodies]
    models = [draw(body, grid).numpy() for body in bodies]
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
                seen, [_OUTLINE * seen.max()], colors=f"C{number % 10}", linewidths=1.2, extent=sides, origin="lower"
            )
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(across)
        panel.set_ylabel(up)
    lines = [
        panels[0].plot([], [], color=f"C{number % 10}", label=f"{body.selection}: {body.correlation:.3f}")[0]
        for number, body in enumerate(placement.bodies[:10])
    ]
    figure.legend(handles=lines, loc="outside upper right", frameon=False, ncols=min(4, len(lines)), fontsize=9)
    with appearing_whole(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
