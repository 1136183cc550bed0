"""The energy that relaxation brings down: Amber14 in implicit solvent, and what keeps the model as it is."""

from __future__ import annotations

import io
import random
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from cocofold.structure.geometry import torsion_radians
from cocofold.structure.model import Model
from cocofold.structure.topology import Backbone
from cocofold.system.errors import InputError

FORCE_FIELD = ("amber14-all.xml", "implicit/obc2.xml")
CUTOFF_NM = 1.0
# kJ/mol: of a peptide bond turned by 90 degrees, and of an improper torsion off by a radian
_OMEGA_STRENGTH_KJ, _CHIRALITY_STRENGTH_KJ = 150.0, 400.0
_IMPROPER_RAD = 0.6
_FROZEN_WITHIN_ANGSTROM = 4.5


def load_force_field(solvent: bool = True) -> Any:
    """The force field of proteins, with implicit solvent (generalised Born, OBC II) or in vacuum."""
    from openmm import app

    return app.ForceField(*(FORCE_FIELD if solvent else FORCE_FIELD[:1]))


def build_system(parts: ForceFieldProtein, field: Any, others: np.ndarray, image_force: bool) -> Any:
    """The system of a protein, with restraints.

    Heavy atoms are held to their positions by a harmonic restraint of strength ``hold`` (kJ/mol/nm², a parameter of the
    context). Peptides are held cis or trans and CA atoms in their hand, as they are. Atoms near others that the force
    field does not know do not move.

    Parameters
    ----------
    parts : ForceFieldProtein
    field : openmm.app.ForceField
    others : (m, 3) float
        Atoms (Å) that are not part of the protein.
    image_force : bool
        Whether each atom takes a constant force, in the last force of the system: parameters fx, fy, fz (kJ/mol/nm).
    """
    import openmm
    from openmm import app, unit

    system = field.createSystem(
        parts.topology,
        nonbondedMethod=app.CutoffNonPeriodic,
        nonbondedCutoff=CUTOFF_NM * unit.nanometer,
        constraints=None,
        removeCMMotion=False,
    )
    known = (parts.row >= 0) & parts.heavy
    hold = openmm.CustomExternalForce("0.5*hold*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
    hold.addGlobalParameter("hold", 0.0)
    for axis in ("x0", "y0", "z0"):
        hold.addPerParticleParameter(axis)
    for atom in np.flatnonzero(known).tolist():
        hold.addParticle(atom, (parts.positions[atom] / 10).tolist())
    system.addForce(hold)
    _hold_peptides(system, parts)
    _hold_chirality(system, parts)
    for atom in _atoms_near(parts, others).tolist():
        system.setParticleMass(atom, 0)
    if image_force:
        pull = openmm.CustomExternalForce("-(fx*x+fy*y+fz*z)")
        for axis in ("fx", "fy", "fz"):
            pull.addPerParticleParameter(axis)
        for atom in range(system.getNumParticles()):
            pull.addParticle(atom, [0.0, 0.0, 0.0])
        system.addForce(pull)
    return system


def _atoms_by_name(parts: ForceFieldProtein) -> list[dict[str, int]]:
    """Atoms of each residue by name."""
    return [{atom.name: atom.index for atom in residue.atoms()} for residue in parts.topology.residues()]


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
        this, following = named[one.index], named[other.index]
        atoms = [this.get("CA", -1), this.get("C", -1), following.get("N", -1), following.get("CA", -1)]
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
    """Atoms of the protein that other atoms of the model touch."""
    from scipy.spatial import cKDTree

    if len(others) == 0:
        return np.zeros(0, int)
    distance, _ = cKDTree(others).query(parts.positions, distance_upper_bound=_FROZEN_WITHIN_ANGSTROM)
    return np.flatnonzero(np.isfinite(distance) & parts.heavy)


STANDARD_AMINO_ACIDS = frozenset(
    {
        "ALA",
        "ARG",
        "ASN",
        "ASP",
        "CYS",
        "GLN",
        "GLU",
        "GLY",
        "HIS",
        "ILE",
        "LEU",
        "LYS",
        "MET",
        "PHE",
        "PRO",
        "SER",
        "THR",
    }
    | {"TRP", "TYR", "VAL"}
)
_HYDROGEN = 1
# 0 would stand for any seed in OpenMM
_SEED = 1


@dataclass(frozen=True)
class ForceFieldProtein:
    """The protein of a model as OpenMM sees it.

    Attributes
    ----------
    topology : openmm.app.Topology
        With hydrogens, missing heavy atoms, and a chain for each piece without a gap.
    positions : (n, 3) float
        Å.
    row : (n,) int
        Of each atom in the model, or -1 for one that was added.
    residue : (n,) int
        Row in ``Model.residues`` of each atom.
    left_out : (n_residues,) bool
        Residues of the model that are no part of it: ligands, nucleic acids, unknown and incomplete residues.
    pieces : int
    disulphides : int
    """

    topology: Any
    positions: np.ndarray
    row: np.ndarray
    residue: np.ndarray
    left_out: np.ndarray
    pieces: int
    disulphides: int

    @property
    def heavy(self) -> np.ndarray:
        """Atoms other than hydrogens, (n,) bool."""
        return np.array([atom.element.atomic_number != _HYDROGEN for atom in self.topology.atoms()])


def build_protein(model: Model, forcefield: Any, platform: Any) -> ForceFieldProtein:
    """Take out the protein, and build what is missing of its residues.

    Selenomethionine is taken for methionine. Hydrogens of the model are replaced. Missing residues are not built: the
    ends of a gap are ends of chains.

    Parameters
    ----------
    model : Model
    forcefield : openmm.app.ForceField
    platform : openmm.Platform
        On which hydrogens are placed.

    Raises
    ------
    InputError
        If the model has no residue that the force field knows, or only CA atoms.
    """
    from openmm import app, unit
    from pdbfixer import PDBFixer

    known, pieces = _unbroken_pieces(model)
    topology, rows, positions = _heavy_atom_topology(model, pieces)
    disulphides = sum(1 for bond in topology.bonds() if {bond[0].name, bond[1].name} == {"SG"})
    text = io.StringIO()
    app.PDBxFile.writeFile(topology, positions * unit.angstrom, text, keepIds=True)
    text.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fixer = PDBFixer(pdbxfile=text)
        fixer.missingResidues = {}
        fixer.findMissingAtoms()
        fixer.addMissingAtoms(seed=_SEED)
        modeller = app.Modeller(fixer.topology, fixer.positions)
        # Hydrogens start from random directions
        state = random.getstate()
        random.seed(_SEED)
        try:
            modeller.addHydrogens(forcefield, platform=platform)
        except ValueError as error:
            raise InputError(
                f"the force field does not know a residue ({error}); remove it or rename its atoms"
            ) from error
        finally:
            random.setstate(state)
    residues = [number for piece in pieces for number in piece]
    by_name = {
        (residue, str(model.atom_names[row])): row
        for residue, row in zip(model.residue_of_atom[rows[rows >= 0]].tolist(), rows[rows >= 0].tolist())
    }
    owner = np.array([residues[atom.residue.index] for atom in modeller.topology.atoms()])
    names = [_name_in_model(model, number, atom.name) for number, atom in zip(owner, modeller.topology.atoms())]
    return ForceFieldProtein(
        topology=modeller.topology,
        positions=np.array(modeller.positions.value_in_unit(unit.angstrom)),
        row=np.array([by_name.get((number, name), -1) for number, name in zip(owner.tolist(), names)]),
        residue=owner,
        left_out=~known,
        pieces=len(pieces),
        disulphides=disulphides,
    )


def _unbroken_pieces(model: Model) -> tuple[np.ndarray, list[list[int]]]:
    """Residues that the force field knows, (n_residues,) bool, and runs of them that peptide bonds join."""
    backbone = Backbone.of(model)
    known = np.zeros(len(model.residues), bool)
    pieces: list[list[int]] = []
    joined = False
    for residue, linked in zip(backbone.residues.tolist(), backbone.linked.tolist()):
        if model.residues[residue].name in STANDARD_AMINO_ACIDS or model.residues[residue].name == "MSE":
            known[residue] = True
            if joined:
                pieces[-1].append(residue)
            else:
                pieces.append([residue])
            joined = linked
        else:
            joined = False
    if not pieces:
        raise InputError("the model has no standard amino acids with N, CA and C, so there is nothing to relax")
    return known, pieces


def _heavy_atom_topology(model: Model, pieces: list[list[int]]) -> tuple[Any, np.ndarray, np.ndarray]:
    """An OpenMM topology of the heavy atoms, their rows in the model or -1, and positions (Å).

    A missing CB is built here, since what else is built of a side chain takes its hand from it, and the second oxygen
    of each piece's end.
    """
    from openmm import app, unit

    topology, rows, positions = app.Topology(), [], []
    atoms_of = np.split(np.arange(len(model)), np.flatnonzero(np.diff(model.residue_of_atom)) + 1)
    first = {int(model.residue_of_atom[atoms[0]]): atoms for atoms in atoms_of}
    for number, piece in enumerate(pieces, start=1):
        chain = topology.addChain(str(number))
        for place, residue in enumerate(piece, start=1):
            name = model.residues[residue].name
            added = topology.addResidue("MET" if name == "MSE" else name, chain, str(place))
            for row in first[residue].tolist():
                element = int(model.atomic_numbers[row])
                if element == _HYDROGEN or (model.atom_names[row] == "OXT" and residue != piece[-1]):
                    continue
                atom_name = str(model.atom_names[row])
                if name == "MSE" and atom_name == "SE":
                    atom_name, element = "SD", 16
                topology.addAtom(atom_name, app.Element.getByAtomicNumber(element), added)
                rows.append(row)
                positions.append(model.positions[row])
            named = {str(model.atom_names[row]): model.positions[row] for row in first[residue].tolist()}
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
    return carbon + 1.25 * away / np.linalg.norm(away)


def _beta_carbon(nitrogen: np.ndarray, alpha: np.ndarray, carbon: np.ndarray) -> np.ndarray:
    """Where CB of an L-amino acid is: 1.53 Å from CA, tetrahedral to N and C."""
    toward = [point - alpha for point in (nitrogen, carbon)]
    toward = [one / np.linalg.norm(one) for one in toward]
    between = toward[0] + toward[1]
    aside = np.cross(toward[0], toward[1])
    half = np.radians(109.5) / 2
    direction = -np.cos(half) * between / np.linalg.norm(between) + np.sin(half) * aside / np.linalg.norm(aside)
    return alpha + 1.53 * direction


def _name_in_model(model: Model, residue: int, name: str) -> str:
    return "SE" if name == "SD" and model.residues[residue].name == "MSE" else name
