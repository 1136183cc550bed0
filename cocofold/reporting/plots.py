"""The report's plots as plotly figures (https://plotly.com/javascript/reference/), and how evenly views lie."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any, Dict

import numpy as np
from scipy.spatial import cKDTree

from cocofold.reporting.run_contents import FinishedRun, ModelChanges

PlotlyFigure = Dict[str, Any]

_WORK_COLOUR, _HELDOUT_COLOUR, _PLDDT_COLOUR, _GREY = "#0072b2", "#d55e00", "#cc79a7", "#8a8f98"
_AXIS_COLOUR = "#e69f00"
# The map of views needs no more directions than this to look the same.
_MOST_DIRECTIONS = 100_000
# The colours of the map of views reach at least twice the even density, so that noise does not look like preference.
_LEAST_FULL_SCALE = 2.0
_MAP_COLUMNS = 200  # pixels across the map of views: more take longer to compute
# Resolutions (Å) for ticks, and the share of an axis that ticks are apart at least
_ROUND_RESOLUTIONS = (50, 20, 10, 8, 6, 5, 4, 3.5, 3, 2.5, 2.2, 2, 1.8, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1)
_LEAST_TICK_DISTANCE = 0.06
# Curves of metrics.json by name: label, colour and dash of the line
_CORRELATION_CURVES = (
    ("work, start", "fitted, start", _WORK_COLOUR, "dot"),
    ("work, end", "fitted, result", _WORK_COLOUR, "solid"),
    ("held-out, start", "held-out, start", _HELDOUT_COLOUR, "dot"),
    ("held-out, end", "held-out, result", _HELDOUT_COLOUR, "solid"),
)


def correlation_plot(run: FinishedRun) -> PlotlyFigure:
    """Ring correlation of fitted and held-out images before and after, against resolution."""
    curves = run.metrics["frc_curves"]
    resolution = curves["resolution_angstrom"]
    frequency = [1 / one for one in resolution]
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": label,
            "x": frequency,
            "y": curves[name],
            "customdata": resolution,
            "hovertemplate": "%{customdata:.1f} Å: %{y:.3f}<extra>" + label + "</extra>",
            "line": {"color": colour, "dash": dash, "width": 2},
        }
        for name, label, colour, dash in _CORRELATION_CURVES
        if name in curves
    ]
    ticks = round_resolutions(resolution[-1])
    axis = {
        "title": {"text": "resolution (Å)"},
        "tickvals": [1 / tick for tick in ticks],
        "ticktext": [f"{tick:g}" for tick in ticks],
        "range": [0, frequency[-1]],
    }
    return _figure(traces, xaxis=axis, yaxis={"title": {"text": "Fourier ring correlation"}, "rangemode": "tozero"})


def round_resolutions(finest: float) -> list[float]:
    """Round resolutions (Å), coarse to fine, that are apart on an axis of frequency that ends at the finest."""
    chosen: list[float] = []
    for one in _ROUND_RESOLUTIONS:
        last = 1 / chosen[-1] if chosen else 0.0
        if one >= finest and (1 / one - last) * finest >= _LEAST_TICK_DISTANCE:
            chosen.append(one)
    return chosen


def cycles_plot(run: FinishedRun) -> PlotlyFigure:
    """Mean ring correlation at the end of each cycle, and how far CA atoms had moved; the answer is marked."""
    cycles = run.cycles
    names = [f"{int(row['number'])}: {escape(str(row['stage']), quote=False)}" for row in cycles]
    traces = [
        _line("fitted", names, [row["frc_work"] for row in cycles], _WORK_COLOUR, "{y:.4f}", markers=True),
        _line("held-out", names, [row["frc_heldout"] for row in cycles], _HELDOUT_COLOUR, "{y:.4f}", markers=True),
        _line("moved", names, [row["moved_angstrom"] for row in cycles], _GREY, "{y:.2f} Å", markers=True, axis="y2"),
    ]
    traces = [trace for trace in traces if any(value is not None for value in trace["y"])]
    best = [] if run.result_cycle_row is None else [run.result_cycle_row]
    marks = [
        {"type": "line", "xref": "x", "yref": "paper", "x0": place, "x1": place, "y0": 0, "y1": 1,
         "line": {"color": "#444", "width": 1, "dash": "dash"}}
        for place in best
    ]  # fmt: skip
    notes = [
        {"x": place, "xref": "x", "y": 0.37, "yref": "paper", "yanchor": "middle", "text": "the answer",
         "showarrow": False, "xanchor": "left" if place < len(cycles) / 2 else "right", "font": {"size": 12}}
        for place in best
    ]  # fmt: skip
    return _figure(
        traces,
        xaxis={"title": {"text": "cycle: stage"}, "type": "category", "anchor": "y2"},
        yaxis={"title": {"text": "mean ring correlation"}, "domain": [0.42, 1]},
        yaxis2={"title": {"text": "moved (Å)"}, "domain": [0, 0.32], "rangemode": "tozero"},
        shapes=marks,
        annotations=notes,
        height=440,
    )


def displacement_plots(run: FinishedRun, changed: ModelChanges) -> list[tuple[str, PlotlyFigure]]:
    """For each chain with CA atoms its name and the displacement of each residue along it."""
    residues = run.answer.residues
    known = np.isfinite(changed.in_place)
    highest = 1.05 * max(1.0, float(np.nanmax(changed.in_place)))
    plots = []
    for chain in dict.fromkeys(key.chain for key, has in zip(residues, known) if has):
        rows = [row for row, key in enumerate(residues) if key.chain == chain and known[row]]
        names = [escape(f"{residues[row].name} {residues[row].number}{residues[row].insertion_code}") for row in rows]
        numbers = [residues[row].number for row in rows]
        traces = [
            _line("in place", numbers, _rounded(changed.in_place[rows]), _WORK_COLOUR, "{y:.2f} Å", text=names),
            _line("superposed", numbers, _rounded(changed.superposed[rows]), _GREY, "{y:.2f} Å", text=names),
        ]
        if run.errors_angstrom is not None:
            errors = _rounded(run.errors_angstrom[rows])
            traces.append(_line("error", numbers, errors, _HELDOUT_COLOUR, "± {y:.2f} Å", text=names))
        if run.longest_axes_angstrom is not None:
            axes = _rounded(run.longest_axes_angstrom[rows])
            traces.append(_line("along the longest axis", numbers, axes, _AXIS_COLOUR, "± {y:.2f} Å", text=names))
        if run.plddt is not None:
            plddt = _rounded(run.plddt[rows])
            traces.append(_line("pLDDT", numbers, plddt, _PLDDT_COLOUR, "{y:.2f}", text=names, axis="y2"))
        figure = _figure(
            traces,
            xaxis={"title": {"text": "residue"}},
            yaxis={"title": {"text": "CA moved (Å)"}, "range": [0, highest]},
            height=230,
        )
        if run.plddt is not None:
            figure["layout"]["yaxis2"] = {
                **figure["layout"]["yaxis"], "overlaying": "y", "side": "right", "range": [0, 100],
                "title": {"text": "pLDDT"}, "showgrid": False, "tickvals": [0, 50, 70, 90],
            }  # fmt: skip
        plots.append((chain, figure))
    return plots


def orientation_plot(directions: np.ndarray) -> PlotlyFigure:
    """Density of views on a Mollweide map; at most 100,000 of them, evenly taken."""
    taken = directions[:: 1 + len(directions) // _MOST_DIRECTIONS]
    x, y, density = density_on_mollweide(taken, smoothing_deg(len(taken)), _MAP_COLUMNS)
    angle = np.linspace(0, 2 * np.pi, 121)
    values = [[None if np.isnan(one) else round(float(one), 3) for one in row] for row in density]
    hidden = {"visible": False, "showgrid": False, "zeroline": False}
    most = round(max(_LEAST_FULL_SCALE, float(np.nanmax(density))), 2)
    colour_bar = {"title": {"text": "views<br>relative<br>to even"}, "thickness": 14, "outlinewidth": 0}
    traces = [
        {"type": "heatmap", "x": _rounded(x, 4), "y": _rounded(y, 4), "z": values, "colorscale": "Viridis",
         "zmin": 0, "zmax": most, "zsmooth": "best", "hoverongaps": False, "colorbar": colour_bar,
         "hovertemplate": "%{z:.2f} of even<extra></extra>"},
        {"type": "scatter", "mode": "lines", "x": _rounded(2 * np.cos(angle), 4), "y": _rounded(np.sin(angle), 4),
         "line": {"color": "#555", "width": 1}, "hoverinfo": "skip", "showlegend": False},
        *_graticule(),
    ]  # fmt: skip
    return _figure(traces, xaxis=hidden, yaxis={**hidden, "scaleanchor": "x"}, height=340)


def certainty_plot(run: FinishedRun) -> PlotlyFigure:
    """How many particles show their state with which probability."""
    found = run.metrics["certainty"]
    names = [f"{100 * start:.0f}–{100 * start + 10:.0f} %" for start in found["from"]]
    bars: PlotlyFigure = {
        "type": "bar", "x": names, "y": found["particles"], "marker": {"color": "#0072b2"},
        "hovertemplate": "%{x}: %{y} particles<extra></extra>",
    }  # fmt: skip
    axes = {"xaxis": {"title": "probability of its state"}, "yaxis": {"title": "particles"}}
    return _figure([bars], 260, **axes)


def _graticule() -> list[PlotlyFigure]:
    """Meridians and parallels every 60 and 30 degrees."""
    lines: list[tuple[Any, Any]] = []
    for latitude in np.deg2rad([-60, -30, 0, 30, 60]):
        theta = _mollweide_theta(latitude)
        lines.append(([-2 * np.cos(theta), 2 * np.cos(theta)], [np.sin(theta)] * 2))
    along = np.linspace(-np.pi / 2, np.pi / 2, 61)
    lines += [(2 * share * np.cos(along), np.sin(along)) for share in (-2 / 3, -1 / 3, 0, 1 / 3, 2 / 3)]
    style = {"color": "rgba(255,255,255,0.28)", "width": 0.7}
    return [
        {"type": "scatter", "mode": "lines", "x": _rounded(x, 4), "y": _rounded(y, 4), "line": style,
         "hoverinfo": "skip", "showlegend": False}
        for x, y in lines
    ]  # fmt: skip


def _mollweide_theta(latitude: float) -> float:
    """The auxiliary angle with ``2 theta + sin 2 theta = pi sin latitude``."""
    grid = np.linspace(-np.pi / 2, np.pi / 2, 2001)
    return float(np.interp(np.pi * np.sin(latitude), 2 * grid + np.sin(2 * grid), grid))


def _line(
    name: str,
    x: list[Any],
    y: list[Any],
    colour: str,
    value: str,
    text: list[str] | None = None,
    axis: str = "y",
    markers: bool = False,
) -> PlotlyFigure:
    """A curve; ``value`` is how plotly shows y under the pointer, ``text`` what it shows there in place of x."""
    where = "%{text}" if text is not None else "%{x}"
    trace: PlotlyFigure = {
        "type": "scatter", "mode": "lines+markers" if markers else "lines", "name": name, "x": x, "y": y, "yaxis": axis,
        "line": {"color": colour, "width": 1.8},
        "hovertemplate": f"{where}: %{value}<extra>{name}</extra>",
    }  # fmt: skip
    return trace if text is None else {**trace, "text": text}


def _rounded(values: Any, digits: int = 2) -> list[float | None]:
    return [None if not np.isfinite(value) else round(float(value), digits) for value in values]


def _figure(traces: list[PlotlyFigure], height: int = 380, **layout: Any) -> PlotlyFigure:
    axes = {"gridcolor": "#e8eaee", "zerolinecolor": "#c8ccd2", "automargin": True}
    for name in list(layout):
        if "axis" in name:
            layout[name] = {**axes, **layout[name]}
    return {
        "data": traces,
        "layout": {
            "height": height,
            "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 13, "color": "#1d2530"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#b3bac4", "activecolor": "#0072b2"},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            **layout,
        },
    }


# Shell on which sampling is measured. A larger radius narrows the slice that a view samples, so that more views are
# needed; values are comparable only at one radius, which the page states.
_SHELL_RADIUS_PIXELS = 50
_SHELL_POINTS = 6000  # evenly distributed, about 2.6° apart
# Bounds the time to seconds; the factor of so many views hardly depends on which were drawn.
_MOST_VIEWS = 20_000
# Each pixel of the map of views counts about this many of an even distribution, so that its noise is about a third; the
# limits keep the map readable with very many and very few views.
_VIEWS_SMOOTHED_OVER = 12
_LEAST_SMOOTHING_DEG, _MOST_SMOOTHING_DEG = 5.0, 25.0
# Bounds memory; results do not depend on it.
_VIEWS_AT_ONCE = 500


@dataclass(frozen=True)
class ViewSampling:
    """How evenly views sample a shell of Fourier space.

    Attributes
    ----------
    scf : float
        Sampling compensation factor SCF*, 0 to 1.
    scf_of_random_views : float
        SCF* of as many views drawn evenly over the sphere: what few particles reach at most.
    unsampled_fraction : float
        Share of the shell that no view samples.
    views : int
        Number of views that were used.
    shell_radius_pixels : int
        Radius of the shell in Fourier pixels.
    """

    scf: float
    scf_of_random_views: float
    unsampled_fraction: float
    views: int
    shell_radius_pixels: int


def even_directions(count: int) -> np.ndarray:
    """Directions spread evenly over the sphere (a Fibonacci spiral), (count, 3)."""
    turn = np.arange(count) * np.pi * (3 - np.sqrt(5))
    height = 1 - (2 * np.arange(count) + 1) / count
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), height], axis=1)


def shell_sampling(directions: np.ndarray, radius: int = _SHELL_RADIUS_PIXELS) -> np.ndarray:
    """How many views sample each of 6,000 points of a Fourier shell, (6000,) int.

    A view samples what lies within half a Fourier pixel of its central slice: ``|p · d| < 1 / (2 radius)``.
    """
    points = even_directions(_SHELL_POINTS)
    counts = np.zeros(len(points), dtype=int)
    for first in range(0, len(directions), _VIEWS_AT_ONCE):
        counts += (np.abs(points @ directions[first : first + _VIEWS_AT_ONCE].T) < 0.5 / radius).sum(1)
    return counts


def compensation_factor(counts: np.ndarray) -> float:
    """Sampling compensation factor of a shell: ``1 / (mean of S · mean of 1/S)``, 1 for even sampling.

    Baldwin and Lyumkis (2020), doi:10.1016/j.pbiomolbio.2019.09.002. As in their program (2021,
    doi:10.1016/j.pbiomolbio.2020.06.003: SCF*), the factor of the sampled points is lowered for the share that no view
    samples: ``SCF* = SCF / (1 + q/(1 - q) · mean of S · SCF / 2)``.
    """
    sampled = counts[counts > 0]
    if len(sampled) == 0:
        return 0.0
    share = 1 - len(sampled) / len(counts)
    factor = 1 / (counts.mean() * (1 / sampled).mean())
    return float(factor / (1 + share / (1 - share) * counts.mean() * factor / 2))


def measure_view_sampling(directions: np.ndarray, symmetry: np.ndarray | None = None, seed: int = 0) -> ViewSampling:
    """How evenly views sample Fourier space.

    Parameters
    ----------
    directions : (n, 3) float
        If there are more than 20,000, copies by symmetry included, that many are drawn from them.
    symmetry : (m, 3, 3) float, optional
        Rotations of a point group: each view counts from all directions that are alike.
    seed : int
        Seed of the drawing.
    """
    random = np.random.default_rng(seed)
    turns = np.eye(3)[None] if symmetry is None else symmetry
    most = _MOST_VIEWS // len(turns)
    if len(directions) > most:
        directions = directions[random.choice(len(directions), most, replace=False)]
    even = random.normal(size=(len(directions), 3))
    even /= np.linalg.norm(even, axis=1, keepdims=True)
    counts = shell_sampling(_symmetry_related(directions, turns))
    return ViewSampling(
        scf=compensation_factor(counts),
        scf_of_random_views=compensation_factor(shell_sampling(_symmetry_related(even, turns))),
        unsampled_fraction=float((counts == 0).mean()),
        views=len(directions),
        shell_radius_pixels=_SHELL_RADIUS_PIXELS,
    )


def _symmetry_related(directions: np.ndarray, turns: np.ndarray) -> np.ndarray:
    return np.einsum("mij,nj->mni", turns, directions).reshape(-1, 3)


def smoothing_deg(count: int) -> float:
    """Radius of a cap in which an even distribution of so many views has 12 of them; from 5° to 25°."""
    cosine = np.clip(1 - 2 * _VIEWS_SMOOTHED_OVER / max(count, 1), -1, 1)
    return float(np.clip(np.rad2deg(np.arccos(cosine)), _LEAST_SMOOTHING_DEG, _MOST_SMOOTHING_DEG))


def density_on_mollweide(
    directions: np.ndarray, radius_deg: float, columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Density of views on a Mollweide map of the sphere, relative to an even distribution.

    Parameters
    ----------
    directions : (n, 3) float
    radius_deg : float
        Radius of the cap around each pixel in which views are counted.
    columns : int

    Returns
    -------
    x, y : (columns,), (columns // 2,) float
        Centres of the map's pixels: from -2 to 2 and -1 to 1.
    density : (columns // 2, columns) float
        Views within the cap over as many as an even distribution has there; NaN outside the map.
    """
    rows = columns // 2
    x = (np.arange(columns) + 0.5) * 4 / columns - 2
    y = (np.arange(rows) + 0.5) * 2 / rows - 1
    theta = np.arcsin(y)[:, None]
    longitude = np.pi * x[None] / (2 * np.cos(theta))
    latitude = np.arcsin((2 * theta + np.sin(2 * theta)) / np.pi)
    inside = np.abs(longitude) <= np.pi
    pixels = np.stack(
        [
            np.cos(latitude) * np.cos(longitude),
            np.cos(latitude) * np.sin(longitude),
            np.broadcast_to(np.sin(latitude), inside.shape),
        ],
        axis=-1,
    )[inside]
    reach = 2 * np.sin(np.deg2rad(radius_deg) / 2)
    found = cKDTree(directions).query_ball_point(pixels, reach, return_length=True)
    expected = len(directions) * (1 - np.cos(np.deg2rad(radius_deg))) / 2
    density = np.full(inside.shape, np.nan)
    density[inside] = found / expected
    return x, y, density
