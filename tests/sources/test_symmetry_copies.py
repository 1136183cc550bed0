"""Copies of a subunit: the assembly's model, and atoms that share their parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cocofold.commands.demo import open_state
from cocofold.sources.base import SymmetricCopies
from cocofold.sources.deformation import DeformationSource
from cocofold.structure.geometry import build_assembly, copy_positions, point_group_rotations
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

CENTRE = np.array([80.0, 80.0, 80.0])


def _subunit() -> Model:
    model = read_model(open_state())
    return model.only(np.arange(len(model.residues)) < 40)


def test_an_assembly_has_all_copies_in_order_under_new_names(tmp_path: Path) -> None:
    subunit, rotations = _subunit(), point_group_rotations("D2")
    assembly = build_assembly(subunit, rotations, CENTRE)
    assert len(assembly) == 4 * len(subunit)
    assert assembly.atom_names.tolist() == 4 * subunit.atom_names.tolist()
    assert [key.number for key in assembly.residues] == 4 * [key.number for key in subunit.residues]
    assert len({key.chain for key in assembly.residues}) == 4
    parts = assembly.positions.reshape(4, -1, 3)
    assert np.array_equal(parts[0], subunit.positions)
    for part, rotation in zip(parts, rotations):
        np.testing.assert_allclose(part, (subunit.positions - CENTRE) @ rotation.T + CENTRE, atol=1e-9)
    write_model(tmp_path / "assembly.cif", assembly)
    again = read_model(tmp_path / "assembly.cif")
    assert again.residues == assembly.residues
    assert len(again.structure.entities) == len(subunit.structure.entities)
    assert len(again.structure.entities[0].subchains) == 4
    np.testing.assert_allclose(again.positions, assembly.positions, atol=1e-3)


def test_copies_share_parameters_and_gather_their_gradients() -> None:
    subunit, rotations = _subunit(), point_group_rotations("C3")
    inner = DeformationSource(subunit, torch.device("cpu"))
    source = SymmetricCopies(inner, rotations, CENTRE)
    (group, *_) = source.begin_stage(2)
    atoms = source.positions()
    alone = inner.positions()
    assert torch.equal(atoms[: len(subunit)], alone)
    np.testing.assert_allclose(
        atoms.detach().numpy(), copy_positions(alone.detach().numpy().astype(float), rotations, CENTRE), atol=1e-4
    )
    pull = torch.randn(atoms.shape, generator=torch.Generator().manual_seed(0))
    (together,) = torch.autograd.grad((atoms * pull).sum(), group["params"][0], retain_graph=True)
    turned = sum(
        pull[part * len(subunit) : (part + 1) * len(subunit)] @ torch.as_tensor(rotation, dtype=torch.float32)
        for part, rotation in enumerate(rotations)
    )
    (apart,) = torch.autograd.grad((alone * turned).sum(), group["params"][0])
    torch.testing.assert_close(together, apart, rtol=1e-3, atol=1e-4)
    assert source.stages() == inner.stages()
    assert {name: values.shape for name, values in source.state().items()} == {
        name: values.shape for name, values in inner.state().items()
    }
