"""Particle orientations: the matrix A that takes the map's frame to the image's, ``u = A @ (x - centre)``.

Of tilt series, those of each image, with all else that depends on how the specimen was tilted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from cocofold.particles.star_tables import StarBlock, read_star_blocks
from cocofold.system.errors import InputError


def matrices_from_relion(rot: np.ndarray, tilt: np.ndarray, psi: np.ndarray) -> np.ndarray:
    """Matrices ``A = Rz(psi) Ry(tilt) Rz(rot)`` (passive) of RELION's Euler angles.

    Parameters
    ----------
    rot, tilt, psi : (n,) float
        Degrees.

    Returns
    -------
    (n, 3, 3) float64
    """
    (a, b, c), (x, y, z) = (
        [part(np.radians(np.asarray(angle, dtype=float))) for angle in (rot, tilt, psi)] for part in (np.cos, np.sin)
    )
    # Written out: SciPy's own takes ten times as long.
    rows = [
        [c * b * a - z * x, c * b * x + z * a, -c * y],
        [-z * b * a - c * x, -z * b * x + c * a, z * y],
        [y * a, y * x, b],
    ]
    matrices = np.empty((len(a), 3, 3))
    for i in range(3):
        for j in range(3):
            matrices[:, i, j] = rows[i][j]
    return matrices


def matrices_from_cryosparc(vectors: np.ndarray) -> np.ndarray:
    """Matrices A of CryoSPARC's rotation vectors, (n, 3) rad to (n, 3, 3) float64."""
    return Rotation.from_rotvec(np.asarray(vectors, dtype=float)).as_matrix().transpose(0, 2, 1)


def mirrored_matrices(rotations: np.ndarray) -> np.ndarray:
    """Matrices A under which the map's mirror image along z gives the same images: ``diag(1, 1, -1) A diag(1, 1, -1)``.

    Parameters
    ----------
    rotations : (n, 3, 3) float

    Returns
    -------
    (n, 3, 3) float
    """
    mirror = np.array([1.0, 1.0, -1.0])
    return mirror[:, None] * np.asarray(rotations) * mirror


def turned_matrices(rotations: np.ndarray, turns_rad: np.ndarray) -> np.ndarray:
    """Matrices A, (n, 3, 3), after a turn in the image's frame, (n, 3) rotation vectors (rad): ``exp(turn) A``."""
    return np.einsum("nij,njk->nik", Rotation.from_rotvec(np.asarray(turns_rad, dtype=float)).as_matrix(), rotations)


def relion_from_matrices(rotations: np.ndarray) -> np.ndarray:
    """RELION's Euler angles of matrices A, with tilt from 0 to 180° and rot and psi from -180° to 180°.

    Where tilt is 0 or 180° only a combination of rot and psi is defined: rot is then 0.

    Parameters
    ----------
    rotations : (n, 3, 3) float

    Returns
    -------
    (n, 3) float64
        rot, tilt, psi in degrees.
    """
    active = np.asarray(rotations, dtype=float).transpose(0, 2, 1)
    tilt = np.arctan2(np.hypot(active[:, 0, 2], active[:, 1, 2]), active[:, 2, 2])
    rot = np.arctan2(active[:, 1, 2], active[:, 0, 2])
    # psi is read after rot is undone, so that the rounding of rot near the poles cannot turn the image.
    cosine, sine = np.cos(rot), np.sin(rot)
    psi = np.arctan2(
        cosine * active[:, 1, 0] - sine * active[:, 0, 0],
        cosine * active[:, 1, 1] - sine * active[:, 0, 1],
    )
    return np.degrees(np.stack([rot, tilt, psi], axis=1))


def view_directions(rotations: np.ndarray) -> np.ndarray:
    """Directions of the projections in the map's frame, (n, 3), of matrices A, (n, 3, 3): the third row of each."""
    return np.asarray(rotations)[:, 2, :]


STACKS_LABEL, TOMOGRAMS_LABEL = "rlnTomoSubTomosAre2DStacks", "rlnTomoTomogramsFile"
PARTICLES_LABEL = "rlnTomoParticlesFile"
PARTICLE_LABEL, DOSE_LABEL = "cocofoldParticle", "rlnMicrographPreExposure"
# What names the particle of a tilt image, the first that is there; RELION's names of particles are unique.
_PARTICLE_LABELS = (PARTICLE_LABEL, "rlnTomoParticleName", "rlnTomoParticleId")
_GROUP_LABEL = "rlnGroupName"
_FEWEST_TILTS, _MOST_TILTS = 5, 200  # of a particle, where only the name of a group tells which images are its tilts
_BFACTOR_OF_A_DOSE = -4.0  # Å^2 for an electron per Å^2, as Warp and M write it
# Of a particle in its subtomogram, and of that in the tomogram
_ANGLES = (
    ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"),
    ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi"),
)
_OFFSETS = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
_CENTRED = ("rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst")
_PIXELS, _SIZES = (
    ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"),
    ("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ"),
)
_PROJECTIONS = ("rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ")
_PIXEL_LABEL = "rlnTomoTiltSeriesPixelSize"
_KEPT_OF_PARTICLES = ("rlnRandomSubset", "rlnOpticsGroup", "rlnClassNumber", "cocofoldHeldOut", "cocofoldScoredRings")


def has_tilt_stacks(blocks: Mapping[str, StarBlock]) -> bool:
    """Whether particles have a stack of tilt images each, as RELION 5 writes them."""
    return any(
        label in block and _is_true(block.table[label].iloc[0]) if label == STACKS_LABEL else label in block
        for block in blocks.values()
        if len(block)
        for label in (STACKS_LABEL, PARTICLES_LABEL)
    )


def _is_true(value: object) -> bool:
    return str(value).strip().lower() in ("1", "1.0", "true")


def tilts_of_particles(block: StarBlock) -> dict[str, Any]:
    """Fields of a ``ParticleSet`` that say which images are tilts of one particle, and their doses.

    Warp and M name particles as groups, and write doses as B factors of -4 Å^2 for an electron per Å^2. A group is
    taken for a particle if each has 5 to 200 images, all with other doses.
    """
    label = next((label for label in _PARTICLE_LABELS if label in block), None)
    dose = block.numbers(DOSE_LABEL) if DOSE_LABEL in block else None
    bfactor = block.numbers("rlnCtfBfactor", default=0.0)
    if dose is None and (bfactor <= 0).all() and bfactor.any():
        dose = bfactor / _BFACTOR_OF_A_DOSE
    if label is None:
        if _GROUP_LABEL not in block or dose is None or not _are_tilts(block.table[_GROUP_LABEL], dose):
            return {}
        label = _GROUP_LABEL
    unnamed = np.flatnonzero(block.table[label].isna())
    if len(unnamed):
        raise InputError(
            f"{block.path}: row {unnamed[0] + 1} has no {label}, which names the particle of a tilt image; repair the "
            "file, or remove the column"
        )
    known: dict[str, Any] = {"particle_index": pd.factorize(block.table[label])[0].astype(int), "dose_e_a2": dose}
    if dose is not None and (dose < 0).any():
        raise InputError(f"{block.path}: {DOSE_LABEL} is {dose.min():g}; doses are 0 or more: repair the file")
    return known if (bfactor >= 0).all() else {**known, "ctf_bfactor_a2": np.maximum(bfactor, 0)}


def _are_tilts(groups: pd.Series, dose: np.ndarray) -> bool:
    number = pd.factorize(groups)[0]
    if number.min() < 0:  # a group without a name
        return False
    counts = np.bincount(number)
    different = len(np.unique(np.stack([number, dose], axis=1), axis=0)) == len(dose)
    return different and counts.min() >= _FEWEST_TILTS and counts.max() <= _MOST_TILTS


def with_tilt_images(path: Path, blocks: dict[str, StarBlock], particles_dir: Path | None) -> dict[str, StarBlock]:
    """Blocks with a row for each tilt image, of a file in which particles have a stack of them each.

    RELION 5 keeps the geometry of tilt series in files of their own, of which ``optimisation_set.star`` tells. With
    A_t = Rz Ry Rx of a tilt (rlnTomoZRot, YTilt, XTilt; right-handed) and A_s of the subtomogram, an image's matrix is
    A_t A_s A, its origin the x and y of A_t A_s origin, and its defocus that of the tilt series plus the depth of the
    particle below the centre of the tomogram times the hand. Other files are given back as they are.

    Raises
    ------
    InputError
        If a file of the tilt series is not found or lacks something.
    """
    if not has_tilt_stacks(blocks):
        return blocks
    source, tables = path, blocks
    named = next((block for block in blocks.values() if PARTICLES_LABEL in block), None)
    if named is not None:
        source = _find(str(named.table[PARTICLES_LABEL].iloc[0]), path, particles_dir)
        tables = read_star_blocks(source)
    particles, optics = tables.get("particles"), tables.get("optics")
    if particles is None or optics is None or "rlnImageName" not in particles or not len(particles):
        raise InputError(
            f"{source}: lists no particles with stacks of tilt images; give the STAR of such an extraction"
        )
    tomograms = _tomograms_file(path, named, source, particles_dir)
    found = _TiltSeries(tomograms, particles_dir).images_of(particles)
    return {"optics": _optics_of_images(optics), "particles": StarBlock(path, "particles", found)}


def _tomograms_file(path: Path, named: StarBlock | None, source: Path, particles_dir: Path | None) -> Path:
    if named is None:
        # The set that names both files lies beside the particles.
        for other in sorted(source.parent.glob("*optimisation_set.star")):
            named = next((one for one in read_star_blocks(other).values() if TOMOGRAMS_LABEL in one), None) or named
    if named is not None and TOMOGRAMS_LABEL in named:
        return _find(str(named.table[TOMOGRAMS_LABEL].iloc[0]), path, particles_dir)
    if (source.parent / "tomograms.star").is_file():
        return source.parent / "tomograms.star"
    raise InputError(
        f"{path}: its particles have stacks of tilt images, whose poses are in a tomograms.star; none is named by an "
        "optimisation_set.star beside it: give --particles that optimisation_set.star"
    )


def _find(name: str, source: Path, particles_dir: Path | None) -> Path:
    """A file named in another one: from the folder given, or that of the other and its parents."""
    beside = [*Path(os.path.abspath(source)).parents, *source.resolve().parents]
    places = [*([] if particles_dir is None else [particles_dir]), *beside]
    found = next((place / name for place in places if (place / name).is_file()), None)
    if found is None:
        raise InputError(
            f"{source}: {name}, which it names, is not found from its folder or a parent; give the project's folder "
            "(--particles-dir), or repair the path"
        )
    return found


def _optics_of_images(optics: StarBlock) -> StarBlock:
    """Optics groups as those of single particles."""
    table = optics.table.copy()
    if "rlnImagePixelSize" not in optics and _PIXEL_LABEL in optics:
        table["rlnImagePixelSize"] = optics.numbers(_PIXEL_LABEL) * optics.numbers("rlnTomoSubtomogramBinning", 1.0)
    kept = [label for label in table.columns if not str(label).startswith("rlnTomo")]
    return StarBlock(optics.path, "optics", table[kept])


class _TiltSeries:
    """Geometry of tilt series, read as they are asked for."""

    def __init__(self, tomograms: Path, particles_dir: Path | None) -> None:
        blocks = read_star_blocks(tomograms)
        self._path, self._dir, self._blocks = tomograms, particles_dir, blocks
        found = next((block for block in blocks.values() if "rlnTomoName" in block), None)
        if found is None:
            raise InputError(f"{tomograms}: lists no tomograms (no rlnTomoName); give RELION's tomograms.star")
        self._of_all = found
        self._rows = {str(name): row for row, name in enumerate(found.table["rlnTomoName"])}

    def images_of(self, particles: StarBlock) -> pd.DataFrame:
        """A row for each image that particles' stacks hold."""
        if "rlnTomoName" not in particles:
            raise InputError(
                f"{particles.path}: missing rlnTomoName, by which tilt series are known; give it as written"
            )
        if not any(all(label in particles for label in labels) for labels in _ANGLES):
            raise InputError(
                f"{particles.path}: missing {', '.join(_ANGLES[0])}: its particles have no poses; give those of a "
                "refinement"
            )
        tables = []
        names = particles.table["rlnTomoName"].astype(str)
        for name in pd.unique(names):
            rows = np.flatnonzero(names == name)
            if name not in self._rows:
                raise InputError(
                    f"{particles.path}: row {rows[0] + 1} is of {name}, which {self._path} does not list; give the "
                    "files of one job"
                )
            tables.append(self._images_of_tomogram(name, particles, rows))
        return pd.concat(tables, ignore_index=True)

    def _images_of_tomogram(self, name: str, particles: StarBlock, rows: np.ndarray) -> pd.DataFrame:
        tilts, row = self._tilts(name), self._rows[name]
        whole = StarBlock(self._of_all.path, self._of_all.name, self._of_all.table.iloc[[row]])
        some = StarBlock(particles.path, particles.name, particles.table.iloc[rows])
        turns = _rotations_of_tilts(tilts)
        own, before = (matrices_from_relion(*(some.numbers(label, 0.0) for label in labels)) for labels in _ANGLES)
        offsets = np.stack([some.numbers(label, 0.0) for label in _OFFSETS], axis=1)
        shift = np.einsum("nij,nj->ni", before, offsets)
        # Å from the centre of the tomogram
        places = _places(some, whole) - shift
        particle, tilt = np.nonzero(_visible(some, len(tilts)))
        matrices = np.einsum("tij,njk->ntik", turns, before)[particle, tilt]
        depth = np.einsum("tj,nj->nt", turns[:, 2], places)[particle, tilt]
        hand = whole.numbers("rlnTomoHand", -1.0)[0]
        slope = whole.numbers("rlnTomoDefocusSlope", 1.0)[0]
        angles = relion_from_matrices(matrices @ own[particle])
        origins = np.einsum("nij,nj->ni", matrices, offsets[particle])
        images = np.arange(len(particle)) - np.searchsorted(particle, particle) + 1
        stacks = some.table["rlnImageName"].astype(str).to_numpy()[particle]
        columns = {
            "rlnImageName": [f"{image}@{stack}" for image, stack in zip(images.tolist(), stacks.tolist())],
            "rlnAngleRot": angles[:, 0],
            "rlnAngleTilt": angles[:, 1],
            "rlnAnglePsi": angles[:, 2],
            "rlnOriginXAngst": origins[:, 0],
            "rlnOriginYAngst": origins[:, 1],
            "rlnDefocusU": tilts.numbers("rlnDefocusU")[tilt] + hand * slope * depth,
            "rlnDefocusV": tilts.numbers("rlnDefocusV")[tilt] + hand * slope * depth,
            "rlnDefocusAngle": tilts.numbers("rlnDefocusAngle")[tilt],
            "rlnPhaseShift": tilts.numbers("rlnPhaseShift", 0.0)[tilt],
            "rlnCtfBfactor": tilts.numbers("rlnCtfBfactor", 0.0)[tilt],
            "rlnCtfScalefactor": tilts.numbers("rlnCtfScalefactor", 1.0)[tilt],
            PARTICLE_LABEL: rows[particle] + 1,
        }
        if DOSE_LABEL in tilts:
            columns[DOSE_LABEL] = tilts.numbers(DOSE_LABEL)[tilt]
        kept = {label: some.table[label].to_numpy()[particle] for label in _KEPT_OF_PARTICLES if label in some}
        return pd.DataFrame({**columns, **kept})

    def _tilts(self, name: str) -> StarBlock:
        """Rows of a tilt series, of a file of its own or of a block in the tomograms' file."""
        if "rlnTomoTiltSeriesStarFile" in self._of_all:
            file = str(self._of_all.table["rlnTomoTiltSeriesStarFile"].iloc[self._rows[name]])
            blocks = read_star_blocks(_find(file, self._path, self._dir))
            found = blocks.get(name, next(iter(blocks.values())))
        elif name in self._blocks:
            found = self._blocks[name]
        else:
            raise InputError(f"{self._path}: has no tilt series of {name}; give the tomograms.star of the same job")
        missing = [label for label in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle") if label not in found]
        if missing:
            raise InputError(f"{found.path}: missing {', '.join(missing)}: estimate the CTFs of the tilt series first")
        return found


def _rotations_of_tilts(tilts: StarBlock) -> np.ndarray:
    """Matrices of the tilts, (n, 3, 3): from the tomogram's frame to the image's."""
    if all(label in tilts for label in _PROJECTIONS):
        rows = [[str(text).strip("[] ").split(",")[:3] for text in tilts.table[label]] for label in _PROJECTIONS]
        try:
            return np.array(rows, dtype=float).transpose(1, 0, 2)
        except ValueError:
            raise InputError(
                f"{tilts.path}: {_PROJECTIONS[0]} and others need four numbers each, as [1,0,0,0]"
            ) from None
    if "rlnTomoYTilt" not in tilts or "rlnTomoZRot" not in tilts:
        raise InputError(f"{tilts.path}: missing rlnTomoYTilt and rlnTomoZRot: align the tilt series first")
    angles = [tilts.numbers("rlnTomoXTilt", 0.0), tilts.numbers("rlnTomoYTilt"), tilts.numbers("rlnTomoZRot")]
    return Rotation.from_euler("xyz", np.stack(angles, axis=1), degrees=True).as_matrix()


def _places(particles: StarBlock, tomogram: StarBlock) -> np.ndarray:
    """Where particles are, (n, 3), Å from the tomogram's centre."""
    if all(label in particles for label in _CENTRED):
        return np.stack([particles.numbers(label) for label in _CENTRED], axis=1)
    if all(label in particles for label in _PIXELS) and all(label in tomogram for label in (*_SIZES, _PIXEL_LABEL)):
        pixel = tomogram.numbers(_PIXEL_LABEL)[0]
        size = np.array([tomogram.numbers(label)[0] for label in _SIZES])
        return (np.stack([particles.numbers(label) for label in _PIXELS], axis=1) - size / 2) * pixel
    raise InputError(
        f"{particles.path}: missing {', '.join(_CENTRED)}: places of particles tell their defocus; add them"
    )


def _visible(particles: StarBlock, n_tilts: int) -> np.ndarray:
    """Which tilts each particle's stack holds, (n, n_tilts) bool."""
    if "rlnTomoVisibleFrames" not in particles:
        return np.ones((len(particles), n_tilts), dtype=bool)
    texts = particles.table["rlnTomoVisibleFrames"].astype(str)
    marks = [[mark.strip() == "1" for mark in str(text).strip("[] ").split(",")] for text in texts]
    wrong = next((row for row, one in enumerate(marks) if len(one) != n_tilts or not any(one)), None)
    if wrong is not None:
        raise InputError(
            f"{particles.path}: rlnTomoVisibleFrames is {texts.iloc[wrong]}; a 0 or 1 is needed for each of the "
            f"{n_tilts} tilts, and a 1 for one of them at least: give the tomograms.star of the same job"
        )
    return np.array(marks)
