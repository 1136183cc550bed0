"""When a run fits a second time, with what, and that a look at the answer that fails takes nothing from a run."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from maps_of_models import whole_model
from scipy.spatial.transform import Rotation

from cocofold.finetuning import run, run_result
from cocofold.finetuning.holdout import Cycle, TrainingPass
from cocofold.finetuning.options import Options
from cocofold.finetuning.run import _Run
from cocofold.finetuning.run_folder import ModelState
from cocofold.finetuning.verdict import Evidence
from cocofold.likelihood.explained_signal import ExplainedShare, PartOccupancy
from cocofold.likelihood.frc_loss import AtomGaussians
from cocofold.mapfit.unexplained_density import UnexplainedDensity
from cocofold.structure.confidence import ordered_residues
from cocofold.system.errors import InputError
from cocofold.system.processes import Interrupted, SignalHandler

SHARE = ExplainedShare(0.8, 0.01, np.ones(5))
LACKING = UnexplainedDensity(np.zeros((2, 2, 2)), 0.2, 0.01, 0.2, 0.0, ())
EVIDENCE = Evidence(7.0, None, SHARE, SHARE, (), None, LACKING)


def one_pass(*heldout: float | None) -> SimpleNamespace:
    """A pass whose last cycle is its answer."""
    cycles = [SimpleNamespace(frc_heldout=one) for one in heldout]
    return SimpleNamespace(gave_answer=True, best=len(cycles) - 1, cycles=cycles)


def asked(
    tmp_path: Path,
    options: Options,
    evidence: Evidence | None,
    symmetry: str | None = None,
    heldout: float | None = 0.2,
) -> list[Any]:
    """Options and folders of the runs that a finished first fit asks for; their answers are not better."""
    made: list[Any] = []

    def inside(other: Options, folder: Path) -> dict[str, Any]:
        made.append((other, folder))
        return {"verdict": "not supported", "frc_heldout": 0.1}

    state = SimpleNamespace(
        prepared=SimpleNamespace(start=SimpleNamespace(symmetry=symmetry), start_state=lambda: "start"),
        folder=SimpleNamespace(path=tmp_path, log=lambda line: None),
        options=options,
        passes=[one_pass(heldout)],
        run_inside=inside,
    )
    assert _Run._fit_again(state, evidence) is evidence  # type: ignore[arg-type]
    return made


def test_a_second_fit_begins_at_the_placed_start_with_density_set_aside(tmp_path: Path) -> None:
    options = Options(particles="p.star", model="m.cif", map="v.mrc", hand="mirrored", seed=7, first=90)
    ((other, folder),) = asked(tmp_path, options, EVIDENCE)
    assert folder == tmp_path / "set_aside"
    assert other.model == str(tmp_path / "models" / "cycle_00.cif")
    assert (other.set_aside, other.check, other.map, other.hand) == ("on", False, None, "auto")
    assert (other.particles, other.seed, other.first) == ("p.star", 7, 90)


@pytest.mark.parametrize(
    ("options", "evidence", "symmetry"),
    [
        ({"set_aside": "off"}, EVIDENCE, None),
        ({"set_aside": "on"}, EVIDENCE, None),
        ({"effort": 0.5}, EVIDENCE, None),
        ({}, None, None),
        ({}, replace(EVIDENCE, missing=None), None),
        ({}, EVIDENCE, "C3"),
    ],
)
def test_no_second_fit(tmp_path: Path, options: dict, evidence: Evidence | None, symmetry: str | None) -> None:
    assert asked(tmp_path, Options(particles="p.star", model="m.cif", **options), evidence, symmetry) == []


def test_the_start_of_a_second_fit_is_written_once(tmp_path: Path) -> None:
    """Its run, which has noted what the file holds, goes on after the program was updated."""
    model = whole_model()
    rows = np.arange(len(model.residues))
    parts = (PartOccupancy(rows[:40], 0.1, 0.03), PartOccupancy(rows[40:], 1.0, 0.03))
    state = ModelState(torch.as_tensor(model.positions), AtomGaussians.of_model(model))
    prepared: Any = SimpleNamespace(
        model=model, device="cpu", start=SimpleNamespace(placed_as={}), start_state=lambda: state
    )
    folder: Any = SimpleNamespace(path=tmp_path, write_model=lambda name, *_: (tmp_path / name).write_text("once"))
    (tmp_path / "models").mkdir()
    for text in ("once", "written by another version"):
        file, marked = run_result.start_of_second_fit(prepared, replace(EVIDENCE, parts=parts), folder)
        assert (marked.gaussians.amplitudes == 0).any()
        assert file.read_text() == text
        file.write_text("written by another version")


def test_no_second_fit_where_nothing_is_held_out_to_judge_it(tmp_path: Path) -> None:
    assert asked(tmp_path, Options(particles="p.star", model="m.cif", heldout=0), EVIDENCE, heldout=None) == []


SMALL_SET = [one_pass(0.1, 0.2), one_pass(None, None)]


@pytest.mark.parametrize(
    ("verdict", "heldout", "best", "passes"),
    [
        ("supported in part", 0.3, "its answer", [one_pass(0.2)]),
        ("nothing to change", 0.3, "its start", [one_pass(0.2)]),
        ("supported", 0.19, None, [one_pass(0.2)]),
        ("mixed", 0.3, None, [one_pass(0.2)]),
        ("does not belong", 0.3, None, [one_pass(0.2)]),
        # Of a first fit that came from 0.1 to 0.2 a twentieth of the gain may be lacking
        ("nothing to change", 0.196, "its start", SMALL_SET),
        ("supported", 0.194, None, SMALL_SET),
    ],
)
def test_parts_in_no_image_have_no_weight_in_a_second_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: str, heldout: float, best: str | None, passes: list
) -> None:
    """Its answer, or its start where that needs no change, counts if held-out images agree with it as well."""
    model = whole_model()
    rows = np.array_split(np.arange(len(model.residues)), 18)
    parts = tuple(PartOccupancy(one, 0.1 if row in (2, 3) else 1.0, 0.03) for row, one in enumerate(rows))
    evidence, written, asked_for = replace(EVIDENCE, missing=None, parts=parts), [], []
    start = ModelState(torch.as_tensor(model.positions), AtomGaussians.of_model(model))
    prepared = SimpleNamespace(
        start=SimpleNamespace(symmetry=None, placed_as={}), model=model, device="cpu", start_state=lambda: start
    )
    state = SimpleNamespace(
        prepared=prepared,
        folder=SimpleNamespace(
            path=tmp_path, log=lambda line: None, write_model=lambda name, given, placed: written.append((name, given))
        ),
        options=Options(particles="p.star", model="m.cif"),
        passes=passes,
        run_inside=lambda other, folder: asked_for.append(other) or {"verdict": verdict, "frc_heldout": heldout},
        best="first",
    )
    monkeypatch.setattr(run, "load_checkpoint", lambda path: ({}, {}))
    monkeypatch.setattr(ModelState, "pop_from_checkpoint", lambda *_: "its answer")
    monkeypatch.setattr(run, "examine_answer", lambda *given: "seen again")
    found = _Run._fit_again(state, evidence)  # type: ignore[arg-type]
    ((name, given),), (other,) = written, asked_for
    assert name == "models/second_start.cif"
    assert other.model == str(tmp_path / name)
    assert (other.set_aside, other.check) == ("off", False)
    unseen = np.isin(np.arange(len(model.residues)), np.concatenate([rows[2], rows[3]]))
    assert np.array_equal(~ordered_residues(given.model), unseen)
    assert np.array_equal(given.amplitudes == 0, unseen[model.residue_of_atom])
    if best is None:
        assert (found, state.best) == (evidence, "first")
        return
    assert found == "seen again"
    assert state.best == best if best == "its answer" else np.array_equal(state.best.positions, start.positions)


@pytest.mark.parametrize(
    ("best_cycle", "says"),
    [(5, "rose from 0.100 to 0.400"), (0, "is 0.400, with them 0.100")],
)
def test_a_verdict_tells_the_figures_of_the_second_fit(
    monkeypatch: pytest.MonkeyPatch, best_cycle: int, says: str
) -> None:
    """It may be supported where no cycle of the first fit was; a start that stays has not gained."""
    start = SimpleNamespace(order=None, hand="as-is", symmetry=None)
    start.placing_seconds = start.teacher_seconds = start.teacher_memory_gb = 0
    prepared: Any = SimpleNamespace(start=start, particles=range(60), observations=None, resolutions_angstrom=[9.0])
    prepared.source_description, prepared.device, prepared.process_count = "", "cpu", 1
    prepared.memory = SimpleNamespace(expected=1)
    judged = TrainingPass(torch.arange(48), torch.arange(12))
    judged.cycles = [Cycle(0, 0, 0, "start", 0.0, 0.1, 0.1, 0.0, 0.0, 0.0)]
    monkeypatch.setattr(run_result, "_geometry", lambda *_: ({}, []))
    views = SimpleNamespace(as_dict=dict, sentence=lambda: None)
    monkeypatch.setattr(run_result.ViewCoverage, "of_images", lambda *_: views)
    nothing: dict[str, Any] = dict.fromkeys(("evidence", "poses", "errors", "changed"))
    second = {**dict.fromkeys(run_result._OF_SECOND_FIT, 0.0), "frc_heldout": 0.4, "best_cycle": best_cycle}
    counts: dict[str, Any] = {"cycles_that_lost_the_fold": 0, "residues_removed": 0, "seconds": 0.0}
    given: dict[str, Any] = {"verdict": "supported in part", "reasons": [], "second_fit": second, "answer": "other"}
    found = run_result.run_metrics(prepared, [judged], **given, **counts, **nothing)
    assert found["frc_heldout"] == 0.4
    assert says in found["verdict_explanation"]
    assert ("three standard errors" in found["verdict_explanation"]) == (best_cycle > 0)


def test_a_run_inside_another_ends_with_the_same_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    options = Options(particles="p.star", model="m.cif")

    def finetune(options: Options, out: Path, resume: bool, **others: Any) -> dict[str, Any]:
        given.update(others, resume=resume)
        return {}

    monkeypatch.setattr(run, "finetune", finetune)
    run.run_inside(SignalHandler(), options, tmp_path, stop_with=123, processes=None)
    assert given == {"stop_with": 123, "processes": None, "resume": False}
    (tmp_path / "config.yaml").touch()
    run.run_inside(SignalHandler(), options, tmp_path, stop_with=None, processes=None)
    assert given["resume"]


def test_no_run_begins_inside_another_whose_starter_is_gone(tmp_path: Path) -> None:
    """It would be refused for the number of a process that does not exist, with the status of bad input."""
    starter = subprocess.Popen(["sleep", "60"])
    with SignalHandler(starter.pid) as endings:
        starter.kill()
        starter.wait()
        with pytest.raises(Interrupted, match="the end of process"):
            run.run_inside(endings, Options(particles="p.star", model="m.cif"), tmp_path, stop_with=starter.pid)


def test_too_little_memory_for_a_map_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise InputError("the Fourier volumes take 40 GB")

    monkeypatch.setattr(run_result, "reconstruct_run", refuse)
    said: list[str] = []
    prepared = SimpleNamespace(particles=torch.zeros(50))
    folder = SimpleNamespace(path=None, log=said.append)
    assert run_result.examine_answer(prepared, None, None, folder, 0) is None  # type: ignore[arg-type]
    assert said == ["whether all parts are right cannot be told: the Fourier volumes take 40 GB"]


def test_new_faults_of_the_backbone_are_said() -> None:
    """A peptide whose plane was turned about its CA atoms is twisted; the start's own faults are not told."""
    model = whole_model()
    names, row = ("N", "CA", "C", "O"), 80
    atoms = {(name, at): model.atoms_named(name)[at] for name in names for at in (row, row + 1)}
    positions = model.positions.copy()
    one, other = positions[atoms["CA", row]], positions[atoms["CA", row + 1]]
    axis = (other - one) / np.linalg.norm(other - one)
    # Half of the peptide's plane is turned, so that its torsion is.
    turn = Rotation.from_rotvec(np.deg2rad(120) * axis).as_matrix()
    for key in (("C", row), ("O", row)):
        positions[atoms[key]] = (positions[atoms[key]] - one) @ turn.T + one
    prepared: Any = SimpleNamespace(model=model)
    answer: Any = SimpleNamespace(positions=torch.as_tensor(positions))
    figures, said = run_result._geometry(prepared, answer)
    assert len(figures["new_twisted"]) >= 1
    assert "New since the start: " in said[0]
    same: Any = SimpleNamespace(positions=torch.as_tensor(model.positions))
    figures, said = run_result._geometry(prepared, same)
    assert said == []
    assert figures["new_twisted"] == figures["new_cis"] == figures["new_ramachandran_outliers"] == []
    assert figures["ramachandran_favoured"] == figures["ramachandran_favoured_start"] > 0.9
    assert list(run_result._geometry(prepared, None)[0]) == ["ramachandran_favoured_start"]
