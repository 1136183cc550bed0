"""Chains of a prediction: names, sequences and AlphaFold's numbers, and how FASTA and a3m files are read."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cocofold.alphafold.residue_constants import ONE_LETTER_CODES, UNKNOWN_RESIDUE
from cocofold.system.errors import InputError

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
