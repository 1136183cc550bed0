"""Models of known structures, and models made from them by known changes."""

from pathlib import Path
from typing import Callable, Optional

import gemmi
import numpy as np
import pytest

from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model


@pytest.fixture(scope="session")
def adk_open(shared_data: Path) -> Model:
    """Adenylate kinase, open."""
    return read_model(shared_data / "adk" / "truth_open.cif")


@pytest.fixture(scope="session")
def adk_closed(shared_data: Path) -> Model:
    """Adenylate kinase, closed, its core in place."""
    return read_model(shared_data / "adk" / "start_closed.cif")


@pytest.fixture(scope="session")
def tcr(shared_data: Path) -> Model:
    """A T-cell receptor on its complex: five chains, two gaps, insertion codes."""
    return read_model(shared_data / "tcr" / "truth.cif")


@pytest.fixture
def rewritten(tmp_path: Path) -> Callable[..., Model]:
    """A function that edits a model's gemmi structure and reads it again from a file."""

    def rewrite(model: Model, edit: Callable[[gemmi.Structure], Optional[gemmi.Structure]]) -> Model:
        structure = model.structure.clone()
        atoms = [atom for chain in structure[0] for residue in chain for atom in residue]
        for atom, position in zip(atoms, model.positions):
            atom.pos = gemmi.Position(*position)
        structure = edit(structure) or structure
        structure.setup_entities()
        structure.assign_label_seq_id()
        path = tmp_path / "rewritten.cif"
        structure.make_mmcif_document().write_file(str(path))
        return read_model(path)

    return rewrite


@pytest.fixture
def ring_of_copies(rewritten: Callable[..., Model]) -> Callable[..., Model]:
    """A function that puts copies of a single chain around an axis, with names in a given order."""

    def build(model: Model, names: str) -> Model:
        def copy(structure: gemmi.Structure) -> gemmi.Structure:
            original = structure[0][0]
            made = gemmi.Structure()
            made.name = "ring"
            made.cell = structure.cell
            part = gemmi.Model(1)
            centre = model.positions.mean(0)
            for place, name in enumerate(names):
                angle = 2 * np.pi * place / len(names)
                turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
                chain = original.clone()
                chain.name = name
                for residue in chain:
                    residue.subchain = name
                    for atom in residue:
                        atom.pos = gemmi.Position(*(turn @ (np.array(atom.pos.tolist()) - centre + [60.0, 0, 0])))
                part.add_chain(chain)
            made.add_model(part)
            return made

        return rewritten(model, copy)

    return build
