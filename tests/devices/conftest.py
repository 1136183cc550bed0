"""Small models and images, and a run on the processor, for all tests on the pretend device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pretend_runs import BOX, PIXEL, Small, run
from torch.utils import backend_registration

from cocofold.commands.demo import closed_state, open_state
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

RESIDUES = 60


@pytest.fixture(scope="session", autouse=True)
def _device() -> None:
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch has no devices that are written in Python")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The first residues of adenylate kinase, and 100 particles of their open state."""
    folder = tmp_path_factory.mktemp("small")
    for name, path in (("open", open_state()), ("closed", closed_state())):
        model = read_model(path)
        model = model.only(np.array([key.number <= RESIDUES for key in model.residues]))
        write_model(folder / f"{name}.cif", model.moved_to(model.positions - model.positions.mean(0) + BOX * PIXEL / 2))
    given = {"model": str(folder / "open.cif"), "box": BOX, "pixel_size": PIXEL, "count": 100, "snr": 0.5, "seed": 3}
    simulate(SimulationSettings(**given, map=True), folder / "simulated")  # type: ignore[arg-type]
    made = folder / "simulated"
    return Small(folder / "open.cif", folder / "closed.cif", made / "particles.star", made / "map.mrc")


@pytest.fixture(scope="session")
def on_processor(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the processor."""
    out = tmp_path_factory.mktemp("processor")
    done = run(out, *small.finetune(out / "run", "--device", "cpu"))
    assert done.status == 0, done.complaint
    assert not done.waits()
    return out / "run"
