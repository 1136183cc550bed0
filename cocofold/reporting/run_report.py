"""A report of a finished run: ``report.html`` and ``isolde/`` in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from cocofold import __version__
from cocofold.particles.poses import view_directions
from cocofold.reporting.example_images import (
    LOW_PASS_ANGSTROM,
    ExampleParticle,
    example_particles,
    read_run_particles,
    state_rows,
)
from cocofold.reporting.plots import (
    PlotlyFigure,
    ViewSampling,
    certainty_plot,
    correlation_plot,
    cycles_plot,
    displacement_plots,
    measure_view_sampling,
    orientation_plot,
    smoothing_deg,
)
from cocofold.reporting.report_text import (
    citations,
    describe_verdict,
    geometry_rows,
    methods_paragraph,
    placement_lines,
    rounded_text,
    settings_rows,
)
from cocofold.reporting.run_contents import (
    FinishedRun,
    ModelChanges,
    compare_with_start,
    find_run_map,
    read_density,
    read_run,
)
from cocofold.reporting.viewer_files import (
    ISOLDE_SCRIPT,
    MOTION_SCRIPT,
    ViewerFrame,
    isolde_script,
    motion_files,
    viewer_density,
    viewer_model,
    write_isolde_models,
)
from cocofold.structure.geometry import point_group_rotations, root_mean_square
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.system.atomic_files import refuse_unwritable, write_atomically
from cocofold.system.errors import InputError, refuse_damaged


@dataclass(frozen=True)
class WrittenReport:
    """What was written; ``missing`` says why sections that show particles are empty, if they are."""

    page: Path
    script: Path
    missing: str | None


def write_report(
    path: Path,
    map_file: Path | None = None,
    particles: Path | None = None,
    particles_dir: Path | None = None,
    frame: ViewerFrame | None = None,
    title: str | None = None,
    relaxed: Path | None = None,
) -> WrittenReport:
    """Write ``report.html``, ``isolde/open_in_isolde.cxc`` and ``motions/`` into the folder of a finished run.

    Parameters
    ----------
    path : Path
        The run's folder.
    map_file : Path, optional
        The reconstruction, to be contoured and for ISOLDE to fit into; by default the map in which the run placed its
        model, if there is one.
    particles, particles_dir : Path, optional
        Where the particles and their stacks are now, if not where they were.
    frame : ViewerFrame, optional
        Frame in which ISOLDE shows map and models; the page shows them in the box's.
    title : str, optional
        Of the page; by default the name of the run's folder.
    relaxed : Path, optional
        The model that ``cocofold relax`` made of the answer, for the table of geometry.

    Raises
    ------
    InputError
        If the run is not finished or cannot be read, and for files that were given and cannot be used.
    """
    run = read_run(path)
    map_file, frame = map_file or find_run_map(run), frame or ViewerFrame()
    commands = isolde_script(run, map_file, frame)
    changed = compare_with_start(run.start, run.answer)
    seen = collect_particle_views(run, particles, particles_dir)
    relaxed_model = None if relaxed is None else read_model(relaxed)
    # What of the figures in it is shown is many and nested; the page is where one of another kind is noticed.
    with refuse_damaged(
        f"{path}: metrics.json, check.json or placement.json", "run it anew, or undo what changed them"
    ):
        text = render_page(run, changed, seen, map_file, frame.map_in_box, title=title, relaxed=relaxed_model)
        motions = motion_files(run)
    page, script = path / "report.html", path / ISOLDE_SCRIPT
    with refuse_unwritable(page, "make room, or make the folder writable"):
        script.parent.mkdir(exist_ok=True)
        write_isolde_models(run, frame)
        write_atomically(script, commands)
        for name, content in motions.items():
            (path / MOTION_SCRIPT).parent.mkdir(exist_ok=True)
            write_atomically(path / MOTION_SCRIPT.parent / name, content)
        write_atomically(page, text)
    return WrittenReport(page, script, seen.missing)


# build/3Dmol-min.js of npm's 3dmol, as published; py3Dmol does not contain it.
_VIEWER_VERSION = "2.5.5"
# Colours of the displacement reach to this share of the residues, so that a loose end does not make the rest look
# still, and at least to 1 Å, so that round-off does not look like motion.
_COLOUR_SCALE_QUANTILE = 0.98
_LEAST_COLOUR_SCALE_ANGSTROM = 1.0


@dataclass(frozen=True)
class ParticleViews:
    """What of a report needs the particles; ``missing`` says why they could not be read."""

    examples: list[ExampleParticle]
    directions: np.ndarray | None
    missing: str | None


def collect_particle_views(run: FinishedRun, elsewhere: Path | None, folder: Path | None) -> ParticleViews:
    """Example particles and directions of view, or why there are none."""
    try:
        particles = read_run_particles(run, elsewhere, folder)
        return ParticleViews(example_particles(run, particles), view_directions(particles.used.rotations), None)
    except (InputError, OSError) as error:
        if elsewhere is not None or folder is not None:
            raise
        return ParticleViews([], None, f"the particles could not be read: {error}")


def render_page(
    run: FinishedRun,
    changed: ModelChanges,
    seen: ParticleViews,
    map_file: Path | None,
    first_voxel: np.ndarray | None = None,
    *,
    title: str | None = None,
    relaxed: Model | None = None,
) -> str:
    """The HTML text of a report.

    Parameters
    ----------
    run : FinishedRun
    changed : ModelChanges
    seen : ParticleViews
    map_file : Path, optional
        A map to contour in place of the density of the answer.
    first_voxel : (3,) float, optional
        Where that map's first voxel lies in the frame of the run, Å; by default at 0.
    title, relaxed
        See ``write_report``.
    """
    moved = displacement_plots(run, changed)
    symmetry = run.metrics.get("symmetry", "C1")
    sampled = (
        None if seen.directions is None else measure_view_sampling(seen.directions, point_group_rotations(symmetry))
    )
    versions = {
        **run.metrics["versions"], "report": __version__,
        "plotly_js": get_plotlyjs_version(), "viewer": _VIEWER_VERSION,
    }  # fmt: skip
    return _template().render(
        **_page_parts(),
        **_run_parts(run, changed),
        **_particle_parts(seen),
        title=title or run.path.resolve().name,
        geometry=geometry_rows(run.start, run.answer, relaxed),
        has_relaxed=relaxed is not None,
        figures=_headline_numbers(run, changed, sampled),
        sampling=sampled,
        symmetry=symmetry,
        versions=versions,
        facts=_run_facts(run, versions),
        density_name=(map_file or run.density_file).name,
        chains=_chain_rows(run, changed, [name for name, _ in moved]),
        plots=_plots(run, seen, moved),
        molecules=_viewer_data(run, changed, map_file, first_voxel),
    )


def _page_parts() -> dict[str, Any]:
    """Styles and programs of the page, by their names in ``page.html``."""
    return {
        "style": Markup(_read_page_file("page.css")),
        "script": Markup(_read_page_file("page.js")),
        "plotly_js": _embedded(get_plotlyjs()),
        "viewer_js": _embedded(f"/*\n{_read_page_file('3Dmol-LICENSE.txt')}*/\n{_read_page_file('3Dmol-min.js')}"),
    }


def _run_parts(run: FinishedRun, changed: ModelChanges) -> dict[str, Any]:
    """What the page says of the run without its particles, by the names in ``page.html``."""
    cited = citations(run)
    given, usual = settings_rows(run.options)
    check = run.found_before("check.json")
    return {
        "molecule": _molecule_name(run),
        "metrics": run.metrics,
        "second_pass": run.second_pass,
        "cycles_fit_all": run.cycles_fit_all,
        "particles_name": Path(run.options.particles).name,
        "start_name": Path(run.start_name).name,
        "verdict": describe_verdict(run, changed),
        "has_plddt": run.plddt is not None,
        "has_errors": run.errors_angstrom is not None,
        "changes": (run.metrics.get("changed") or {}).get("sentences", []),
        "weak_direction": (run.metrics.get("views") or {}).get("sentence"),
        "has_ellipsoids": run.longest_axes_angstrom is not None,
        "has_density": True,
        "removed": len(run.start.residues) - len(run.answer.residues),
        "methods": methods_paragraph(run),
        "citations": cited,
        "bibtex": "\n\n".join(citation.bibtex for citation in cited),
        "settings": given,
        "usual_settings": usual,
        "checked": [] if check is None else check["questions"],
        "placed": placement_lines(run.found_before("placement/placement.json")),
        "states": state_rows(run),
        "differences": run.metrics.get("differences") or [],
        "junk": run.metrics.get("junk"),
    }


def _particle_parts(seen: ParticleViews) -> dict[str, Any]:
    """What the page shows of particles, by the names in ``page.html``."""
    return {
        "examples": [asdict(example) for example in seen.examples],
        "low_pass": f"{LOW_PASS_ANGSTROM:g}",
        "smoothing": None if seen.directions is None else smoothing_deg(len(seen.directions)),
        "particles_missing": seen.missing,
    }


def _plots(run: FinishedRun, seen: ParticleViews, moved: list[tuple[str, PlotlyFigure]]) -> dict[str, PlotlyFigure]:
    """Plots by the names of the page's elements that show them; ``moved`` are the displacements of each chain."""
    plots = {"correlation": correlation_plot(run), "cycles": cycles_plot(run)}
    plots.update((f"chain-{order}", figure) for order, (_, figure) in enumerate(moved))
    if seen.directions is not None:
        plots["orientations"] = orientation_plot(seen.directions)
    if run.metrics.get("states"):
        plots["certainty"] = certainty_plot(run)
    return plots


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("cocofold.reporting", "page"), autoescape=True, undefined=StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("page.html")


def _read_page_file(name: str) -> str:
    return (files("cocofold.reporting") / "page" / name).read_text(encoding="utf-8")


def _embedded(script: str) -> Markup:
    """A library's script, which must not end the element that holds it."""
    return Markup(script.replace("</script", "<\\/script"))


def _molecule_name(run: FinishedRun) -> str:
    name = run.start.structure.name
    return name if name.strip() else Path(run.start_name).name


def _headline_numbers(run: FinishedRun, changed: ModelChanges, sampled: ViewSampling | None) -> list[dict[str, str]]:
    """The numbers at the top: each with a key, a name, its value and what it is."""
    metrics = run.metrics
    finest = metrics["frc_curves"]["resolution_angstrom"][-1]
    held_out = f"{metrics['heldout_particles']:,} held out" + (" at first" if run.second_pass else "")
    rows = [
        ("frc_heldout", "Held-out FRC", _start_to_result(metrics, "frc_heldout"), _gain(metrics)),
        ("frc_work", "Fitted FRC", _start_to_result(metrics, "frc_work"), f"rings to {finest:.1f} Å"),
        ("moved_angstrom", "CA moved", f"{changed.rms_in_place:.2f} Å", f"{changed.rms_superposed:.2f} Å superposed"),
        ("worst_link_angstrom", "C–N bonds", f"{metrics['worst_link_angstrom']:.3f} Å", "largest deviation"),
        ("particles", "Particles", f"{metrics['particles']:,}", held_out),
    ]
    if sampled is not None:
        rows.append(("scf_short", "Views", f"{sampled.scf:.2f}", f"SCF*; random {sampled.scf_of_random_views:.2f}"))
    machine = f"{metrics['peak_memory_gb']:.1f} GB, {metrics['device']}"
    rows.append(("seconds", "Time", _duration(metrics["seconds"]), machine))
    return [dict(zip(("key", "name", "value", "note"), row)) for row in rows]


def _gain(metrics: dict[str, Any]) -> str:
    """The gain of held-out correlation with its standard error, which decides the verdict."""
    gain, error = metrics.get("heldout_gain"), metrics.get("heldout_gain_error")
    if gain is None or error is None:
        return "mean, start → result"
    return ("gain" if metrics["best_cycle"] else "best other model") + f" {gain:+.4f} ± {error:.4f}"


def _start_to_result(metrics: dict[str, Any], name: str) -> str:
    before, after = metrics[f"{name}_start"], metrics[name]
    return "none held out" if before is None or after is None else f"{before:.3f} → {after:.3f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _chain_rows(run: FinishedRun, changed: ModelChanges, names: list[str]) -> list[dict[str, Any]]:
    owner = np.array([key.chain for key in run.answer.residues])
    rows = []
    for order, name in enumerate(names):
        values = changed.in_place[(owner == name) & np.isfinite(changed.in_place)]
        rms = f"{root_mean_square(values):.2f}"
        rows.append({"name": name, "plot": f"chain-{order}", "residues": len(values), "rms": rms})
    return rows


# Figures that the section on states shows
_OF_STATES = ("states", "differences", "certainty")


def _run_facts(run: FinishedRun, versions: dict[str, str]) -> list[tuple[str, str]]:
    ended = datetime.fromtimestamp((run.path / "metrics.json").stat().st_mtime, timezone.utc)
    elsewhere = ("frc_curves", "versions", "verdict_headline", "verdict_explanation", "evidence", "source", "changed")
    shown = {name: value for name, value in run.metrics.items() if name not in (*elsewhere, *_OF_STATES)}
    return [
        ("run", str(run.path.absolute())),
        ("ended", f"{ended:%Y-%m-%d %H:%M} UTC"),
        *(
            (name, json.dumps(value) if isinstance(value, (list, dict)) else rounded_text(value))
            for name, value in shown.items()
            if value not in (None, [], {})
        ),
        *((f"version of {name}", str(value)) for name, value in versions.items()),
    ]


def _viewer_data(
    run: FinishedRun, changed: ModelChanges, map_file: Path | None, first_voxel: np.ndarray | None
) -> dict[str, Any]:
    places = changed.gap_aware_numbers[changed.row_in_start]
    chains = list(dict.fromkeys(key.chain for key in run.answer.residues))
    known = changed.in_place[np.isfinite(changed.in_place)]
    residues = [
        {
            "place": int(places[row]),
            "chain": chains.index(key.chain),
            "name": f"{key.name} {key.number}{key.insertion_code}",
            "moved": _number(changed.in_place[row]),
            "plddt": None if run.plddt is None else _number(run.plddt[row]),
            "error": None if run.errors_angstrom is None else _number(run.errors_angstrom[row]),
        }
        for row, key in enumerate(run.answer.residues)
    ]
    return {
        "start": viewer_model(run.start, changed.gap_aware_numbers),
        "result": viewer_model(run.answer, places),
        "chains": chains,
        "residues": residues,
        "most_moved": round(max(_LEAST_COLOUR_SCALE_ANGSTROM, float(np.quantile(known, _COLOUR_SCALE_QUANTILE))), 1),
        "density": viewer_density(*read_density(map_file or run.density_file), run.answer, first_voxel),
    }


def _number(value: float) -> float | None:
    return round(float(value), 2) if np.isfinite(value) else None
