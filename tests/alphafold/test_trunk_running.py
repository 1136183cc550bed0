"""Command lines for ColabFold and OpenFold, and how their errors reach the user.

A script stands for the program: it notes its arguments and ends as told. The real ColabFold runs in
test_colabfold_roundtrip.py.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from trunk_files import ColabFoldFolder, DeepMind

from cocofold.alphafold.from_fasta import PredictionRequest, predict_fasta
from cocofold.alphafold.run_programs import (
    ColabFoldSettings,
    OpenFoldSettings,
    find_colabfold,
    find_openfold,
    run_colabfold,
    run_openfold,
    run_program,
)
from cocofold.system.errors import InputError

Stand = Callable[..., Path]


@pytest.fixture(autouse=True)
def _nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COCOFOLD_COLABFOLD", "OPENFOLD_HOME", "OPENFOLD_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


@pytest.fixture
def stand_in(tmp_path: Path) -> Stand:
    """A program that writes its arguments to arguments.json, prints and ends as told, and makes the files told."""

    def make(path: Path, prints: str = "", status: int = 0, makes: str = "") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            # The first line takes no path with blanks: to the shell this is exec, to Python a string
            f"#!/bin/sh\n'''exec' '{sys.executable}' \"$0\" \"$@\"\n' '''\n"
            "import json, os, pathlib, sys\n"
            f"with open({str(tmp_path / 'arguments.json')!r}, 'a') as file:\n"
            "    file.write(json.dumps([os.getcwd(), *sys.argv[1:]]) + '\\n')\n"
            f"print({prints!r}, flush=True)\n"
            f"if {makes!r}:\n"
            f"    made = pathlib.Path({makes!r})\n"
            "    made.parent.mkdir(parents=True, exist_ok=True)\n"
            "    made.touch()\n"
            f"sys.exit({status})\n"
        )
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "my pair.fasta"
    path.write_text(">a\nMKTAYIAKQR\n>b\nGSHW\n>c\nMKTAYIAKQR\n")
    return path


def _calls(tmp_path: Path) -> list[list[str]]:
    return [json.loads(line) for line in (tmp_path / "arguments.json").read_text().splitlines()]


def _colabfold(tmp_path: Path, stand_in: Stand, job: str = "my_pair", **ends: object) -> str:
    results = tmp_path / "run" / "results"
    return str(stand_in(tmp_path / "bin" / "colabfold_batch", makes=str(results / f"{job}.done.txt"), **ends))


def test_colabfold_is_asked_for_representations_of_the_multimer_model(
    fasta: Path, tmp_path: Path, stand_in: Stand
) -> None:
    settings = ColabFoldSettings("single-sequence", num_models=2, num_recycle=6, seed=3, extra=("--max-msa", "64:128"))
    lines: list[str] = []
    program = _colabfold(tmp_path, stand_in, prints="Running colabfold 1.6.3\nDone")
    results = run_colabfold(program, fasta, tmp_path / "run", settings, None, lines.append)
    assert results == tmp_path / "run" / "results"
    query = tmp_path / "run" / "input" / "my_pair.fasta"
    expected = (
        f"{query} {results} --model-type alphafold2_multimer_v3 --msa-mode single_sequence --num-models 2 "
        "--random-seed 3 --save-single-representations --save-pair-representations --num-recycle 6 --max-msa 64:128"
    )
    assert _calls(tmp_path)[0][1:] == expected.split(" ")
    assert query.read_text() == ">my_pair\nMKTAYIAKQR:GSHW:MKTAYIAKQR\n"
    assert lines == ["Running colabfold 1.6.3", "Done"]
    log = (tmp_path / "run" / "colabfold.log").read_text()
    assert log.startswith("$ ")
    assert "Running colabfold 1.6.3" in log


def test_the_msa_server_is_colabfolds_default_mode(fasta: Path, tmp_path: Path, stand_in: Stand) -> None:
    run_colabfold(_colabfold(tmp_path, stand_in), fasta, tmp_path / "run", ColabFoldSettings(), None, print)
    call = _calls(tmp_path)[0]
    assert call[call.index("--msa-mode") + 1] == "mmseqs2_uniref_env"
    assert "--num-recycle" not in call
    assert "--data" not in call


def test_an_own_alignment_is_handed_over(fasta: Path, tmp_path: Path, stand_in: Stand) -> None:
    msa = tmp_path / "own.a3m"
    msa.write_text("#10,4\t2,1\n>101\t102\nMKTAYIAKQRGSHW\n>hit\nMKTAYIAKQR----\n")
    program = _colabfold(tmp_path, stand_in)
    run_colabfold(program, fasta, tmp_path / "run", ColabFoldSettings(msa=str(msa)), None, print)
    given = Path(_calls(tmp_path)[0][1])
    assert given.name == "my_pair.a3m"
    assert given.read_text() == msa.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            ">query\nMKTAYIAKQR\n",
            r"its first sequence is of chains A \(10\), and --fasta has A \(10\), B \(10\), C \(4\)",
        ),
        ("#10,4\t2,1\n>101\nMKTAYIAKQR----\n>102\n----------GSHW\n", "its first sequence has gaps"),
    ],
)
def test_an_alignment_of_other_chains_is_refused(
    text: str, message: str, fasta: Path, tmp_path: Path, stand_in: Stand
) -> None:
    msa = tmp_path / "own.a3m"
    msa.write_text(text)
    program = _colabfold(tmp_path, stand_in)
    with pytest.raises(InputError, match=message):
        run_colabfold(program, fasta, tmp_path / "run", ColabFoldSettings(msa=str(msa)), None, print)
    assert not (tmp_path / "arguments.json").exists()


def test_weights_are_linked_into_a_folder_as_colabfold_wants_it(fasta: Path, tmp_path: Path, stand_in: Stand) -> None:
    weights = tmp_path / "facility"
    weights.mkdir()
    for number in range(1, 6):
        (weights / f"params_model_{number}_multimer_v3.npz").write_text(str(number))
    program = _colabfold(tmp_path, stand_in)
    run_colabfold(program, fasta, tmp_path / "run", ColabFoldSettings(), weights, print)
    call = _calls(tmp_path)[0]
    params = Path(call[call.index("--data") + 1]) / "params"
    assert (params / "params_model_4_multimer_v3.npz").read_text() == "4"
    # Without this file ColabFold downloads 4 GB.
    assert (params / "download_complexes_multimer_v3_finished.txt").is_file()
    (weights / "params_model_5_multimer_v3.npz").unlink()
    with pytest.raises(InputError, match=r"holds no params_model_5_multimer_v3.npz; to run ColabFold"):
        run_colabfold(program, fasta, tmp_path / "run", ColabFoldSettings(), weights, print)


def test_another_request_is_predicted_anew_and_the_same_is_not(fasta: Path, tmp_path: Path, stand_in: Stand) -> None:
    program = _colabfold(tmp_path, stand_in)
    for seed in (0, 0, 1):
        run_colabfold(program, fasta, tmp_path / "run", ColabFoldSettings(seed=seed), None, print)
    flag = "--overwrite-existing-results"
    assert [flag in call for call in _calls(tmp_path)] == [False, False, True]


def test_the_prediction_must_be_of_the_chains_asked_for(
    colabfold: ColabFoldFolder,
    deepmind: DeepMind,
    weights: Path,
    tmp_path: Path,
    stand_in: Stand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(weights, tmp_path / "cache" / "colabfold" / "params")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    colabfold.write([deepmind.sequence], job="x")
    results = tmp_path / "out" / "colabfold" / "results"
    shutil.copytree(colabfold.folder, results)
    request = PredictionRequest(
        tmp_path / "x.fasta",
        colabfold_command=str(stand_in(tmp_path / "bin" / "colabfold_batch", makes=str(results / "x"))),
    )
    request.fasta.write_text(f">x\n{deepmind.sequence}\n")
    assert predict_fasta(request, tmp_path / "out", print).prediction.origin.job == "x"
    request.fasta.write_text(f">x\n{deepmind.sequence[:12]}:{deepmind.sequence[12:]}\n")
    with pytest.raises(InputError, match=r"has chains A \(12\), B \(10\), but ColabFold predicted A \(22\)"):
        predict_fasta(request, tmp_path / "out", print)


def test_a_failing_program_is_quoted(fasta: Path, tmp_path: Path, stand_in: Stand) -> None:
    program = _colabfold(tmp_path, stand_in, prints="line\n" * 50 + "ValueError: out of luck", status=3)
    with pytest.raises(InputError, match=r"colabfold_batch failed \(exit status 3\)(?s:.*)out of luck") as caught:
        run_colabfold(program, fasta, tmp_path / "run", ColabFoldSettings(), None, print)
    assert str(caught.value).count("\n") <= 12
    assert str(tmp_path / "run" / "colabfold.log") in str(caught.value)


def test_colabfold_that_gives_up_without_an_error_is_noticed(fasta: Path, tmp_path: Path, stand_in: Stand) -> None:
    program = _colabfold(tmp_path, stand_in, job="another", prints="Could not predict my_pair. Not Enough GPU memory?")
    with pytest.raises(InputError, match=r"ended without a prediction of my_pair(?s:.*)Not Enough GPU memory"):
        run_colabfold(program, fasta, tmp_path / "run", ColabFoldSettings(), None, print)


def test_a_program_killed_by_a_signal_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sh failed \(signal 9\)"):
        run_program(["/bin/sh", "-c", "kill -9 $$"], tmp_path / "log", print)
    with pytest.raises(InputError, match="cannot be started"):
        run_program([str(tmp_path / "missing")], tmp_path / "log", print)


def test_arguments_reach_the_program_without_a_shell(tmp_path: Path, stand_in: Stand) -> None:
    program = stand_in(tmp_path / "bin" / "program")
    run_program([str(program), "$(touch made)", "a b"], tmp_path / "log", print)
    assert _calls(tmp_path)[0][1:] == ["$(touch made)", "a b"]


@pytest.mark.parametrize(
    "arguments", [{"num_models": 0}, {"num_models": 6}, {"num_recycle": -1}, {"msa": "mmseqs"}, {"msa": "x.fasta"}]
)
def test_settings_that_are_refused(arguments: dict) -> None:
    with pytest.raises(InputError, match="must be"):
        ColabFoldSettings(**arguments)


def test_where_colabfold_is_looked_for(tmp_path: Path, stand_in: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_colabfold() is None
    program = str(stand_in(tmp_path / "env" / "bin" / "colabfold_batch"))
    assert find_colabfold(program) == find_colabfold(str(tmp_path / "env")) == program
    monkeypatch.setenv("COCOFOLD_COLABFOLD", str(tmp_path / "env"))
    assert find_colabfold() == program
    monkeypatch.delenv("COCOFOLD_COLABFOLD")
    monkeypatch.setenv("PATH", f"{tmp_path / 'env' / 'bin'}:/bin")
    assert find_colabfold() == program
    with pytest.raises(InputError, match="--colabfold-command nothing: no program there"):
        find_colabfold("nothing")


def test_with_no_program_the_message_says_what_can_be_done(
    fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("auto", "colabfold", "openfold"):
        with pytest.raises(InputError, match=r"needs a program that predicts.*cocofold finetune --model") as caught:
            predict_fasta(PredictionRequest(fasta, program), tmp_path / "run", print)
        assert ("pip install" in str(caught.value)) == (program != "openfold")
        assert ("OPENFOLD_HOME" in str(caught.value)) == (program != "colabfold")
    with pytest.raises(InputError, match="--program boltz: must be one of"):
        PredictionRequest(fasta, "boltz")
    monkeypatch.setenv("OPENFOLD_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"holds no run_pretrained_openfold.py"):
        find_openfold()


def test_openfold_is_asked_for_its_outputs(
    fasta: Path, tmp_path: Path, stand_in: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = tmp_path / "run" / "results" / "predictions" / "x_model_2_multimer_v3_output_dict.pkl"
    script = stand_in(tmp_path / "openfold" / "run_pretrained_openfold.py", makes=str(outputs))
    monkeypatch.setenv("OPENFOLD_HOME", str(script.parent))
    monkeypatch.setenv("OPENFOLD_PYTHON", sys.executable)
    assert find_openfold() == script
    for name in ("mmcif", "alignments"):
        (tmp_path / name).mkdir()
    weights = tmp_path / "params_model_2_multimer_v3.npz"
    weights.touch()
    settings = OpenFoldSettings(tmp_path / "mmcif", tmp_path / "alignments", 2, 5, ("--model_device", "cuda:1"))
    assert run_openfold(script, fasta, tmp_path / "run", settings, weights, print) == outputs
    folder, *arguments = _calls(tmp_path)[0]
    assert folder == str(script.parent)
    assert arguments[:2] == [str(tmp_path / "run" / "input" / "my_pair"), str(tmp_path / "mmcif")]
    given = dict(zip(arguments[2:12:2], arguments[3:12:2]))
    assert given == {
        "--output_dir": str(tmp_path / "run" / "results"),
        "--config_preset": "model_2_multimer_v3",
        "--jax_param_path": str(weights),
        "--data_random_seed": "5",
        "--save_outputs": "--skip_relaxation",
    }
    assert arguments[-4:] == ["--use_precomputed_alignments", str(tmp_path / "alignments"), "--model_device", "cuda:1"]
    records = (tmp_path / "run" / "input" / "my_pair" / "my_pair.fasta").read_text()
    assert records == ">my_pair_A\nMKTAYIAKQR\n>my_pair_B\nGSHW\n>my_pair_C\nMKTAYIAKQR\n"


def test_openfold_needs_a_folder_of_templates_and_must_predict(fasta: Path, tmp_path: Path, stand_in: Stand) -> None:
    with pytest.raises(InputError, match="--templates: OpenFold asks for"):
        run_openfold(tmp_path, fasta, tmp_path / "run", OpenFoldSettings(), tmp_path, print)
    with pytest.raises(InputError, match=r"--alignments .*: no such folder"):
        OpenFoldSettings(alignments=tmp_path / "missing")
    script = stand_in(tmp_path / "openfold" / "run_pretrained_openfold.py", prints="no alignments")
    with pytest.raises(InputError, match=r"ended without a prediction(?s:.*)no alignments"):
        run_openfold(script, fasta, tmp_path / "run", OpenFoldSettings(tmp_path), tmp_path / "x.pt", print)
