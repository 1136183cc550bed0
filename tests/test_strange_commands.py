"""Command lines and files that nobody expects: status 2, one message, and what was there is still there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest

from cocofold import commands
from cocofold.commands.demo import open_state
from cocofold.system.atomic_files import atomic_path, write_atomically
from cocofold.system.errors import InputError, require_within, shorten_words


def change_model(
    path: Path, residues: int = 12, place: Callable[[gemmi.Position], gemmi.Position] | None = None
) -> Path:
    """Write the first residues of adenylate kinase, with positions of their own."""
    structure = gemmi.read_structure(str(open_state()))
    for chain in structure[0]:
        while len(chain) > residues:
            del chain[-1]
        for atom in (atom for residue in chain for atom in residue if place):
            atom.pos = place(atom.pos)
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(path))
    return path


@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_integers_that_no_float_holds_are_refused(number: int) -> None:
    with pytest.raises(InputError, match=r"--seed of more than 300 digits: must be from 0 to 9"):
        require_within("--seed", number, 0, 9)


def test_huge_numbers_of_options_are_one_message(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("finetune", "--particles", "p.star", "--model", "m.cif", "--out", tmp_path / "run")
    assert command(*words, "--first", "9" * 400) == 2
    assert "--first of more than 300 digits" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_words_longer_than_paths_are_cut() -> None:
    assert shorten_words("row 1 has " + "9" * 100_000 + " in it") == "row 1 has " + "9" * 100 + "... in it"
    path = "/" + "x" * 4000
    assert shorten_words(f"{path}: is a folder") == f"{path}: is a folder"


def test_pipes_are_not_replaced(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pipe, link = tmp_path / "pipe.json", tmp_path / "link.json"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    model = change_model(tmp_path / "m.cif")
    other = change_model(tmp_path / "other.cif")
    for path in (pipe, link):
        assert command("assess", "--model", model, "--reference", other, "--json", path) == 2
        assert f"--json {path}: is a device or pipe" in capsys.readouterr().err
        with pytest.raises(OSError, match="no file may replace"), atomic_path(path):
            pass
    assert pipe.is_fifo()
    assert link.is_symlink()
    with pytest.raises(OSError, match="no file may replace"):
        write_atomically(pipe, "nothing")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.json", "m.cif", "other.cif", "pipe.json"]


def test_no_file_is_put_among_devices(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is read or written: the place is refused first, also for those who may write there."""
    assert command("assess", "--model", "m.cif", "--reference", "n.cif", "--json", "/dev/cocofold.json") == 2
    assert "/dev is a folder of the system's devices" in capsys.readouterr().err
    assert not Path("/dev/cocofold.json").exists()


def test_inputs_are_not_written_over(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    model, other = change_model(tmp_path / "m.cif"), change_model(tmp_path / "other.cif")
    stack, link = tmp_path / "stack.mrcs", tmp_path / "link.json"
    shutil.copy(model, stack)
    link.symlink_to(model)
    before = {path: path.read_bytes() for path in (model, other, stack)}
    compare = ("assess", "--model", model, "--reference", other)
    for words, message in (
        ((*compare, "--json", tmp_path / "." / "m.cif"), "--json"),
        ((*compare, "--json", stack), "no JSON by its name"),
        ((*compare, "--json", link), "--model names this file too"),
        (("relax", "--model", model, "--out", model), "--out"),
        (("relax", "--model", model, "--out", tmp_path / "r.cif", "--json", tmp_path / "r.cif"), "names this file too"),
        (("select", "--particles", other, "--by", "random", "--count", "9", "--out", other), "--particles names this"),
        (("check", "--particles", stack, "--model", model, "--json", stack), "--json"),
    ):
        assert command(*words) == 2, words
        assert message in capsys.readouterr().err, words
        assert {path: path.read_bytes() for path in before} == before, words
    assert link.is_symlink()
    assert not (tmp_path / "r.cif").exists()


def test_impossible_positions_are_refused(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    good = change_model(tmp_path / "m.cif")
    one_place = change_model(tmp_path / "one.cif", place=lambda at: gemmi.Position(5, 5, 5))
    far = change_model(tmp_path / "far.cif", place=lambda at: gemmi.Position(at.x * 1e30, at.y, at.z))
    for path, message in ((one_place, "atoms lie in one place"), (far, "from the origin, and 1e+07 Å are allowed")):
        assert command("assess", "--model", good, "--reference", path) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("residues", [1, 2])
def test_models_too_short_to_compare_are_not_relaxed(
    residues: int, tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = change_model(tmp_path / "m.cif", residues), tmp_path / "relaxed.cif"
    assert command("relax", "--model", model, "--out", out) == 2
    assert "no chain of three residues or more" in capsys.readouterr().err
    assert not out.exists()


def test_a_map_beyond_float32_is_refused(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    with mrcfile.new(tmp_path / "map.mrc") as file:
        file.set_data(values)
        file.voxel_size = 4.0
        file.data[:] *= np.float32(1e38 / np.abs(values).max())
    model = change_model(tmp_path / "m.cif")
    assert command("fit", "--model", model, "--map", tmp_path / "map.mrc", "--out", tmp_path / "fitted") == 2
    assert "a voxel is 1e+38, and 1e+15 is allowed" in capsys.readouterr().err
    assert not (tmp_path / "fitted").exists()


def test_residue_numbers_of_thousands_of_digits_are_refused(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with mrcfile.new(tmp_path / "map.mrc") as file:
        file.set_data(np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32))
        file.voxel_size = 4.0
    words = ("fit", "--model", change_model(tmp_path / "m.cif"), "--map", tmp_path / "map.mrc")
    assert command(*words, "--bodies", "A:1-" + "9" * 5000, "--resolution", "15", "--out", tmp_path / "fitted") == 2
    assert "give chains (A) or ranges of residues" in capsys.readouterr().err
    assert not (tmp_path / "fitted").exists()


@pytest.mark.parametrize("shift", ["nan", "inf", "1e30"])
def test_a_shift_that_leads_nowhere_is_refused(command: Callable[..., int], shift: str, tmp_path: Path) -> None:
    moved = tmp_path / "moved.cif"
    assert command("move", "--model", open_state(), "--out", moved, "--shift", shift, "0", "0") == 2
    assert not moved.exists()


def test_names_that_verbs_show_send_nothing_to_a_terminal(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a\x1b[31mb\nc"
    folder.mkdir()
    model, out = change_model(folder / "m.cif", 40), folder / "particles"
    settings = ("--count", 4, "--box", 64, "--pixel-size", 3, "--snr", 0.1, "--centre", "--defocus", 12000, 15000)
    assert command("simulate", "--model", model, "--out", out, *settings) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / r"a\x1b[31mb\nc" / "particles" / "particles.star") + ": 4 particles" in shown
    assert "\x1b" not in shown


def test_verbs_print_in_one_place() -> None:
    folder = Path(commands.__file__).parent
    assert [path.name for path in sorted(folder.glob("*.py")) if "typer.echo" in path.read_text()] == ["__init__.py"]


def test_names_of_chains_are_shown_as_they_are(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    structure = gemmi.read_structure(str(change_model(tmp_path / "m.cif")))
    structure[0][0].name = "[b]\x1b[1m"
    structure.make_mmcif_document().write_file(str(tmp_path / "m.cif"))
    assert command("assess", "--model", tmp_path / "m.cif", "--reference", tmp_path / "m.cif") == 0
    shown = capsys.readouterr().out
    assert r"[b]\x1b[1m" in shown
    assert "\x1b" not in shown
