"""``placement.json``: where a model's bodies go, and in which hand of the map."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cocofold.structure.geometry import normalise_point_group
from cocofold.system.atomic_files import read_json, write_json
from cocofold.system.errors import InputError

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
