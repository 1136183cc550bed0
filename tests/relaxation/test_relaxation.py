"""Relaxation: what it repairs, what it leaves alone, and what it must not do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest

pytest.importorskip("openmm", reason="OpenMM is not installed (extra 'engine')")

from openmm import Platform, app
from typer.testing import CliRunner

from cocofold.__main__ import app as command
from cocofold.assessment.backbone_geometry import measure_geometry
from cocofold.assessment.comparison import assess
from cocofold.relaxation.clash_figures import measure_stereochemistry
from cocofold.relaxation.force_field import build_parts, load_force_field
from cocofold.relaxation.minimization import RelaxSettings, relax
from cocofold.structure.geometry import torsion_radians
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

pytestmark = pytest.mark.slow

Fragment = Callable[..., Model]
QUICK = RelaxSettings(device="cpu", threads=1)


def lone_atoms(*atoms: tuple[str, str, str]) -> app.Topology:
    """A topology of residues of one atom each, none bonded: residue name, atom name, element."""
    topology = app.Topology()
    chain = topology.addChain("A")
    for residue, name, element in atoms:
        topology.addAtom(name, app.Element.getBySymbol(element), topology.addResidue(residue, chain))
    return topology


@pytest.mark.parametrize(
    ("atoms", "distance", "clashes"),
    [
        # 1.88 + 1.88 - d
        ((("ALA", "CB", "C"), ("ALA", "CB", "C")), 3.15, 1),
        ((("ALA", "CB", "C"), ("ALA", "CB", "C")), 3.17, 0),
        # 1.76 + 1.42 - d
        ((("ALA", "C", "C"), ("ALA", "O", "O")), 2.57, 1),
        ((("ALA", "C", "C"), ("ALA", "O", "O")), 2.59, 0),
        # 1.64 + 1.42 - d, less 0.4 for a hydrogen bond
        ((("ALA", "N", "N"), ("ALA", "O", "O")), 2.05, 1),
        ((("ALA", "N", "N"), ("ALA", "O", "O")), 2.07, 0),
        # 1.46 + 1.77 - d
        ((("SER", "OG", "O"), ("CYS", "SG", "S")), 2.62, 1),
        ((("SER", "OG", "O"), ("CYS", "SG", "S")), 2.64, 0),
    ],
)
def test_clashes_are_chimeraxs(atoms: tuple, distance: float, clashes: int) -> None:
    positions = np.array([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
    assert len(measure_stereochemistry(lone_atoms(*atoms), positions, ["one", "other"]).clashes) == clashes


def test_atoms_at_most_four_bonds_apart_do_not_clash() -> None:
    carbons = lone_atoms(*[("ALA", "CB", "C")] * 6)
    chain = list(carbons.atoms())
    for one, other in zip(chain, chain[1:]):
        carbons.addBond(one, other)
    positions = np.zeros((6, 3))
    positions[:, 0] = np.arange(6) * 0.5
    # Only the first and the last are five bonds apart
    assert len(measure_stereochemistry(carbons, positions, list("abcdef")).clashes) == 1


def test_bonds_and_angles_are_judged_by_engh_and_huber(whole: Model) -> None:
    parts = build_parts(
        whole.only(np.arange(len(whole.residues)) < 12), load_force_field(), Platform.getPlatformByName("CPU")
    )
    labels = [str(number) for number in range(12)]
    good = measure_stereochemistry(parts.topology, parts.positions, labels)
    # N-CA, CA-C, C-O, N-CA-C, CA-C-O of 12 residues, four values of each of 11 peptides
    assert good.backbone_values == 12 * 5 + 11 * 4
    assert good.outliers == ()
    (carbon,) = (atom.index for atom in parts.topology.atoms() if atom.name == "O" and atom.residue.index == 5)
    (base,) = (atom.index for atom in parts.topology.atoms() if atom.name == "C" and atom.residue.index == 5)
    positions = parts.positions.copy()
    bond = positions[carbon] - positions[base]
    # 1.229 Å with a standard deviation of 0.019 Å, made longer by five of these
    positions[carbon] = positions[base] + bond / np.linalg.norm(bond) * (1.229 + 5 * 0.019)
    assert measure_stereochemistry(parts.topology, positions, labels).outliers == ("5 C-O +5.0σ",)


def test_a_strained_model_is_repaired_and_keeps_its_fold(fragment: Fragment) -> None:
    start = fragment(1, 40, noise=0.12)
    found = relax(start, QUICK)
    assert len(found.before.outliers) > 20
    # The force field's own minimum may leave an angle a little beyond
    assert len(found.after.outliers) <= 1
    assert found.after.worst_sigmas < 4.5
    assert len(found.after.clashes) <= len(found.before.clashes)
    assert assess(found.model, start).ca_rmsd < 0.5
    geometry = measure_geometry(found.model, start)
    assert geometry.new_d == geometry.new_cis == ()
    assert found.model.residues == start.residues


def test_the_same_input_gives_the_same_result(fragment: Fragment) -> None:
    start = fragment(1, 15, noise=0.1)
    assert np.array_equal(relax(start, QUICK).model.positions, relax(start, QUICK).model.positions)


def test_a_gap_stays_and_its_ends_are_not_joined(fragment: Fragment) -> None:
    start = fragment(1, 24, without=(12, 13))
    found = relax(start, QUICK)
    assert any("2 pieces" in note for note in found.notes)
    assert found.model.residues == start.residues
    assert len(found.model) == len(start)
    alpha = found.model.atoms_named("CA")
    numbers = [key.number for key in start.residues]
    gap = [alpha[numbers.index(number)] for number in (11, 14)]
    before, after = (np.linalg.norm(np.subtract(*one.positions[gap])) for one in (start, found.model))
    assert abs(after - before) < 1.0


def test_missing_atoms_are_built_and_hydrogens_only_on_demand(fragment: Fragment) -> None:
    start = fragment(1, 15)
    structure = start.structure.clone()
    lysine = next(residue for residue in structure[0][0] if residue.name == "LYS")
    gone = [atom.name for atom in lysine if atom.name in ("CG", "CD", "CE", "NZ")]
    for name in gone:
        lysine.remove_atom(name, "\0")
    short = Model.of(structure)
    found = relax(short, QUICK)
    assert found.added_atoms == len(gone) == 4
    assert len(found.model) == len(start)
    assert not (found.model.atomic_numbers == 1).any()
    with_hydrogens = relax(short, replace(QUICK, hydrogens=True)).model
    assert (with_hydrogens.atomic_numbers == 1).sum() > len(start)
    heavy = with_hydrogens.positions[with_hydrogens.atomic_numbers > 1]
    assert sorted(map(tuple, heavy)) == sorted(map(tuple, found.model.positions))


def test_side_chains_built_from_the_backbone_are_of_l_amino_acids(fragment: Fragment) -> None:
    start = fragment(1, 24)
    structure = start.structure.clone()
    for residue in structure[0][0]:
        for name in [atom.name for atom in residue if atom.name not in ("N", "CA", "C", "O")]:
            residue.remove_atom(name, "\0")
    bare = Model.of(structure)
    found = relax(bare, QUICK)
    assert len(found.model) == len(start)
    figures = measure_geometry(found.model, bare)
    assert figures.chiral_residues == sum(key.name != "GLY" for key in start.residues)
    assert figures.d_residues == ()


def test_what_the_force_field_does_not_know_stays_where_it_is(fragment: Fragment) -> None:
    start = fragment(1, 15, noise=0.1)
    structure = start.structure.clone()
    for atom, position in zip((a for c in structure[0] for r in c for a in r), start.positions):
        atom.pos = gemmi.Position(*position)
    zinc = gemmi.Residue()
    zinc.name, zinc.seqid, zinc.het_flag = "ZN", gemmi.SeqId("900"), "H"
    atom = gemmi.Atom()
    atom.name, atom.element = "ZN", gemmi.Element("Zn")
    atom.pos = gemmi.Position(*(start.positions[0] + (2.1, 0, 0)))
    zinc.add_atom(atom)
    structure[0][0].add_residue(zinc)
    model = Model.of(structure)
    found = relax(model, QUICK)
    assert np.array_equal(found.model.positions[-1], model.positions[-1])
    # What it touches is held too, the rest moves
    assert np.allclose(found.model.positions[0], model.positions[0], atol=1e-4)
    assert np.linalg.norm(found.model.positions[:-1] - model.positions[:-1], axis=1).max() > 0.1
    assert any("1 ZN" in note for note in found.notes)


def test_a_residue_alone_between_gaps_stays_where_it_is(fragment: Fragment) -> None:
    start = fragment(1, 12, without=(7, 9), noise=0.1)
    found = relax(start, QUICK)
    (row,) = (row for row, key in enumerate(start.residues) if key.number == 8)
    alone = start.residue_of_atom == row
    assert np.array_equal(found.model.positions[alone], start.positions[alone])
    assert not np.allclose(found.model.positions[~alone], start.positions[~alone], atol=1e-2)
    assert any("alone between gaps" in note and f"8 {start.residues[row].name}" in note for note in found.notes)


def test_a_ring_stays_closed(shared_data: Path) -> None:
    path = shared_data / "cases" / "models" / "relax_cyclic" / "1sfi.pdb"
    if not path.is_file():
        pytest.skip("the cases of other people's files are not beside the project")
    start = read_model(path)
    found = relax(start, QUICK)

    def closing(model: Model) -> float:
        ends = model.positions[[model.atoms_named("N")[0], model.atoms_named("C")[-1]]]
        return float(np.linalg.norm(ends[0] - ends[1]))

    assert closing(found.model) == pytest.approx(closing(start), abs=0.02)
    assert any("close a ring" in note for note in found.notes)
    assert np.linalg.norm(found.model.positions - start.positions, axis=1).max() > 0.05


def test_names_of_molecular_dynamics_are_translated(fragment: Fragment) -> None:
    start = fragment(118, 130)
    names = {"HIS": "HID", "ASP": "ASH", "GLU": "GLH", "LYS": "LYN"}
    structure = start.structure.clone()
    for residue in structure[0][0]:
        residue.name = names.get(residue.name, residue.name)
    renamed = Model.of(structure)
    assert sum(key.name in names.values() for key in renamed.residues) > 1
    found = relax(renamed, QUICK)
    assert found.model.residues == renamed.residues
    assert np.array_equal(found.model.positions, relax(start, QUICK).model.positions)
    assert len(found.notes) == 1


def test_a_cis_peptide_stays_cis(fragment: Fragment) -> None:
    def omega(model: Model) -> float:
        rows = {key.number: row for row, key in enumerate(model.residues)}
        named = {name: model.atoms_named(name) for name in ("CA", "C", "N")}
        atoms = [named["CA"][rows[86]], named["C"][rows[86]], named["N"][rows[87]], named["CA"][rows[87]]]
        return abs(np.degrees(torsion_radians(model.positions[atoms])))

    start = fragment(80, 94, noise=0.1)
    assert omega(start) < 40
    assert omega(relax(start, QUICK).model) < 20


def test_disulphides_are_recognised(shared_data: Path) -> None:
    model = read_model(shared_data / "tcr" / "truth.cif")
    # Beta-2 microglobulin: Cys 25 and Cys 80
    chain = model.only(np.array([key.chain == "B" for key in model.residues]))
    parts = build_parts(chain, load_force_field(), Platform.getPlatformByName("CPU"))
    assert parts.n_disulphides == 1
    bonds = [bond for bond in parts.topology.bonds() if {bond[0].name, bond[1].name} == {"SG"}]
    assert len(bonds) == 1
    assert not any(atom.name == "HG" and atom.residue.name == "CYS" for atom in parts.topology.atoms())


@pytest.fixture
def placed(fragment: Fragment, tmp_path: Path) -> Path:
    start = fragment(1, 30)
    centred = start.moved_to(start.positions - start.positions.mean(0) + 40)
    write_model(tmp_path / "start.cif", centred, details="a start", placed_as={"hand": "as-is", "symmetry": "C1"})
    return tmp_path / "start.cif"


def test_images_keep_the_fit(placed: Path, tmp_path: Path) -> None:
    import json

    simulate = ["simulate", "--model", str(placed), "--out", str(tmp_path / "images"), "--box", "32"]
    simulate += ["--pixel-size", "2.5", "--count", "60", "--snr", "3", "--shift-spread", "1"]
    result = CliRunner().invoke(command, simulate)
    assert result.exit_code == 0, result.output
    frc = {}
    for name, extra in (("alone", []), ("images", ["--particles", str(tmp_path / "images" / "particles.star")])):
        words = ["relax", "--model", str(placed), "--out", str(tmp_path / f"{name}.cif"), "--device", "cpu"]
        words += ["--threads", "1", "--json", str(tmp_path / f"{name}.json"), *extra]
        result = CliRunner().invoke(command, words)
        assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "images.json").read_text())
    from cocofold.likelihood.residue_support import ImageAgreement, ParticlesOfModel

    start = read_model(placed)
    images = ImageAgreement.read(start, ParticlesOfModel(tmp_path / "images" / "particles.star", most=60), "cpu")
    for name in ("alone", "images"):
        relaxed = read_model(tmp_path / f"{name}.cif")
        frc[name] = images.mean(relaxed.positions, relaxed.atomic_numbers)
    assert facts["frc"]["after"] == pytest.approx(frc["images"], abs=1e-4)
    assert frc["images"] > frc["alone"] + 1e-3
    assert read_model(tmp_path / "images.cif").placed_as["hand"] == "as-is"


def test_bad_input_is_refused_with_one_message(placed: Path, fragment: Fragment, tmp_path: Path) -> None:
    def complaint(*words: object) -> str:
        result = CliRunner().invoke(command, ["relax", *map(str, words)])
        assert isinstance(result.exception, InputError), result.output
        return str(result.exception)

    assert "no such file" in complaint("--model", tmp_path / "none.cif", "--out", tmp_path / "out.cif")
    assert ".cif" in complaint("--model", placed, "--out", tmp_path / "out.pdb")
    assert "give cpu" in complaint("--model", placed, "--out", tmp_path / "out.cif", "--device", "cuda")
    assert not list(tmp_path.glob("out*"))
    alone = fragment(1, 5)
    unknown = replace(alone, residues=tuple(key._replace(name="UNK") for key in alone.residues))
    with pytest.raises(InputError, match="nothing to relax"):
        relax(unknown, RelaxSettings(device="cpu"))
