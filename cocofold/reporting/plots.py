"""The report's plots as plotly figures (https://plotly.com/javascript/reference/)."""

from __future__ import annotations

from html import escape
from typing import Any, Dict

import numpy as np

from cocofold.reporting.changes import Changes
from cocofold.reporting.orientations import density_on_mollweide, smoothing_deg
from cocofold.reporting.run_files import FinishedRun

Figure = Dict[str, Any]

_WORK, _HELDOUT, _GREY = "#0072b2", "#d55e00", "#8a8f98"
_MOST_DIRECTIONS = 100_000
_LEAST_FULL_SCALE = 2.0
_COLUMNS = 200


def correlation_plot(run: FinishedRun) -> Figure:
    """Ring correlation of fitted and held-out images before and after, against resolution."""
    curves = run.metrics["frc_curves"]
    resolution = curves["resolution_angstrom"]
    frequency = [1 / one for one in resolution]
    traces = []
    for kind, colour in (("work", _WORK), ("held-out", _HELDOUT)):
        for when, dash in (("start", "dot"), ("end", "solid")):
            name = f"{kind}, {when}"
            if name in curves:
                label = f"{'fitted' if kind == 'work' else 'held-out'}, {'start' if when == 'start' else 'result'}"
                traces.append(
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
                )
    ticks = np.linspace(0, frequency[-1], 7)[1:]
    axis = {
        "title": {"text": "resolution (Å)"},
        "tickvals": ticks.tolist(),
        "ticktext": [f"{1 / tick:.1f}" for tick in ticks],
        "range": [0, frequency[-1]],
    }
    return _figure(traces, xaxis=axis, yaxis={"title": {"text": "Fourier ring correlation"}, "rangemode": "tozero"})


def cycles_plot(run: FinishedRun) -> Figure:
    """Mean ring correlation at the end of each cycle, and how far CA atoms had moved; the answer is marked."""
    cycles = run.cycles
    names = [f"{int(row['number'])}: {escape(str(row['stage']), quote=False)}" for row in cycles]
    traces = [
        _line("fitted", names, [row["frc_work"] for row in cycles], _WORK, "lines+markers"),
        _line("held-out", names, [row["frc_heldout"] for row in cycles], _HELDOUT, "lines+markers"),
        _line("moved", names, [row["moved_angstrom"] for row in cycles], _GREY, "lines+markers", axis="y2"),
    ]
    traces = [trace for trace in traces if any(value is not None for value in trace["y"])]
    best = [] if run.answer_row is None else [run.answer_row]
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


def displacement_plots(run: FinishedRun, changed: Changes) -> list[tuple[str, Figure]]:
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
            _line("in place", numbers, _rounded(changed.in_place[rows]), _WORK, "lines", text=names),
            _line("superposed", numbers, _rounded(changed.superposed[rows]), _GREY, "lines", text=names),
        ]
        if run.plddt is not None:
            plddt = _rounded(run.plddt[rows])
            traces.append(_line("pLDDT", numbers, plddt, "#cc79a7", "lines", text=names, axis="y2", unit=""))
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


def orientation_plot(directions: np.ndarray) -> Figure:
    """Density of views on a Mollweide map; at most 100,000 of them, evenly taken."""
    taken = directions[:: 1 + len(directions) // _MOST_DIRECTIONS]
    x, y, density = density_on_mollweide(taken, smoothing_deg(len(taken)), _COLUMNS)
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


def _graticule() -> list[Figure]:
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
    mode: str,
    text: list[str] | None = None,
    axis: str = "y",
    unit: str = " Å",
) -> Figure:
    digits = ".2f" if text is not None or axis == "y2" else ".4f"
    where = "%{text}" if text is not None else "%{x}"
    suffix = unit if text is not None or axis == "y2" else ""
    trace: Figure = {
        "type": "scatter", "mode": mode, "name": name, "x": x, "y": y, "yaxis": axis,
        "line": {"color": colour, "width": 1.8},
        "hovertemplate": f"{where}: %{{y:{digits}}}{suffix}<extra>{name}</extra>",
    }  # fmt: skip
    return trace if text is None else {**trace, "text": text}


def _rounded(values: Any, digits: int = 2) -> list[float | None]:
    return [None if not np.isfinite(value) else round(float(value), digits) for value in values]


def _figure(traces: list[Figure], height: int = 380, **layout: Any) -> Figure:
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
