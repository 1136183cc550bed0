"""What a report says in words: the verdict, the methods paragraph, the citations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from cocofold.assessment.backbone_geometry import BackboneGeometry, measure_geometry
from cocofold.finetuning.options import Options
from cocofold.finetuning.verdict import VerdictText, verdict_text
from cocofold.reporting.run_contents import FinishedRun, ModelChanges
from cocofold.structure.model import Model


@dataclass(frozen=True)
class RunVerdict:
    """What the particles say of the change: a class of ``page.css`` for its colour, a headline and an explanation."""

    css_class: str
    headline: str
    explanation: str


def describe_verdict(run: FinishedRun, changed: ModelChanges) -> RunVerdict:
    """The verdict of a run in plain words."""
    metrics = run.metrics
    if "verdict_headline" in metrics:
        says = VerdictText(metrics["verdict_headline"], metrics["verdict_explanation"])
    else:
        # Runs of 0.1.0
        figures = [metrics[name] for name in ("heldout_particles", "frc_heldout_start", "frc_heldout", "best_cycle")]
        says = verdict_text(metrics["verdict"], *figures)
    sentences = [says.explanation]
    if run.second_pass:
        sentences.append("The model comes from a second pass, which fitted all particles up to the same cycle.")
    if metrics["best_cycle"] > 0:
        sentences.append(f"CA atoms lie {changed.rms_in_place:.2f} Å (root mean square) from where they started.")
    if run.options.effort < 1:
        sentences.append(
            f"This was a short run, with {run.options.effort:g} of the usual steps; a whole one may find more."
        )
    if run.has_candidate:
        sentences.append("model.cif is the start. What the fit gave is candidate.cif; look at it before you use it.")
    explanation = " ".join(sentences) + _rejected_cycles_sentence(metrics)
    return RunVerdict(metrics["verdict"].replace(" ", "-"), says.headline, explanation)


def _rejected_cycles_sentence(metrics: dict[str, Any]) -> str:
    """A sentence on cycles that were no answer for their geometry, if there were any."""
    count = metrics.get("cycles_that_lost_the_fold", 0)
    return f" Cycles that were left out because they had lost the fold (C–N bonds): {count}." if count else ""


def _network_settings(options: Options, source: str | None) -> str:
    """How a prediction's network was trained; ``source`` is what its source of atoms says of itself, if known."""
    said = "" if source is None else f"{source} "
    if options.preset == "paper":
        return (
            f"{said}Settings were those of the paper: all rings, constant learning rates, no restraints on geometry. "
        )
    taught = (
        "The model of the prediction was first moved by a field of rigid motions from coarse to fine, and the network "
        "learned the result before it was trained on the images. "
        if options.teacher
        else ""
    )
    moved = "A field of rigid motions moved the network's atoms further. " if options.deform and not said else ""
    return f"{taught}{said}Rings were added from low to high resolution, with restraints on geometry. {moved}"


def methods_paragraph(run: FinishedRun) -> str:
    """A paragraph for the methods section of a paper."""
    options, metrics = run.options, run.metrics
    finest = metrics["frc_curves"]["resolution_angstrom"][-1]
    version = metrics["versions"].get("cocofold", "")
    if options.prediction is not None:
        what = (
            "The structure module of AlphaFold-Multimer was fine-tuned with CoCoFold"
            f" {version} against {metrics['particles']:,} particle images"
        )
        how = _network_settings(options, metrics.get("source"))
    else:
        what = (
            f"The model was refined with CoCoFold {version} directly against {metrics['particles']:,} particle images"
        )
        # Runs of earlier versions do not say what moved the atoms; it was this.
        source = metrics.get("source") or (
            "Residues moved as rigid bodies under a field of rotations and translations whose range was shortened "
            "stage by stage; side chains turned about their torsions at the last stage."
        )
        how = (
            f"{source} Restraints acted on the geometry of the backbone, on clashes and on neighbourhoods in the "
            "start. "
        )
    judged = (
        f"{metrics['heldout_particles']:,} particles were held out, and the model that predicts them best was "
        "taken if it did so better than the start by more than three standard errors. "
        f"Their mean ring correlation changed from {metrics['frc_heldout_start']:.3f} to {metrics['frc_heldout']:.3f} "
        f"(verdict: {metrics['verdict']})."
        if metrics["heldout_particles"]
        else "No particles were held out."
    )
    second = (
        " The model is that of a second pass, which fitted all particles up to the cycle that the first had found best."
        if run.second_pass
        else ""
    )
    second += _poses_sentence(metrics)
    return (
        f"{what}, with the poses and CTF parameters of the reconstruction. Atoms were Gaussians, projected at each "
        f"particle's pose, multiplied by its CTF and compared with the image by Fourier ring correlation to "
        f"{finest:.1f} Å (Adam, {options.batch_size} images a step, {metrics.get('steps', 0):,} steps, "
        f"{metrics.get('images', 0):,} images compared in all). {how}{judged}{second}"
    )


def _poses_sentence(metrics: dict[str, Any]) -> str:
    """How poses were refined, if they were; runs of earlier versions did not ask."""
    poses = metrics.get("poses") or {}
    if not poses.get("refined"):
        return ""
    judged = (
        " Rings {} were not used for that, and figures of held-out particles are of these rings.".format(
            ", ".join(map(str, poses["judging_rings"]))
        )
        if poses["judging_rings"]
        else ""
    )
    return (
        " Poses of single particles were refined with the model (maximum a posteriori; the prior's width, "
        f"{poses['prior_turn_deg']:.2f}° and {poses['prior_shift_angstrom']:.2f} Å, was estimated from the images)."
        f"{judged}"
    )


@dataclass(frozen=True)
class GeometryRow:
    """A figure of the backbone's geometry: of the start, the result and, if given, the relaxed model.

    ``css_class`` says whether the result is better or worse than the start; ``new`` names faults that the start lacks.
    """

    name: str
    values: tuple[str, ...]
    css_class: str
    new: str


# The names of more faults than this do not fit into a row
_MOST_FAULTS_NAMED = 8


def geometry_rows(start: Model, result: Model, relaxed: Model | None) -> list[GeometryRow]:
    """Backbone geometry of start and result, as ``cocofold assess`` counts it."""
    before, after = measure_geometry(start), measure_geometry(result, start)
    shown = [before, after] if relaxed is None else [before, after, measure_geometry(relaxed)]

    def row(name: str, count: Callable[[BackboneGeometry], int], new: tuple[str, ...] | None = None) -> GeometryRow:
        change = count(after) - count(before)
        named = ", ".join((new or ())[:_MOST_FAULTS_NAMED]) + (" …" if len(new or ()) > _MOST_FAULTS_NAMED else "")
        css_class = "better" if change < 0 else "worse" if change > 0 else "same"
        return GeometryRow(name, tuple(str(count(one)) for one in shown), css_class, named)

    gained = after.ramachandran_favoured - before.ramachandran_favoured
    favoured = GeometryRow(
        "Ramachandran favoured",
        tuple(f"{one.ramachandran_favoured:.1%}" for one in shown),
        "better" if gained > 0 else "worse" if gained < 0 else "same",
        "",
    )
    return [
        favoured,
        row("Ramachandran outliers", lambda one: len(one.ramachandran_outliers), after.new_ramachandran_outliers),
        row("twisted peptides", lambda one: len(one.twisted), after.new_twisted),
        row("cis peptides, not before proline", lambda one: len(one.cis_other), after.new_cis),
        row("D-amino acids", lambda one: len(one.d_residues), after.new_d),
        row("clashes (CA–CA below 3 Å)", lambda one: len(one.close_alphas), after.new_close_alphas),
    ]


def placement_lines(found: dict[str, Any] | None) -> list[str]:
    """Sentences on how the model was placed, from ``placement.json``; none where it was in place."""
    if found is None:
        return []
    whole = found["whole"]
    other = (
        "no other place was found"
        if whole["runner_up"] is None
        else f"the next best place has {whole['runner_up']:.2f}, "
        + ("far enough apart to trust" if whole["trusted"] else "too close to trust")
    )
    lines = [f"The model was placed in the map with a correlation of {whole['correlation']:.2f}; {other}."]
    lines.append(f"Hand of the map: {found['hand']}.")
    return [*lines, *found.get("warnings", [])]


def settings_rows(options: Options) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Settings by name and value: those that were given or follow from the input, and those left at their defaults."""
    defaults = {one.name: one.default for one in fields(Options)}
    given: list[tuple[str, str]] = []
    usual: list[tuple[str, str]] = []
    for name, value in asdict(options).items():
        text = "" if value is None else rounded_text(value)
        (usual if value == defaults[name] else given).append((name, text))
    return given, usual


def rounded_text(value: Any) -> str:
    """A value for people: numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Citation:
    """A work to cite: why, as text, and as BibTeX."""

    reason: str
    text: str
    bibtex: str


def citations(run: FinishedRun) -> list[Citation]:
    """Works whose methods the run or its report used."""
    found = [_PAPER]
    if run.options.prediction is not None:
        found += [_ALPHAFOLD, _MULTIMER]
    return [*found, _SAMPLING, _SAMPLING_TOOLS, _ISOLDE, _VIEWER]


def _article(key: str, reason: str, text: str, **fields: str) -> Citation:
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return Citation(reason, text, f"@article{{{key},\n{lines}\n}}")


_PAPER = _article(
    "cocofold2026",
    "The method",
    "Fine-tuning AlphaFold with limited cryo-EM observations. Communications Chemistry (2026). "
    "doi:10.1038/s42004-026-01899-7",
    title="Fine-tuning {AlphaFold} with limited cryo-{EM} observations",
    journal="Communications Chemistry",
    year="2026",
    doi="10.1038/s42004-026-01899-7",
)
_ALPHAFOLD = _article(
    "jumper2021",
    "The network",
    "Jumper, J. et al. Highly accurate protein structure prediction with AlphaFold. Nature 596, 583–589 (2021). "
    "doi:10.1038/s41586-021-03819-2",
    title="Highly accurate protein structure prediction with {AlphaFold}",
    author="Jumper, John and others",
    journal="Nature",
    volume="596",
    pages="583--589",
    year="2021",
    doi="10.1038/s41586-021-03819-2",
)
_MULTIMER = _article(
    "evans2021",
    "The network",
    "Evans, R. et al. Protein complex prediction with AlphaFold-Multimer. bioRxiv (2021). "
    "doi:10.1101/2021.10.04.463034",
    title="Protein complex prediction with {AlphaFold-Multimer}",
    author="Evans, Richard and others",
    journal="bioRxiv",
    year="2021",
    doi="10.1101/2021.10.04.463034",
)
_SAMPLING = _article(
    "baldwin2020",
    "The sampling compensation factor",
    "Baldwin, P. R. & Lyumkis, D. Non-uniformity of projection distributions attenuates resolution in cryo-EM. "
    "Prog. Biophys. Mol. Biol. 150, 160–183 (2020). doi:10.1016/j.pbiomolbio.2019.09.002",
    title="Non-uniformity of projection distributions attenuates resolution in cryo-{EM}",
    author="Baldwin, Philip R. and Lyumkis, Dmitry",
    journal="Progress in Biophysics and Molecular Biology",
    volume="150",
    pages="160--183",
    year="2020",
    doi="10.1016/j.pbiomolbio.2019.09.002",
)
_SAMPLING_TOOLS = _article(
    "baldwin2021",
    "SCF*, its value where views are missing",
    "Baldwin, P. R. & Lyumkis, D. Tools for visualizing and analyzing Fourier space sampling in cryo-EM. "
    "Prog. Biophys. Mol. Biol. 160, 53–65 (2021). doi:10.1016/j.pbiomolbio.2020.06.003",
    title="Tools for visualizing and analyzing {Fourier} space sampling in cryo-{EM}",
    author="Baldwin, Philip R. and Lyumkis, Dmitry",
    journal="Progress in Biophysics and Molecular Biology",
    volume="160",
    pages="53--65",
    year="2021",
    doi="10.1016/j.pbiomolbio.2020.06.003",
)
_ISOLDE = _article(
    "croll2018",
    "ISOLDE, if you go on with it",
    "Croll, T. I. ISOLDE: a physically realistic environment for model building into low-resolution electron-density "
    "maps. Acta Cryst. D74, 519–530 (2018). doi:10.1107/S2059798318002425",
    title="{ISOLDE}: a physically realistic environment for model building into low-resolution electron-density maps",
    author="Croll, Tristan Ian",
    journal="Acta Crystallographica Section D",
    volume="74",
    pages="519--530",
    year="2018",
    doi="10.1107/S2059798318002425",
)
_VIEWER = _article(
    "rego2015",
    "3Dmol.js, the viewer of this page",
    "Rego, N. & Koes, D. 3Dmol.js: molecular visualization with WebGL. Bioinformatics 31, 1322–1324 (2015). "
    "doi:10.1093/bioinformatics/btu829",
    title="3Dmol.js: molecular visualization with {WebGL}",
    author="Rego, Nicholas and Koes, David",
    journal="Bioinformatics",
    volume="31",
    pages="1322--1324",
    year="2015",
    doi="10.1093/bioinformatics/btu829",
)
