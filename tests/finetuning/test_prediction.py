"""Training a prediction's network: where it starts, what it learns from a teacher, what a run of it writes."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from running import command, refused
from scipy.spatial.transform import Rotation

from cocofold.errors import InputError
from cocofold.finetuning import Options, finetune
from cocofold.finetuning.starts import PredictedStart, place_on
from cocofold.network import random_weights
from cocofold.network.distillation import Target
from cocofold.simulation import Settings
from cocofold.simulation.simulate import simulate
from cocofold.structure import Backbone, Model, read_model, write_model
from cocofold.trunk import Origin, Prediction
from cocofold.trunk.chains import Chains

TURN = Rotation.from_rotvec([0.3, -0.8, 0.5]).as_matrix()


@pytest.fixture(scope="module")
def prediction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short chains by random weights; their atoms are no protein's, but the network is of full size."""
    chains = Chains.of(("ACDEFGHIKLMN", "PQRSTVWY"))
    n, draw = len(chains), torch.Generator().manual_seed(0)
    folder = tmp_path_factory.mktemp("prediction") / "bundle"
    Prediction(
        single=torch.randn(n, 384, generator=draw),
        pair=torch.randn(n, n, 128, generator=draw).half(),
        aatype=torch.as_tensor(chains.aatype()),
        mask=torch.ones(n, dtype=torch.bool),
        chain_index=torch.as_tensor(chains.index()),
        residue_numbers=torch.as_tensor(chains.residue_numbers()),
        chains=chains,
        weights=random_weights(0),
        origin=Origin(program="none", program_version=None, job="toy", model_number=1),
    ).write(folder)
    return folder


@pytest.fixture(scope="module")
def placed(prediction: Path) -> Path:
    """Its model, turned and put into the middle of a box of 160 Å."""
    model = read_model(prediction / "model.cif")
    path = prediction.parent / "placed_by_hand.cif"
    write_model(path, model.moved_to((model.positions - model.positions.mean(0)) @ TURN.T + 80))
    return path


@pytest.fixture(scope="module")
def images(placed: Path) -> Path:
    folder = placed.parent / "particles"
    simulate(Settings(model=str(placed), box=64, pixel_size=2.5, count=30, snr=0.5), folder)
    return folder / "particles.star"


def options(prediction: Path, placed: Path, images: Path, **more: object) -> Options:
    return Options(**{"particles": str(images), "model": str(placed), "prediction": str(prediction), **more})


def test_the_network_starts_at_the_prediction_where_its_model_lies(
    prediction: Path, placed: Path, images: Path
) -> None:
    start = PredictedStart(options(prediction, placed, images)).taught_by(None, torch.device("cpu"))
    assert np.abs(start.model.positions - read_model(placed).positions).max() < 2e-3
    source = start.source()
    with torch.no_grad():
        assert np.abs(source.positions().numpy() - start.model.positions).max() < 1e-3
    source.begin(0)
    assert np.abs(source.positions().detach().numpy() - start.model.positions).max() < 1e-3
    confidence = source.confidence()
    assert confidence is not None
    assert start.plddt is not None
    assert confidence.numpy() == pytest.approx(start.plddt, abs=0.01)


def test_all_that_is_learned_gets_a_gradient_and_is_in_the_state(prediction: Path, placed: Path, images: Path) -> None:
    start = PredictedStart(options(prediction, placed, images)).taught_by(None, torch.device("cpu"))
    source = start.source()
    groups = source.begin(0)
    assert len(groups) == 4
    source.positions().square().sum().backward()
    # Additions and the gate start at zero, so what lies behind them learns from the second step on.
    moved = [sum(float(values.grad.abs().sum()) for values in group["params"] if values.grad is not None)
             for group in groups]  # fmt: skip
    assert min(moved) > 0
    for group in groups:
        torch.optim.SGD(group["params"], lr=1e-6).step()
    with torch.no_grad():
        reached = source.positions()
    other = start.source()
    other.restore(0, {name: values.clone() for name, values in source.state().items()})
    with torch.no_grad():
        assert torch.equal(other.positions(), reached)
        other.take_back()
        assert torch.equal(other.positions(), reached)


def test_what_has_no_rate_stays_as_it_is(prediction: Path, placed: Path, images: Path) -> None:
    frozen = options(prediction, placed, images, weights_rate=0.0, adapter_rate=0.0)
    source = PredictedStart(frozen).taught_by(None, torch.device("cpu")).source()
    learned = sum(values.numel() for group in source.begin(0) for values in group["params"])
    assert learned == 20 * 384 + 2 * 20 * 32 + 32 * 128
    assert all(name.startswith(("single.", "pair.")) for name in source.state())


def test_a_target_is_reached_at_itself_and_asks_for_its_place(placed: Path) -> None:
    model = read_model(placed)
    positions = torch.as_tensor(model.positions)
    target = Target(torch.as_tensor(Backbone.of(model).atoms), positions)
    assert float(target.loss(positions)) < 0.01
    turned = (positions - 80) @ torch.as_tensor(TURN) + 80
    assert float(target.loss(turned)) > 1
    leaf = positions + 0.5 * torch.randn(positions.shape, generator=torch.Generator().manual_seed(1)).double()
    leaf.requires_grad_()
    target.loss(leaf).backward()
    assert leaf.grad is not None
    step = torch.randn(positions.shape, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        slope = (target.loss(leaf + 1e-6 * step) - target.loss(leaf - 1e-6 * step)) / 2e-6
    assert float((leaf.grad * step).sum()) == pytest.approx(float(slope), rel=1e-4)


def renamed(model: Model, number: int, name: str, path: Path) -> Path:
    structure = model.structure.clone()
    structure[0][0][number].name = name
    structure.make_mmcif_document().write_file(str(path))
    return path


def test_a_model_of_another_sequence_or_chain_is_refused(
    prediction: Path, placed: Path, images: Path, tmp_path: Path
) -> None:
    model = read_model(placed)
    other = renamed(model, 3, "TRP", tmp_path / "other.cif")
    message = refused(command(images, other, tmp_path / "run", "--prediction", prediction))
    assert "residue A4 is TRP, in the prediction GLU" in message
    assert not (tmp_path / "run").exists()
    one_chain = model.only(np.array([key.chain == "A" for key in model.residues]))
    with pytest.raises(InputError, match="chain B of the prediction has 0 residues in common"):
        place_on(model, one_chain, "one_chain.cif")


def test_a_run_needs_a_start_and_a_prediction_a_place(prediction: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--model FILE, or --prediction FOLDER"):
        Options(particles=str(images))
    with pytest.raises(InputError, match="outside the particles' box"):
        finetune(Options(particles=str(images), prediction=str(prediction)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"prediction\.safetensors"):
        finetune(Options(particles=str(images), prediction=str(tmp_path)), tmp_path / "run")


def test_a_run_writes_confidence_and_leaves_unsure_residues_out(
    prediction: Path, placed: Path, images: Path, tmp_path: Path
) -> None:
    start = PredictedStart(options(prediction, placed, images))
    assert start.plddt is not None
    limit = float(np.median(start.plddt))
    short = options(prediction, placed, images, effort=0.02, remove_below=limit, contrast="white", heldout=0.0)
    metrics = finetune(short, tmp_path / "run")
    answer = read_model(tmp_path / "run" / "model.cif")
    assert 5 <= metrics["residues_removed"] <= 15
    assert len(answer.residues) == 20 - metrics["residues_removed"]
    block = gemmi.cif.read(str(tmp_path / "run" / "model.cif")).sole_block()
    local = [float(value) for value in block.find_values("_ma_qa_metric_local.metric_value")]
    assert min(local) >= limit - 0.01
    b_factors = [residue[0].b_iso for chain in answer.structure[0] for residue in chain]
    assert b_factors == pytest.approx(local, abs=0.01)
    # The teacher's run is whole, and the network learned from it before the images led.
    assert (tmp_path / "run" / "teacher" / "metrics.json").is_file()
    assert "distil" in (tmp_path / "run" / "log.txt").read_text()
    again = finetune(short, tmp_path / "run", resume=True)
    assert again["steps"] == metrics["steps"]


def test_a_network_resumes_to_the_same_model(prediction: Path, placed: Path, images: Path, tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    short = options(prediction, placed, images, effort=0.03, teacher=False, contrast="white", heldout=0.0, cycles=4)
    finetune(short, tmp_path / "whole")
    from cocofold.finetuning.run import _Run

    with pytest.MonkeyPatch.context() as patch:
        after_step, seen = _Run._after_step, []

        def stop(run: _Run, correlation: float, progress: object) -> None:
            after_step(run, correlation, progress)  # type: ignore[arg-type]
            seen.append(correlation)
            if len(seen) == 11:
                raise Enough

        patch.setattr(_Run, "_after_step", stop)
        with pytest.raises(Enough):
            finetune(short, tmp_path / "killed")
    finetune(short, tmp_path / "killed", resume=True)
    assert (tmp_path / "killed/model.cif").read_bytes() == (tmp_path / "whole/model.cif").read_bytes()
