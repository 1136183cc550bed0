"""Short runs on simulated particles, made once; each test works on a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from reports import COUNT

from cocofold.commands.demo import closed_state, open_state
from cocofold.finetuning.options import Options
from cocofold.finetuning.run import finetune
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with simulated particles, and runs ``judged`` and ``all_fitted`` (with none held out)."""
    folder = tmp_path_factory.mktemp("project")
    settings = SimulationSettings(model=str(open_state()), box=48, pixel_size=3.0, count=COUNT, snr=0.5, seed=5)
    star = simulate(settings, folder / "particles").star
    for name, share in (("judged", None), ("all_fitted", 0.0)):
        options = Options(
            particles=str(star),
            model=str(closed_state()),
            effort=0.01,
            cycles=2,
            heldout=share,
            resolution=12.0,
            device="cpu",
        )
        finetune(options, folder / name)
    return folder


@pytest.fixture
def copy_of(project: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a run, with some of its settings replaced."""

    def copied(name: str = "judged", **settings: Any) -> Path:
        run = tmp_path / "run"
        shutil.copytree(project / name, run)
        config = run / "config.yaml"
        config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **settings}))
        return run

    return copied
