"""What holds a model together: rigid frames of residues and their links, and covalent bonds.

Within residues bonds are found from distances and elements. Between residues chemistry must allow them too, or the file
must list them, since atoms of two residues may also be near each other because they clash.
"""

from __future__ import annotations

from dataclasses import dataclass

import gemmi
import numpy as np
from scipy.spatial import cKDTree

from cocofold.structure.geometry import axes_from_directions
from cocofold.structure.labels import AMINO_ACIDS
from cocofold.structure.model import Model

# A peptide bond has 1.33 Å. Models to be refined may have stretched ones, which restraints then mend; atoms that are
# not bonded are 3 Å and more apart. A larger limit would pull breaks of a chain shut, a smaller one tear chains apart.
LONGEST_PEPTIDE_BOND_ANGSTROM = 2.3
# O3'-P has 1.61 Å, and C3' and P, which are not bonded, 2.6 Å. The same holds.
LONGEST_PHOSPHATE_BOND_ANGSTROM = 2.6


@dataclass(frozen=True)
class Backbone:
    """Rigid frames to which all atoms of a model belong, and the bonds between them.

    Each residue with N, CA and C, and each nucleotide with C3', C1' and C4', has a frame of its own. What is bonded to
    such a residue belongs to its frame, so that the bond stays as it is: sugars of a glycan, a cofactor, a metal that
    it coordinates, a cap, a residue that lacks a backbone atom. Nucleotides never belong to another residue's frame.
    All other residues (ligands, ions, water) are detached: each is one rigid piece, with a frame of its own behind
    those of the backbone.

    Attributes
    ----------
    residues : (n,) int
        Rows in ``Model.residues`` of those with a backbone, in file order. Frame i is residue ``residues[i]``.
    atoms : (n, 3) int
        Rows of N, CA and C, or of C3', C1' and C4': a residue turns about the second.
    is_nucleotide : (n,) bool
        Which of them are nucleotides.
    detached_residues : (m,) int
        Rows in ``Model.residues`` of those that are not bonded to any with a backbone; they move with what is around
        them. Frame n + i is residue ``detached_residues[i]``.
    linked : (n + m,) bool
        Whether a bond of the chain joins a frame to the next one: both in one chain, C and N closer than 2.3 Å, or O3'
        and P closer than 2.6 Å, in the model as given. False at a break in the chain, at its end, and for detached
        residues.
    frame_of_atom : (n_atoms,) int
        The frame of each atom.
    chain : (n + m,) int
        Number of the chain of each frame, from 0; for a detached residue that of the nearest residue with a backbone.
    """

    residues: np.ndarray
    atoms: np.ndarray
    is_nucleotide: np.ndarray
    detached_residues: np.ndarray
    linked: np.ndarray
    frame_of_atom: np.ndarray
    chain: np.ndarray

    def __len__(self) -> int:
        return len(self.residues)

    @classmethod
    def of(cls, model: Model) -> Backbone:
        """Find the frames of a model and the links between them."""
        residues, atoms, is_nucleotide = model.framed_residues()
        others = np.setdiff1d(np.unique(model.residue_of_atom), residues)
        anchors = _bonded_backbone_residues(model, residues, others) if len(others) else {}
        detached = np.array([row for row in others if row not in anchors], dtype=int)
        chain = _number_chains(model, residues)
        linked = np.zeros(len(residues) + len(detached), dtype=bool)
        linked[: len(residues) - 1] = np.where(
            is_nucleotide[:-1],
            is_nucleotide[1:] & _are_nucleotides_linked_to_next(model, residues, chain),
            ~is_nucleotide[1:] & _are_linked_to_next(model, atoms, chain),
        )
        frame_of_residue = _assign_frames(len(model.residues), residues, detached, anchors)
        if len(detached):
            centres = residue_centroids(model, detached)
            chain = np.append(chain, chain[cKDTree(model.positions[atoms[:, 1]]).query(centres)[1]])
        return cls(residues, atoms, is_nucleotide, detached, linked, frame_of_residue[model.residue_of_atom], chain)

    @property
    def has_peptide(self) -> np.ndarray:
        """Whether a peptide bond joins a residue with a backbone to the next one, (n,) bool."""
        return self.linked[: len(self)] & ~self.is_nucleotide


def residue_centroids(model: Model, residues: np.ndarray) -> np.ndarray:
    """Mean position of the atoms of each residue, (n, 3) Å; ``residues`` are rows in ``Model.residues``."""
    count = np.bincount(model.residue_of_atom, minlength=len(model.residues))
    total = np.zeros((len(model.residues), 3))
    np.add.at(total, model.residue_of_atom, model.positions)
    return total[residues] / count[residues, None]


def residue_frames(backbone_positions: np.ndarray) -> np.ndarray:
    """Right-handed axes of residues by Gram-Schmidt: x along CA to C, y in the plane of N.

    Parameters
    ----------
    backbone_positions : (n, 3, 3) float
        N, CA and C of each residue; of nucleotides C3', C1' and C4' in their places.

    Returns
    -------
    (n, 3, 3) float
        Axes in the columns.
    """
    nitrogen, alpha, carbon = backbone_positions.transpose(1, 0, 2)
    return axes_from_directions(carbon - alpha, nitrogen - alpha)


def _number_chains(model: Model, residues: np.ndarray) -> np.ndarray:
    """Number of each residue's chain, (n,) int, in the order in which chains first occur."""
    order: dict[str, int] = {}
    return np.array([order.setdefault(model.residues[row].chain, len(order)) for row in residues])


def _are_linked_to_next(model: Model, atoms: np.ndarray, chain: np.ndarray) -> np.ndarray:
    """Whether a peptide bond joins each residue but the last to the one behind it, (n - 1,) bool."""
    carbon, nitrogen = model.positions[atoms[:-1, 2]], model.positions[atoms[1:, 0]]
    close = np.linalg.norm(carbon - nitrogen, axis=1) < LONGEST_PEPTIDE_BOND_ANGSTROM
    return close & (chain[1:] == chain[:-1])


def _are_nucleotides_linked_to_next(model: Model, residues: np.ndarray, chain: np.ndarray) -> np.ndarray:
    """Whether O3' of each residue but the last is bonded to P of the one behind it, (n - 1,) bool."""
    oxygen, phosphorus = (model.atoms_named(name)[residues] for name in ("O3'", "P"))
    known = (oxygen[:-1] >= 0) & (phosphorus[1:] >= 0) & (chain[1:] == chain[:-1])
    length = np.linalg.norm(model.positions[oxygen[:-1]] - model.positions[phosphorus[1:]], axis=1)
    return known & (length < LONGEST_PHOSPHATE_BOND_ANGSTROM)


def _assign_frames(count: int, residues: np.ndarray, detached: np.ndarray, anchors: dict[int, int]) -> np.ndarray:
    """Frame of each of ``count`` residues, (count,) int."""
    frames = np.empty(count, dtype=int)
    frames[residues] = np.arange(len(residues))
    frames[detached] = len(residues) + np.arange(len(detached))
    for row, anchor in anchors.items():
        frames[row] = frames[anchor]
    return frames


def _bonded_backbone_residues(model: Model, residues: np.ndarray, others: np.ndarray) -> dict[int, int]:
    """For each of the other residues that is bonded, also by way of others, to one with a backbone: that residue.

    If it is bonded to several, the shortest bond decides. A metal belongs to what it coordinates, but passes nothing
    on: a nucleotide that holds a magnesium ion is not tied to the aspartate on its other side.

    Parameters
    ----------
    residues, others : (n,) int, (m,) int
        Rows in ``Model.residues`` of those with a backbone, and of those without.
    """
    has_backbone = np.isin(np.arange(len(model.residues)), residues)
    bonds = covalent_bonds(model)
    owner = model.residue_of_atom[bonds]
    across = (owner[:, 0] != owner[:, 1]) & ~has_backbone[owner].all(1)
    passed_on = has_backbone[owner].any(1) | ~is_metal(model)[bonds].any(1)
    bonds, owner = bonds[across & passed_on], owner[across & passed_on]
    length = np.linalg.norm(model.positions[bonds[:, 0]] - model.positions[bonds[:, 1]], axis=1)
    pairs = [(int(first), int(second)) for first, second in owner[np.argsort(length, kind="stable")]]
    free = {int(row) for row in others if not _is_nucleotide(model.residues[row].name)}
    anchors: dict[int, int] = {}
    reached = {int(row): int(row) for row in residues}
    while reached:
        nearest: dict[int, int] = {}
        for first, second in pairs:
            for known, other in ((first, second), (second, first)):
                if known in reached and other in free:
                    nearest.setdefault(other, reached[known])
        free.difference_update(nearest)
        anchors.update(nearest)
        reached = nearest
    return anchors


def _is_nucleotide(name: str) -> bool:
    return gemmi.find_tabulated_residue(name).is_nucleic_acid()


# Longest distances (Å) of bonded atoms, by the number of them that are heavier than neon. Single bonds have up to
# 1.54 Å (C-C), 1.82 Å (C-S) and 2.05 Å (S-S); the rest allows for models that are not refined. Atoms two bonds apart
# begin at about 2.2 Å (heavy ones further apart), so that larger limits would find bonds that are none.
_MAX_BOND_ANGSTROM_BY_HEAVY_ATOMS = (1.75, 2.05, 2.3)
# X-H bonds have 0.96 to 1.34 Å (S-H); hydrogens of one group lie 1.5 Å and more apart.
_MAX_BOND_TO_HYDROGEN_ANGSTROM = 1.35
_NEON = 10  # atomic number
# Coordination has 1.9 to 2.5 Å for most metals, up to 2.8 Å for potassium and the like.
_MAX_BOND_TO_METAL_ANGSTROM = 2.8
# Nitrogen, oxygen, fluorine, sulfur, chlorine, selenium, bromine, iodine.
_COORDINATING_ELEMENTS = (7, 8, 9, 16, 17, 34, 35, 53)
_METALS = [number for number in range(1, 119) if gemmi.Element(number).is_metal]  # as gemmi sorts elements


def covalent_bonds(model: Model) -> np.ndarray:
    """Pairs of bonded atoms, (n_bonds, 2) int.

    Two atoms up to neon are bonded below 1.75 Å, below 2.05 Å if one is heavier (C-S, P-O), below 2.3 Å if both
    are (S-S), and a hydrogen below 1.35 Å. Atoms of different residues must besides be listed in the file as bonded
    (_struct_conn, LINK, SSBOND, CONECT), or be able to form a bond: see ``_may_join_residues``. A metal is bonded to
    nitrogen, oxygen, sulfur, selenium and halogens below 2.8 Å, and to nothing else.
    """
    pairs = cKDTree(model.positions).query_pairs(_MAX_BOND_ANGSTROM_BY_HEAVY_ATOMS[-1], output_type="ndarray")
    distance = np.linalg.norm(model.positions[pairs[:, 0]] - model.positions[pairs[:, 1]], axis=1)
    numbers = model.atomic_numbers[pairs]
    limit = np.array(_MAX_BOND_ANGSTROM_BY_HEAVY_ATOMS)[(numbers > _NEON).sum(1)]
    limit[(numbers == 1).any(1)] = _MAX_BOND_TO_HYDROGEN_ANGSTROM
    metal = is_metal(model)
    bonds = pairs[(distance < limit) & ~metal[pairs].any(1)]
    across = np.flatnonzero(np.diff(model.residue_of_atom[bonds], axis=1)[:, 0])
    if len(across):
        bonds = np.delete(bonds, across[~_may_join_residues(model, bonds, across)], axis=0)
    return np.concatenate([bonds, _metal_bonds(model, metal)]) if metal.any() else bonds


# Atoms of amino acids that bind other residues without being listed: sugars on Asn, Ser and Thr, cofactors on Lys, Cys,
# His and Tyr, covalent inhibitors, and the carbonyl carbons of isopeptides.
_BINDING_ATOMS = {
    "ARG": ("NE", "NH1", "NH2"), "ASN": ("ND2", "CG"), "ASP": ("OD1", "OD2", "CG"), "CYS": ("SG",), "CYX": ("SG",),
    "GLN": ("NE2", "CD"), "GLU": ("OE1", "OE2", "CD"), "HIS": ("ND1", "NE2"), "LYS": ("NZ",), "SER": ("OG",),
    "THR": ("OG1",), "TYR": ("OH",),
}  # fmt: skip
_CARBONYLS = {("ASN", "CG"), ("ASP", "CG"), ("GLN", "CD"), ("GLU", "CD")}
_BINDING_ATOMS_OF_NUCLEOTIDES = ("P", "O5'", "O3'", "O2'")
# Atoms two bonds apart span 95 degrees and more at every atom that binds another residue (100 at sulfur, 109 and more
# elsewhere); what this leaves is for models that are not refined. Of atoms that clash, a neighbour is often on the way.
_LEAST_BOND_ANGLE_COSINE = np.cos(np.radians(80))
# Shorter than this share of the sum of both atoms' covalent radii no bond is, however poor the model: 1.7 Å for S-S.
_LEAST_BOND_LENGTH = 0.8
_CARBON, _NITROGEN, _OXYGEN, _SULFUR = 6, 7, 8, 16


def _may_join_residues(model: Model, bonds: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Whether pairs of near atoms of different residues are bonds, and not atoms that clash; (k,) bool.

    They are if the file lists them, or if they are the C and N of a peptide: of residues that follow each other, or of
    two ends of one chain, as in a ring. Of two amino acids other bonds are disulphides, SG-SG, and isopeptides, an
    amine on a carboxyl. What binds anything else (sugars, cofactors, caps, nucleotides) are its own atoms and those of
    an amino acid that do so in nature, one of them no carbon, and not two of nitrogen and oxygen. Waters and hydrogens
    bind nothing. But for peptides, atoms must also be no nearer than bonded ones, and see each other past the
    neighbours that each of them has.

    Parameters
    ----------
    model : Model
    bonds : (n, 2) int
        Atoms near enough to be bonded.
    across : (k,) int
        Those of them that join two residues.
    """
    listed = _listed_links(model)
    ends = _ChainEnds.of(model)
    is_inside = np.ones(len(bonds), dtype=bool)
    is_inside[across] = False
    neighbours: dict[int, list[int]] = {}
    for first, second in bonds[is_inside].tolist():
        neighbours.setdefault(first, []).append(second)
        neighbours.setdefault(second, []).append(first)

    def is_open(one: int, other: int) -> bool:
        """Whether an atom is not too near to the other for a bond, and no neighbour of it lies in the way."""
        rays = model.positions[[*neighbours.get(one, []), other]] - model.positions[one]
        lengths = np.linalg.norm(rays, axis=1)
        radii = sum(gemmi.Element(int(model.atomic_numbers[atom])).covalent_r for atom in (one, other))
        cosines = rays[:-1] @ rays[-1] / np.maximum(lengths[:-1] * lengths[-1], np.finfo(float).tiny)
        return bool(lengths[-1] > _LEAST_BOND_LENGTH * radii and (cosines < _LEAST_BOND_ANGLE_COSINE).all())

    def joins(one: int, other: int) -> bool:
        if (one, other) in listed or ends.is_peptide(one, other):
            return True
        return ends.can_bind(one, other) and is_open(one, other) and is_open(other, one)

    return np.array([joins(*sorted(pair)) for pair in bonds[across].tolist()], dtype=bool)


def _listed_links(model: Model) -> set[tuple[int, int]]:
    """Pairs of atoms of which the file says that they are bonded, the lower row first; without hydrogen bonds."""
    structure = model.structure
    pairs = []
    if structure.conect_map:
        serials = [atom.serial for chain in structure[0] for residue in chain for atom in residue]
        row_of_serial = {serial: row for row, serial in enumerate(serials)}
        # Where numbers come twice, it is not said which atom is meant.
        if len(row_of_serial) == len(serials):
            pairs = [
                (row_of_serial.get(serial), row_of_serial.get(other))
                for serial, others in structure.conect_map.items()
                for other in others
            ]
    if len(structure.connections):
        keys = [model.residues[row] for row in model.residue_of_atom]
        row_of = {(*key, name): row for row, (key, name) in enumerate(zip(keys, model.atom_names.tolist()))}
        pairs += [
            (row_of.get(_address(link.partner1)), row_of.get(_address(link.partner2)))
            for link in structure.connections
            if link.type != gemmi.ConnectionType.Hydrog
        ]
    return {(min(one, other), max(one, other)) for one, other in pairs if one is not None and other is not None}


def _address(atom: gemmi.AtomAddress) -> tuple[str, int, str, str, str]:
    number = atom.res_id.seqid
    return atom.chain_name, number.num or 0, number.icode.strip(), atom.res_id.name, atom.atom_name


@dataclass(frozen=True)
class _ChainEnds:
    """Which C and N of a model are joined to the next residue and the one before, and what else can bind residues."""

    model: Model
    has_backbone: np.ndarray
    joined_to_next: np.ndarray

    @classmethod
    def of(cls, model: Model) -> _ChainEnds:
        residues, atoms = model.backbone()
        has_backbone = np.isin(np.arange(len(model.residues)), residues)
        joined = np.full(len(model.residues), -1)
        before = np.flatnonzero(_are_linked_to_next(model, atoms, _number_chains(model, residues)))
        joined[residues[before]] = residues[before + 1]
        return cls(model, has_backbone, joined)

    def is_peptide(self, one: int, other: int) -> bool:
        """Whether two atoms are C and N of residues that follow each other, or of ends of one chain."""
        for carbon, nitrogen in ((one, other), (other, one)):
            if self.model.atom_names[carbon] == "C" and self.model.atom_names[nitrogen] == "N":
                before, after = self.model.residue_of_atom[[carbon, nitrogen]]
                if self.joined_to_next[before] == after:
                    return True
                same_chain = self.model.residues[before].chain == self.model.residues[after].chain
                return same_chain and self._is_end(carbon) and self._is_end(nitrogen)
        return False

    def _is_end(self, atom: int) -> bool:
        """Whether an atom is the N or C of a backbone, and no peptide bond joins it to a neighbour in the chain."""
        residue, name = self.model.residue_of_atom[atom], self.model.atom_names[atom]
        return (name == "C" and self.joined_to_next[residue] < 0) or (
            name == "N" and residue not in self.joined_to_next
        )

    def can_bind(self, one: int, other: int) -> bool:
        """Whether two near atoms can form a bond other than that of a peptide."""
        numbers = sorted(self.model.atomic_numbers[[one, other]].tolist())
        if numbers[0] == 1 or numbers[1] == _CARBON or (numbers[1] <= _OXYGEN and numbers[0] >= _NITROGEN):
            return False
        names = [self.model.residues[row].name for row in self.model.residue_of_atom[[one, other]]]
        if not (self._binds(one) and self._binds(other)):
            return False
        if not all(name in AMINO_ACIDS for name in names):
            return True
        if numbers == [_SULFUR, _SULFUR]:
            return True
        carbon, amine = (one, other) if self.model.atomic_numbers[one] == _CARBON else (other, one)
        is_carboxyl = (names[0 if carbon == one else 1], self.model.atom_names[carbon]) in _CARBONYLS
        is_amine = self.model.atom_names[amine] == "NZ" or self._is_end(amine)
        return numbers == [_CARBON, _NITROGEN] and (is_carboxyl or self._is_end(carbon)) and is_amine

    def _binds(self, atom: int) -> bool:
        """Whether an atom is one by which its residue binds others."""
        row, name = self.model.residue_of_atom[atom], str(self.model.atom_names[atom])
        residue = self.model.residues[row].name
        kind = gemmi.find_tabulated_residue(residue)
        if kind.is_water():
            return False
        if kind.is_nucleic_acid():
            return name in _BINDING_ATOMS_OF_NUCLEOTIDES
        if residue in AMINO_ACIDS:
            return name in _BINDING_ATOMS.get(residue, ()) or self._is_end(atom)
        if self.has_backbone[row]:
            return self._is_end(atom) or (self.model.atomic_numbers[atom] != _CARBON and name not in ("N", "O", "OXT"))
        return True


def is_metal(model: Model) -> np.ndarray:
    """Whether each atom is of a metal, (n_atoms,) bool."""
    return np.isin(model.atomic_numbers, _METALS)


def _metal_bonds(model: Model, metal: np.ndarray) -> np.ndarray:
    metals, others = np.flatnonzero(metal), np.flatnonzero(np.isin(model.atomic_numbers, _COORDINATING_ELEMENTS))
    if len(others) == 0:
        return np.empty((0, 2), dtype=int)
    near = cKDTree(model.positions[metals]).query_ball_tree(
        cKDTree(model.positions[others]), _MAX_BOND_TO_METAL_ANGSTROM
    )
    found = [(metals[row], others[column]) for row, columns in enumerate(near) for column in sorted(columns)]
    return np.array(found, dtype=int).reshape(-1, 2)
