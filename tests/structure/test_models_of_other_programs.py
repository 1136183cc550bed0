"""PDB and mmCIF files as programs of other decades and fields write them: chains, numbers, columns, encodings."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gemmi
import numpy as np
import pytest
from structure_files import added, bare, protein, residue, saved

from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

PLAIN = 1656
BOTH = {"PROA": 214, "PROB": 214}


def atom_lines() -> list[str]:
    return [line for line in bare(protein()).make_pdb_string().splitlines() if line.startswith("ATOM")]


def with_columns(lines: list[str], chain: str, segment: str = "", shift: float = 0) -> list[str]:
    """Lines with another chain name and segment, moved along x."""
    return [
        f"{line[:20]}{chain:>2}{line[22:30]}{float(line[30:38]) + shift:8.3f}{line[38:72]}{segment:4}{line[76:]}"
        for line in lines
    ]


def copies(first: tuple[str, str], second: tuple[str, str], between: tuple[str, ...]) -> list[str]:
    lines = atom_lines()
    return [*with_columns(lines, *first), *between, *with_columns(lines, *second, shift=-80), "TER"]


@pytest.mark.parametrize(
    ("lines", "chains"),
    [
        (copies(("", "PROA"), ("", "PROB"), ("TER",)), BOTH),
        (copies(("", "PROA"), ("", "PROB"), ()), BOTH),
        (copies(("P", "PROA"), ("P", "PROB"), ()), BOTH),
        (copies(("", "A"), ("", "B"), ("TER",)), {"A": 214, "B": 214}),
        (copies(("", ""), ("", ""), ("TER",)), {"A": 214, "B": 214}),
        (copies(("", ""), ("", ""), ()), {"A": 214, "B": 214}),
        (copies(("A", ""), ("A", ""), ("TER",)), {"A": 214, "B": 214}),
        (copies(("B", "X"), ("B", "X"), ("TER",)), {"B": 214, "A": 214}),
        (copies(("A", "S1"), ("B", "S1"), ("TER",)), {"A": 214, "B": 214}),
        (with_columns(atom_lines(), "", ""), {"A": 214}),
        (with_columns(atom_lines(), "", "MAIN"), {"MAIN": 214}),
    ],
)
def test_molecules_that_chain_names_do_not_tell_apart(lines: list[str], chains: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "x.pdb").write_text("\n".join([*lines, "END", ""]))
    model = read_model(tmp_path / "x.pdb")
    assert Counter(key.chain for key in model.residues) == chains
    assert len(set(model.residues)) == len(model.residues)
    given = {line[21].strip() for line in lines if line.startswith("ATOM")}
    assert any("are called " + ", ".join(sorted(chains)) in note for note in model.notes) == (given != set(chains))
    x = [float(line[30:38]) for line in lines if line.startswith("ATOM")]
    np.testing.assert_allclose(model.positions[:, 0], x)
    write_model(tmp_path / "out.cif", model)
    assert read_model(tmp_path / "out.cif").residues == model.residues
    assert read_model(tmp_path / "out.cif").notes == ()


def test_waters_whose_numbers_start_again(tmp_path: Path) -> None:
    waters = [f"HETATM{row:5}  O   HOH {chr(87):>1}{row % 50:4}    {300 + 3 * row:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00"
              for row in range(120)]  # fmt: skip
    (tmp_path / "x.pdb").write_text("\n".join([*atom_lines(), *waters, "END", ""]))
    model = read_model(tmp_path / "x.pdb")
    assert len(model) == PLAIN + 120
    assert len(set(model.residues)) == 214 + 120
    assert Counter(key.chain for key in model.residues)["W"] == 50


@pytest.mark.parametrize("name", ["A", "''"])
def test_labels_tell_molecules_of_an_mmcif_apart(name: str, tmp_path: Path) -> None:
    structure = protein()
    added(structure, "B", [one.clone() for one in structure[0][0]])
    path = saved(structure, tmp_path / "x.cif")
    block = gemmi.cif.read(str(path)).sole_block()
    column = block.find_values("_atom_site.auth_asym_id")
    for row in range(len(column)):
        column[row] = name
    labels = block.find_values("_atom_site.label_asym_id")
    for row in range(len(labels)):
        labels[row] = "A" if row < PLAIN else "B"
    block.write_file(str(path))
    model = read_model(path)
    assert Counter(key.chain for key in model.residues) == {"A": 214, "B": 214}
    assert "are called A, B" in model.notes[0]


def old_columns(text: str) -> bytes:
    """The entry's name and the number of the line, as PDB had in columns 73 to 80 before 1996."""
    return "\n".join(f"{line[:72]:72}1ABC{row:4}" for row, line in enumerate(text.splitlines())).encode()


def cut_at_66(text: str) -> bytes:
    return "\n".join(line[:66] for line in text.splitlines()).encode()


def pdbqt(text: str) -> bytes:
    """Partial charges and types of atoms in the columns of segments, elements and charges."""
    rows = enumerate(text.splitlines())
    return "\n".join(
        f"{line[:66]:66}    {row % 90 / 100 - 0.5:6.3f} {line[13:14]:<2}" if line.startswith("ATOM") else line
        for row, line in rows
    ).encode()


def titled(encoding: str) -> Callable[[str], bytes]:
    title = "HEADER    J\xfcrgen \xdf" + "\xe9" * 61 + "\nTITLE     Modell f\xfcr H\xe4moglobin\n"
    return lambda text: (title + text).encode(encoding)


@pytest.mark.parametrize(
    "written",
    [
        old_columns,
        cut_at_66,
        pdbqt,
        titled("latin-1"),
        titled("utf-8"),
        titled("utf-8-sig"),
        titled("utf-16"),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.replace(" C  \n", " C1A\n").encode(),
    ],
)
def test_columns_and_encodings_of_pdb(written: Callable[[str], bytes], tmp_path: Path) -> None:
    plain = read_model(saved(bare(protein()), tmp_path / "plain.pdb"))
    (tmp_path / "x.pdb").write_bytes(written((tmp_path / "plain.pdb").read_text()))
    model = read_model(tmp_path / "x.pdb")
    assert model.residues == plain.residues
    assert model.atomic_numbers.tolist() == plain.atomic_numbers.tolist()
    np.testing.assert_allclose(model.positions, plain.positions)
    write_model(tmp_path / "out.cif", model)
    assert read_model(tmp_path / "out.cif").residues == model.residues


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings_of_mmcif(encoding: str, tmp_path: Path) -> None:
    text = saved(protein(), tmp_path / "x.cif").read_text()
    title = "_struct.title 'Modell f\xfcr H\xe4moglobin'\n# J\xfcrgen\n_entity_x.name 'f\xfcr'\n"
    text = text.replace("loop_\n_atom_site.", title + "loop_\n_atom_site.", 1) if "_struct.title" not in text else text
    (tmp_path / "y.cif").write_bytes(text.encode(encoding))
    model = read_model(tmp_path / "y.cif")
    assert len(model) == PLAIN
    write_model(tmp_path / "out.cif", model)
    assert len(read_model(tmp_path / "out.cif")) == PLAIN


@pytest.mark.parametrize(
    ("written", "first"),
    [
        (lambda number: f"{number:4x} " if number > 9999 else f"{number:4} ", 9990),
        (lambda number: f"{number:4x} " if number > 9999 else f"{number:4} ", 9999),
        (lambda number: f"{number:4X} " if number > 9999 else f"{number:4} ", 9995),
        (lambda number: f"{number:<5}" if number > 9999 else f"{number:4} ", 9950),
        (lambda number: "**** " if number > 9999 else f"{number:4} ", 9980),
    ],
    ids=["hexadecimal", "hexadecimal at once", "capitals", "five digits", "stars"],
)
def test_numbers_above_9999(written: Callable[[int], str], first: int, tmp_path: Path) -> None:
    lines = [
        line[:6] + f"{row + 99_000:5x}"[-5:] + line[11:22] + written(int(line[22:26]) + first - 1) + line[27:]
        for row, line in enumerate(atom_lines())
    ]
    (tmp_path / "x.pdb").write_text("\n".join(lines) + "\n")
    assert [key.number for key in read_model(tmp_path / "x.pdb").residues] == list(range(first, first + 214))


@pytest.mark.parametrize("gap", [0, 1, 30])
@pytest.mark.parametrize("first", [9990, 9999, 10_000, 10_080])
def test_hexadecimal_numbers_go_on_after_gaps_and_records_about_atoms(first: int, gap: int, tmp_path: Path) -> None:
    """Of hexadecimal numbers with digits alone too, which are decimal numbers elsewhere."""
    lines, expected = [], []
    for line in atom_lines():
        place = int(line[22:26]) - 1
        # The second stretch begins 15 residues on.
        number = first + place + (gap if place >= 15 else 0)
        if place == 0 and first > 9999:
            lines.append(f"{line[:22]}9999 {line[27:]}".replace(" MET ", " GLY "))
        lines.append(f"{line[:22]}{number:4x} {line[27:]}" if number > 9999 else f"{line[:22]}{number:4} {line[27:]}")
        lines.append(f"ANISOU{lines[-1][6:27]}    100    100    100      0      0      0{lines[-1][70:]}")
        expected.append(number)
    (tmp_path / "x.pdb").write_text("\n".join(lines) + "\n")
    found = [key.number for key in read_model(tmp_path / "x.pdb").residues]
    assert found[-214:] == list(dict.fromkeys(expected))


def test_waters_that_count_anew_above_9999_are_decimal(tmp_path: Path) -> None:
    """3000 as a hexadecimal number would be 12,288, far beyond the chain's end."""
    lines = [f"{line[:22]}{int(line[22:26]) + 9785:4} {line[27:]}" for line in atom_lines()]
    water = "HETATM 2000  O   HOH A{:4}    " + lines[-1][30:76] + " O"
    (tmp_path / "x.pdb").write_text("\n".join([*lines, water.format(2500), water.format(3000)]) + "\n")
    assert [key.number for key in read_model(tmp_path / "x.pdb").residues][-2:] == [2500, 3000]


def test_ligands_of_copies_without_names_come_in_the_order_of_the_copies(tmp_path: Path) -> None:
    lines = copies(("", ""), ("", ""), ("TER",))
    ligand = "HETATM 4000  C1  LIG  {:4}    {:8.3f}  20.000  20.000  1.00  0.00           C"
    spots = [(301, 11.0), (302, 12.0), (301, -71.0), (302, -72.0)]
    (tmp_path / "x.pdb").write_text("\n".join([*lines, *(ligand.format(*spot) for spot in spots), "END", ""]))
    model = read_model(tmp_path / "x.pdb")
    found = [
        (key.chain, key.number, model.positions[model.residue_of_atom == row][0, 0])
        for row, key in enumerate(model.residues)
        if key.name == "LIG"
    ]
    assert sorted(found) == [("A", 301, 11.0), ("A", 302, 12.0), ("B", 301, -71.0), ("B", 302, -72.0)]


def test_ions_and_waters_of_molecular_dynamics(tmp_path: Path) -> None:
    names = {"SOD": "Na", "CLA": "Cl", "POT": "K", "CAL": "Ca", "CES": "Cs", "NA+": "Na", "CL-": "Cl", "Cl-": "Cl"}
    ions = [
        f"ATOM  {row:5} {name:>4} {name:3}  {row + 500:4}    {300 + 5 * row:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00      ION "
        for row, name in enumerate(names)
    ]
    waters = [f"ATOM  {row:5}  OH2 TIP3W{row:4}    {400 + 5 * row:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00      WT1  O"
              for row in range(3)]  # fmt: skip
    lines = [*with_columns(atom_lines(), "", "PROA"), *ions, *waters]
    (tmp_path / "x.pdb").write_text("\n".join(lines) + "\n")
    model = read_model(tmp_path / "x.pdb")
    found = [gemmi.Element(int(number)).name for number in model.atomic_numbers[PLAIN:]]
    assert found == [*names.values(), "O", "O", "O"]
    assert Counter(key.chain for key in model.residues) == {"PROA": 214, "ION": len(names), "W": 3}


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
@pytest.mark.parametrize("kept", ["CB", "backbone", "side chains"])
@pytest.mark.parametrize("named", [range(214), range(100, 140), range(0, 214, 2)], ids=["all", "some", "every other"])
def test_amino_acids_of_unknown_kind_are_a_chain(named: range, kept: str, suffix: str, tmp_path: Path) -> None:
    structure = bare(protein())
    for row in named:
        one = structure[0][0][row]
        one.name = "UNK"
        if kept != "side chains":
            one.trim_to_alanine()
        if kept == "backbone" and one.find_atom("CB", "*"):
            one.remove_atom("CB", "\0", gemmi.Element("C"))
    added(structure, "Z", [residue("UNX", 1, [("UNK", "X", [300, 0, 0])])])
    model = read_model(saved(structure, tmp_path / f"x{suffix}"))
    assert len(model.backbone()[0]) == 214
    assert Counter(key.name for key in model.residues)["UNK"] == len(named)
    write_model(tmp_path / "out.cif", model)
    assert read_model(tmp_path / "out.cif").residues == model.residues


def test_files_of_others(cases: Path, tmp_path: Path) -> None:
    models = cases / "models"
    plain = read_model(models / "assess_free_ligand" / "base.pdb")
    for name in ("old_format_cols/old_format_cols.pdb", "latin1_header/latin1_title.pdb"):
        shutil.copy(models / name, tmp_path / "x.pdb")
        model = read_model(tmp_path / "x.pdb")
        assert model.residues == plain.residues
        write_model(tmp_path / "out.cif", model)
        assert read_model(tmp_path / "out.cif").residues == model.residues
    for name, chains in (
        ("two_copies_segid.pdb", {"PROA": 64, "PROB": 64}),
        ("haddock_protein-protein_1w.pdb", {"A", "B"}),
    ):
        model = read_model(models / "segid_blank_chain" / name)
        counted = Counter(key.chain for key in model.residues)
        assert counted == chains or set(counted) == chains
        write_model(tmp_path / "out.cif", model)
        assert read_model(tmp_path / "out.cif").residues == model.residues
