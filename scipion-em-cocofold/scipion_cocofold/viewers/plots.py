"""Plots of what the engine found, drawn in Scipion's own windows from the engine's JSON files."""

from matplotlib.image import imread
from matplotlib.ticker import MaxNLocator
from pwem.viewers import EmPlotter

_AGREES, _WRONG, _UNDECIDED, _GREY = "#0072b2", "#d55e00", "0.35", "0.7"
_SCORES = "mean Fourier ring correlation, or correlation with the map (bars: two standard errors)"
_COLOUR_OF = {"agrees": _AGREES, "wrong": _WRONG}
# Standard errors to either side that error bars show: 95 % of a normal distribution
_ERRORS_SHOWN = 2.0
# Inches
_TITLE_HEIGHT = 0.4
# In each direction, so that rings beyond stand out
_RESOLUTIONS_SHOWN = (40, 20, 10, 8, 6, 5, 4, 3.5, 3, 2.5, 2)


def newPlot(title, xlabel, ylabel, size=None):
    """Return a window for a plot, and its axes."""
    plotter = EmPlotter(windowTitle=title, **({} if size is None else {"figsize": size}))
    return plotter, plotter.createSubPlot(title, xlabel, ylabel)


def picture(path, title):
    """Return a window that shows a PNG file."""
    image = imread(path)
    height, width = image.shape[:2]
    plotter, axes = newPlot(title, "", "", (10, 10 * height / width + _TITLE_HEIGHT))
    axes.imshow(image)
    axes.set_axis_off()
    return plotter


def checkPlot(found):
    """Return a window with the score of each alternative that a check compared, the particles' own in colour."""
    asked = [one for one in found["questions"] if one["alternatives"]]
    plotter, axes = newPlot("Check of inputs", _SCORES, "", (8, 8))
    row, ticks, names = 0, [], []
    for one in asked:
        for place, other in enumerate(one["alternatives"]):
            colour = _GREY if place else _COLOUR_OF.get(one["verdict"], _UNDECIDED)
            error = _ERRORS_SHOWN * (other["error"] or 0)
            axes.barh(row, other["score"], xerr=error, color=colour, height=0.8)
            ticks.append(row)
            names.append(f"{one['question']}: {other['name']}" if place == 0 else other["name"])
            row += 1
        row += 1
    axes.set_yticks(ticks, names, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.6)
    return plotter


def residuePlot(title, ylabel, rows, name, error=None):
    """Return a window with a value of each residue, by chain.

    Parameters
    ----------
    title, ylabel : str
    rows : list of dict
        With chain, number, and the value; rows without a value are left out.
    name : str
        Key of the value.
    error : str, optional
        Key of its standard error, shown as a band.
    """
    plotter, axes = newPlot(title, "residue", ylabel, (10, 5))
    for chain in dict.fromkeys(row["chain"] for row in rows):
        own = [row for row in rows if row["chain"] == chain and row[name] is not None]
        numbers, values = [row["number"] for row in own], [row[name] for row in own]
        (line,) = axes.plot(numbers, values, label=f"chain {chain}")
        if error is not None:
            spread = [_ERRORS_SHOWN * (row[error] or 0) for row in own]
            low, high = ([value + sign * by for value, by in zip(values, spread)] for sign in (-1, 1))
            axes.fill_between(numbers, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.legend()
    return plotter


def barPlot(title, xlabel, values):
    """Return a window with a bar for each named value, which is written beside it."""
    plotter, axes = newPlot(title, xlabel, "", (8, max(2.5, 0.5 * len(values) + 1.5)))
    bars = axes.barh(list(values), list(values.values()), color=_AGREES)
    axes.bar_label(bars, padding=3, fmt="%g")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    return plotter


def pairPlot(title, xlabel, before, after):
    """Return a window with pairs of bars: counts of a model before and after, by name."""
    plotter, axes = newPlot(title, xlabel, "", (8, 4))
    rows = range(len(before))
    for offset, values, label, colour in ((-0.2, before, "before", _GREY), (0.2, after, "after", _AGREES)):
        bars = axes.barh([row + offset for row in rows], list(values.values()), 0.38, color=colour, label=label)
        axes.bar_label(bars, padding=3)
    axes.set_yticks(list(rows), list(before))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.invert_yaxis()
    axes.legend()
    return plotter


def shellPlot(title, ylabel, shells, threshold):
    """Return a window with a value of each resolution shell, and a threshold.

    Parameters
    ----------
    title, ylabel : str
    shells : list of (float, float)
        Resolution (Å) and value.
    threshold : float
    """
    plotter, axes = newPlot(title, "", ylabel, (8, 5))
    axes.plot([1 / resolution for resolution, _ in shells], [value for _, value in shells], color=_AGREES)
    axes.axhline(threshold, color="grey", linewidth=0.8, linestyle="--")
    axes.axhline(0, color="grey", linewidth=0.5)
    showResolutions(axes, shells[-1][0])
    return plotter


def showResolutions(axes, finest):
    """Label an axis of spatial frequency (1/Å) by resolutions in Å, down to the finest one (Å)."""
    shown = [value for value in _RESOLUTIONS_SHOWN if value >= finest * 0.999]
    axes.set_xticks([1 / value for value in shown], [f"{value:g}" for value in shown])
    axes.set_xlabel("resolution (Å)")
