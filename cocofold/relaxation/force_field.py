"""A model's protein as the force field has it, and the energy that relaxation brings down.

The protein is completed with missing atoms and hydrogens. The energy is Amber14 in implicit solvent with
restraints that keep the model as it is.
"""

from __future__ import annotations

import io
import random
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from cocofold.structure.geometry import torsion_radians
from cocofold.structure.model import Model
from cocofold.structure.topology import LONGEST_PEPTIDE_BOND_ANGSTROM, Backbone
from cocofold.system.errors import InputError

# Amber ff14SB with OBC II (Onufriev, Bashford & Case 2004), under OpenMM's names
FORCE_FIELD = ("amber14-all.xml", "implicit/obc2.xml")
# Non-bonded interactions end here, as is usual for these force fields in implicit solvent without periodicity
CUTOFF_NM = 1.0
ANGSTROM_PER_NM = 10.0
# By this name the force of the images is found in a system.
IMAGE_FORCE_NAME = "images"
# Protein atoms this near to atoms that the force field does not know do not move: hydrogen bonds and bonds to metals
# reach less far, so that nothing moves into or away from a ligand. Larger: more of the protein is not relaxed.
FROZEN_WITHIN_ANGSTROM = 4.5
# kJ/mol: of a peptide bond turned by 90 degrees, and of an improper torsion off by a radian. Smaller ones could give
# way to a clash, so that a peptide turns over or a residue changes its chirality; larger ones strain bonds nearby.
_OMEGA_STRENGTH_KJ, _CHIRALITY_STRENGTH_KJ = 150.0, 400.0
# The improper torsion CA-N-C-CB of a tetrahedral carbon is about 35 degrees.
_IMPROPER_RAD = 0.6
_HYDROGEN, _SULPHUR = 1, 16
# Selenomethionine is built as methionine: its selenium becomes the sulphur.
_SELENOMETHIONINE, _SELENIUM_ATOM, _SULPHUR_ATOM = "MSE", "SE", "SD"
# 0 would stand for any seed in OpenMM
_SEED = 1
# Length (Å) of C-O in a carboxylate, and of CA-CB; angle of a tetrahedron
_CARBOXYLATE_BOND_ANGSTROM, _BETA_BOND_ANGSTROM, _TETRAHEDRAL_DEGREES = 1.25, 1.53, 109.5
STANDARD_AMINO_ACIDS = frozenset({
    "ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE",
    "LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL",
})  # fmt: skip

# What molecular dynamics programs call amino acids by their protonation and bonds, which are found anew here
_STANDARD_NAME = {
    _SELENOMETHIONINE: "MET", "HID": "HIS", "HIE": "HIS", "HIP": "HIS", "HSD": "HIS", "HSE": "HIS", "HSP": "HIS",
    "CYX": "CYS", "CYM": "CYS", "ASH": "ASP", "GLH": "GLU", "LYN": "LYS",
}  # fmt: skip


def load_force_field(solvent: bool = True) -> Any:
    """The force field of proteins, with implicit solvent (generalised Born, OBC II) or in vacuum."""
    from openmm import app

    return app.ForceField(*(FORCE_FIELD if solvent else FORCE_FIELD[:1]))


def build_system(parts: ForceFieldProtein, field: Any, others: np.ndarray, image_force: bool) -> Any:
    """The system of a protein, with restraints.

    Heavy atoms are held to their positions by a harmonic restraint of strength ``hold`` (kJ/mol/nm², a parameter of the
    context). Peptides are held cis or trans and residues in their chirality, as they are. Atoms near others that the
    force field does not know do not move.

    Parameters
    ----------
    parts : ForceFieldProtein
    field : openmm.app.ForceField
    others : (m, 3) float
        Atoms (Å) that are not part of the protein.
    image_force : bool
        Whether each atom takes a constant force, in the force `IMAGE_FORCE_NAME`: parameters fx, fy, fz (kJ/mol/nm).
    """
    from openmm import app, unit

    system = field.createSystem(
        parts.topology,
        nonbondedMethod=app.CutoffNonPeriodic,
        nonbondedCutoff=CUTOFF_NM * unit.nanometer,
        constraints=None,
        removeCMMotion=False,
    )
    _restrain_positions(system, parts)
    _hold_peptides(system, parts)
    _hold_chirality(system, parts)
    for atom in _atoms_near(parts, others).tolist():
        # OpenMM does not move atoms without mass.
        system.setParticleMass(atom, 0)
    if image_force:
        _add_image_force(system)
    return system


def image_force_of(system: Any) -> Any:
    """The force of the images in a system that was built with one."""
    return next(force for force in system.getForces() if force.getName() == IMAGE_FORCE_NAME)


def _restrain_positions(system: Any, parts: ForceFieldProtein) -> None:
    import openmm

    hold = openmm.CustomExternalForce("0.5*hold*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
    hold.addGlobalParameter("hold", 0.0)
    for axis in ("x0", "y0", "z0"):
        hold.addPerParticleParameter(axis)
    for atom in np.flatnonzero((parts.model_row >= 0) & parts.is_heavy).tolist():
        hold.addParticle(atom, (parts.positions[atom] / ANGSTROM_PER_NM).tolist())
    system.addForce(hold)


def _add_image_force(system: Any) -> None:
    import openmm

    pull = openmm.CustomExternalForce("-(fx*x+fy*y+fz*z)")
    pull.setName(IMAGE_FORCE_NAME)
    for axis in ("fx", "fy", "fz"):
        pull.addPerParticleParameter(axis)
    for atom in range(system.getNumParticles()):
        pull.addParticle(atom, [0.0, 0.0, 0.0])
    system.addForce(pull)


def _atoms_by_name(parts: ForceFieldProtein) -> list[dict[str, int]]:
    """Atoms of each residue by name."""
    return [{atom.name: atom.index for atom in residue.atoms()} for residue in parts.topology.residues()]


def peptide_torsion_atoms(named: dict[str, int], next_named: dict[str, int]) -> list[int]:
    """Atoms CA, C, N and CA of the torsion omega between two residues, by their atoms' names; -1 for one missing."""
    return [named.get("CA", -1), named.get("C", -1), next_named.get("N", -1), next_named.get("CA", -1)]


def _hold_peptides(system: Any, parts: ForceFieldProtein) -> None:
    import openmm

    force = openmm.CustomTorsionForce("depth*(1-cos(theta-theta0))")
    for name in ("depth", "theta0"):
        force.addPerTorsionParameter(name)
    residues = list(parts.topology.residues())
    named = _atoms_by_name(parts)
    for one, other in zip(residues, residues[1:]):
        if one.chain is not other.chain:
            continue
        atoms = peptide_torsion_atoms(named[one.index], named[other.index])
        if -1 in atoms:
            continue
        omega = float(torsion_radians(parts.positions[atoms]))
        force.addTorsion(*atoms, [_OMEGA_STRENGTH_KJ, 0.0 if abs(omega) < np.pi / 2 else np.pi])
    system.addForce(force)


def _hold_chirality(system: Any, parts: ForceFieldProtein) -> None:
    import openmm

    force = openmm.CustomTorsionForce("depth*(theta-theta0)^2")
    for name in ("depth", "theta0"):
        force.addPerTorsionParameter(name)
    for named in _atoms_by_name(parts):
        atoms = [named.get(name, -1) for name in ("CA", "N", "C", "CB")]
        if -1 in atoms:
            continue
        force.addTorsion(
            *atoms, [_CHIRALITY_STRENGTH_KJ, float(np.copysign(_IMPROPER_RAD, torsion_radians(parts.positions[atoms])))]
        )
    system.addForce(force)


def _atoms_near(parts: ForceFieldProtein, others: np.ndarray) -> np.ndarray:
    """Heavy atoms of the protein that are within 4.5 Å of other atoms of the model, (n,) int."""
    from scipy.spatial import cKDTree

    if len(others) == 0:
        return np.zeros(0, int)
    distance, _ = cKDTree(others).query(parts.positions, distance_upper_bound=FROZEN_WITHIN_ANGSTROM)
    return np.flatnonzero(np.isfinite(distance) & parts.is_heavy)


@dataclass(frozen=True)
class ForceFieldProtein:
    """The protein of a model as OpenMM sees it.

    Attributes
    ----------
    topology : openmm.app.Topology
        Topology with hydrogens and missing heavy atoms, and a chain for each piece without a gap.
    positions : (n, 3) float
        Å.
    is_heavy : (n,) bool
        Atoms other than hydrogens.
    model_row : (n,) int
        Row of each atom in the model, or -1 for one that was added.
    model_residue : (n,) int
        Row in ``Model.residues`` of each atom.
    left_out : (n_residues,) bool
        Residues of the model that are no part of it: ligands, nucleic acids, unknown and incomplete residues, and
        those that are held.
    held : (k,) int
        Rows of residues that the force field knows, but not where they are: alone between gaps, or closing a ring.
    n_pieces, n_disulphides : int
    """

    topology: Any
    positions: np.ndarray
    is_heavy: np.ndarray
    model_row: np.ndarray
    model_residue: np.ndarray
    left_out: np.ndarray
    held: np.ndarray
    n_pieces: int
    n_disulphides: int


def build_protein(model: Model, forcefield: Any, platform: Any) -> ForceFieldProtein:
    """The protein of a model, with what was missing of its residues.

    Selenomethionine is built as methionine. Hydrogens of the model are replaced. Missing residues are not built: the
    ends of a gap are ends of chains.

    Parameters
    ----------
    model : Model
    forcefield : openmm.app.ForceField
    platform : openmm.Platform
        Platform on which hydrogens are placed.

    Raises
    ------
    InputError
        If the model has no residue that the force field knows, or only CA atoms.
    """
    from openmm import unit

    known, held, pieces = _unbroken_pieces(model)
    topology, rows, positions = _heavy_atom_topology(model, pieces)
    disulphides = sum(1 for bond in topology.bonds() if {bond[0].name, bond[1].name} == {"SG"})
    residues = [number for piece in pieces for number in piece]
    labels = [f"{key.name} {key.number}{key.insertion_code} of chain {key.chain}" for key in model.residues]
    modeller = _with_missing_atoms(topology, positions, forcefield, platform, [labels[row] for row in residues])
    by_name = {
        (residue, str(model.atom_names[row])): row
        for residue, row in zip(model.residue_of_atom[rows[rows >= 0]].tolist(), rows[rows >= 0].tolist())
    }
    atoms = list(modeller.topology.atoms())
    owner = np.array([residues[atom.residue.index] for atom in atoms])
    names = [_name_in_model(model, number, atom.name) for number, atom in zip(owner, atoms)]
    return ForceFieldProtein(
        topology=modeller.topology,
        positions=np.array(modeller.positions.value_in_unit(unit.angstrom)),
        is_heavy=np.array([atom.element.atomic_number != _HYDROGEN for atom in atoms]),
        model_row=np.array([by_name.get((number, name), -1) for number, name in zip(owner.tolist(), names)]),
        model_residue=owner,
        left_out=~known,
        held=held,
        n_pieces=len(pieces),
        n_disulphides=disulphides,
    )


def _with_missing_atoms(topology: Any, positions: np.ndarray, forcefield: Any, platform: Any, labels: list[str]) -> Any:
    """An OpenMM modeller with the missing heavy atoms of residues and with hydrogens.

    ``positions`` are (n, 3) Å, ``labels`` the names of the residues in messages.
    """
    from openmm import app, unit
    from pdbfixer import PDBFixer

    text = io.StringIO()
    app.PDBxFile.writeFile(topology, positions * unit.angstrom, text, keepIds=True)
    text.seek(0)
    with warnings.catch_warnings():
        # What these programs warn of concerns the file between them, not the user's model.
        warnings.simplefilter("ignore")
        fixer = PDBFixer(pdbxfile=text)
        fixer.missingResidues = {}
        fixer.findMissingAtoms()
        fixer.addMissingAtoms(seed=_SEED)
        modeller = app.Modeller(fixer.topology, fixer.positions)
        # Hydrogens start from random directions of Python's generator, whose state is the caller's.
        state = random.getstate()
        random.seed(_SEED)
        try:
            modeller.addHydrogens(forcefield, platform=platform)
        except ValueError as error:
            # OpenMM counts residues from 0.
            said = re.sub(r"residue (\d+) \(\w+\)", lambda found: labels[int(found[1])], str(error))
            raise InputError(
                f"the force field does not know a residue ({said}); remove it or rename its atoms"
            ) from error
        finally:
            random.setstate(state)
    return modeller


def _unbroken_pieces(model: Model) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Residues that are relaxed, (n_residues,) bool, those that are held, (k,) int, and runs that peptide bonds join.

    The force field has no residue that is an end of a chain on both sides. One that stands alone is held, and so are
    the two that close a ring: they would be torn apart as ends.
    """
    backbone = Backbone.of(model)
    pieces: list[list[int]] = []
    joined = False
    for residue, linked in zip(backbone.residues.tolist(), backbone.linked.tolist()):
        if model.residues[residue].name in STANDARD_AMINO_ACIDS or model.residues[residue].name in _STANDARD_NAME:
            if joined:
                pieces[-1].append(residue)
            else:
                pieces.append([residue])
            joined = linked
        else:
            joined = False
    standard = {residue for piece in pieces for residue in piece}
    pieces = [piece[1:-1] if _is_ring(model, piece) else piece for piece in pieces]
    pieces = [piece for piece in pieces if len(piece) > 1]
    relaxed = {residue for piece in pieces for residue in piece}
    if not pieces:
        raise InputError(
            "the model has no two standard amino acids with N, CA and C that a peptide bond joins, so there is nothing "
            "to relax"
        )
    known = np.isin(np.arange(len(model.residues)), list(relaxed))
    return known, np.array(sorted(standard - relaxed), dtype=int), pieces


def _is_ring(model: Model, piece: list[int]) -> bool:
    """Whether a peptide bond joins the last residue of a piece to its first."""
    carbon, nitrogen = model.atoms_named("C")[piece[-1]], model.atoms_named("N")[piece[0]]
    length = np.linalg.norm(model.positions[carbon] - model.positions[nitrogen])
    same_chain = model.residues[piece[0]].chain == model.residues[piece[-1]].chain
    return len(piece) > 2 and same_chain and bool(length < LONGEST_PEPTIDE_BOND_ANGSTROM)


def _heavy_atom_topology(model: Model, pieces: list[list[int]]) -> tuple[Any, np.ndarray, np.ndarray]:
    """An OpenMM topology of the heavy atoms, their rows in the model or -1, and positions (Å).

    A missing CB is built here, since what else is built of a side chain takes its chirality from it, and so is the
    second oxygen of each piece's end.
    """
    from openmm import app, unit

    topology, rows, positions = app.Topology(), [], []
    runs = np.split(np.arange(len(model)), np.flatnonzero(np.diff(model.residue_of_atom)) + 1)
    atoms_of_residue = {int(model.residue_of_atom[atoms[0]]): atoms.tolist() for atoms in runs}
    for number, piece in enumerate(pieces, start=1):
        chain = topology.addChain(str(number))
        for place, residue in enumerate(piece, start=1):
            name = model.residues[residue].name
            added = topology.addResidue(_STANDARD_NAME.get(name, name), chain, str(place))
            for row in atoms_of_residue[residue]:
                element = int(model.atomic_numbers[row])
                if element == _HYDROGEN or (model.atom_names[row] == "OXT" and residue != piece[-1]):
                    continue
                atom_name = str(model.atom_names[row])
                if name == _SELENOMETHIONINE and atom_name == _SELENIUM_ATOM:
                    atom_name, element = _SULPHUR_ATOM, _SULPHUR
                topology.addAtom(atom_name, app.Element.getByAtomicNumber(element), added)
                rows.append(row)
                positions.append(model.positions[row])
            named = {str(model.atom_names[row]): model.positions[row] for row in atoms_of_residue[residue]}
            if name != "GLY" and "CB" not in named:
                topology.addAtom("CB", app.Element.getBySymbol("C"), added)
                rows.append(-1)
                positions.append(_beta_carbon(named["N"], named["CA"], named["C"]))
            if residue == piece[-1] and "OXT" not in named and "O" in named:
                topology.addAtom("OXT", app.Element.getBySymbol("O"), added)
                rows.append(-1)
                positions.append(_second_oxygen(named["CA"], named["C"], named["O"]))
    topology.createStandardBonds()
    topology.createDisulfideBonds(np.array(positions) * unit.angstrom)
    return topology, np.array(rows), np.array(positions)


def _second_oxygen(alpha: np.ndarray, carbon: np.ndarray, oxygen: np.ndarray) -> np.ndarray:
    """Where the other oxygen of a chain's end is: 1.25 Å from C, in the plane, opposite to CA and O."""
    toward = [(point - carbon) / np.linalg.norm(point - carbon) for point in (alpha, oxygen)]
    away = -(toward[0] + toward[1])
    return carbon + _CARBOXYLATE_BOND_ANGSTROM * away / np.linalg.norm(away)


def _beta_carbon(nitrogen: np.ndarray, alpha: np.ndarray, carbon: np.ndarray) -> np.ndarray:
    """Where CB of an L-amino acid is: 1.53 Å from CA, tetrahedral to N and C."""
    toward = [point - alpha for point in (nitrogen, carbon)]
    toward = [one / np.linalg.norm(one) for one in toward]
    between = toward[0] + toward[1]
    aside = np.cross(toward[0], toward[1])
    half = np.radians(_TETRAHEDRAL_DEGREES) / 2
    direction = -np.cos(half) * between / np.linalg.norm(between) + np.sin(half) * aside / np.linalg.norm(aside)
    return alpha + _BETA_BOND_ANGSTROM * direction


def _name_in_model(model: Model, residue: int, name: str) -> str:
    is_selenium = name == _SULPHUR_ATOM and model.residues[residue].name == _SELENOMETHIONINE
    return _SELENIUM_ATOM if is_selenium else name
