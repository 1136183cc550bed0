"""Models with tails and loops that touch nothing, and with B factors of one kind or another."""

from __future__ import annotations

import gemmi
import numpy as np
from scipy.spatial import cKDTree

from cocofold.structure.labels import complete_labels
from cocofold.structure.model import Model

_CA_DISTANCE = 3.8


def with_tail(core: Model, length: int, end: str, seed: int = 0) -> Model:
    """A model with a tail that leads away from it, before its first residue (``N``) or after its last (``C``)."""
    alpha = core.positions[core.backbone()[1][:, 1]]
    begin = alpha[0] if end == "N" else alpha[-1]
    path = _walk(begin, begin - alpha.mean(0), length, np.random.default_rng(seed))
    residues = [residue.clone() for residue in core.structure[0][0]]
    if end == "N":
        return _model_of([*_residues(path[::-1], residues[0].seqid.num - length), *residues])
    return _model_of([*residues, *_residues(path, residues[-1].seqid.num + 1)])


def with_helix(core: Model, length: int) -> Model:
    """A model with a straight helix that leads away from its first residue."""
    alpha = core.positions[core.backbone()[1][:, 1]]
    ahead = (alpha[0] - alpha.mean(0)) / np.linalg.norm(alpha[0] - alpha.mean(0))
    across = np.cross(ahead, [0.3, 0.5, 0.8])
    across /= np.linalg.norm(across)
    numbers = np.arange(1, length + 1)[:, None]
    angle = np.radians(100) * numbers
    path = alpha[0] + 1.5 * numbers * ahead
    path += 2.3 * (np.cos(angle) * across + np.sin(angle) * np.cross(ahead, across))
    residues = [residue.clone() for residue in core.structure[0][0]]
    return _model_of([*_residues(path[::-1], residues[0].seqid.num - length), *residues])


def with_loop(core: Model, length: int, after: int) -> Model:
    """A model with a wide loop after one of its residues, a row of the first chain."""
    alpha = core.positions[core.backbone()[1][:, 1]]
    middle = (alpha[after] + alpha[after + 1]) / 2
    outwards = (middle - alpha.mean(0)) / np.linalg.norm(middle - alpha.mean(0))
    sideways = np.cross(outwards, [0.3, 0.5, 0.8])
    sideways /= np.linalg.norm(sideways)
    angles = np.linspace(0, 2 * np.pi, length + 2)[1:-1, None]
    radius = _CA_DISTANCE * length / (2 * np.pi)
    path = middle + radius * (outwards * (1 - np.cos(angles)) + sideways * np.sin(angles))
    residues = [residue.clone() for residue in core.structure[0][0]]
    first = residues[after].seqid.num + 1
    for residue in residues[after + 1 :]:
        residue.seqid = gemmi.SeqId(residue.seqid.num + length, " ")
    return _model_of([*residues[: after + 1], *_residues(path, first), *residues[after + 1 :]])


def with_b_factors(model: Model, values: np.ndarray, per_atom: float = 0.0) -> Model:
    """The model with a B factor for each residue, and so much more from atom to atom."""
    structure = model.structure.clone()
    rows = (residue for chain in structure[0] for residue in chain)
    for residue, value in zip(rows, values):
        for number, atom in enumerate(residue):
            atom.b_iso = float(value + per_atom * number)
    return Model.of(structure)


def burial(model: Model) -> np.ndarray:
    """Number of CA atoms within 10 Å of each residue's."""
    alpha = model.positions[model.atoms_named("CA")]
    return cKDTree(alpha).query_ball_point(alpha, 10.0, return_length=True).astype(float)


def _walk(begin: np.ndarray, direction: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """CA atoms of a chain that keeps to a direction, roughly."""
    ahead = direction / np.linalg.norm(direction)
    points = [begin]
    for _ in range(length):
        step = 1.5 * ahead + 0.6 * rng.normal(size=3)
        points.append(points[-1] + _CA_DISTANCE * step / np.linalg.norm(step))
    return np.array(points[1:])


def _residues(path: np.ndarray, first: int) -> list[gemmi.Residue]:
    """Alanines whose CA atoms lie on a path."""
    built = []
    along = np.gradient(path, axis=0)
    for number, (place, ahead) in enumerate(zip(path, along / np.linalg.norm(along, axis=1, keepdims=True))):
        across = np.cross(ahead, [0.36, 0.48, 0.8])
        across /= np.linalg.norm(across)
        residue = gemmi.Residue()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(first + number, " ")
        for name, offset in (
            ("N", -1.2 * ahead + 0.5 * across),
            ("CA", 0 * ahead),
            ("C", 1.2 * ahead + 0.5 * across),
            ("O", 1.4 * ahead + 1.7 * across),
            ("CB", -1.5 * across),
        ):
            atom = gemmi.Atom()
            atom.name, atom.element = name, gemmi.Element(name[0])
            atom.pos = gemmi.Position(*(place + offset))
            residue.add_atom(atom)
        built.append(residue)
    return built


def _model_of(residues: list[gemmi.Residue]) -> Model:
    chain = gemmi.Chain("A")
    for residue in residues:
        residue.subchain, residue.label_seq = "", None
        chain.add_residue(residue)
    structure = gemmi.Structure()
    structure.name = "made"
    structure.add_model(gemmi.Model(1))
    structure[0].add_chain(chain)
    complete_labels(structure)
    for residue in structure[0][0]:
        for atom in residue:
            atom.b_iso = 50.0
    return Model.of(structure)
