"""Options of a run: the flags that set them, and how they come back from ``config.yaml``."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from cocofold import __version__
from cocofold.__main__ import app
from cocofold.finetuning.options import OPTION_GROUPS, Options, option_rules, options_with_preset
from cocofold.system.errors import InputError

# What scripts rely on: the flags of ``cocofold finetune``, and their defaults. None: not given, so something else
# decides (the preset, the particles, the model), or nothing is done. Add to it; a flag that is here stays.
FLAGS = {
    "--particles": None,
    "--model": [],
    "--prediction": None,
    "--map": None,
    "--map-resolution": None,
    "--map-pixel-size": None,
    "--bodies": None,
    "--hand": "auto",
    "--accept-placement": False,
    "--b-factors": "auto",
    "--placement": None,
    "--symmetry": None,
    "--out": None,
    "--particles-dir": None,
    "--passthrough": [],
    "--check/--no-check": True,
    "--contrast": "auto",
    "--scratch": None,
    "--max-particles": None,
    "--first": None,
    "--heldout": None,
    "--cycles": None,
    "--batch-size": None,
    "--resolution": None,
    "--effort": 1.0,
    "--supervision": "images",
    "--refine-poses": "off",
    "--preset": "default",
    "--teacher/--no-teacher": None,
    "--no-adapter": False,
    "--no-weights": False,
    "--no-additions": False,
    "--no-penalty": False,
    "--deform": False,
    "--pair-precision": "auto",
    "--remove-below": None,
    "--context": None,
    "--remove-unseen": False,
    "--set-aside": "auto",
    "--states": "1",
    "--twin": None,
    "--junk": "off",
    "--seed": 0,
    "--device": "auto",
    "--processes": 1,
    "--oversubscribe": False,
    "--skip-bad-images": False,
    "--ignore-aberrations": False,
    "--stop-with": None,
    "--resume": False,
    "--exit-verdict": False,
    "--threads": None,
    "--time-limit": None,
}


def test_flags_and_their_defaults_stay() -> None:
    command = typer.main.get_command(app).commands["finetune"]  # type: ignore[attr-defined]
    found = {"/".join([*one.opts, *one.secondary_opts]): one for one in command.params}
    assert {flag: one.default for flag, one in found.items()} == FLAGS
    assert {flag for flag, one in found.items() if one.required} == {"--particles", "--out"}
    assert {flag for flag, one in found.items() if one.multiple} == {"--passthrough", "--model"}
    assert all(one.help for one in found.values())


def given_on_the_command_line(*line: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Options, tuple[object, ...]]:
    """Options that a command line makes, and the other arguments of the run."""
    seen: list[tuple[Options, tuple[object, ...]]] = []
    for run in ("run.finetune", "states.finetune_states"):
        monkeypatch.setattr(f"cocofold.finetuning.{run}", lambda options, *others: seen.append((options, others)))
    result = CliRunner().invoke(app, ["finetune", *line])
    assert result.exit_code == 0, result.output
    return seen[0]


def test_every_flag_sets_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    line = (
        "--particles ./P.cs --prediction b//P --map V.mrc --map-resolution 7.5 --bodies A;B --hand mirrored "
        "--accept-placement --b-factors plddt --context C.cif "
        "--symmetry C3 --out R --particles-dir D --passthrough one.cs --passthrough two.cs --no-check --contrast dark "
        "--scratch /fast --max-particles 900 --first 1000 --heldout 0.1 --cycles 12 --batch-size 8 --resolution 4 "
        "--effort 0.5 --no-teacher --no-adapter --no-additions --no-penalty --deform --pair-precision bfloat16 "
        "--remove-below 30 --states 2 --junk auto --seed 7 --device cpu --stop-with 4711 --resume"
    )
    options, others = given_on_the_command_line(*line.split(), monkeypatch=monkeypatch)
    assert options == Options(
        particles="P.cs",
        prediction="b/P",
        map="V.mrc",
        map_resolution=7.5,
        bodies="A;B",
        hand="mirrored",
        accept_placement=True,
        b_factors="plddt",
        context="C.cif",
        symmetry="C3",
        particles_dir="D",
        passthrough=["one.cs", "two.cs"],
        check=False,
        contrast="dark",
        scratch="/fast",
        max_particles=900,
        first=1000,
        heldout=0.1,
        cycles=12,
        batch_size=8,
        resolution=4.0,
        effort=0.5,
        teacher=False,
        adapter_rate=0.0,
        single_rate=0.0,
        pair_rate=0.0,
        penalty=False,
        deform=True,
        pair_precision="bfloat16",
        remove_below=30.0,
        states="2",
        junk="auto",
        seed=7,
        device="cpu",
    )
    assert others == (Path("R"), True, 4711, None)
    options, others = given_on_the_command_line(
        *("--particles", "P.star", "--model", "M.cif", "--placement", "p.json", "--out", "R"),
        monkeypatch=monkeypatch,
    )
    assert options == Options(particles="P.star", model="M.cif", placement="p.json")
    assert others == (Path("R"), False, None, None)


def test_what_is_given_goes_before_a_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["--particles", "P", "--prediction", "P", "--out", "R", "--preset", "paper"]
    options, _ = given_on_the_command_line(*line, "--batch-size", "16", "--no-weights", monkeypatch=monkeypatch)
    assert (options.batch_size, options.weights_rate, options.adapter_rate) == (16, 0.0, 1e-3)
    options, _ = given_on_the_command_line(*line, monkeypatch=monkeypatch)
    assert (options.batch_size, options.weights_rate) == (32, 1e-4)


def test_help_is_in_groups() -> None:
    said = CliRunner().invoke(app, ["finetune", "--help"]).output
    order = [said.index(f" {name} ") for name in ("Particles", "Model", "Training", "Network", "Run")]
    assert order == sorted(order)


def test_every_option_belongs_to_one_group_and_has_a_meaning() -> None:
    grouped = [one.name for group in OPTION_GROUPS.values() for one in fields(group)]
    assert sorted(grouped) == sorted(one.name for one in fields(Options))
    assert all(option_rules(one).help.endswith(".") for one in fields(Options))


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, Any]:
    """Content of the configuration of a run, which lies beside."""
    Options(particles="P", model="M", seed=3).write(tmp_path / "config.yaml")
    content: dict[str, Any] = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert content.pop("cocofold_version") == __version__
    return content


def test_options_come_back_as_they_were_written(stored: dict[str, Any], tmp_path: Path) -> None:
    options = Options(particles="P", model="M", seed=3)
    assert stored == asdict(options)
    assert Options.read(tmp_path / "config.yaml") == options
    options.refuse_other_settings(tmp_path / "config.yaml")
    replace(options, check=False, device="cpu", scratch="/fast").refuse_other_settings(tmp_path / "config.yaml")
    with pytest.raises(InputError, match=r"other settings: seed \(3 then, 4 now\)"):
        replace(options, seed=4).refuse_other_settings(tmp_path / "config.yaml")


@pytest.mark.parametrize("lacking", sorted({one.name for one in fields(Options)} - {"particles", "model", "seed"}))
def test_a_run_of_before_an_option_was_there_goes_on(lacking: str, stored: dict[str, Any], tmp_path: Path) -> None:
    del stored[lacking]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"cocofold_version": "0.1.0", **stored}))
    Options(particles="P", model="M", seed=3).refuse_other_settings(tmp_path / "config.yaml")
    if lacking == "batch_size":
        with pytest.raises(InputError, match=r"batch_size \(16 then, 8 now\)"):
            Options(particles="P", model="M", seed=3, batch_size=8).refuse_other_settings(tmp_path / "config.yaml")


def test_a_run_of_a_newer_version_is_refused(stored: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"cocofold_version": "9.1", **stored, "spirits": 3}))
    options = Options(particles="P", model="M", seed=3)
    for reads in (Options.read, options.refuse_other_settings):
        with pytest.raises(
            InputError, match=r"does not know: spirits; it was written by CoCoFold 9\.1: go on with that"
        ):
            reads(config)


@pytest.mark.parametrize("content", ["", "- 1", "model: M", "a: [", "\0"])
def test_a_file_without_options_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(InputError, match="start the run anew in another folder"):
        Options.read(tmp_path / "config.yaml")


def test_every_number_has_a_range() -> None:
    """And what is outside, or no number, is refused by the name that the user knows."""
    for one in fields(Options):
        rules = option_rules(one)
        if "int" in str(one.type) or "float" in str(one.type):
            assert rules.within is not None, one.name
            name = one.name if rules.flag is None or rules.switches_off else rules.flag
            for value in (rules.within[1] * 2 + 1, -1, float("nan")):
                with pytest.raises(InputError, match=f"{name} "):
                    Options(**{"particles": "P", "model": "M", "map": "V", one.name: value})
    with pytest.raises(InputError, match="--hand left: give auto, as-is or mirrored"):
        Options(particles="P", model="M", map="V", hand="left")


def test_no_cycles_of_the_paper_are_refused() -> None:
    with pytest.raises(InputError, match="--cycles 0: must be from 1 to 30"):
        options_with_preset(preset="paper", particles="P", prediction="P", cycles=0)
    assert options_with_preset(preset="paper", particles="P", prediction="P", cycles=None).epochs == 10
