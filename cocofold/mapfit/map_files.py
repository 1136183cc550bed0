"""Files beside a map: where a model lies in it (``placement.json``), and a map of particles with what it shows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cocofold.likelihood.observed_images import refuse_incompatible_input
from cocofold.likelihood.particle_optics import unsupported_aberrations
from cocofold.likelihood.reconstruction import Reconstruction, reconstruct
from cocofold.mapfit.density_map import DensityMap
from cocofold.mapfit.target_map import fourier_shell_correlation, resolution_from_half_maps, soft_molecule_mask
from cocofold.mapfit.unexplained_density import UnexplainedDensity, find_unexplained_density
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.structure.geometry import normalise_point_group, point_group_rotations
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.system.atomic_files import check_new_folder, read_json, refuse_unwritable, write_atomically, write_json
from cocofold.system.errors import InputError
from cocofold.system.hardware import find_device

AS_IS, MIRRORED = "as-is", "mirrored"
# Largest entry of R R^T - 1 of a matrix that is a rotation: files written by hand have few digits.
_ORTHOGONAL_WITHIN = 1e-4


@dataclass(frozen=True)
class PlacedBody:
    """Where a part of a model goes: ``x_map = rotation @ x_model + translation_angstrom``.

    Attributes
    ----------
    selection : str
        Chains and ranges of residues, such as ``A:1-120,B``.
    rotation : (3, 3) float64
    translation_angstrom : (3,) float64
    correlation : float
        With the map, at the body's own sample points.
    runner_up : float or None
        The best correlation that was found anywhere else.
    """

    selection: str
    rotation: np.ndarray
    translation_angstrom: np.ndarray
    correlation: float
    runner_up: float | None = None

    def apply(self, positions: np.ndarray) -> np.ndarray:
        """Positions (n, 3) Å in the map's frame."""
        return positions @ self.rotation.T + self.translation_angstrom


@dataclass(frozen=True)
class Placement:
    """A model's bodies in the frame of the map, or of the map's mirror image.

    Attributes
    ----------
    hand : str
        ``as-is`` or ``mirrored``.
    hand_scores : dict
        Correlations of either hand, and ``verdict``: what they say, or ``undecided``.
    bodies : tuple of PlacedBody
        Every residue of the model is in one of them.
    facts : dict
        Further keys of the file: resolution, uncovered density, warnings.
    symmetry : str, optional
        Point group of the map; the model is then one subunit of it.
    """

    hand: str
    hand_scores: dict[str, Any]
    bodies: tuple[PlacedBody, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    symmetry: str | None = None

    @property
    def mirror_axis(self) -> str | None:
        """The axis along which the map is mirrored, if it is."""
        return "z" if self.hand == MIRRORED else None

    @property
    def doubt(self) -> str | None:
        """Both places of each part whose placement is not trusted, as a sentence; None if all are, or none is known."""
        lines = []
        for part in self.facts.get("places", ()):
            rival = part.get("rival")
            if rival and not part.get("trusted", True):
                lines.append(
                    f"{part['selection']} fits with its centre at {_describe_place(part)}, and nearly as well turned "
                    f"by {rival['turned_by_degrees']:g}° with its centre at {_describe_place(rival)}"
                )
        return "; ".join(lines) or None

    def with_facts(self, facts: dict[str, Any]) -> Placement:
        """The same placement with other facts."""
        return replace(self, facts=facts)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON; the file appears whole or not at all."""
        bodies = [
            {
                **asdict(body),
                "rotation": body.rotation.tolist(),
                "translation_angstrom": body.translation_angstrom.tolist(),
            }
            for body in self.bodies
        ]
        content = {
            "hand": self.hand,
            "hand_scores": self.hand_scores,
            "mirror_axis": self.mirror_axis,
            "symmetry": self.symmetry,
            "bodies": bodies,
            **self.facts,
        }
        write_json(path, content)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Placement:
        """Read what ``write`` wrote, or what was written by hand in its form.

        Raises
        ------
        InputError
            If the file is missing or anything in it is not as it must be.
        """
        name = f"placement {path}"
        if not Path(path).is_file():
            raise InputError(f"{name}: no such file; give the placement.json of cocofold fit")
        content: dict[str, Any] = read_json(path, name, "give the placement.json of cocofold fit")
        hand = content.pop("hand", None)
        if hand not in (AS_IS, MIRRORED):
            raise InputError(f"{name}: hand is {hand!r}; it must be '{AS_IS}' or '{MIRRORED}'")
        axis, needed = content.pop("mirror_axis", None), "z" if hand == MIRRORED else None
        if axis != needed:
            raise InputError(f"{name}: mirror_axis is {axis!r}; with hand '{hand}' it must be {needed!r}")
        scores = content.pop("hand_scores", {})
        if not isinstance(scores, dict):
            raise InputError(f"{name}: hand_scores is {scores!r}; it must be an object")
        symmetry = content.pop("symmetry", None)
        if symmetry is not None:
            symmetry = normalise_point_group(str(symmetry))
        bodies = content.pop("bodies", None)
        if not isinstance(bodies, list) or not bodies:
            raise InputError(f"{name}: has no bodies; it must have one at least")
        read = tuple(_parse_body(body, f"{name}: body {n}") for n, body in enumerate(bodies, 1))
        return cls(hand, scores, read, content, symmetry)


def _describe_place(place: dict[str, Any]) -> str:
    x, y, z = place["centre_angstrom"]
    shells = place["shell_correlation"]
    by_shells = "" if shells is None else f", in Fourier shells {shells:.3f}"
    return f"({x:g}, {y:g}, {z:g}) Å (correlation {place['correlation']:.3f}{by_shells})"


def _parse_body(content: Any, name: str) -> PlacedBody:
    if not isinstance(content, dict):
        raise InputError(f"{name}: is {content!r}; it must be an object")
    if not isinstance(content.get("selection"), str):
        raise InputError(f"{name}: selection is {content.get('selection')!r}; it must be text such as 'A:1-120,B'")
    rotation = _parse_numbers(content, "rotation", (3, 3), name)
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > _ORTHOGONAL_WITHIN or np.linalg.det(rotation) < 0:
        raise InputError(f"{name}: rotation is no rotation matrix (its rows must be orthonormal, its determinant 1)")
    shift = _parse_numbers(content, "translation_angstrom", (3,), name)
    correlation = float(_parse_numbers(content, "correlation", (), name))
    other = None if content.get("runner_up") is None else float(_parse_numbers(content, "runner_up", (), name))
    return PlacedBody(content["selection"], rotation, shift, correlation, other)


def _parse_numbers(content: dict[str, Any], key: str, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        values = np.array(content[key], dtype=float)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name}: {key} is missing or holds no numbers") from error
    if values.shape != shape or not np.isfinite(values).all():
        wanted = " x ".join(map(str, shape)) or "one"
        raise InputError(f"{name}: {key} must be {wanted} finite numbers, not {content[key]!r}")
    return values


# Pieces of unexplained density that are told; all are in the JSON.
_MOST_PIECES_TOLD = 5


@dataclass(frozen=True)
class ParticleMap:
    """A map of particles, and what a model does not explain of it.

    Attributes
    ----------
    reconstruction : Reconstruction
        ``map`` and ``half_maps``.
    resolution_angstrom : float
        Where the FSC of the half maps within a soft mask falls below 0.143.
    shells_angstrom, fsc : (n_shells,) float
        The FSC within the mask.
    unexplained : UnexplainedDensity, optional
    """

    reconstruction: Reconstruction
    resolution_angstrom: float
    shells_angstrom: np.ndarray
    fsc: np.ndarray
    unexplained: UnexplainedDensity | None

    @property
    def lines(self) -> list[str]:
        """What was found, for the user."""
        first = (
            f"{self.reconstruction.images[0]} images; resolution {self.resolution_angstrom:.2f} Å, where the FSC of "
            "the half maps within a soft mask falls below 0.143"
        )
        return [first, *([] if self.unexplained is None else _describe(self.unexplained))]

    def write(self, out: Path, half_maps: bool) -> None:
        """Write maps and ``reconstruction.json`` into a folder, which is made."""
        images, first, second = self.reconstruction.images
        shells = [[round(at, 3), round(value, 4)] for at, value in zip(self.shells_angstrom, self.fsc.tolist())]
        facts = {
            "images": images,
            "images_of_halves": [first, second],
            "resolution_angstrom": self.resolution_angstrom,
            "fsc": shells,
            **({} if self.unexplained is None else {"unexplained": self.unexplained.as_dict()}),
        }
        maps = {"reconstruction.mrc": self.reconstruction.map}
        if half_maps:
            maps |= dict(zip(("half1.mrc", "half2.mrc"), self.reconstruction.half_maps))
        if self.unexplained is not None:
            maps["unexplained.mrc"] = self.unexplained.map
        with refuse_unwritable(out, "give another folder"):
            out.mkdir(parents=True, exist_ok=True)
            for name, values in maps.items():
                DensityMap(values, self.reconstruction.pixel_size_angstrom).write(out / name)
            write_atomically(out / "reconstruction.json", json.dumps(facts, indent=1) + "\n")


def reconstruct_particles(
    particles: ParticleSet | str | os.PathLike[str],
    model: Model | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    half_maps: bool = False,
    symmetry: str | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> ParticleMap:
    """Reconstruct a map of particles at their poses, and weigh what a model does not explain of it.

    Parameters
    ----------
    particles : ParticleSet, str or Path
        Protein is white.
    model : Model, str or Path, optional
        All atoms of the particle, in the map's frame. If it was placed in the map's mirror image, poses are mirrored.
    out : str or Path, optional
        Folder for the maps and ``reconstruction.json``, made anew; nothing is written without it.
    half_maps : bool
        Write the half maps too.
    symmetry : str, optional
        Point group of the particle.
    seed : int
        Of the split into halves where the particles have no half sets, and of the noise that gives errors.
    device : str
        auto, cpu, cuda or cuda:N.
    progress : callable, optional
        Told the number of images done and of all.

    Raises
    ------
    InputError
        For input that cannot be used, before anything is written.
    """
    folder = None if out is None else Path(out)
    if folder is not None:
        check_new_folder("--out", folder)
    rotations = None if symmetry is None else point_group_rotations(symmetry)
    where = find_device(device)
    some = particles if isinstance(particles, ParticleSet) else read_particles(particles)
    start = model if isinstance(model, Model) or model is None else read_model(model)
    if start is not None and start.in_mirror_image:
        some = some.mirrored()
    if start is not None:
        refuse_incompatible_input(start, some, "--model", "--particles")
    elif unsupported_aberrations(some):
        raise InputError("--particles: " + "; ".join(unsupported_aberrations(some)))
    found = reconstruct(some, rotations, seed, where, progress)
    if min(found.images) == 0:
        raise InputError(f"--particles: {len(some)} of one image; two images or more make two half maps")
    first, second = (DensityMap(values, found.pixel_size_angstrom) for values in found.half_maps)
    mask = soft_molecule_mask(DensityMap(found.map, found.pixel_size_angstrom))
    shells, fsc = fourier_shell_correlation(first, second, mask)
    resolution = resolution_from_half_maps(first, second, mask)
    unexplained = None
    if start is not None:
        unexplained = find_unexplained_density(found, start.positions, start.atomic_numbers, seed)
    result = ParticleMap(found, resolution, shells, fsc, unexplained)
    if folder is not None:
        result.write(folder, half_maps)
    return result


def _describe(found: UnexplainedDensity) -> list[str]:
    lines = [
        f"missing mass {found.missing_mass:.1%} ± {found.error:.1%} of the particle's; {found.away_from_atoms:.1%} lie "
        f"away from all atoms, and atoms of {found.without_density:.1%} have no density"
    ]
    for piece in found.pieces[:_MOST_PIECES_TOLD]:
        place = ", ".join(f"{value:.0f}" for value in piece.centre_angstrom)
        lines.append(f"  {piece.mass_share:.1%} around ({place}) Å, about {piece.extent_angstrom:.0f} Å across")
    return lines
