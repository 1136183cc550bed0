"""Every kind of model that people bring: read, moved, written and read again, as mmCIF and as PDB."""

from __future__ import annotations

import gzip
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from Bio.PDB.MMCIFParser import MMCIFParser
from structure_files import (
    added,
    bare,
    free_spot,
    grown,
    nucleotides,
    outward,
    place,
    protein,
    renamed,
    residue,
    saved,
    shifted,
    sugar,
    without,
)

from cocofold.imaging.projection import render_density
from cocofold.sources.deformation import DeformationSource
from cocofold.sources.motion_field import SideChainTorsions
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.structure.restraints import Restraints
from cocofold.structure.topology import Backbone, covalent_bonds

PLAIN = 1656
GLYCOSYLATED = 138
LEAST_COLUMNS = ("label_atom_id", "label_comp_id", "label_asym_id", "label_seq_id", "Cartn_x", "Cartn_y", "Cartn_z")
Edit = Callable[[gemmi.Structure], None]


def two_chains(structure: gemmi.Structure) -> None:
    copy = [one.clone() for one in structure[0][0]]
    for one in copy:
        for atom in one:
            atom.pos = gemmi.Position(atom.pos.x + 60, atom.pos.y, atom.pos.z)
    added(structure, "B", copy)


def blocks_of_one_chain(structure: gemmi.Structure) -> None:
    """A 1-100, B 101-150, A 151-214, then the ligand and the water of A and the water of B."""
    rest = [structure[0][0][row].clone() for row in range(100, 214)]
    for row in range(213, 99, -1):
        del structure[0][0][row]
    added(structure, "B", rest[:50])
    added(structure, "A", rest[50:])
    spot = free_spot(structure, place(structure, 50, "CA"), 6, 3)
    added(structure, "A", [residue("LIG", 900, [("C1", "C", spot), ("C2", "C", shifted(spot, 1.5, 0, 0))]),
                           residue("HOH", 901, [("O", "O", shifted(spot, 0, 5, 0))])])  # fmt: skip
    added(structure, "B", [residue("HOH", 901, [("O", "O", shifted(spot, 0, 9, 0))])])


def insertion_codes(structure: gemmi.Structure) -> None:
    for row, code in ((10, "A"), (11, "B"), (12, "C")):
        structure[0][0][row].seqid = gemmi.SeqId(10, code)


def missing_residues(structure: gemmi.Structure) -> None:
    for row in range(104, 99, -1):
        del structure[0][0][row]


def hydrogens(structure: gemmi.Structure) -> None:
    for before, one in zip(list(structure[0][0])[:-1], list(structure[0][0])[1:]):
        if one.name != "PRO":
            n, ca = (np.array(one.find_atom(name, "*").pos.tolist()) for name in ("N", "CA"))
            c = np.array(before.find_atom("C", "*").pos.tolist())
            away = (n - ca) / np.linalg.norm(n - ca) + (n - c) / np.linalg.norm(n - c)
            one.add_atom(residue("X", 1, [("H", "H", n + away / np.linalg.norm(away))])[0].clone())
    grown(structure, 30, "OG", "HG", "H", 0.97)


def deuterium(structure: gemmi.Structure) -> None:
    hydrogens(structure)
    for one in structure[0][0]:
        for atom in one:
            if atom.name == "H":
                atom.name, atom.element = "D", gemmi.Element("D")


def selenomethionine(structure: gemmi.Structure) -> None:
    for number in (1, 21, 34):
        renamed(structure, number, "MSE", {"SD": ("SE", "Se")})


def modified_residues(structure: gemmi.Structure) -> None:
    renamed(structure, 30, "SEP")
    grown(structure, 30, "OG", "P", "P", 1.6)
    renamed(structure, 31, "TPO")
    grown(structure, 31, "OG1", "P", "P", 1.6)
    renamed(structure, 77, "CSO")
    grown(structure, 77, "SG", "OD", "O", 1.6)
    renamed(structure, 139, "PCA")
    grown(structure, 139, "CD", "OE", "O", 1.23)
    renamed(structure, 102, "XYZ")


def d_residue(structure: gemmi.Structure) -> None:
    alanine = next(one for one in structure[0][0] if one.name == "ALA" and one.seqid.num > 10)
    alanine.name, alanine.het_flag = "DAL", "H"
    n, ca, c, cb = (np.array(alanine.find_atom(name, "*").pos.tolist()) for name in ("N", "CA", "C", "CB"))
    normal = np.cross(n - ca, c - ca)
    normal /= np.linalg.norm(normal)
    alanine.find_atom("CB", "*").pos = gemmi.Position(*(cb - 2 * np.dot(cb - ca, normal) * normal))


def ligand(structure: gemmi.Structure) -> None:
    spot = free_spot(structure, place(structure, 88, "CA"), 6, 3)
    added(structure, "L", [sugar("LIG", 1, spot, np.array([1.0, 0.2, 0.1]))])


def glycan(structure: gemmi.Structure) -> None:
    """Two NAG and a mannose on an asparagine."""
    nitrogen = place(structure, GLYCOSYLATED, "ND2")
    root = free_spot(structure, nitrogen, 1.45, 2.2)
    away = root - nitrogen
    sugars = [sugar("NAG", 301, root, away)]
    for number, name in ((302, "NAG"), (303, "BMA")):
        end = np.array(sugars[-1].find_atom("O4", "*").pos.tolist())
        sugars.append(sugar(name, number, end + 1.43 * away / np.linalg.norm(away), away))
    added(structure, "G", sugars)


def nucleic_acids(structure: gemmi.Structure) -> None:
    spot = free_spot(structure, place(structure, 50, "CA"), 12, 6)
    along = np.cross(outward(structure, spot), [0.2, 0.4, 0.9])
    added(structure, "D", nucleotides(["DA", "DC", "DG", "DT"], 1, spot, along))
    added(structure, "R", nucleotides(["A", "C", "G", "U"], 1, spot + 12 * outward(structure, spot), along))


def metals(structure: gemmi.Structure) -> None:
    """Zinc and calcium, each coordinated by a carboxylate and a water, and a calcium with nothing near."""
    sites = [(33, "OD1", 2.05, "ZN", "Zn"), (54, "OD1", 2.4, "CA", "Ca")]
    for number, (asp, atom, distance, name, element) in enumerate(sites, start=401):
        spot = free_spot(structure, place(structure, asp, atom), distance, 2.0)
        added(structure, "A", [residue(name, number, [(name, element, spot)])])
        water = free_spot(structure, spot, distance, 2.0)
        added(structure, "A", [residue("HOH", number + 100, [("O", "O", water)])])
    far = free_spot(structure, place(structure, 140, "CA"), 8, 5)
    added(structure, "A", [residue("CA", 409, [("CA", "Ca", far)])])


def waters(structure: gemmi.Structure) -> None:
    spots = [free_spot(structure, place(structure, number, "CA"), 6, 2.5) for number in (20, 60, 100, 140)]
    added(structure, "W", [residue("HOH", row, [("O", "O", spot)]) for row, spot in enumerate(spots, start=1)])


def unknown_elements(structure: gemmi.Structure) -> None:
    spot = free_spot(structure, place(structure, 140, "CA"), 6, 3)
    added(structure, "U", [residue("UNX", 1, [("UNK", "X", spot)])])


def no_occupancy(structure: gemmi.Structure) -> None:
    for atom in structure[0][0][40]:
        atom.occ = 0


def incomplete_backbone(structure: gemmi.Structure) -> None:
    structure[0][0][99].remove_atom("C", "\0", gemmi.Element("C"))
    structure[0][0][150].remove_atom("N", "\0", gemmi.Element("N"))


def crystal(structure: gemmi.Structure) -> None:
    structure.cell = gemmi.UnitCell(73.2, 79.8, 85.0, 90, 90, 90)
    structure.spacegroup_hm = "P 21 2 21"


def several_models(structure: gemmi.Structure) -> None:
    structure.add_model(structure[0].clone())
    structure[1].num = 2
    for atom in structure[1][0][0]:
        atom.pos = gemmi.Position(0, 0, 0)


# Each kind: how it is made, atoms more than the plain model, residues with a backbone less than the plain model.
KINDS: dict[str, tuple[Edit, int, int]] = {
    "two chains": (two_chains, PLAIN, -214),
    "blocks of one chain": (blocks_of_one_chain, 4, 0),
    "insertion codes": (insertion_codes, 0, 0),
    "missing residues": (missing_residues, -43, 5),
    "hydrogens": (hydrogens, 204, 0),
    "deuterium": (deuterium, 204, 0),
    "selenomethionine": (selenomethionine, 0, 0),
    "modified residues": (modified_residues, 4, 0),
    "D residue": (d_residue, 0, 0),
    "ligand": (ligand, 9, 0),
    "glycan": (glycan, 27, 0),
    "nucleic acids": (nucleic_acids, 48, 0),
    "metals": (metals, 5, 0),
    "waters": (waters, 4, 0),
    "unknown elements": (unknown_elements, 1, 0),
    "no occupancy": (no_occupancy, 0, 0),
    "incomplete backbone": (incomplete_backbone, -2, 2),
    "crystal": (crystal, 0, 0),
    "several models": (several_models, 0, 0),
}
EACH_KIND = pytest.mark.parametrize("kind", list(KINDS))


def made(kind: str, path: Path) -> Path:
    structure = protein() if path.suffix == ".cif" else bare(protein())
    KINDS[kind][0](structure)
    return saved(structure, path)


def stirred(model: Model) -> np.ndarray:
    """Positions after large random motions at every stage."""
    source = DeformationSource(model)
    generator = torch.Generator().manual_seed(1)
    for stage in range(len(source.stages())):
        groups = source.begin_stage(stage)
        with torch.no_grad():
            for group in groups:
                for values in group["params"]:
                    values += 3 * group["lr"] * torch.randn(values.shape, generator=generator)
    return source.positions().detach().double().numpy()


def lengths(positions: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)


def by_biopython(path: Path) -> list[tuple]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (first,) = MMCIFParser(QUIET=True).get_structure("x", str(path))
    return [
        (chain.id, one.id[1], one.id[2].strip(), one.resname, atom.name, *np.round(atom.coord, 2).tolist())
        for chain in first
        for one in chain
        for atom in one
    ]


def by_us(model: Model, positions: np.ndarray) -> list[tuple]:
    keys = [model.residues[row] for row in model.residue_of_atom]
    rounded = np.round(positions.astype(np.float32), 2).tolist()
    return [(*key, name, *position) for key, name, position in zip(keys, model.atom_names, rounded)]


@EACH_KIND
@pytest.mark.parametrize("suffix", [".cif", ".pdb"])
def test_every_kind_is_read_moved_written_and_read_again(kind: str, suffix: str, tmp_path: Path) -> None:
    model = read_model(made(kind, tmp_path / f"given{suffix}"))
    _, more_atoms, fewer_residues = KINDS[kind]
    assert len(model) == PLAIN + more_atoms
    assert len(Backbone.of(model)) == 214 - fewer_residues
    assert (model.atomic_numbers > 0).all()
    positions = stirred(model)
    assert np.abs(positions - model.positions).max() > 1
    write_model(tmp_path / "out.cif", model.moved_to(positions), details="moved")
    again = read_model(tmp_path / "out.cif")
    assert again.residues == model.residues
    assert again.atom_names.tolist() == model.atom_names.tolist()
    assert again.atomic_numbers.tolist() == model.atomic_numbers.tolist()
    np.testing.assert_allclose(again.positions, positions, atol=1e-3)
    write_model(tmp_path / "twice.cif", again, details="moved")
    assert (tmp_path / "twice.cif").read_text() == (tmp_path / "out.cif").read_text()
    # Biopython puts blocks of one chain together.
    assert sorted(by_biopython(tmp_path / "out.cif")) == sorted(by_us(again, again.positions))


@EACH_KIND
def test_occupancies_b_factors_and_hetatm_stay(kind: str, tmp_path: Path) -> None:
    model = read_model(made(kind, tmp_path / "given.cif"))
    write_model(tmp_path / "out.cif", model)

    def facts(structure: gemmi.Structure) -> list[tuple]:
        return [
            (atom.occ, round(atom.b_iso, 3), atom.element.name, one.het_flag)
            for chain in structure[0]
            for one in chain
            for atom in one
        ]

    given = gemmi.read_structure(str(tmp_path / "given.cif"), merge_chain_parts=False)
    assert facts(read_model(tmp_path / "out.cif").structure) == facts(given)


@EACH_KIND
def test_bonds_within_a_residue_and_what_rides_stay_whole(kind: str, tmp_path: Path) -> None:
    model = read_model(made(kind, tmp_path / "given.cif"))
    backbone, positions = Backbone.of(model), stirred(model)
    bonds = covalent_bonds(model)
    inside = bonds[backbone.frame_of_atom[bonds[:, 0]] == backbone.frame_of_atom[bonds[:, 1]]]
    assert len(inside) > 1000
    assert np.abs(lengths(positions, inside) - lengths(model.positions, inside)).max() < 2e-3


@EACH_KIND
def test_geometry_of_the_start_costs_next_to_nothing(kind: str, tmp_path: Path) -> None:
    model = read_model(made(kind, tmp_path / "given.cif"))
    energy = Restraints(model, Backbone.of(model), 0.03).energy(torch.as_tensor(model.positions, dtype=torch.float32))
    assert 0 <= float(energy) < 0.1


def test_a_glycan_keeps_its_bond_to_the_protein_and_between_its_sugars(tmp_path: Path) -> None:
    model = read_model(made("glycan", tmp_path / "given.cif"))
    backbone, positions = Backbone.of(model), stirred(model)
    assert len(backbone.detached_residues) == 0
    bonds = covalent_bonds(model)
    names = np.array([model.residues[row].name for row in model.residue_of_atom])
    owner = model.residue_of_atom[bonds]
    across = bonds[(owner[:, 0] != owner[:, 1]) & np.isin(names[bonds], ["NAG", "BMA"]).any(1)]
    assert sorted(sorted(names[bond].tolist()) for bond in across) == [["ASN", "NAG"], ["BMA", "NAG"], ["NAG", "NAG"]]
    assert np.abs(lengths(positions, across) - lengths(model.positions, across)).max() < 1e-3
    asparagine = next(row for row, key in enumerate(model.residues) if key.number == GLYCOSYLATED)
    turning = model.residue_of_atom[SideChainTorsions.of(model, backbone).axes[:, 0]]
    assert asparagine not in turning


@pytest.mark.parametrize(
    ("name", "owner", "atom", "bond"), [("ACE", 1, "N", 1.33), ("NME", 214, "C", 1.33), ("PLP", 13, "NZ", 1.35)]
)
def test_caps_and_bonded_ligands_ride_with_their_residue(
    name: str, owner: int, atom: str, bond: float, tmp_path: Path
) -> None:
    structure = protein()
    root = place(structure, owner, atom)
    spot = free_spot(structure, root, bond, 1.8)
    away = (spot - root) / bond
    label, element = ("N", "N") if name == "NME" else ("C", "C")
    atoms = [(label, element, spot), ("CH3", "C", spot + 1.5 * away)]
    added(structure, "A", [residue(name, 300, atoms)])
    model = read_model(saved(structure, tmp_path / "x.cif"))
    backbone, positions = Backbone.of(model), stirred(model)
    assert len(backbone.detached_residues) == 0
    row = next(row for row, key in enumerate(model.residues) if key.number == owner)
    root_row = model.atoms_named(atom)[row]
    ends = np.column_stack([[root_row, root_row], np.arange(len(model) - 2, len(model))])
    assert np.abs(lengths(positions, ends) - lengths(model.positions, ends)).max() < 1e-3
    turning = model.residue_of_atom[SideChainTorsions.of(model, backbone).axes[:, 0]]
    # Residue 214 is a glycine, without a side chain.
    assert (row in turning) == (name == "ACE")


def test_metals_stay_with_what_coordinates_them_and_a_calcium_is_no_alpha_carbon(tmp_path: Path) -> None:
    model = read_model(made("metals", tmp_path / "given.cif"))
    backbone, positions = Backbone.of(model), stirred(model)
    restraints = Restraints(model, backbone, 0.0)
    for name, asp, distance in (("Zn", 33, 2.05), ("Ca", 54, 2.4)):
        number = gemmi.Element(name).atomic_number
        metal = np.flatnonzero(model.atomic_numbers == number)[0]
        oxygen = model.atoms_named("OD1")[next(r for r, key in enumerate(model.residues) if key.number == asp)]
        assert backbone.frame_of_atom[metal] == backbone.frame_of_atom[oxygen]
        assert np.linalg.norm(positions[metal] - positions[oxygen]) == pytest.approx(distance, abs=1e-2)
        # Its water rides by itself; the restraints know the distance between them.
        start = torch.as_tensor(model.positions, dtype=torch.float32)
        pulled = start.clone()
        water = next(
            row
            for row in np.flatnonzero(model.atomic_numbers == 8)
            if model.residues[model.residue_of_atom[row]].name == "HOH"
            and np.linalg.norm(model.positions[row] - model.positions[metal]) < 2.8
        )
        pulled[water] += pulled[water] - pulled[metal]
        assert restraints.energy(pulled) > restraints.energy(start) + 0.01
    calcium = [row for row, key in enumerate(model.residues) if key.name == "CA"]
    assert len(calcium) == 2
    assert not set(calcium) & set(backbone.residues.tolist())


def test_hydrogens_ride_with_their_heavy_atoms_and_count_as_one(tmp_path: Path) -> None:
    for kind in ("hydrogens", "deuterium"):
        model = read_model(made(kind, tmp_path / "given.cif"))
        light = np.flatnonzero(model.atomic_numbers == 1)
        assert len(light) == 204
        bonds = covalent_bonds(model)
        bonds = bonds[np.isin(bonds, light).any(1)]
        assert len(bonds) == 204
        positions = stirred(model)
        assert np.abs(lengths(positions, bonds) - lengths(model.positions, bonds)).max() < 1e-3


def test_a_missing_stretch_is_not_bridged_and_a_modified_residue_is_linked(tmp_path: Path) -> None:
    broken = Backbone.of(read_model(made("missing residues", tmp_path / "broken.cif")))
    assert np.flatnonzero(~broken.linked).tolist() == [99, 208]
    for kind in ("selenomethionine", "modified residues", "D residue", "insertion codes"):
        assert np.flatnonzero(~Backbone.of(read_model(made(kind, tmp_path / "x.cif"))).linked).tolist() == [213]


def test_blocks_of_one_chain_move_as_one_chain_and_only_joined_ends_are_linked(tmp_path: Path) -> None:
    model = read_model(made("blocks of one chain", tmp_path / "x.pdb"))
    backbone = Backbone.of(model)
    # Residues 100 and 101, 150 and 151 are neighbours in space, but in chains of different names.
    assert np.flatnonzero(~backbone.linked[:214]).tolist() == [99, 149, 213]
    assert sorted(set(backbone.chain.tolist())) == [0, 1]


def test_a_d_residue_keeps_its_hand(tmp_path: Path) -> None:
    model = read_model(made("D residue", tmp_path / "x.cif"))
    rows = np.column_stack([model.atoms_named(name) for name in ("N", "CA", "C", "CB")])
    rows = rows[(rows >= 0).all(1)]

    def hands(positions: np.ndarray) -> np.ndarray:
        n, ca, c, cb = positions[rows].transpose(1, 0, 2)
        return np.sign(np.einsum("ni,ni->n", n - ca, np.cross(c - ca, cb - ca)))

    assert (hands(model.positions) < 0).sum() == 1
    assert (hands(stirred(model)) == hands(model.positions)).all()


def test_an_incomplete_residue_rides_with_the_residue_that_it_is_bonded_to(tmp_path: Path) -> None:
    model = read_model(made("incomplete backbone", tmp_path / "x.cif"))
    backbone = Backbone.of(model)
    assert len(backbone.detached_residues) == 0
    frames = {model.residues[backbone.residues[frame]].number for frame in backbone.frame_of_atom}
    assert not frames & {100, 151}
    # Without C the one before, without N the one after.
    owners = {
        key.number: model.residues[backbone.residues[backbone.frame_of_atom[model.residue_of_atom == row][0]]].number
        for row, key in enumerate(model.residues)
    }
    assert owners[100] == 99
    assert owners[151] == 152


def test_a_nucleotide_is_not_tied_to_a_residue_by_a_metal(tmp_path: Path) -> None:
    structure = protein()
    oxygen = place(structure, 33, "OD1")
    magnesium = free_spot(structure, oxygen, 2.1, 2.0)
    away = (magnesium - oxygen) / 2.1
    added(structure, "A", [residue("MG", 401, [("MG", "Mg", magnesium)])])
    added(structure, "D", nucleotides(["DA", "DC", "DG"], 1, magnesium + 2.1 * away + [0.5, 0, 0], away))
    model = read_model(saved(structure, tmp_path / "x.cif"))
    backbone = Backbone.of(model)
    assert [model.residues[row].name for row in backbone.detached_residues] == ["DA", "DC", "DG"]


@pytest.mark.parametrize("kind", ["ligand", "glycan", "nucleic acids", "metals", "waters", "unknown elements"])
def test_what_rides_along_is_projected(kind: str, tmp_path: Path) -> None:
    model = read_model(made(kind, tmp_path / "x.cif"))
    others = np.setdiff1d(np.arange(len(model.residues)), model.backbone()[0])
    rows = np.isin(model.residue_of_atom, others)
    assert rows.any()
    inside = model.positions - model.positions.min(0) + 10
    box = int(np.ptp(inside, axis=0).max() + 20) // 2 * 2
    amplitudes, widths = model.atomic_numbers.astype(float), np.full(len(model), 0.5)
    volume = render_density(inside, amplitudes, widths, box, 1.0)
    without_them = render_density(inside[~rows], amplitudes[~rows], widths[~rows], box, 1.0)
    x, y, z = np.round(inside[rows]).astype(int).T
    assert (volume[z, y, x] > without_them[z, y, x]).all()


def test_the_first_conformation_is_kept_whole(tmp_path: Path) -> None:
    """B comes before A for some atoms, and block after block as well as atom after atom."""
    structure = protein()
    for row, interleaved in ((4, True), (22, False)):
        one = structure[0][0][row]
        side = [atom.clone() for atom in one if atom.name not in ("N", "CA", "C", "O")]
        assert len(side) > 2
        for atom in side:
            one.remove_atom(atom.name, "\0", atom.element)
        first, second = [], []
        for atom in side:
            atom.altloc, atom.occ = "B", 0.4
            other = atom.clone()
            other.altloc, other.occ = "A", 0.6
            other.pos = gemmi.Position(atom.pos.x + 0.7, atom.pos.y, atom.pos.z)
            first.append(atom)
            second.append(other)
        order = [one for pair in zip(first, second) for one in pair] if interleaved else [*first, *second]
        if interleaved:
            order[2], order[3] = order[3], order[2]
        for atom in order:
            one.add_atom(atom)
    plain = read_model(saved(protein(), tmp_path / "plain.cif"))
    for name in ("x.cif", "x.pdb"):
        model = read_model(saved(structure, tmp_path / name))
        assert len(model) == PLAIN
        shift = np.abs(np.sort(model.positions, axis=0) - np.sort(plain.positions, axis=0)).max()
        assert shift < 2e-3
        assert any("2 residues have alternate conformations" in note for note in model.notes)
        write_model(tmp_path / "out.cif", model)
        assert set(gemmi.cif.read(str(tmp_path / "out.cif")).sole_block().find_loop("_atom_site.label_alt_id")) == {"."}


def test_of_two_residues_at_one_position_the_first_stays_and_a_ligand_of_the_same_number_too(tmp_path: Path) -> None:
    structure = protein()
    chain = structure[0][0]
    first, second = chain[4].clone(), chain[4].clone()
    second.name = "SER"
    for one, label in ((first, "A"), (second, "B")):
        for atom in one:
            atom.altloc = label
    second.trim_to_alanine()
    ligand(structure)
    structure[0][1].name = "A"
    structure[0][1][0].seqid = gemmi.SeqId(5, " ")
    chain = structure[0][0]
    del chain[4]
    chain.add_residue(second, 4)
    chain.add_residue(first, 4)
    for name in ("x.cif", "x.pdb"):
        model = read_model(saved(structure, tmp_path / name))
        assert [key.name for key in model.residues if key.number == 5] == ["LEU", "LIG"]
        assert len(model) == PLAIN + 9


def test_a_ligand_behind_a_residue_of_its_number_is_no_alternate(tmp_path: Path) -> None:
    structure = bare(protein())
    last = structure[0][0][213]
    for atom in last:
        atom.altloc = "A"
    spot = free_spot(structure, place(structure, 140, "CA"), 6, 3)
    structure[0][0].add_residue(residue("LIG", 214, [("C1", "C", spot)]))
    model = read_model(saved(structure, tmp_path / "x.pdb"))
    assert [key.name for key in model.residues[-2:]] == [last.name, "LIG"]


def test_a_hydrogen_exchanged_for_deuterium_is_one_atom(tmp_path: Path) -> None:
    structure = protein()
    hydrogens(structure)
    one = structure[0][0][50]
    hydrogen = one.find_atom("H", "*")
    other = hydrogen.clone()
    hydrogen.altloc, other.altloc, other.name, other.element = "A", "B", "D", gemmi.Element("D")
    one.add_atom(other)
    model = read_model(saved(structure, tmp_path / "x.cif"))
    assert len(model) == PLAIN + 204


def test_the_first_of_several_models_is_taken_and_the_user_is_told(tmp_path: Path) -> None:
    model = read_model(made("several models", tmp_path / "x.cif"))
    assert model.notes == ("the file holds 2 models; the first is taken",)
    np.testing.assert_allclose(model.positions, read_model(saved(protein(), tmp_path / "y.cif")).positions)
    assert read_model(tmp_path / "y.cif").notes == ()


def test_unknown_elements_count_as_what_their_names_say(tmp_path: Path) -> None:
    structure = protein()
    spot = free_spot(structure, place(structure, 140, "CA"), 6, 3)
    atoms = [("C1", "X", spot), ("CL2", "X", shifted(spot, 1.7, 0, 0)), ("O3", "X", shifted(spot, 0, 1.4, 0)),
             ("Q9", "X", shifted(spot, 0, 0, 1.5))]  # fmt: skip
    added(structure, "U", [residue("UNL", 1, atoms), residue("ZN", 2, [("ZN", "X", shifted(spot, 9, 9, 9))])])
    model = read_model(saved(structure, tmp_path / "x.cif"))
    assert model.atomic_numbers[-5:].tolist() == [6, 17, 8, 6, 30]
    assert model.notes[0].startswith("5 atoms are of no known element")


@pytest.mark.parametrize("name", ["m.cif.gz", "m.pdb.gz", "m.CIF", "m.ent", "m", "m.gz", "wrong.pdb.cif"])
def test_the_content_says_what_a_file_is(name: str, tmp_path: Path) -> None:
    kind = ".pdb" if "pdb" in name or "ent" in name else ".cif"
    plain = saved(protein(), tmp_path / f"plain{kind}")
    target = tmp_path / name
    if name.endswith(".gz"):
        with gzip.open(target, "wb") as file:
            file.write(plain.read_bytes())
    else:
        shutil.copy(plain, target)
    model = read_model(target)
    assert len(model) == PLAIN
    assert model.structure.name == (name.split(".")[0] if kind == ".pdb" else "adenylate_kinase_closed")


@pytest.mark.parametrize(
    "chain", ["A B", "A'B", 'it\'s "odd"', "_x", "#1", "data_", ";a", "loop_", "?", ".", "x" * 60, "a_b-c", "AA", "9"]
)
def test_chain_names_of_any_kind_survive(chain: str, tmp_path: Path) -> None:
    structure = bare(protein())
    ligand(structure)
    structure[0][0].name = chain
    # gemmi makes label names of chain names and does not quote them, so these come from elsewhere.
    structure.setup_entities()
    for name, one in zip("AB", structure[0]):
        for member in one:
            member.subchain = name
    structure.entities[0].subchains, structure.entities[1].subchains = ["A"], ["B"]
    structure.make_mmcif_document().write_file(str(tmp_path / "x.cif"))
    model = read_model(tmp_path / "x.cif")
    assert model.residues[0].chain == chain
    write_model(tmp_path / "out.cif", model, details="x")
    again = read_model(tmp_path / "out.cif")
    assert again.residues == model.residues
    # Biopython takes this one for a keyword, in quotes or not.
    assert chain == "loop_" or by_biopython(tmp_path / "out.cif")[0][0] == chain


def test_label_names_that_need_quotes_are_given_anew(tmp_path: Path) -> None:
    path = saved(protein(), tmp_path / "x.cif")
    block = gemmi.cif.read(str(path)).sole_block()
    for item in ("_atom_site.label_asym_id", "_struct_asym.id"):
        column = block.find_values(item)
        for row in range(len(column)):
            column[row] = "'A B'"
    block.write_file(str(path))
    model = read_model(path)
    write_model(tmp_path / "out.cif", model)
    assert read_model(tmp_path / "out.cif").residues == model.residues
    assert set(gemmi.cif.read(str(tmp_path / "out.cif")).sole_block().find_values("_atom_site.label_asym_id")) == {"A"}


def test_pdb_without_elements_and_with_hybrid_36_numbers(tmp_path: Path) -> None:
    plain = saved(bare(protein()), tmp_path / "plain.pdb")
    lines = [line for line in plain.read_text().splitlines() if line.startswith("ATOM")]
    short = [line[:6] + f"A{row:04d}" + line[11:22] + f"A{row // 100:03d}"[:4].rjust(4) + line[26:66] for row, line in
             enumerate(lines)]  # fmt: skip
    (tmp_path / "short.pdb").write_text("\n".join(line[:66] for line in lines) + "\n")
    (tmp_path / "serials.pdb").write_text("\n".join(lines[row][:6] + short[row][6:11] + lines[row][11:] for row in
                                                    range(len(lines))) + "\n")  # fmt: skip
    expected = read_model(plain)
    for name in ("short.pdb", "serials.pdb"):
        model = read_model(tmp_path / name)
        assert model.residues == expected.residues
        assert model.atomic_numbers.tolist() == expected.atomic_numbers.tolist()
    far = [line[:22] + f"A00{row % 10}" + line[26:] for row, line in enumerate(lines[:5])]
    assert all(line[22:26].startswith("A00") for line in far)
    numbered = [line[:22] + "A00" + str(gemmi.read_pdb_string(line + "\n")[0][0][0].seqid.num % 10) + line[26:]
                for line in lines[:8]]  # fmt: skip
    (tmp_path / "far.pdb").write_text("\n".join(numbered) + "\n")
    assert {key.number for key in read_model(tmp_path / "far.pdb").residues} == {10001}


@pytest.mark.parametrize(
    "dropped",
    [
        lambda name: name.startswith("label_"),
        lambda name: name.startswith("label_") and name not in ("label_atom_id", "label_comp_id"),
        lambda name: name.startswith("auth_"),
        lambda name: name in ("type_symbol", "id", "label_alt_id", "group_PDB", "pdbx_PDB_model_num"),
        lambda name: name not in LEAST_COLUMNS,
    ],
    ids=["auth only", "auth chain and number", "label only", "no elements", "the least"],
)
def test_minimal_mmcif(dropped: Callable[[str], bool], tmp_path: Path) -> None:
    structure = protein()
    metals(structure)
    waters(structure)
    path = saved(structure, tmp_path / "x.cif")
    block = gemmi.cif.read(str(path)).sole_block()
    items = block.get_mmcif_category("_atom_site.")
    items.update(auth_atom_id=items["label_atom_id"], auth_comp_id=items["label_comp_id"])
    block.set_mmcif_category("_atom_site.", items)
    block.write_file(str(path))
    expected = read_model(path)
    model = read_model(without(path, dropped))
    assert len(model) == len(expected)
    assert model.atom_names.tolist() == expected.atom_names.tolist()
    assert model.atomic_numbers.tolist() == expected.atomic_numbers.tolist()
    np.testing.assert_allclose(model.positions, expected.positions)
    assert len(model.residues) == len(expected.residues)
    write_model(tmp_path / "out.cif", model)
    assert read_model(tmp_path / "out.cif").residues == model.residues
    assert len(by_biopython(tmp_path / "out.cif")) == len(model)
