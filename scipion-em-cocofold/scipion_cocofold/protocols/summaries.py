"""What the protocols say of their results: lines for the summary, sentences for a paper."""


def placementSummary(found):
    """Return what a person wants to know of a placement, in lines."""
    if found is None:
        return ["Not placed yet."]
    whole = found["whole"]
    if whole["runner_up"] is None:
        others = "no other place was found"
    else:
        trust = "far enough apart to trust" if whole["trusted"] else "*too close to trust*"
        others = f"the next best place {whole['runner_up']:.2f} ({trust})"
    lines = [
        f"Correlation {whole['correlation']:.2f} at {found['resolution_angstrom']:.1f} Å, {others}.",
        f"Hand: {found['hand']}.",
    ]
    lines += [f"{body['selection']}: correlation {body['correlation']:.2f}." for body in found["bodies"][:9]]
    return lines + found["warnings"]


def checkSummary(found):
    """Return a check's verdicts in lines."""
    if found is None:
        return ["Not checked yet."]
    return [question["line"] for question in found["questions"]]


def assessmentSummary(before, after):
    """Return the figures of a model against its reference in lines, beside those of the start if there are any."""
    named = (
        ("CA RMSD", "ca_rmsd", "{:.2f} Å"),
        ("in place", "ca_rmsd_in_place", "{:.2f} Å"),
        ("coverage", "coverage", "{:.3f}"),
        ("RMSD (MM-align)", "rmsd", "{:.2f} Å"),
        ("TM-score", "tm_score", "{:.3f}"),
        ("sequence identity", "sequence_identity", "{:.3f}"),
    )
    lines = []
    for label, name, shape in named:
        was = "" if before is None else shape.format(before[name]) + " -> "
        lines.append(f"{label}: {was}{shape.format(after[name])}")
    return lines


def supportSummary(found):
    """Return how a model agrees with images, in lines."""
    against = ", ".join(found["against"]) or "none"
    return [
        f"Agreement with the images (Fourier ring correlation): {found['frc']:.4f}.",
        f"Residues that the images speak against: {against}.",
    ]


def geometrySummary(found):
    """Return the faults of a model's backbone in a line."""
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


def progressLines(best):
    """Return what is known of a run that has not ended: the row of its best cycle so far, or None."""
    if best is None:
        return ["Not run yet."]
    return [
        f"Running: best so far is cycle {best['number']}, FRC {float(best['frc_heldout'] or best['frc_work']):.3f}."
    ]


def finetuneSummary(metrics):
    """Return what came of a run in lines."""
    verdict, moved = metrics["verdict"].capitalize(), f"atoms moved by {metrics['moved_angstrom']:.2f} Å"
    if metrics["frc_heldout"] is None:
        lines = [f"*{verdict}*: no particles were held out; {moved}."]
    else:
        lines = [f"*{verdict}*: held-out FRC {_heldOut(metrics)}, {moved}."]
    if metrics["verdict"] != "supported":
        lines.append("The output model is the start: held-out particles do not ask for a change.")
    minutes, memory = metrics["seconds"] / 60, metrics["peak_memory_gb"]
    return [*lines, f"{metrics['particles']} particles, {minutes:.1f} min, {memory:.1f} GB on {metrics['device']}."]


def finetuneMethods(metrics, network):
    """Return a sentence or two for a paper's methods; ``network`` says whether a prediction's network was trained."""
    what = "structure module of AlphaFold-Multimer" if network else "model, under a multi-scale field of rigid motions,"
    sentence = (
        f"The {what} was fine-tuned against {metrics['particles']} raw particle images by Fourier ring correlation "
        f"with CoCoFold [cocofold2026] {metrics['versions']['cocofold']}."
    )
    if metrics["frc_heldout"] is None:
        return sentence
    return (
        f"{sentence} {metrics['heldout_particles']} particles that were held out correlate with the model by "
        f"{_heldOut(metrics)}; the change is {metrics['verdict']}."
    )


def relaxSummary(found):
    """Return what relaxation did in lines."""
    before, after = found["before"], found["after"]
    lines = [
        f"Clashes (overlap of 0.6 Å or more): {len(before['clashes'])} -> {len(after['clashes'])}.",
        f"Backbone bonds and angles beyond 4σ: {len(before['outliers'])} -> {len(after['outliers'])}.",
        f"Twisted peptides: {found['geometry']['twisted'][0]} -> {found['geometry']['twisted'][1]}.",
        f"CA RMSD to the model given: {found['ca_rmsd']:.2f} Å.",
    ]
    if found["frc"]:
        lines.append(f"Agreement with the images: {found['frc']['before']:.4f} -> {found['frc']['after']:.4f}.")
    return lines + found["notes"]


def _heldOut(metrics):
    return f"{metrics['frc_heldout_start']:.3f} -> {metrics['frc_heldout']:.3f}"
