"""The file ``verdict.json`` of a fine-tuning protocol: one schema for runs that ended well, failed, or never began."""

import json
import os
from datetime import datetime

from cocofold import __version__

from .constants import (
    AFTER_JSON,
    ANSWER_CIF,
    BEFORE_JSON,
    CHECK_JSON,
    COMPARED_JSON,
    IMAGES_JSON,
    METRICS_JSON,
    RELAXED_JSON,
    REPORT_HTML,
    RUN_FOLDER,
    VERDICT_JSON,
)
from .engine import wholeFile

# A new field does not change the version; a field that goes, or means something else, does
SCHEMA_VERSION = 1
FINISHED, FAILED, NOT_RUN = "finished", "failed", "not run"
# Figures of the engine's metrics.json that are always there, null where the run did not end well
FIGURES = (
    "verdict",
    "verdict_headline",
    "verdict_explanation",
    "best_cycle",
    "frc_heldout_start",
    "frc_heldout",
    "frc_work_start",
    "frc_work",
    "moved_angstrom",
    "particles",
    "heldout_particles",
    "seconds",
    "peak_memory_gb",
    "device",
    "versions",
)
# Curves are in metrics.json; they are many numbers
_LEFT_OUT = ("frc_curves",)
# What this file holds, as a JSON Schema for programs that read it
SCHEMA = os.path.join(os.path.dirname(__file__), "verdict.schema.json")
_IN_PLACE = "ca_rmsd_in_place"
_ASSESSED = ("ca_rmsd", _IN_PLACE, "coverage", "rmsd", "tm_score", "sequence_identity")


def writeVerdict(protocol, error=None):
    """Write the verdict of a fine-tuning protocol from the files in its folder, and return its content.

    Parameters
    ----------
    protocol : ProtCocofoldFinetune
        The process is in its project's folder.
    error : str, optional
        What ended it; None for a run that ended well.
    """
    metrics = (protocol._readJson(RUN_FOLDER, METRICS_JSON) if error is None else None) or {}
    own = {"schema_version": SCHEMA_VERSION, "status": FINISHED if error is None else FAILED, "error": error}
    facts = {**own, **{name: metrics.get(name) for name in FIGURES}}
    facts.update({name: value for name, value in metrics.items() if name not in {*_LEFT_OUT, *own}})
    facts["versions"] = {**(facts["versions"] or {}), "plugin": __version__}
    facts["started"], facts["ended"] = _date(protocol.initTime), _now()
    facts["placement"] = _placement(protocol._placementFile())
    facts["check"] = checkFacts(protocol._readJson(RUN_FOLDER, CHECK_JSON))
    facts["assessment"] = _assessment(protocol, None)
    facts["relaxed"] = None
    facts["model"] = protocol._getExtraPath(ANSWER_CIF) if error is None else None
    facts["paths"] = {
        "project": os.getcwd(),
        "model": _absolute(facts["model"]),
        "relaxed": None,
        "report": _absolute(_existing(protocol._getExtraPath(RUN_FOLDER, REPORT_HTML))),
        "run": os.path.abspath(protocol._getExtraPath(RUN_FOLDER)),
    }
    _write(protocol, facts)
    return facts


def writeNotRun(protocol, error):
    """Write the verdict of a fine-tuning protocol that did not begin since another one failed."""
    facts = dict.fromkeys(FIGURES)
    facts.update({"schema_version": SCHEMA_VERSION, "status": NOT_RUN, "error": error})
    facts["versions"] = {"plugin": __version__}
    facts.update(dict.fromkeys(("started", "placement", "check", "assessment", "relaxed", "model")))
    facts["ended"] = _now()
    facts["paths"] = {"project": os.getcwd(), "model": None, "relaxed": None, "report": None, "run": None}
    os.makedirs(protocol._getExtraPath(), exist_ok=True)
    _write(protocol, facts)


def addFacts(protocol, **found):
    """Add what other protocols found to a verdict, by its fields: ``check``, ``relaxed``, ``assessment``."""
    facts = protocol._readJson(VERDICT_JSON)
    if facts is None:
        return
    facts.update({name: value for name, value in found.items() if value is not None})
    if found.get("relaxed"):
        facts["paths"]["relaxed"] = _absolute(found["relaxed"]["model"])
    _write(protocol, facts)


def placementFacts(found):
    """Return the part of a verdict on a placement, from the engine's ``placement.json``; None without one."""
    if found is None:
        return None
    symmetry, warnings = found.get("symmetry"), found.get("warnings", [])
    return {"hand": found["hand"], **found["whole"], "symmetry": symmetry, "warnings": warnings}


def checkFacts(found):
    """Return the part of a verdict on a check, from the engine's JSON; None without one."""
    if found is None:
        return None
    answers = {one["question"]: {"verdict": one["verdict"], "line": one["line"]} for one in found["questions"]}
    return {"contradictions": found["contradictions"], "questions": answers}


def assessmentFacts(before, after, images, inPlace=True):
    """Return the part of a verdict on assessments, from the engine's JSON files; None without any.

    Parameters
    ----------
    before, after, images : dict or None
        Figures of the start and of the model against a reference, and of the model against images.
    inPlace : bool
        Whether model and reference lie in one frame, so that a distance in place means something.
    """
    if after is None and images is None:
        return None
    facts = {name: (after or {}).get(name) for name in _ASSESSED}
    facts["start"] = before and {name: before[name] for name in _ASSESSED}
    if not inPlace:
        for figures in (facts, facts["start"] or {}):
            figures[_IN_PLACE] = None
    facts["compared_with"] = "reference" if after is not None else None
    facts["frc"] = images and images["frc"]
    facts["against"] = images["against"] if images else []
    return facts


def relaxedFacts(protocol):
    """Return the part of a verdict on a relaxed model, or None where the protocol has not ended."""
    found = protocol._readJson(RELAXED_JSON)
    if found is None or not hasattr(protocol, "outputAtomStruct"):
        return None
    return {
        "model": protocol.outputAtomStruct.getFileName(),
        "clashes": {when: len(found[when]["clashes"]) for when in ("before", "after")},
        "outliers": {when: len(found[when]["outliers"]) for when in ("before", "after")},
        "ca_rmsd": found["ca_rmsd"],
        "frc": found["frc"] or None,
    }


def factsOfOthers(finetune, runs):
    """Return what the protocols before and after a fine-tuning protocol found, by the verdict's fields.

    Parameters
    ----------
    finetune : ProtCocofoldFinetune
    runs : list of Protocol
        All protocols of the project.
    """
    facts, model = {}, finetune
    for check in runs:
        if check.getClassName() == "ProtCocofoldCheck" and _identity(check) == _identity(finetune) is not None:
            facts["check"] = checkFacts(check._readJson(CHECK_JSON))
    for relax in _reading(runs, "ProtCocofoldRelax", "inputStructure", finetune):
        facts["relaxed"] = relaxedFacts(relax) or facts.get("relaxed")
        model = relax
    for source in (finetune, model):
        for assess in _reading(runs, "ProtCocofoldAssess", "inputStructure", source):
            found = _assessment(assess, assess._readJson(IMAGES_JSON))
            if found and assess._comparesWithStart():
                found["compared_with"] = "start"
            # One that has not run says nothing against one that has
            facts["assessment"] = found or facts.get("assessment")
    return facts


def _assessment(protocol, images):
    """Return the part of a verdict on what a protocol compared with a reference, and with images if it did."""
    before, after, compared = (protocol._readJson(name) for name in (BEFORE_JSON, AFTER_JSON, COMPARED_JSON))
    return assessmentFacts(before, after, images, (compared or {}).get("in_place", True))


def _identity(protocol):
    """Return the number of the set of particles that a protocol reads, None if it is not there."""
    particles = protocol.inputParticles.get()
    return None if particles is None else particles.getObjId()


def _reading(runs, name, attribute, source):
    """Yield the protocols of a class whose input is an output of another."""
    for run in runs:
        given = getattr(run, attribute).getObjValue() if run.getClassName() == name else None
        if given is not None and given.getObjId() == source.getObjId():
            yield run


def _placement(path):
    if path is None or not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8") as content:
        return placementFacts(json.load(content))


def _write(protocol, facts):
    with wholeFile(protocol._getExtraPath(VERDICT_JSON)) as written:
        json.dump(facts, written, indent=1, allow_nan=False)


def _existing(path):
    return path if os.path.isfile(path) else None


def _absolute(path):
    return path and os.path.abspath(path)


def _date(time):
    return time.datetime().astimezone().isoformat(timespec="seconds") if time.hasValue() else None


def _now():
    return datetime.now().astimezone().isoformat(timespec="seconds")
