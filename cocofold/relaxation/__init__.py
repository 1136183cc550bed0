"""Relaxation of models by molecular mechanics, held near where the images put them.

Here is which residues of a model take part, what is said of the others, and how nucleic acids end in a phosphate.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gemmi
import numpy as np

from cocofold.structure.model import Model, ResidueKey
from cocofold.structure.topology import LONGEST_PEPTIDE_BOND_ANGSTROM, Backbone, covalent_bonds, is_metal
from cocofold.system.errors import InputError

# Atoms this near to atoms that the force field does not know do not move: hydrogen bonds and bonds to metals reach less
# far, so that nothing moves into or away from a ligand. Larger: more of the model is not relaxed.
FROZEN_WITHIN_ANGSTROM = 4.5
# Selenomethionine is built as methionine: its selenium becomes the sulphur.
SELENOMETHIONINE = "MSE"
STANDARD_AMINO_ACIDS = frozenset({
    "ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE",
    "LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL",
})  # fmt: skip
# What molecular dynamics programs call amino acids by their protonation and bonds, which are found anew here
_STANDARD_NAME = {
    SELENOMETHIONINE: "MET", "HID": "HIS", "HIE": "HIS", "HIP": "HIS", "HSD": "HIS", "HSE": "HIS", "HSP": "HIS",
    "CYX": "CYS", "CYM": "CYS", "ASH": "ASP", "GLH": "GLU", "LYN": "LYS",
}  # fmt: skip

# Nucleotides: their names, also those that molecular dynamics programs give to ends, and their atoms
_NUCLEOTIDE_NAME = re.compile(r"[DR]?([ACGTU])[35N]?")
_PURINE, _PYRIMIDINE = (
    ("N9", "C8", "N7", "C5", "C6", "N1", "C2", "N3", "C4"),
    ("N1", "C2", "O2", "N3", "C4", "C5", "C6"),
)
_BASES = {
    "A": (*_PURINE, "N6"), "G": (*_PURINE, "O6", "N2"),
    "C": (*_PYRIMIDINE, "N4"), "T": (*_PYRIMIDINE, "O4", "C7"), "U": (*_PYRIMIDINE, "O4"),
}  # fmt: skip
_SUGAR = ("O5'", "C5'", "C4'", "O4'", "C3'", "O3'", "C2'", "C1'")
_PHOSPHATE = ("P", "OP1", "OP2")
_HYDROXYL_OF_RNA, PHOSPHATE_END = "O2'", "OP3"
_OLD_ATOM_NAMES = {"O1P": "OP1", "O2P": "OP2", "O3P": PHOSPHATE_END, "C5M": "C7"}
# A phosphate at the 5'-end ends in an oxygen that stands for a hydroxyl or for the neighbour behind a gap: its type is
# that of the neighbour's, and its charge that of OHE, which is such a hydroxyl in Amber's RNA.OL3. It has no hydrogen:
# Amber's have no radius, and beside the charges of a phosphate that is out of shape one falls into an oxygen.
_NUCLEIC_ACID_FILES = ("DNA.OL15.xml", "RNA.OL3.xml")
_END_CHARGE, _END_TYPE = -0.3081, "OS"
_INSIDE_OR_LAST = re.compile("D?[ACGTU]3?")
_PYRANOSE, _LONGEST_RING_BOND_ANGSTROM = ("C1", "C2", "C3", "C4", "C5", "O5"), 2.0  # 1.5 in a good model
_MOST_NAMED = 8  # kinds of residues, or residues, that a note lists at most
_MOST_NUCLEOTIDES_NAMED = 30


@dataclass(frozen=True)
class RelaxedResidues:
    """Residues of a model that are relaxed, and why the others are not.

    Attributes
    ----------
    pieces : tuple of tuple of int
        Runs of residues that bonds of the chain join, rows in ``Model.residues``: of amino acids, then of nucleotides.
    n_strands : int
        How many of them are of nucleotides: the last ones.
    names : dict
        The force field's name of each residue in the pieces.
    left_out : (n_residues,) bool
        Residues that are in none.
    held : (k,) int
        Amino acids that the force field knows, but not where they are: alone between gaps, or closing a ring.
    odd_nucleotides : dict
        Nucleotides that the force field does not know as they are, and what is odd: modified or incomplete ones, and
        those that a bond joins to another residue than their neighbours.
    bound : (n, 2) int
        Bonds of relaxed residues to others that stay, such as sugars: rows of both atoms. Peptides are not among them.
    """

    pieces: tuple[tuple[int, ...], ...]
    n_strands: int
    names: dict[int, str]
    left_out: np.ndarray
    held: np.ndarray
    odd_nucleotides: dict[int, str]
    bound: np.ndarray

    @classmethod
    def of(cls, model: Model) -> RelaxedResidues:
        """Choose a model's residues: standard amino acids that peptide bonds join, and complete standard nucleotides.

        The force field has no amino acid that is an end of a chain on both sides. One that stands alone is held, and
        so are the two that close a ring: they would be torn apart as ends.

        Raises
        ------
        InputError
            If there is none.
        """
        backbone = Backbone.of(model)
        known = {
            row: _STANDARD_NAME.get(name, name)
            for row, name in ((row, model.residues[row].name) for row in backbone.residues.tolist())
            if name in STANDARD_AMINO_ACIDS or name in _STANDARD_NAME
        }
        runs = _runs(backbone, known)
        runs = [run[1:-1] if _is_ring(model, run) else run for run in runs]
        pieces = [run for run in runs if len(run) > 1]
        names = {row: known[row] for run in pieces for row in run}
        nucleotides, odd = _nucleotides(model, backbone)
        bonds = _bonds_besides_chains(model, backbone, names.keys() | nucleotides.keys())
        for pair in model.residue_of_atom[bonds].tolist():
            for row, other in (pair, pair[::-1]):
                if row in nucleotides and (other in nucleotides or other in names):
                    odd[row] = f" bonded to {residue_label(model.residues[other])}"
        nucleotides = {row: name for row, name in nucleotides.items() if row not in odd}
        strands = _runs(backbone, nucleotides)
        names.update(nucleotides)
        if not names:
            raise InputError(
                "the model has neither two standard amino acids with N, CA and C that a peptide bond joins, nor a "
                "standard nucleotide with all its atoms, so there is nothing to relax"
            )
        left_out = ~np.isin(np.arange(len(model.residues)), list(names))
        stays = left_out[model.residue_of_atom[bonds]]
        bound = np.where(stays[:, :1], bonds[:, ::-1], bonds)[stays.sum(1) == 1]
        held = np.array(sorted(known.keys() - names.keys()), dtype=int)
        return cls((*pieces, *strands), len(strands), names, left_out, held, odd, bound)

    def describe(self, model: Model, n_disulphides: int) -> tuple[str, ...]:
        """What was held, left out or handled in a particular way; a line each."""
        n_proteins = len(self.pieces) - self.n_strands
        notes = []
        if n_proteins:
            pieces = "1 piece" if n_proteins == 1 else f"{n_proteins} pieces"
            notes.append(f"{pieces} of protein without gaps, {n_disulphides} disulphides")
        if self.n_strands:
            strands = "1 strand" if self.n_strands == 1 else f"{self.n_strands} strands"
            count = sum(map(len, self.pieces[n_proteins:]))
            notes.append(f"{strands} of nucleic acid without gaps, {count} nucleotides")
        near = f"and atoms within {FROZEN_WITHIN_ANGSTROM:g} Å of them too"
        others = np.setdiff1d(np.flatnonzero(self.left_out), [*self.held.tolist(), *self.odd_nucleotides])
        if len(others):
            names = [model.residues[row].name for row in others]
            kinds = ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names))[:_MOST_NAMED])
            notes.append(
                f"{len(names)} residues that the force field does not know stay where they are, {near}: {kinds}"
            )
        if self.odd_nucleotides:
            labels = [residue_label(model.residues[row]) + odd for row, odd in sorted(self.odd_nucleotides.items())]
            notes.append(
                "nucleotides that are modified, incomplete or bonded to others than their neighbours stay where they "
                f"are, {near}: {_listed(labels, _MOST_NUCLEOTIDES_NAMED)}"
            )
        if len(self.held):
            labels = [residue_label(model.residues[row]) for row in self.held]
            notes.append(
                f"residues that stand alone between gaps, or close a ring, stay where they are, {near}: "
                + _listed(labels, _MOST_NAMED)
            )
        pairs = dict.fromkeys(map(tuple, model.residue_of_atom[self.bound].tolist()))
        sugars = are_sugars(model)
        labels = [
            f"{residue_label(model.residues[row])} with {model.residues[other].name}"
            for row, other in pairs
            if sugars[other]
        ]
        if labels:
            notes.append(
                "residues that bind a sugar relax, but for the atom that does so and those bonded to it, which stay "
                f"with the sugar: {_listed(labels, _MOST_NAMED)}"
            )
        selenium = sum(model.residues[row].name == SELENOMETHIONINE for row in self.names)
        if selenium:
            notes.append(f"{selenium} selenomethionines were moved as methionines")
        return tuple(notes)


def are_sugars(model: Model) -> np.ndarray:
    """Which residues are sugars, by gemmi's table or by the ring of a pyranose, (n_residues,) bool."""
    kinds = [gemmi.find_tabulated_residue(key.name).kind for key in model.residues]
    tabulated = [kind in (gemmi.ResidueKind.PYR, gemmi.ResidueKind.KET) for kind in kinds]
    ring = np.array([model.atoms_named(name) for name in _PYRANOSE])
    bonds = np.linalg.norm(model.positions[ring] - model.positions[np.roll(ring, 1, axis=0)], axis=2)
    # Citrate and polyethylene glycol have atoms of these names, in no ring
    has_ring = (ring >= 0).all(0) & (bonds < _LONGEST_RING_BOND_ANGSTROM).all(0)
    return np.array(tabulated, dtype=bool) | has_ring


def residue_label(key: ResidueKey) -> str:
    """Chain, number and name of a residue, as messages give them."""
    return f"{key.chain} {key.number}{key.insertion_code} {key.name}"


def force_field_atom_name(residue: str, name: str) -> str:
    """The force field's name of an atom, by its name in the model and that of its residue in the force field."""
    return _OLD_ATOM_NAMES.get(name, name) if residue.lstrip("D") in _BASES else name


def _listed(labels: Sequence[str], most: int) -> str:
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")


def _runs(backbone: Backbone, names: dict[int, str]) -> list[tuple[int, ...]]:
    """Runs of the residues named that bonds of the chain join."""
    runs: list[list[int]] = []
    joined = False
    for residue, linked in zip(backbone.residues.tolist(), backbone.linked.tolist()):
        if residue in names:
            if joined:
                runs[-1].append(residue)
            else:
                runs.append([residue])
        joined = linked and residue in names
    return [tuple(run) for run in runs]


def _is_ring(model: Model, piece: Sequence[int]) -> bool:
    """Whether a peptide bond joins the last residue of a piece to its first."""
    carbon, nitrogen = model.atoms_named("C")[piece[-1]], model.atoms_named("N")[piece[0]]
    length = np.linalg.norm(model.positions[carbon] - model.positions[nitrogen])
    same_chain = model.residues[piece[0]].chain == model.residues[piece[-1]].chain
    return len(piece) > 2 and same_chain and bool(length < LONGEST_PEPTIDE_BOND_ANGSTROM)


def _nucleotides(model: Model, backbone: Backbone) -> tuple[dict[int, str], dict[int, str]]:
    """The force field's name of each nucleotide that it knows, and of the others what is odd, by row."""
    joined_before = set(backbone.residues[1:][backbone.linked[: len(backbone) - 1]].tolist())
    has_hydroxyl = model.atoms_named(_HYDROXYL_OF_RNA) >= 0
    rows = backbone.residues[backbone.is_nucleotide]
    chains_of_rna = {model.residues[row].chain for row in rows[has_hydroxyl[rows]]}
    known, odd = {}, {}
    heavy = np.flatnonzero(model.atomic_numbers > 1)
    for row in rows.tolist():
        atoms = heavy[slice(*np.searchsorted(model.residue_of_atom[heavy], [row, row + 1]))]
        present = {_OLD_ATOM_NAMES.get(name, name) for name in model.atom_names[atoms].tolist()}
        key = model.residues[row]
        matched = _NUCLEOTIDE_NAME.fullmatch(key.name)
        letter = matched[1] if matched else ""
        # Old files call DNA's nucleotides as RNA's: among such with an O2' one without it lacks it
        is_rna = has_hydroxyl[row] or (key.chain in chains_of_rna and letter != "T" and not key.name.startswith("D"))
        if letter in ("", "T" if is_rna else "U"):
            odd[row] = ""
            continue
        expected = {*_SUGAR, *_BASES[letter], *([_HYDROXYL_OF_RNA] if is_rna else [])}
        if present & {*_PHOSPHATE, PHOSPHATE_END}:
            expected.update(_PHOSPHATE)
        ends = set() if row in joined_before else {PHOSPHATE_END}
        if present - ends == expected:
            known[row] = letter if is_rna else f"D{letter}"
        elif expected - present:
            odd[row] = f" without {', '.join(sorted(expected - present))}"
        else:
            odd[row] = f" with {', '.join(sorted(present - ends - expected))}"
    return known, odd


def _bonds_besides_chains(model: Model, backbone: Backbone, relaxed: Set[int]) -> np.ndarray:
    """Bonds between residues that are none of a chain and hold no metal, (n, 2) int; only where it matters.

    Of a strand's bonds those that join a relaxed nucleotide to one that stays are among them, since a hydrogen takes
    their place.
    """
    if len(relaxed) == len(model.residues) and not backbone.is_nucleotide.any():
        return np.zeros((0, 2), dtype=int)
    bonds = covalent_bonds(model)
    owner = model.residue_of_atom[bonds]
    linked = np.flatnonzero(backbone.linked[: len(backbone)])
    in_chain = set(zip(backbone.residues[linked].tolist(), backbone.residues[linked + 1].tolist()))
    of_chain = np.array([(min(pair), max(pair)) in in_chain for pair in owner.tolist()], dtype=bool)
    of_peptide, of_strand = (np.isin(model.atom_names[bonds], ends).all(1) for ends in (("C", "N"), ("O3'", "P")))
    of_chain &= of_peptide | (of_strand & np.isin(owner, list(relaxed)).all(1))
    return bonds[(owner[:, 0] != owner[:, 1]) & ~of_chain & ~is_metal(model)[bonds].any(1)]


@functools.lru_cache(maxsize=1)
def templates_with_phosphate() -> dict[str, ElementTree.Element]:
    """Templates of nucleotides at the 5'-end with a phosphate, by the names of those that have a neighbour there."""
    from openmm import app

    found = {}
    for name in _NUCLEIC_ACID_FILES:
        root = ElementTree.parse(Path(app.__file__).parent / "data" / "amber14" / name).getroot()
        for residue in root.iter("Residue"):
            if _INSIDE_OR_LAST.fullmatch(residue.attrib["name"]):
                found[residue.attrib["name"]] = _with_phosphate_end(residue, name[:3])
    return found


def _with_phosphate_end(residue: ElementTree.Element, kind: str) -> ElementTree.Element:
    """A nucleotide's template with OP3 in place of the neighbour; types of ``kind``, DNA or RNA."""
    residue = copy.deepcopy(residue)
    residue.set("name", f"{residue.attrib['name']}-{PHOSPHATE_END}")
    residue.remove(next(bond for bond in residue.iter("ExternalBond") if bond.attrib["atomName"] == "P"))
    oxygen = {"charge": str(_END_CHARGE), "name": PHOSPHATE_END, "type": f"{kind}-{_END_TYPE}"}
    ElementTree.SubElement(residue, "Atom", oxygen)
    ElementTree.SubElement(residue, "Bond", {"atomName1": "P", "atomName2": PHOSPHATE_END})
    return residue


def hydrogens_at_ends(topology: Any) -> list[list[tuple[str, str]] | None] | None:
    """For each residue that has a phosphate at the 5'-end its hydrogens and what they are bonded to, else None.

    None for all if there is no such residue. OpenMM would put a hydrogen on O5' of these.
    """
    found: list[list[tuple[str, str]] | None] = []
    for residue in topology.residues():
        hydrogens = None
        if any(atom.name == PHOSPHATE_END for atom in residue.atoms()):
            is_last = residue is list(residue.chain.residues())[-1]
            template = templates_with_phosphate()[residue.name + ("3" if is_last else "")]
            bonds = [(bond.attrib["atomName1"], bond.attrib["atomName2"]) for bond in template.iter("Bond")]
            pairs = [pair[::-1] if pair[0].startswith("H") else pair for pair in bonds]
            hydrogens = [(name, parent) for parent, name in pairs if name.startswith("H")]
        found.append(hydrogens)
    return found if any(one is not None for one in found) else None
