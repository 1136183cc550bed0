"""Residue types with AlphaFold's tables of them; chains of a prediction, and how FASTA and a3m files are read."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np

from cocofold.structure.geometry import axes_from_directions
from cocofold.system.errors import MOST_TEXT_BYTES, InputError, refuse_large

AMINO_ACID_GEOMETRY = """
ALA
  N 0 -0.525 1.363 0; CA 0 0 0 0; C 0 1.526 0 0; O 3 0.627 1.062 0; CB 0 -0.529 -0.774 -1.205
ARG CG CD NE CZ
  N 0 -0.524 1.362 0; CA 0 0 0 0; C 0 1.525 0 0; O 3 0.626 1.062 0; CB 0 -0.524 -0.778 -1.209;
  CG 4 0.616 1.39 0; CD 5 0.564 1.414 0; NE 6 0.539 1.357 0; CZ 7 0.758 1.093 0; NH1 7 0.206 2.301 0;
  NH2 7 2.078 0.978 0
ASN CG OD1
  N 0 -0.536 1.357 0; CA 0 0 0 0; C 0 1.526 0 0; O 3 0.625 1.062 0; CB 0 -0.531 -0.787 -1.2; CG 4 0.584 1.399 0;
  OD1 5 0.633 1.059 0; ND2 5 0.593 -1.188 0.001
ASP CG OD1
  N 0 -0.525 1.362 0; CA 0 0 0 0; C 0 1.527 0 0; O 3 0.626 1.062 0; CB 0 -0.526 -0.778 -1.208;
  CG 4 0.593 1.398 0; OD1 5 0.61 1.091 0; OD2 5 0.592 -1.101 -0.003
CYS SG
  N 0 -0.522 1.362 0; CA 0 0 0 0; C 0 1.524 0 0; O 3 0.625 1.062 0; CB 0 -0.519 -0.773 -1.212;
  SG 4 0.728 1.653 0
GLN CG CD OE1
  N 0 -0.526 1.361 0; CA 0 0 0 0; C 0 1.526 0 0; O 3 0.626 1.062 0; CB 0 -0.525 -0.779 -1.207;
  CG 4 0.615 1.393 0; CD 5 0.587 1.399 0; OE1 6 0.634 1.06 0; NE2 6 0.593 -1.189 -0.001
GLU CG CD OE1
  N 0 -0.528 1.361 0; CA 0 0 0 0; C 0 1.526 0 0; O 3 0.626 1.062 0; CB 0 -0.526 -0.781 -1.207;
  CG 4 0.615 1.392 0; CD 5 0.6 1.397 0; OE1 6 0.607 1.095 0; OE2 6 0.589 -1.104 -0.001
GLY
  N 0 -0.572 1.337 0; CA 0 0 0 0; C 0 1.517 0 0; O 3 0.626 1.062 0
HIS CG ND1
  N 0 -0.527 1.36 0; CA 0 0 0 0; C 0 1.525 0 0; O 3 0.625 1.063 0; CB 0 -0.525 -0.778 -1.208; CG 4 0.6 1.37 0;
  ND1 5 0.744 1.16 0; CD2 5 0.889 -1.021 0.003; CE1 5 2.03 0.851 0.002; NE2 5 2.145 -0.466 0.004
ILE CG1 CD1
  N 0 -0.493 1.373 0; CA 0 0 0 0; C 0 1.527 0 0; O 3 0.627 1.062 0; CB 0 -0.536 -0.793 -1.213;
  CG1 4 0.534 1.437 0; CG2 4 0.54 -0.785 -1.199; CD1 5 0.619 1.391 0
LEU CG CD1
  N 0 -0.52 1.363 0; CA 0 0 0 0; C 0 1.525 0 0; O 3 0.625 1.063 0; CB 0 -0.522 -0.773 -1.214;
  CG 4 0.678 1.371 0; CD1 5 0.53 1.43 0; CD2 5 0.535 -0.774 1.2
LYS CG CD CE NZ
  N 0 -0.526 1.362 0; CA 0 0 0 0; C 0 1.526 0 0; O 3 0.626 1.062 0; CB 0 -0.524 -0.778 -1.208;
  CG 4 0.619 1.39 0; CD 5 0.559 1.417 0; CE 6 0.56 1.416 0; NZ 7 0.554 1.387 0
MET CG SD CE
  N 0 -0.521 1.364 0; CA 0 0 0 0; C 0 1.525 0 0; O 3 0.625 1.062 0; CB 0 -0.523 -0.776 -1.21;
  CG 4 0.613 1.391 0; SD 5 0.703 1.695 0; CE 6 0.32 1.786 0
PHE CG CD1
  N 0 -0.518 1.363 0; CA 0 0 0 0; C 0 1.524 0 0; O 3 0.626 1.062 0; CB 0 -0.525 -0.776 -1.212;
  CG 4 0.607 1.377 0; CD1 5 0.709 1.195 0; CD2 5 0.706 -1.196 0; CE1 5 2.102 1.198 0; CE2 5 2.098 -1.201 0;
  CZ 5 2.794 -0.003 -0.001
PRO CG CD
  N 0 -0.566 1.351 0; CA 0 0 0 0; C 0 1.527 0 0; O 3 0.621 1.066 0; CB 0 -0.546 -0.611 -1.293;
  CG 4 0.382 1.445 0; CD 5 0.477 1.424 0
SER OG
  N 0 -0.529 1.36 0; CA 0 0 0 0; C 0 1.525 0 0; O 3 0.626 1.062 0; CB 0 -0.518 -0.777 -1.211; OG 4 0.503 1.325 0
THR OG1
  N 0 -0.517 1.364 0; CA 0 0 0 0; C 0 1.526 0 0; O 3 0.626 1.062 0; CB 0 -0.516 -0.793 -1.215;
  OG1 4 0.472 1.353 0; CG2 4 0.55 -0.718 -1.228
TRP CG CD1
  N 0 -0.521 1.363 0; CA 0 0 0 0; C 0 1.525 0 0; O 3 0.627 1.062 0; CB 0 -0.523 -0.776 -1.212;
  CG 4 0.609 1.37 0; CD1 5 0.824 1.091 0; CD2 5 0.854 -1.148 -0.005; NE1 5 2.14 0.69 -0.004;
  CE2 5 2.186 -0.678 -0.007; CE3 5 0.622 -2.53 -0.007; CZ2 5 3.283 -1.543 -0.011; CZ3 5 1.715 -3.389 -0.011;
  CH2 5 3.028 -2.89 -0.013
TYR CG CD1
  N 0 -0.522 1.362 0; CA 0 0 0 0; C 0 1.524 0 0; O 3 0.627 1.062 0; CB 0 -0.522 -0.776 -1.213;
  CG 4 0.607 1.382 0; CD1 5 0.716 1.195 0; CD2 5 0.713 -1.194 -0.001; CE1 5 2.107 1.2 -0.002;
  CE2 5 2.104 -1.201 -0.003; CZ 5 2.791 -0.001 -0.003; OH 5 4.168 -0.002 -0.005
VAL CG1
  N 0 -0.494 1.373 0; CA 0 0 0 0; C 0 1.527 0 0; O 3 0.627 1.062 0; CB 0 -0.533 -0.795 -1.213;
  CG1 4 0.54 1.429 0; CG2 4 0.533 -0.776 1.203
"""
"""Residues in AlphaFold's order of amino acids.

A first line has the residue's name and the last atoms of its chi angles: with N, CA and CB before them, each four in a
row are one angle. The lines below it have the atoms in the order of atom14: name, rigid group (0 backbone, 3 psi,
4 to 7 chi 1 to 4) and position in the group's frame, Å.
"""

ATOMS_PER_RESIDUE, GROUPS_PER_RESIDUE, TORSIONS_PER_RESIDUE = 14, 8, 7
"""Heavy atoms of tryptophan, the largest; rigid groups: the backbone and one for each torsion; ω, φ, ψ, χ1 to χ4."""

PHI_GROUP, PSI_GROUP, CHI1_GROUP = 2, 3, 4
"""Rigid groups in AlphaFold's order: 0 is the backbone, 1 that of ω, and χ2 to χ4 follow χ1."""


@dataclass(frozen=True)
class AminoAcid:
    """Ideal geometry of one amino acid.

    Attributes
    ----------
    name : str
        Three letters.
    chi_atoms : tuple of str
        N, CA, CB and the atoms that follow: each four in a row are one chi angle.
    groups : dict of str to int
        Rigid group of each atom, in the order of atom14.
    positions : dict of str to (3,) float
        Å, in the frame of the atom's group.
    """

    name: str
    chi_atoms: tuple[str, ...]
    groups: dict[str, int]
    positions: dict[str, np.ndarray]

    @classmethod
    def parse(cls, header: str, atoms: str) -> AminoAcid:
        """Amino acid of one entry of the table: its first line, and the lines below it."""
        name, *ends = header.split()
        groups, positions = {}, {}
        for atom in atoms.split(";"):
            label, group, *position = atom.split()
            groups[label] = int(group)
            positions[label] = np.array([float(number) for number in position])
        return cls(name, ("N", "CA", "CB", *ends), groups, positions)

    def group_frames(self) -> np.ndarray:
        """Each group's frame with its torsion at zero, (8, 3, 4): rotation and origin in that of its parent.

        The parent of chi 2 to 4 is the chi group before it, that of the others the backbone. The x axis is the bond of
        the torsion, the origin the bond's far end. Groups that the residue does not have are the identity.
        """
        frames = np.tile(np.eye(3, 4), (GROUPS_PER_RESIDUE, 1, 1))
        n, ca, c = (self.positions[atom] for atom in ("N", "CA", "C"))
        frames[PHI_GROUP] = _frame_from_axes(n - ca, np.array([1.0, 0, 0]), n)
        frames[PSI_GROUP] = _frame_from_axes(c - ca, ca - n, c)
        for chi in range(len(self.chi_atoms) - 3):
            end = self.positions[self.chi_atoms[chi + 2]]
            # From chi 2 on the bond starts at the origin of the parent, and the atom before it has a negative x.
            frames[CHI1_GROUP + chi] = _frame_from_axes(end, np.array([-1.0, 0, 0]) if chi else n - ca, end)
        return frames


def _frame_from_axes(x: np.ndarray, towards: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Right-handed axes and origin, (3, 4): x along ``x``, y in the half plane of ``towards``."""
    return np.column_stack([axes_from_directions(x, towards), origin])


def _parse_geometry_table(table: str) -> tuple[AminoAcid, ...]:
    entries: list[list[str]] = []
    for line in table.strip().splitlines():
        if line.startswith(" "):
            entries[-1].append(line)
        else:
            entries.append([line])
    return tuple(AminoAcid.parse(header, "".join(atoms)) for header, *atoms in entries)


AMINO_ACIDS = _parse_geometry_table(AMINO_ACID_GEOMETRY)
"""The twenty, in AlphaFold's order."""

UNKNOWN_RESIDUE = len(AMINO_ACIDS)
"""AlphaFold's number of X, a residue that is none of the twenty; it has no atoms."""

RESIDUE_NAMES = (*(amino_acid.name for amino_acid in AMINO_ACIDS), "UNK")
"""Three-letter names by AlphaFold's number."""

ONE_LETTER_CODES = "".join(gemmi.find_tabulated_residue(amino_acid.name).one_letter_code for amino_acid in AMINO_ACIDS)
"""One-letter codes of the twenty by AlphaFold's number: ARNDCQEGHILKMFPSTWYV."""

ATOM14_NAMES = (*(tuple(amino_acid.groups) for amino_acid in AMINO_ACIDS), ())
"""Names of the atoms by AlphaFold's number of the residue, in the columns of atom14; further columns are empty."""


@dataclass(frozen=True)
class ResidueTables:
    """Ideal geometry of the amino acids as arrays, by AlphaFold's number; row 20 is X.

    Attributes
    ----------
    exists : (21, 14) bool
    group : (21, 14) int
        Rigid group of each atom.
    position : (21, 14, 3) float64
        Å, in the frame of the group.
    frame : (21, 8, 3, 4) float64
        See ``AminoAcid.group_frames``.
    """

    exists: np.ndarray
    group: np.ndarray
    position: np.ndarray
    frame: np.ndarray

    @classmethod
    def build(cls) -> ResidueTables:
        """The arrays of the twenty amino acids and the unknown one."""
        count = len(RESIDUE_NAMES)
        exists = np.zeros((count, ATOMS_PER_RESIDUE), dtype=bool)
        group = np.zeros((count, ATOMS_PER_RESIDUE), dtype=np.int64)
        position = np.zeros((count, ATOMS_PER_RESIDUE, 3))
        frame = np.tile(np.eye(3, 4), (count, GROUPS_PER_RESIDUE, 1, 1))
        for row, amino_acid in enumerate(AMINO_ACIDS):
            atoms = len(amino_acid.groups)
            exists[row, :atoms] = True
            group[row, :atoms] = list(amino_acid.groups.values())
            position[row, :atoms] = list(amino_acid.positions.values())
            frame[row] = amino_acid.group_frames()
        return cls(exists, group, position, frame)


RESIDUE_TABLES = ResidueTables.build()
"""Built at import, since it takes well under a millisecond and everything that makes atoms needs it."""


CHAIN_NAMES = string.ascii_uppercase + string.ascii_lowercase + string.digits
"""Names of chains in the order in which AlphaFold gives them (``PDB_CHAIN_IDS`` of its common/protein.py)."""

# A sequence of A, C, G, U or of A, C, G, T is taken for a nucleic acid from this length on; a peptide of alanine,
# cysteine, glycine and threonine alone that is longer would be refused.
_MIN_NUCLEIC_ACID_LENGTH = 10


@dataclass(frozen=True)
class Chains:
    """Names and sequences of chains, in the order of the network's residues.

    Attributes
    ----------
    names : tuple of str
    sequences : tuple of str
        One-letter codes; X where a residue is none of the twenty amino acids.
    """

    names: tuple[str, ...]
    sequences: tuple[str, ...]

    @classmethod
    def of(cls, sequences: tuple[str, ...]) -> Chains:
        """Chains named A, B, C, ... as ColabFold and OpenFold name them."""
        if len(sequences) > len(CHAIN_NAMES):
            raise InputError(f"{len(sequences)} chains: at most {len(CHAIN_NAMES)} can be named; leave some out")
        return cls(tuple(CHAIN_NAMES[: len(sequences)]), sequences)

    def __len__(self) -> int:
        """Number of residues of all chains."""
        return sum(map(len, self.sequences))

    def aatype(self) -> np.ndarray:
        """AlphaFold's number of each residue's amino acid, (n_residues,) int64."""
        number = {letter: index for index, letter in enumerate(ONE_LETTER_CODES)}
        return np.array([number.get(letter, UNKNOWN_RESIDUE) for letter in "".join(self.sequences)], dtype=np.int64)

    def chain_index(self) -> np.ndarray:
        """Index of each residue's chain, (n_residues,) int64."""
        return np.repeat(np.arange(len(self.sequences)), [len(sequence) for sequence in self.sequences])

    def residue_numbers(self) -> np.ndarray:
        """Number of each residue within its chain, from 1; (n_residues,) int64."""
        return np.concatenate([np.arange(1, len(sequence) + 1) for sequence in self.sequences])

    def with_copies_together(self) -> Chains:
        """Copies of a sequence next to each other, as AlphaFold-Multimer orders chains; named anew."""
        unique = dict.fromkeys(self.sequences)
        return Chains.of(tuple(copy for sequence in unique for copy in self.sequences if copy == sequence))

    def __str__(self) -> str:
        return ", ".join(f"{name} ({len(sequence)})" for name, sequence in zip(self.names, self.sequences))


def read_fasta(path: Path) -> Chains:
    """Chains of one complex: the records of a FASTA file, or the parts of a record between ``:``.

    Raises
    ------
    InputError
        If the file is missing, empty, or holds anything but protein sequences.
    """
    records: list[str] = []
    for line in _read_lines(path, "--fasta"):
        if line.startswith(">"):
            records.append("")
        elif not records:
            raise InputError(f"--fasta {path}: starts with {line[:20]!r}; a FASTA record starts with a line '>name'")
        else:
            records[-1] += "".join(line.split())
    if not records:
        raise InputError(f"--fasta {path}: holds no sequences; give a FASTA file")
    return Chains.of(tuple(_require_protein(text, path) for record in records for text in record.split(":")))


def read_a3m_chains(path: Path) -> Chains:
    """Chains of the queries of an a3m file, with ColabFold's first line ``#lengths<tab>copies`` or without it.

    Each record is an alignment of all different chains, one after the other. The query of a chain is the first record
    that has residues of it: the first record of the file if the alignment is paired, one record a chain otherwise.

    Raises
    ------
    InputError
        If the file is missing, or its first line and its queries do not agree.
    """
    lines = _read_lines(path, "MSA")
    header = lines.pop(0) if lines and lines[0].startswith("#") else ""
    if not lines or not lines[0].startswith(">"):
        raise InputError(f"{path}: not an a3m file; it starts with an optional line '#lengths<tab>copies' and '>name'")
    records = _aligned_records(lines)
    lengths, copies = _lengths_and_copies(header, path) if header else ([len(records[0])], [1])
    if sum(copies) > len(CHAIN_NAMES):
        raise InputError(
            f"{path}: its first line announces {sum(copies)} chains; at most {len(CHAIN_NAMES)} can be named"
        )
    if len(records[0]) != sum(lengths):
        raise InputError(
            f"{path}: its first line {header!r} announces {sum(lengths)} residues, but its first sequence has "
            f"{len(records[0])}; the file is damaged or was edited"
        )
    ends = np.cumsum(lengths)
    queries = [_query_of_chain(records, end - length, end, path) for end, length in zip(ends, lengths)]
    return Chains.of(tuple(query for query, count in zip(queries, copies) for _ in range(count)))


def first_record_covers_all_chains(path: Path) -> bool:
    """Whether the first record of an a3m file has residues of all chains, which ColabFold requires of its input."""
    return "-" not in _aligned_records([line for line in _read_lines(path, "MSA") if not line.startswith("#")])[0]


def _aligned_records(lines: list[str]) -> list[str]:
    """Aligned columns of each record, without insertions, which are lower-case letters."""
    records: list[list[str]] = []
    for line in lines:
        if line.startswith(">"):
            records.append([])
        else:
            records[-1].append(re.sub(r"[a-z\s]", "", line))
    return ["".join(parts) for parts in records]


def _query_of_chain(records: list[str], start: int, end: int, path: Path) -> str:
    for record in records:
        if record[start:end].strip("-"):
            return _require_protein(record[start:end], path)
    raise InputError(f"{path}: no record has residues {start + 1} to {end}; the file is damaged or was edited")


def _lengths_and_copies(header: str, path: Path) -> tuple[list[int], list[int]]:
    try:
        lengths, copies = ([int(text) for text in part.split(",")] for part in header[1:].split("\t"))
    except ValueError:
        lengths, copies = [], []
    if not lengths or len(lengths) != len(copies) or min(lengths + copies) < 1:
        raise InputError(
            f"{path}: its first line is {header!r}; needed is '#lengths<tab>copies', such as '#120,85<tab>2,1' for two "
            "copies of the first chain and one of the second"
        )
    return lengths, copies


def _read_lines(path: Path, what: str) -> list[str]:
    if not path.is_file():
        raise InputError(f"{what} {path}: no such file")
    try:
        refuse_large(f"{what} {path}", path.stat().st_size, MOST_TEXT_BYTES)
        text = path.read_text(encoding="utf-8").replace("\x00", "")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{what} {path}: not readable as text ({error})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _require_protein(text: str, path: Path) -> str:
    sequence = text.upper().rstrip("*")
    foreign = sorted(set(sequence) - set(string.ascii_uppercase))
    if not sequence or foreign:
        found = f"the characters {' '.join(foreign)}" if foreign else "an empty sequence"
        raise InputError(f"{path}: {found} found; each chain must be a protein sequence of one-letter codes")
    if len(sequence) >= _MIN_NUCLEIC_ACID_LENGTH and set(sequence) in (set("ACGU"), set("ACGT")):
        raise InputError(f"{path}: {sequence[:20]} looks like a nucleic acid; AlphaFold-Multimer takes proteins only")
    return "".join(letter if letter in ONE_LETTER_CODES else "X" for letter in sequence)
