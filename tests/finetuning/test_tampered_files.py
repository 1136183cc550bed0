"""Files of a run that were tampered with end in a message."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cocofold.finetuning.options import Options
from cocofold.finetuning.run import finetune
from cocofold.finetuning.training_loop import load_checkpoint, save_checkpoint
from cocofold.likelihood.residue_support import ParticlesOfModel
from cocofold.mapfit.map_files import Placement
from cocofold.preflight.check_inputs import CheckSettings
from cocofold.relaxation.minimization import RelaxSettings
from cocofold.reporting.run_contents import read_run
from cocofold.system.errors import InputError

DEEP = "[" * 100_000


@pytest.mark.parametrize("content", [DEEP, "particles: !!timestamp 'x'", "particles: 2001-99-99"])
def test_tampered_settings_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(content)
    (tmp_path / "metrics.json").write_text("{}")
    for reads in (lambda: Options.read(tmp_path / "config.yaml"), lambda: read_run(tmp_path)):
        with pytest.raises(InputError):
            reads()


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    Options("p.star", model="m.cif").write(tmp_path / "config.yaml")
    for name in ("metrics.json", "placement.json"):
        (tmp_path / name).write_text(DEEP)
    with pytest.raises(InputError, match="cannot be read"):
        read_run(tmp_path)
    with pytest.raises(InputError, match="cannot be read as JSON"):
        Placement.read(tmp_path / "placement.json")


def test_any_array_goes_into_a_checkpoint(tmp_path: Path) -> None:
    """Also one of a single element that lies in a larger array, whose stride is not that of its elements."""
    tensors = {"one": torch.arange(12.0).view(4, 3)[:1, 1], "none": torch.zeros(0, 3), "number": torch.tensor(3)}
    save_checkpoint(tmp_path / "checkpoint", {name: values.detach() for name, values in tensors.items()}, {"step": 3})
    found, facts = load_checkpoint(tmp_path / "checkpoint")
    assert facts == {"step": 3}
    assert all(torch.equal(found[name], values) for name, values in tensors.items())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"verdict": "supported"}', DEEP])
def test_damaged_metrics_of_a_finished_run_are_refused(content: str, tmp_path: Path) -> None:
    options = Options("p.star", model="m.cif")
    options.write(tmp_path / "config.yaml")
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(InputError, match=r"metrics\.json: .*remove this file, and --resume writes it anew"):
        finetune(options, tmp_path, resume=True)


@pytest.mark.parametrize("seed", [-1, 10**20])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    for settings in (lambda: Options("p.star", model="m.cif", seed=seed), lambda: CheckSettings(seed=seed)):
        with pytest.raises(InputError, match="--seed"):
            settings()


@pytest.mark.parametrize("count", [0, -1, 10**10])
def test_a_number_of_particles_or_threads_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(InputError, match="--max-particles"):
        ParticlesOfModel(Path("p.star"), most=count)
    with pytest.raises(InputError, match="--threads"):
        RelaxSettings(threads=count)
