"""Files that are no models, or no whole ones: each is refused with its reason, and nothing else happens."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
from structure_files import added, bare, nucleotides, protein, residue, saved

from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

REFLECTIONS = "data_r\nloop_\n_refln.index_h\n_refln.index_k\n_refln.index_l\n_refln.F_meas_au\n1 2 3 4.0\n"
MONOMER = (
    "data_comp_ALA\nloop_\n_chem_comp_atom.comp_id\n_chem_comp_atom.atom_id\n_chem_comp_atom.x\nALA N 0\nALA CA 1\n"
)
SMALL = "data_s\nloop_\n_atom_site_label\n_atom_site_fract_x\nC1 0.1\n"
SETTINGS = "data_phenix\n_software.name x\n"


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def mmcif() -> str:
    document = protein().make_mmcif_document()
    return document.as_string()


def pdb() -> list[str]:
    return bare(protein()).make_pdb_string().splitlines(keepends=True)


def truncated(path: Path) -> None:
    content = mmcif()
    path.write_text(content[: content.index("ATOM 700") + 30])


def truncated_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(mmcif().encode())[:5000])


def damaged_gzip(path: Path) -> None:
    content = bytearray(gzip.compress(mmcif().encode()))
    content[3000:3040] = bytes(40)
    path.write_bytes(content)


def truncated_pdb(path: Path) -> None:
    lines = pdb()
    path.write_text("".join(lines[:500]) + lines[500][:40])


def not_finite(path: Path) -> None:
    block = gemmi.cif.read_string(mmcif()).sole_block()
    column = block.find_values("_atom_site.Cartn_y")
    column[5], column[9], column[12] = "nan", "?", "inf"
    block.write_file(str(path))


def overflowed_pdb(path: Path) -> None:
    lines = pdb()
    first = next(row for row, line in enumerate(lines) if line.startswith("ATOM"))
    lines[first + 7] = lines[first + 7][:30] + "********" + lines[first + 7][38:]
    path.write_text("".join(lines))


def nan_pdb(path: Path) -> None:
    lines = pdb()
    first = next(row for row, line in enumerate(lines) if line.startswith("ATOM"))
    lines[first] = lines[first][:30] + "     nan" + lines[first][38:]
    path.write_text("".join(lines))


def a_map(path: Path) -> None:
    with mrcfile.new(path) as file:
        file.set_data(np.zeros((8, 8, 8), np.float32))


def alphas_only(path: Path) -> None:
    structure = protein()
    for one in structure[0][0]:
        for name in [atom.name for atom in one if atom.name != "CA"]:
            one.remove_atom(name, "\0", one.find_atom(name, "*").element)
    saved(structure, path)


def nucleotides_only(path: Path) -> None:
    structure = protein()
    del structure[0]["A"]
    added(structure, "D", nucleotides(["DA", "DC", "DG"], 1, np.zeros(3), np.array([1.0, 0, 0])))
    saved(bare(structure), path)


def phosphates_only(path: Path) -> None:
    structure = protein()
    del structure[0]["A"]
    phosphates = [residue("A", row, [("P", "P", [6.0 * row, 0, 0])], het="A") for row in range(1, 4)]
    added(structure, "R", phosphates)
    saved(bare(structure), path)


def calcium_only(path: Path) -> None:
    structure = protein()
    del structure[0]["A"]
    added(structure, "A", [residue("CA", 1, [("CA", "Ca", [1, 2, 3])])])
    saved(bare(structure), path)


def two_copies_in_a_row(path: Path) -> None:
    structure = bare(protein())
    added(structure, "A", [one.clone() for one in structure[0][0]])
    saved(structure, path)


REFUSED = {
    "two copies in a row": (
        two_copies_in_a_row,
        "214 residues have the atom N more than once, first MET 1 of chain A; .* two chain names",
    ),
    "empty": (text(""), "the file is empty"),
    "blank": (text("  \n\n"), "the file is empty"),
    "not a model": (text("Dear colleague,\nhere is the model\n"), "neither mmCIF .* nor PDB"),
    "a STAR file": (text("data_particles\nloop_\n_rlnMicrographName\na.mrc\n"), "holds no atoms"),
    "only a header": (text(SETTINGS), "holds no atoms"),
    "reflections": (text(REFLECTIONS), "holds reflections, no model"),
    "monomer dictionary": (text(MONOMER), "monomer dictionary"),
    "small molecule": (text(SMALL), "small molecule"),
    "truncated mmCIF": (truncated, "not readable as mmCIF or PDB .*Wrong number of values"),
    "truncated gzip": (truncated_gzip, "not readable"),
    "damaged gzip": (damaged_gzip, "not readable"),
    "truncated PDB": (truncated_pdb, "line 501 has no position"),
    "positions that are none": (not_finite, "3 of 1656 atoms have no position"),
    "positions that overflow": (overflowed_pdb, "has no position where PDB has it, but .*\\*\\*\\*"),
    "positions that are nan": (nan_pdb, "1 of 1656 atoms have no position"),
    "binary junk": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)) and None, "binary file"),
    "text junk": (lambda path: path.write_bytes(bytes(range(128, 256)) * 9) and None, "neither mmCIF"),
    "a map": (a_map, "is a map"),
    "CA only": (alphas_only, "214 have CA alone .* build the backbone first"),
    "nucleic acid only": (nucleotides_only, "of 3 nucleotides none has C3', C1' and C4'"),
    "phosphates only": (phosphates_only, "of 3 nucleotides none has C3', C1' and C4'"),
    "calcium only": (calcium_only, "a protein model with its backbone is needed"),
}


@pytest.mark.parametrize("kind", list(REFUSED))
@pytest.mark.parametrize("name", ["model.cif", "model.pdb"])
def test_each_is_refused_with_its_reason(kind: str, name: str, tmp_path: Path) -> None:
    make, reason = REFUSED[kind]
    path = tmp_path / "made.cif"
    make(path)
    path.rename(tmp_path / name)
    with pytest.raises(InputError, match=reason) as refused:
        read_model(tmp_path / name)
    assert str(refused.value).startswith(f"model {tmp_path / name}: ")
    assert "\n" not in str(refused.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; give an mmCIF or PDB file"):
        read_model(tmp_path / "nowhere.cif")
    with pytest.raises(InputError, match="is a folder; give the mmCIF or PDB file in it"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"PK\x03\x04", "is a ZIP archive; unpack it .unzip m.cif. and give the model in it"),
        (b"BZh9", "is packed by bzip2; unpack it .bunzip2 m.cif."),
        (b"\xfd7zXZ\0", "is packed by xz; unpack it .unxz m.cif."),
        (b"\x28\xb5\x2f\xfd", "is packed by Zstandard; unpack it .unzstd m.cif."),
        (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive; unpack it .7z x m.cif."),
    ],
)
def test_packed_files_say_what_unpacks_them(start: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "m.cif").write_bytes(start + bytes(300))
    with pytest.raises(InputError, match=reason):
        read_model(tmp_path / "m.cif")
