"""Sequences as FASTA and a3m files write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cocofold.alphafold.sequences import Chains, first_record_covers_all_chains, read_a3m_chains, read_fasta
from cocofold.system.errors import InputError


def _file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [">x\nMKTA:GSHW:MKTA\n", ">x\nMKTA\n>y\ngshw\n>z\nMK\nTA*\n", "\n>x|A\r\nMKTA:GSHW\r\n\r\n>z\r\nMKTA"],
    ids=["ColabFold", "AlphaFold", "both"],
)
def test_chains_of_a_fasta_file(text: str, tmp_path: Path) -> None:
    chains = read_fasta(_file(tmp_path, "x.fasta", text))
    assert chains == Chains(("A", "B", "C"), ("MKTA", "GSHW", "MKTA"))
    assert chains.with_copies_together() == Chains(("A", "B", "C"), ("MKTA", "MKTA", "GSHW"))
    assert chains.chain_index().tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert chains.residue_numbers().tolist() == [1, 2, 3, 4] * 3


def test_amino_acids_are_numbered_as_alphafold_does(tmp_path: Path) -> None:
    # Alphabetical by three-letter code: Ala Arg Asn Asp Cys ... Tyr Val; U (selenocysteine) is not one of them.
    chains = read_fasta(_file(tmp_path, "x.fasta", ">x\nARNDCQEGHILKMFPSTWYVU\n"))
    assert chains.aatype().tolist() == [*range(20), 20]
    assert chains.sequences == ("ARNDCQEGHILKMFPSTWYVX",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MKTA\n", "starts with 'MKTA'"),
        ("", "holds no sequences"),
        (">x\nMK1A\n", "the characters 1 found"),
        (">x\nMKTA:\n", "an empty sequence"),
        (">x\nACGUACGUAC\n", "nucleic acid"),
        (">x\n" + ":".join(["MKTA"] * 63), "63 chains"),
    ],
)
def test_fasta_files_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_fasta(_file(tmp_path, "x.fasta", text))


def test_proteins_of_few_amino_acids_are_proteins(tmp_path: Path) -> None:
    path = _file(tmp_path, "x.fasta", ">alanine\nAAAAAAAAAAAAAAA\n>silk\nGAGAGSGAGAGSGAGAGS\n>short\nCAT\n")
    assert len(read_fasta(path).sequences) == 3


def test_a_missing_or_binary_fasta_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_fasta(tmp_path / "x.fasta")
    (tmp_path / "x.fasta").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not readable as text"):
        read_fasta(tmp_path / "x.fasta")


@pytest.mark.parametrize(
    ("text", "sequences", "is_whole"),
    [
        ("#4,3\t2,1\n>101\t102\nMKTAGSH\n>hit\nMaaKTA---\n", ("MKTA", "MKTA", "GSH"), True),
        ("#4,3\t1,1\n>101\nMKTA---\n>hit\nMKaaSA---\n>102\n----GSH\n", ("MKTA", "GSH"), False),
        ("#4\t3\n>101\nMKTA\n", ("MKTA", "MKTA", "MKTA"), True),
        ("\n>query\nMK\nTA\n>hit\nM-TA\n", ("MKTA",), True),
    ],
    ids=["paired", "unpaired", "homo-oligomer", "without first line"],
)
def test_chains_of_an_a3m_file(text: str, sequences: tuple[str, ...], is_whole: bool, tmp_path: Path) -> None:
    path = _file(tmp_path, "x.a3m", text)
    assert read_a3m_chains(path).sequences == sequences
    assert first_record_covers_all_chains(path) is is_whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#4,3\t1,1\n>101\nMKTAGS\n", "announces 7 residues, but its first sequence has 6"),
        ("#4,3\t1\n>101\nMKTAGSH\n", "its first line is"),
        ("#4,x\t1,1\n>101\nMKTAGSH\n", "its first line is"),
        ("#4,3\t1,0\n>101\nMKTAGSH\n", "its first line is"),
        ("#4,3\t1,1\n>101\nMKTA---\n", "no record has residues 5 to 7"),
        ("MKTA\n", "not an a3m file"),
        ("", "not an a3m file"),
    ],
)
def test_a3m_files_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_a3m_chains(_file(tmp_path, "x.a3m", text))
