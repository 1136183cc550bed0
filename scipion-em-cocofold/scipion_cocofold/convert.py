"""Scipion's particles as a STAR file of RELION 3.1, and the engine's answers as Scipion's objects.

Scipion keeps a particle's pose as a matrix M with ``M[:3, :3] = A.T`` and ``inv(M) = [A | -origin]``, the origin in
pixels of the set; A is RELION's rotation, which takes the map's axes to the image's.
"""

import io
import os
import re
import tempfile
import warnings

import emtable
import numpy as np
from pwem.objects import Transform
from pyworkflow.object import Integer, String
from pyworkflow.utils import cleanPath
from scipy.spatial.transform import Rotation

from .engine import wholeFile

# Columns of an optics group beyond the acquisition. The engine corrects for them, so they must not be lost
ABERRATIONS = (
    "rlnCtfDataAreCtfPremultiplied",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    "rlnOddZernike",
    "rlnEvenZernike",
    "rlnMagMat00",
    "rlnMagMat01",
    "rlnMagMat10",
    "rlnMagMat11",
)
_OPTICS = (
    "rlnOpticsGroup",
    "rlnOpticsGroupName",
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnImagePixelSize",
    "rlnImageSize",
    "rlnImageDimensionality",
    "rlnCtfDataArePhaseFlipped",
)
_PARTICLES = (
    "rlnImageName",
    "rlnOpticsGroup",
    "rlnAngleRot",
    "rlnAngleTilt",
    "rlnAnglePsi",
    "rlnOriginXAngst",
    "rlnOriginYAngst",
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnPhaseShift",
)
# Columns that particles may carry as attributes (the name after an underscore): half set, marks of a selection
_HELD_OUT, _SCORED_RINGS = "cocofoldHeldOut", "cocofoldScoredRings"
_CARRIED_COLUMNS = ("rlnRandomSubset", _HELD_OUT, _SCORED_RINGS)
_GROUP_ATTRIBUTE = "_rlnOpticsGroup"
# Particles that are converted together: more need more memory, fewer more calls of NumPy
_PARTICLES_AT_ONCE = 10000


class ConversionError(Exception):
    """A set of particles that cannot be written; the message says what to do."""


def writeParticles(particles, path):
    """Write particles with poses and CTFs as a STAR file of RELION 3.1; images stay where they are.

    Paths of stacks are written as Scipion has them, relative to the project; links beside the file stand for stacks
    whose names have blanks or quotes.

    Parameters
    ----------
    particles : SetOfParticles
        With projection alignment and CTFs.
    path : str
        File to write; it appears whole or not at all.

    Returns
    -------
    int
        Number of particles that were written.

    Raises
    ------
    ConversionError
        If the set is empty, has no poses or CTFs, a pose is mirrored, or optics groups with different aberrations
        cannot be told apart.
    """
    requirePosesAndCtfs(particles)
    groups, names = _OpticsGroups.ofSet(particles), _StackNames(path)
    written = 0
    # Optics are known only after all particles are read, and stand first in the file
    with tempfile.TemporaryFile("w+", encoding="utf-8", dir=os.path.dirname(path) or ".") as rows:
        for batch in _inBatches(particles):
            rows.writelines(" ".join(row) + "\n" for row in _particleRows(batch, groups, names))
            written += len(batch)
        if not written:
            raise ConversionError("The set of particles is empty.")
        rows.seek(0)
        with wholeFile(path) as star:
            _writeHead(star, "optics", groups.labels)
            star.writelines(" ".join(row) + "\n" for row in groups.rows)
            _writeHead(star, "particles", (*_PARTICLES, *_carriedColumns(particles.getFirstItem())))
            star.writelines(rows)
    return written


def requirePosesAndCtfs(particles):
    """Raise `ConversionError` if a set lacks what comparing images with a model needs."""
    if not particles.hasAlignmentProj():
        raise ConversionError(
            "The particles have no 3D poses (projection alignment). Give the particles of a 3D refinement, such as "
            "RELION's 3D auto-refine or CryoSPARC's non-uniform refinement."
        )
    if not particles.hasCTF():
        raise ConversionError("The particles have no CTF. Give particles whose CTF was estimated before they were cut.")


def boxSize(particles):
    """Return the box (pixels) of a set of particles, that of its first image.

    Raises
    ------
    ConversionError
        If the set is empty, or its first image cannot be read.
    """
    first = particles.getFirstItem()
    if first is None:
        raise ConversionError("The set of particles is empty.")
    dimensions = first.getDim()
    if dimensions is None:
        raise ConversionError(
            f"The particles' first image cannot be read: {first.getFileName()}. Put the stack back where it was, or "
            "import the particles again."
        )
    return int(dimensions[0])


def appendSelectedParticles(particles, positions, heldOut, scoredRings, selected):
    """Append the particles at some positions of a set to another set, with the marks of a selection.

    Fine-tuning holds out exactly the particles that are marked, and does not fit the rings that are named.

    Parameters
    ----------
    particles : SetOfParticles
    positions, heldOut : iterable of int
        Particles that were selected, and those that are held out: from 0, in the order of `writeParticles`.
    scoredRings : list of int
        Fourier rings by which the particles were selected.
    selected : SetOfParticles
        Empty set, which gets the properties of the first one.
    """
    selected.copyInfo(particles)
    wanted, marked = set(positions) | set(heldOut), set(heldOut)
    for position, particle in enumerate(particles.iterItems()):
        if position in wanted:
            copy = particle.clone()
            setattr(copy, "_" + _HELD_OUT, Integer(int(position in marked)))
            if scoredRings:
                setattr(copy, "_" + _SCORED_RINGS, String(f"[{','.join(map(str, scoredRings))}]"))
            selected.append(copy)


def appendRefinedParticles(particles, star, refined):
    """Append the particles that a run used, with the poses that it refined, to another set.

    Parameters
    ----------
    particles : SetOfParticles
        Those that were written for the run.
    star : str
        The run's ``particles.star``: particles in the same order, or some of them.
    refined : SetOfParticles
        Empty set, which gets the properties of the first one.

    Raises
    ------
    ConversionError
        If the file names images that the set does not have.
    """
    refined.copyInfo(particles)
    table = emtable.Table()
    with open(star, encoding="utf-8") as content:
        table.readStar(content, tableName="particles")
    rows, folder = iter(table), os.path.dirname(os.path.abspath(star))
    row, wanted = None, None
    for particle in particles.iterItems():
        if row is None:
            row = next(rows, None)
            if row is None:
                break
            index, _, name = row.rlnImageName.partition("@")
            wanted = (int(index), os.path.realpath(os.path.join(folder, name)))
        index, name = particle.getLocation()
        if (int(max(index, 1)), os.path.realpath(name)) == wanted:
            copy = particle.clone()
            copy.setTransform(_transformOf(row, particle.getSamplingRate()))
            refined.append(copy)
            row = None
    if row is not None or next(rows, None) is not None:
        raise ConversionError(f"{star} names images in another order than the particles have them.")


def _transformOf(row, sampling):
    """Return the pose of a row of a STAR file, as the module's text has it."""
    inverse = np.eye(4)
    angles = [float(row.rlnAngleRot), float(row.rlnAngleTilt), float(row.rlnAnglePsi)]
    inverse[:3, :3] = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().T
    inverse[:2, 3] = -float(row.rlnOriginXAngst) / sampling, -float(row.rlnOriginYAngst) / sampling
    return Transform(matrix=np.linalg.inv(inverse))


def _inBatches(particles):
    """Yield lists of particles, copied: the set gives the same object again and again."""
    batch = []
    for particle in particles.iterItems():
        batch.append(particle.clone())
        if len(batch) == _PARTICLES_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _particleRows(particles, groups, names):
    """Yield the values of each particle's row, as texts."""
    matrices = np.array([particle.getTransform().getMatrix() for particle in particles], dtype=float)
    if (np.linalg.det(matrices[:, :3, :3]) < 0).any():
        raise ConversionError(
            "Some poses mirror their image (flips of a 2D alignment), so they are no 3D poses. Refine the particles in "
            "3D first."
        )
    # inv(M) = [A | -origin]
    inverse = np.linalg.inv(matrices)
    angles = _relionAngles(inverse[:, :3, :3])
    carried = _carriedColumns(particles[0])
    for particle, (rot, tilt, psi), move in zip(particles, angles, inverse[:, :2, 3]):
        sampling = particle.getSamplingRate()
        ctf = particle.getCTF()
        index, name = particle.getLocation()
        numbers = (
            rot,
            tilt,
            psi,
            -move[0] * sampling,
            -move[1] * sampling,
            ctf.getDefocusU(),
            ctf.getDefocusV(),
            ctf.getDefocusAngle(),
            ctf.getPhaseShift() if ctf.hasPhaseShift() else 0.0,
        )
        row = [f"{int(max(index, 1)):06}@{names.nameFor(name)}", str(groups.groupNumber(particle))]
        row += [f"{number:.6f}" for number in numbers]
        yield row + [str(getattr(particle, "_" + name).get()) for name in carried]


def _relionAngles(rotations):
    """Rot, tilt and psi (degrees, tilt from 0 to 180) of rotations A = Rz(psi) Ry(tilt) Rz(rot), shape (n, 3, 3)."""
    with warnings.catch_warnings():
        # At tilt 0 and 180 only rot + psi is defined; scipy warns, and sets psi to 0
        warnings.filterwarnings("ignore", message="Gimbal lock", category=UserWarning)
        return Rotation.from_matrix(rotations.transpose(0, 2, 1)).as_euler("ZYZ", degrees=True)


def _carriedColumns(particle):
    """Return those of the carried columns that a particle has."""
    return [name for name in _CARRIED_COLUMNS if getattr(particle, "_" + name, None) is not None]


class _OpticsGroups:
    """The optics groups of a set: acquisitions that differ, with the aberrations that the set states.

    Parameters
    ----------
    box : int
        In pixels.
    sampling : float
        In Å.
    flipped : bool
        Whether the images' phases are flipped.
    stated : dict
        Aberrations by the number of the optics group.
    """

    def __init__(self, box, sampling, flipped, stated):
        self._box, self._sampling, self._flipped, self._stated = box, sampling, flipped, stated
        self._known = {}

    @classmethod
    def ofSet(cls, particles):
        """Read what a set says of its optics.

        Raises
        ------
        ConversionError
            If the first image cannot be read, or groups with different aberrations cannot be told apart.
        """
        box = boxSize(particles)
        stated = _statedOptics(particles.getAcquisition())
        differ = len({tuple(group.values()) for group in stated.values()}) > 1
        if differ and not hasattr(particles.getFirstItem(), _GROUP_ATTRIBUTE):
            names = sorted({name for group in stated.values() for name in group})
            raise ConversionError(
                f"The set has optics groups with different aberrations ({', '.join(names)}), and its particles do not "
                "say to which they belong. Split them by optics group before they are imported, and take one group at "
                "a time."
            )
        return cls(box, particles.getSamplingRate(), particles.isPhaseFlipped(), stated)

    def groupNumber(self, particle):
        """Return the number of a particle's group, from 1."""
        acquisition = particle.getAcquisition()
        stated = getattr(particle, _GROUP_ATTRIBUTE, None)
        key = (
            acquisition.getVoltage(),
            acquisition.getSphericalAberration(),
            acquisition.getAmplitudeContrast(),
            stated.get() if stated is not None else next(iter(self._stated), None),
        )
        return self._known.setdefault(key, len(self._known) + 1)

    @property
    def _aberrations(self):
        return [name for name in ABERRATIONS if any(name in group for group in self._stated.values())]

    @property
    def labels(self):
        """Labels of the columns."""
        return (*_OPTICS, *self._aberrations)

    @property
    def rows(self):
        """Values of each group's row, as texts."""
        for (voltage, cs, contrast, stated), number in self._known.items():
            facts = self._stated.get(stated, {})
            if self._aberrations and not facts:
                raise ConversionError(
                    f"Particles name the optics group {stated}, of whose aberrations the set says nothing; it knows "
                    f"{', '.join(map(str, self._stated))}. Import the particles again, or take one group at a time."
                )
            numbers = (voltage, cs, contrast, self._sampling)
            yield [
                str(number),
                f"opticsGroup{int(number)}",
                *(f"{value:.6f}" for value in numbers),
                str(self._box),
                "2",
                str(int(self._flipped)),
                *(facts[name] for name in self._aberrations),
            ]


def _statedOptics(acquisition):
    """Return the aberrations of each optics group, by its number, as an importer kept them with the acquisition."""
    text = acquisition.opticsGroupInfo.get()
    if not text:
        return {}
    table = emtable.Table()
    table.readStar(io.StringIO(text), tableName="optics")
    names = [name for name in ABERRATIONS if table.hasColumn(name)]
    return {row.rlnOpticsGroup: {name: str(getattr(row, name)) for name in names} for row in table}


def _writeHead(star, block, labels):
    star.write(f"\ndata_{block}\n\nloop_\n")
    star.writelines(f"_{label} #{int(number)}\n" for number, label in enumerate(labels, start=1))


class _StackNames:
    """Names of stacks that any reader of STAR files accepts: a link stands for a name with blanks or quotes."""

    def __init__(self, path):
        self._folder = os.path.splitext(path)[0] + "_stacks"
        self._links = {}

    def nameFor(self, name):
        """Return the name of a stack, or that of a link to it, which is made if necessary."""
        if not re.search(r"[\s'\"]", name):
            return name
        if name not in self._links:
            os.makedirs(self._folder, exist_ok=True)
            link = os.path.join(self._folder, f"stack{int(len(self._links) + 1):04}{os.path.splitext(name)[1]}")
            cleanPath(link)
            os.symlink(os.path.abspath(name), link)
            self._links[name] = link
        return self._links[name]
