"""Files of models with their atoms moved: whatever is read is moved, and of mmCIF nothing else changes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import gemmi
import numpy as np
import pytest
from typer.testing import CliRunner

from cocofold.__main__ import app
from cocofold.commands.demo import closed_state
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model, write_moved_model

SHIFT = (1.5, -20.25, 300.0)


@pytest.fixture(scope="module")
def short_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first residues of closed adenylate kinase as mmCIF, with learned Gaussians."""
    whole = read_model(closed_state())
    model = whole.only(np.arange(len(whole.residues)) < 12)
    path = tmp_path_factory.mktemp("moved") / "short.cif"
    widths = np.linspace(0.5, 0.9, len(model))
    write_model(path, model, np.ones(len(model)), widths, "placed", placed_as={"hand": "mirrored"})
    return path


def as_other_file(kind: str, source: Path, folder: Path) -> Path:
    """The same model as other programs and people leave it."""
    text = source.read_text()
    if kind == "gzip":
        (folder / "model.cif.gz").write_bytes(gzip.compress(text.encode()))
        return folder / "model.cif.gz"
    if kind == "mmCIF called .pdb":
        (folder / "model.pdb").write_text(text)
        return folder / "model.pdb"
    if kind == "several blocks":
        (folder / "model.cif").write_text("data_comp_LIG\n_chem_comp.id LIG\n" + text)
        return folder / "model.cif"
    if kind == "gemmi's empty value":
        # As gemmi writes a model without a cell
        (folder / "model.cif").write_text(text + "_symmetry.space_group_name_H-M ''\n")
        return folder / "model.cif"
    gemmi.read_structure(str(source)).write_pdb(str(folder / "model.ent"))
    content = "REMARK   3 J. Müller\n".encode("latin-1") + (folder / "model.ent").read_bytes()
    (folder / "model.ent").write_bytes(content)
    return folder / "model.ent"


@pytest.mark.parametrize("kind", ["gzip", "mmCIF called .pdb", "several blocks", "gemmi's empty value", "PDB, Latin-1"])
def test_what_is_read_is_moved(kind: str, short_model: Path, tmp_path: Path) -> None:
    source, target = as_other_file(kind, short_model, tmp_path), tmp_path / "moved.cif"
    moved = write_moved_model(source, target, SHIFT)
    known, found = read_model(short_model), read_model(target)
    assert np.abs(found.positions - known.positions - SHIFT).max() < 2e-3
    assert np.abs(found.positions - moved.positions).max() < 1e-3
    assert found.residues == known.residues


def test_nothing_else_changes_in_mmcif(short_model: Path, tmp_path: Path) -> None:
    write_moved_model(short_model, tmp_path / "moved.cif", SHIFT)
    before, after = (gemmi.cif.read(str(path)).sole_block() for path in (short_model, tmp_path / "moved.cif"))
    categories = before.get_mmcif_category_names()
    assert after.get_mmcif_category_names() == categories
    assert "_cocofold_gaussian." in categories
    for category in categories:
        one, other = before.get_mmcif_category(category), after.get_mmcif_category(category)
        changed = {item for item in one if one[item] != other[item]}
        assert changed == ({"Cartn_x", "Cartn_y", "Cartn_z"} if category == "_atom_site." else set()), category


def test_decimals_and_unknown_coordinates_of_other_models_are_kept(short_model: Path, tmp_path: Path) -> None:
    document = gemmi.cif.read(str(short_model))
    table = document.sole_block().find("_atom_site.", ["Cartn_x", "Cartn_y", "pdbx_PDB_model_num"])
    table[0][0] = "1.2345678"
    table[1][0] = "2.5(3)"
    table[len(table) - 1][2] = "2"
    table[len(table) - 1][1] = "?"
    document.write_file(str(tmp_path / "given.cif"))
    write_moved_model(tmp_path / "given.cif", tmp_path / "moved.cif", SHIFT)
    moved = gemmi.cif.read(str(tmp_path / "moved.cif")).sole_block().find("_atom_site.", ["Cartn_x", "Cartn_y"])
    assert (moved[0][0], moved[1][0], moved[len(moved) - 1][1]) == ("2.7345678", "4.000", "?")


def test_the_command_tells_atoms_and_residues(short_model: Path, tmp_path: Path) -> None:
    words = ["move", "--model", short_model, "--shift", "-1", "0", "2", "--json", tmp_path / "facts.json"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    facts, model = json.loads((tmp_path / "facts.json").read_text()), read_model(short_model)
    assert np.abs(np.array(facts["positions"]) - model.positions - (-1, 0, 2)).max() < 1e-3
    first = facts["residues"][0]
    assert (first["chain"], first["number"], first["name"]) == ("A", "1", "MET")
    assert first["alpha_carbon"] == facts["positions"][model.atoms_named("CA")[0]]
    assert facts["widths_angstrom"] == pytest.approx(np.linspace(0.5, 0.9, len(model)), abs=1e-4)
    assert facts["placed"] == {"hand": "mirrored"}


def test_an_ion_called_ca_is_no_alpha_carbon(short_model: Path, tmp_path: Path) -> None:
    structure = gemmi.read_structure(str(short_model))
    calcium = gemmi.Residue()
    calcium.name, calcium.seqid = "CA", gemmi.SeqId("500")
    atom = gemmi.Atom()
    atom.name, atom.element, atom.pos = "CA", gemmi.Element("Ca"), gemmi.Position(90, 90, 90)
    calcium.add_atom(atom)
    structure[0][0].add_residue(calcium)
    structure.make_mmcif_document().write_file(str(tmp_path / "ion.cif"))
    CliRunner().invoke(app, ["move", "--model", str(tmp_path / "ion.cif"), "--json", str(tmp_path / "facts.json")])
    residues = json.loads((tmp_path / "facts.json").read_text())["residues"]
    assert [one["name"] for one in residues if one["alpha_carbon"] is None] == ["CA"]
