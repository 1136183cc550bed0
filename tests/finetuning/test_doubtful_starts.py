"""What a run does with a start that is doubtful: of uncertain place, or partly disordered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from disordered_models import with_tail

from cocofold.commands.demo import open_state
from cocofold.finetuning import starting_model
from cocofold.finetuning.options import Options
from cocofold.finetuning.run_folder import ModelState, RunFolder
from cocofold.likelihood.frc_loss import AtomGaussians
from cocofold.mapfit.map_files import PlacedBody, Placement
from cocofold.structure.confidence import ordered_atoms, read_order
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

_PLACE = {"centre_angstrom": [60.0, 61.5, 70.25], "correlation": 0.336, "shell_correlation": 0.101}
_RIVAL = {**_PLACE, "centre_angstrom": [80.0, 50.0, 40.0], "correlation": 0.317, "turned_by_degrees": 143.0}


def _places(trusted: bool) -> list[dict[str, Any]]:
    return [{"selection": "A", "trusted": trusted, **_PLACE, "rival": _RIVAL}]


def _fit(options: Options, out: Path, trusted: bool, monkeypatch: pytest.MonkeyPatch) -> Placement:
    """What a run makes of a fit whose placement is trusted or not."""

    def place_and_write(model: object, files: object, folder: Path, *_: object) -> tuple[None, list[str]]:
        folder.mkdir()
        body = PlacedBody("A", np.eye(3), np.zeros(3), 0.336, 0.317)
        Placement("as-is", {}, (body,), {"places": _places(trusted)}).write(folder / "placement.json")
        return None, []

    monkeypatch.setattr(starting_model, "place_and_write", place_and_write)
    model = read_model(open_state())
    with RunFolder(out, options, resume=False) as folder:
        return starting_model._fit_in_map(model, options, folder)


@pytest.mark.parametrize(("trusted", "accepts"), [(True, False), (False, True), (True, True)])
def test_a_placement_that_is_trusted_or_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool, accepts: bool
) -> None:
    options = Options(particles="p.star", model="m.cif", map="v.mrc", accept_placement=accepts)
    assert _fit(options, tmp_path / "run", trusted, monkeypatch).bodies[0].selection == "A"


def test_a_placement_in_doubt_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both places and the ways on are named, and nothing is left behind."""
    with pytest.raises(InputError) as refused:
        _fit(Options(particles="p.star", model="m.cif", map="v.mrc"), tmp_path / "run", False, monkeypatch)
    message = str(refused.value)
    for part in ("--map v.mrc", "(60, 61.5, 70.25)", "0.336", "143°", "(80, 50, 40)", "0.317", "--accept-placement"):
        assert part in message
    assert not (tmp_path / "run").exists()


def test_accepting_needs_a_map() -> None:
    with pytest.raises(InputError, match="--accept-placement: is about a map"):
        Options(particles="p.star", model="m.cif", accept_placement=True)


def test_disordered_atoms_have_no_amplitude() -> None:
    model, order = read_order(with_tail(read_model(open_state()), 30, "N"))
    amplitudes = AtomGaussians.of_model(model).amplitudes.numpy()
    assert np.array_equal(amplitudes > 0, ordered_atoms(model))
    assert (amplitudes == 0).sum() > 100
    assert np.array_equal(amplitudes[ordered_atoms(model)], model.atomic_numbers[ordered_atoms(model)])
    assert order.stretches[0].startswith("A -29-")


def test_residues_are_left_out_by_the_start_s_plddt() -> None:
    """Where the source has none of its own; of an assembly each copy's."""
    model = read_model(open_state())
    n_atoms = len(model)
    state = ModelState(torch.zeros(n_atoms, 3), AtomGaussians(torch.ones(n_atoms), torch.ones(n_atoms)), None)
    plddt = np.linspace(20, 90, len(model.residues))
    whole = state.to_output(model)
    kept = whole.above_plddt(50.0, plddt)
    assert np.array_equal(kept, plddt >= 50)
    written = whole.only(kept)
    assert len(written.model.residues) == kept.sum()
    assert len(written.amplitudes) == len(written.model)
    assert written.plddt is None
    assert whole.above_plddt(None, plddt).all()
    assert whole.above_plddt(50.0, None).all()
    # That of the half is repeated.
    assert (~whole.above_plddt(50.0, np.r_[np.full(7, 40.0), np.full(100, 80.0)])).sum() == 14
