"""What is said of a fit: options that exist in the command, and placements without a rival."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from command_options import named_options, options_of

import cocofold.mapfit
from cocofold.mapfit.map_files import PlacedBody, Placement
from cocofold.mapfit.workflow import MapFiles, MapOptionNames
from cocofold.system.errors import InputError

_PACKAGE = Path(cocofold.mapfit.__file__).parent
_OF_RECONSTRUCT = ("map_files.py", "unexplained_density.py")


@pytest.mark.parametrize("module", sorted(path.name for path in _PACKAGE.glob("*.py")))
def test_messages_name_options_of_every_command_that_uses_them(module: str) -> None:
    if module in _OF_RECONSTRUCT:
        assert {option for option, _ in named_options(_PACKAGE / module)} <= options_of("reconstruct")
        return
    # What differs between commands is named by MapOptionNames, whose defaults are those of fit.
    of_fit_alone = (
        {"--resolution", "--pixel-size", "--half1", "--half2", "--mask"} if module == "workflow.py" else set()
    )
    named = {option for option, _ in named_options(_PACKAGE / module)}
    assert named <= options_of("fit")
    assert named - of_fit_alone <= options_of("finetune")


def test_fine_tuning_names_its_own_options_for_maps(tmp_path: Path) -> None:
    names = MapOptionNames("--map-resolution", pixel_size=None, half_maps=None)
    assert names.resolution in options_of("finetune")
    files = MapFiles(tmp_path / "map.mrc", option_names=names)
    assert files.resolution_remedy == "--map-resolution"
    with pytest.raises(InputError, match="--map-resolution"):
        MapFiles(tmp_path / "map.mrc", resolution_angstrom=0.1, option_names=names)


@pytest.mark.parametrize(("runner_up", "said"), [(None, "no other place was found"), (0.31, "next best place 0.31")])
def test_a_placement_without_a_rival_has_a_summary(runner_up: float | None, said: str, tmp_path: Path) -> None:
    """The plugin's summary of a file as the engine writes it."""
    plugin = Path(cocofold.__file__).parents[1] / "scipion-em-cocofold" / "scipion_cocofold"
    summary = runpy.run_path(str(plugin / "protocols" / "summaries.py"))["placementSummary"]
    body = PlacedBody("A", np.eye(3), np.zeros(3), 0.8, runner_up)
    whole = {"correlation": 0.8, "runner_up": runner_up, "margin_standard_errors": None, "trusted": True}
    facts = {"resolution_angstrom": 5.0, "whole": whole, "warnings": []}
    Placement("as-is", {"verdict": "as-is"}, (body,), facts).write(tmp_path / "placement.json")
    found = Placement.read(tmp_path / "placement.json")
    lines = summary({**found.facts, "hand": found.hand, "bodies": [vars(one) for one in found.bodies]})
    assert said in lines[0]
