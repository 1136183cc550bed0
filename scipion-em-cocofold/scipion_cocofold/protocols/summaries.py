"""Texts about results: lines for the summaries of protocols, sentences for a paper's methods."""

_IN_PLACE = "ca_rmsd_in_place"
# Figures of an assessment against a reference: label, key of the engine's JSON file, format
REFERENCE_FIGURES = (
    ("CA RMSD", "ca_rmsd", "{:.2f} Å"),
    ("in place", _IN_PLACE, "{:.2f} Å"),
    ("coverage", "coverage", "{:.3f}"),
    ("RMSD (MM-align)", "rmsd", "{:.2f} Å"),
    ("TM-score", "tm_score", "{:.3f}"),
    ("sequence identity", "sequence_identity", "{:.3f}"),
)
# The engine lists more bodies than a summary has room for
_MOST_BODIES_SHOWN = 9


def placementDoubts(found):
    """Return a line on each part of a model that fits nearly as well elsewhere, with the other place."""
    lines = []
    for part in found.get("places", []):
        rival = part.get("rival")
        if rival and not part["trusted"]:
            x, y, z = rival["centre_angstrom"]
            lines.append(
                f"{part['selection']} has a correlation of {part['correlation']:.3f} here and of "
                f"{rival['correlation']:.3f} turned by {rival['turned_by_degrees']:g}° with its centre at "
                f"({x:g}, {y:g}, {z:g}) Å"
            )
    return lines


def placementSummary(found):
    """Return lines on a placement: how well it fits, how far the next best place is, hand, bodies, warnings."""
    if found is None:
        return ["Not placed yet."]
    whole = found["whole"]
    if whole["runner_up"] is None:
        other = "no other place was found"
    else:
        trust = "far enough apart to trust" if whole["trusted"] else "*too close to trust*"
        other = f"the next best place {whole['runner_up']:.2f} ({trust})"
    lines = [
        f"Correlation {whole['correlation']:.2f} at {found['resolution_angstrom']:.1f} Å, {other}.",
        f"Hand: {found['hand']}.",
    ]
    bodies = found["bodies"][:_MOST_BODIES_SHOWN]
    lines += [f"{body['selection']}: correlation {body['correlation']:.2f}." for body in bodies]
    return lines + found["warnings"]


def checkSummary(found):
    """Return the verdicts of a check, one a line."""
    if found is None:
        return ["Not checked yet."]
    return [question["line"] for question in found["questions"]]


def assessmentSummary(before, after, inPlace=True):
    """Return the figures of a model against its reference, one a line, with those of the start if there are any.

    Parameters
    ----------
    before, after : dict
        The engine's figures of the start, or None, and of the model.
    inPlace : bool
        Whether model and reference lie in one frame, so that a distance in place means something.
    """
    lines = []
    for label, name, text in REFERENCE_FIGURES:
        if name == _IN_PLACE and not inPlace:
            lines.append("in place: not given, since it is not known where the reference lies in the map.")
            continue
        was = "" if before is None else text.format(before[name]) + " -> "
        lines.append(f"{label}: {was}{text.format(after[name])}")
    return lines


def supportSummary(found):
    """Return lines on the agreement of a model with images."""
    against = ", ".join(found["against"]) or "none"
    return [
        f"Agreement with the images (Fourier ring correlation): {found['frc']:.4f}.",
        f"Residues that the images speak against: {against}.",
    ]


def geometrySummary(found):
    """Return a line on the faults of a model's backbone."""
    figures = found["geometry"]
    counts = ", ".join(
        f"{label} {len(figures[name])}"
        for label, name in (
            ("outliers", "ramachandran_outliers"),
            ("cis peptides not before proline", "cis_other"),
            ("twisted peptides", "twisted"),
            ("D-amino acids", "d_residues"),
        )
    )
    return [f"Ramachandran favoured {figures['ramachandran_favoured']:.1%}, {counts}."]


def progressLines(cycles):
    """Return a line on a run that has not ended, from the rows of its ``metrics.csv``."""
    if len(cycles) < 2:
        return ["Not run yet."]
    first, last = cycles[0], cycles[-1]
    name = "frc_heldout" if first["frc_heldout"] and last["frc_heldout"] else "frc_work"
    kind = "held-out FRC" if name == "frc_heldout" else "FRC of fitted particles"
    return [
        f"Running: cycle {last['number']} has ended, {kind} {float(first[name]):.3f} -> {float(last[name]):.3f}. The "
        "output is the engine's best model so far."
    ]


def finetuneSummary(metrics):
    """Return lines on the result of a run; the verdict's words are the engine's."""
    moved = f"atoms moved by {metrics['moved_angstrom']:.2f} Å"
    if metrics["frc_heldout"] is None:
        moved = f"{moved}.".capitalize()
    else:
        moved = f"Held-out FRC {_heldOut(metrics)}, {moved}."
    minutes, memory = metrics["seconds"] / 60, metrics["peak_memory_gb"]
    # Runs of earlier versions have the verdict alone
    says = " ".join(metrics.get(name, "") for name in ("verdict_headline", "verdict_explanation")).strip()
    return [
        f"*{metrics['verdict'].capitalize()}*. {says}",
        moved,
        f"{metrics['particles']} particles, {minutes:.1f} min, {memory:.1f} GB on {metrics['device']}.",
    ]


def placementMethods(found):
    """Return a sentence for a paper's methods on a placement."""
    return (
        f"The model was placed in the map by an exhaustive rigid search at {found['resolution_angstrom']:.1f} Å "
        f"(correlation {found['whole']['correlation']:.2f}) with CoCoFold [cocofold2026]."
    )


def finetuneMethods(metrics, network, context=False):
    """Return sentences for a paper's methods.

    Parameters
    ----------
    metrics : dict
        The engine's figures of the run.
    network, context : bool
        Whether a prediction's network was trained, and whether another model was fixed beside the run's own.
    """
    subject = (
        "structure module of AlphaFold-Multimer [evans2021]"
        if network
        else "model, under a multi-scale field of rigid motions,"
    )
    sentences = [
        f"The {subject} was fine-tuned against {metrics['particles']} raw particle images by Fourier ring correlation "
        f"with CoCoFold [cocofold2026] {metrics['versions']['cocofold']}."
    ]
    if context:
        sentences.append("A model of what lies beside it was compared with the images too, and held fixed.")
    if (metrics.get("poses") or {}).get("refined"):
        sentences.append("The poses of the particles were refined together with the model.")
    if metrics.get("states"):
        sentences.append(f"The particles were told apart into {len(metrics['states'])} states, with a model of each.")
    if metrics["frc_heldout"] is not None:
        sentences.append(
            f"{metrics['heldout_particles']} particles were held out; their mean Fourier ring correlation with the "
            f"model changed from {metrics['frc_heldout_start']:.3f} to {metrics['frc_heldout']:.3f} (verdict: "
            f"{metrics['verdict']})."
        )
    return " ".join(sentences)


def relaxedTrace(found):
    """Return the name of the atoms by which the engine tells how far a relaxed model moved: CA, or C1' without protein.

    Earlier versions of the engine moved proteins only, and did not say it.
    """
    return found.get("trace_atom", "CA")


def relaxSummary(found):
    """Return lines on what relaxation changed; those on peptides only of a model with protein."""
    before, after, traced = found["before"], found["after"], relaxedTrace(found)
    # The limits are those of the engine's definitions of a clash and an outlier (docs/relax.md)
    lines = [f"Clashes (overlap of 0.6 Å or more): {len(before['clashes'])} -> {len(after['clashes'])}."]
    if traced == "CA":
        lines += [
            f"Backbone bonds and angles beyond 4σ: {len(before['outliers'])} -> {len(after['outliers'])}.",
            f"Twisted peptides: {found['geometry']['twisted'][0]} -> {found['geometry']['twisted'][1]}.",
        ]
    nucleic = found.get("nucleic_acids")
    if nucleic and nucleic["kept_base_pairs"] is not None:
        lines.append(f"Base pairs kept: {nucleic['kept_base_pairs']} of {nucleic['reference_base_pairs']}.")
    lines.append(f"{traced} RMSD to the input model: {found['ca_rmsd']:.2f} Å.")
    if found["frc"]:
        lines.append(f"Agreement with the images: {found['frc']['before']:.4f} -> {found['frc']['after']:.4f}.")
    return lines + found["notes"]


def _heldOut(metrics):
    return f"{metrics['frc_heldout_start']:.3f} -> {metrics['frc_heldout']:.3f}"
