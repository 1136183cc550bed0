"""Several states in one set of particles: what the form asks, and classes and models of what the engine found."""

import os

import emtable
from pwem.objects import SetOfAtomStructs, Volume
from pyworkflow.object import Float, String
from pyworkflow.protocol import params

from ..constants import METRICS_JSON, PARTICLES_STAR, RUN_FOLDER
from .inputs import outputShift

STATE_CHOICES = ["1", "2", "3", "auto"]
_JUNK_CHOICES = ["off", "auto"]


def addStates(form):
    """Add what a form asks of states and junk."""
    form.addSection("States")
    form.addParam(
        "states",
        params.EnumParam,
        choices=STATE_CHOICES,
        default=0,
        label="States",
        help="Number of models, each fitted to the particles that show it; auto finds 1 to 3. States that held-out "
        "particles do not support are not written. Two states take about 2.5 times as long as one. Each needs 50 "
        "particles at least.",
    )
    form.addParam(
        "junk",
        params.EnumParam,
        choices=_JUNK_CHOICES,
        default=0,
        label="Junk",
        help="auto: particles that no state explains are set aside, and are in none of the classes. off: all "
        "particles are fitted.",
    )


def stateOptions(protocol):
    """Return the engine's options of states and junk; none where the form has its defaults."""
    states, junk = STATE_CHOICES[protocol.states.get()], _JUNK_CHOICES[protocol.junk.get()]
    return {**({} if states == "1" else {"--states": states}), **({} if junk == "off" else {"--junk": junk})}


def stateOutputs(protocol, volume):
    """Return the outputs of a run that told particles apart, by their names; none of another run.

    Parameters
    ----------
    protocol : ProtCocofoldFinetune
        Whose run is finished.
    volume : Volume
        On which the models lie.
    """
    metrics = protocol._readJson(RUN_FOLDER, METRICS_JSON)
    if not metrics or not metrics.get("states"):
        return {}
    models = SetOfAtomStructs.create(protocol._getPath(), suffix="States")
    for number, state in enumerate(metrics["states"], 1):
        structure = protocol._writeStructure(state["model"], protocol._getExtraPath(f"state_{int(number)}.cif"), volume)
        structure._cocofoldVerdict = String(state["verdict"])
        structure._cocofoldShare = Float(state["share"])
        structure._cocofoldShareError = Float(state["share_error"])
        structure.setObjLabel(f"state {int(number)}, {100 * state['share']:.1f} %")
        models.append(structure)
    return {"outputStates": models, "outputClasses": _classes(protocol, volume)}


def classOfEachImage(star):
    """Return number of the class, probability of the state and of junk, by index and real path of the image."""
    found = {}
    for row in emtable.Table.iterRows(star, tableName="particles"):
        index, name = str(row.rlnImageName).split("@", 1)
        path = name if os.path.isabs(name) else os.path.join(os.path.dirname(star), name)
        found[int(index), os.path.realpath(path)] = (
            int(row.rlnClassNumber),
            float(row.cocofoldStateProbability),
            float(row.cocofoldJunkProbability),
        )
    return found


def _classes(protocol, volume):
    """Return the particles in classes, without junk and those that the run did not use."""
    run, particles = protocol._runFolder(), protocol.inputParticles.get()
    known = classOfEachImage(os.path.join(run, PARTICLES_STAR))
    classes = protocol._createSetOfClasses3D(protocol.inputParticles)

    def classify(particle, row):
        index, name = particle.getLocation()
        number, probability, junk = known.get((int(max(index, 1)), os.path.realpath(name)), (0, 0.0, 0.0))
        particle.setClassId(number)
        particle._cocofoldStateProbability = Float(probability)
        particle._cocofoldJunkProbability = Float(junk)

    def represent(one):
        path = os.path.join(run, f"reconstruction_{int(one.getObjId())}.mrc")
        if os.path.isfile(path):
            one.setRepresentative(mapOf(path, particles, outputShift(protocol, volume, particles)))

    classes.classifyItems(updateItemCallback=classify, updateClassCallback=represent)
    return classes


def mapOf(path, particles, shift):
    """Return a map of the engine as a volume in Scipion's frame."""
    volume = Volume()
    volume.setLocation(path)
    volume.setSamplingRate(particles.getSamplingRate())
    origin = volume.getOrigin(force=True).clone()
    origin.setShifts(*shift)
    volume.setOrigin(origin)
    return volume


def stateSummary(metrics):
    """Return a line for each state, one for junk, and what differs; none of a run with one model."""
    states = metrics.get("states") or []
    lines = [
        f"{state['model']}: {100 * state['share']:.1f} % (± {100 * state['share_error']:.1f}) of the particles, "
        f"{state['verdict']}."
        for state in states
    ]
    junk = metrics.get("junk")
    if junk:
        lines.append(f"{int(junk['particles'])} particles show none of the states.")
    for pair in metrics.get("differences") or []:
        lines.append(f"From {pair['from']} to {pair['to']}: {' '.join(pair['sentences'])}")
    return lines
