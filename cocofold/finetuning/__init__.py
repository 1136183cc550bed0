"""Fine-tuning: the optimiser's loop, held-out particles, checkpoints.

Knows atoms only through ``cocofold.sources.base.AtomSource``, and particles only through ``ParticleSet``.

Here is how an option of a run is told, with its field: help, flag, what is
allowed, and how it is read back; and the options of states.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from cocofold import __version__
from cocofold.system.errors import InputError, refuse_damaged, require_type, require_within


@dataclass(frozen=True)
class OptionRules:
    """What belongs to a field of ``Options`` besides its type and default."""

    help: str
    flag: str | None  # of the command line; "": that of the field's name; None: no flag sets the field
    switches_off: bool = False  # the flag takes no value and sets the field to 0 or False; fields may share one
    is_path: bool = False
    within: tuple[float, float] | None = None  # least and largest value allowed
    choices: tuple[str, ...] = ()  # values allowed; empty: any
    network_only: bool = False  # concerns the network of a prediction only
    map_only: bool = False  # concerns the fit in a map only
    free_on_resume: bool = False  # a run may be resumed with another value
    more_in: str = ""  # field that takes further values where the flag is given again


def option_rules(one: Field) -> OptionRules:
    """Rules of a field of ``Options``, its flag by name."""
    rules: OptionRules = one.metadata["rules"]
    return replace(rules, flag="--" + one.name.replace("_", "-")) if rules.flag == "" else rules


def rules_of_field(help: str, flag: str | None = "", **rules: Any) -> dict[str, OptionRules]:
    """Metadata of a field with rules."""
    return {"rules": OptionRules(help, flag, **rules)}


def option(default: Any, help: str, flag: str | None = "", **rules: Any) -> Any:
    """Field with rules; its flag is by default that of its name."""
    return field(default=default, metadata=rules_of_field(help, flag, **rules))


def map_option(default: Any, help: str, flag: str | None = "", **rules: Any) -> Any:
    """Field that concerns the fit in a map only."""
    return option(default, f"With --map: {help}", flag, map_only=True, **rules)


def off_switch(default: Any, help: str, flag: str, **rules: Any) -> Any:
    """Field that the command line can only switch off."""
    return option(default, help, flag, switches_off=True, **rules)


def setting(default: Any, within: tuple[float, float] | None, help: str) -> Any:
    """Field that no flag sets."""
    return option(default, help, None, within=within)


def compared_value(one: Field, value: Any, by_content: bool) -> Any:
    """What must be the same where a run is resumed; ``by_content``: files are compared elsewhere."""
    rules = option_rules(one)
    if rules.free_on_resume or (by_content and one.name in ("particles_dir", "passthrough")):
        return None
    if by_content and rules.is_path:
        return len(value) if isinstance(value, list) else value is not None
    return value


def check_value(one: Field, value: Any) -> None:
    """Refuse a value that its field does not allow."""
    rules = option_rules(one)
    name = one.name if rules.flag is None or rules.switches_off else rules.flag
    require_type(name, value, str(one.type), one.default is None)
    if rules.choices and value not in rules.choices:
        raise InputError(f"{name} {value}: give {', '.join(rules.choices[:-1])} or {rules.choices[-1]}")
    if rules.within is not None and value is not None:
        require_within(name, value, *rules.within)


VERSION_KEY = "cocofold_version"


def read_values(path: Path, options: type) -> dict[str, Any]:
    """Value of each field of the class of options in a ``config.yaml``.

    An option that the file lacks is newer than the run, and gets its default.
    """
    with refuse_damaged(path, "start the run anew in another folder"):
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(stored, dict) or "particles" not in stored:
        raise InputError(f"{path}: holds no settings; start the run anew in another folder")
    version, known = stored.pop(VERSION_KEY, "unknown"), {one.name: one for one in fields(options)}
    unknown = [str(name) for name in stored if name not in known]
    if unknown:
        raise InputError(
            f"{path}: has options that CoCoFold {__version__} does not know: {', '.join(unknown)}; it was written by "
            f"CoCoFold {version}: go on with that version, or start anew in another folder"
        )
    for name, one in known.items():
        stored.setdefault(name, one.default if one.default_factory is MISSING else one.default_factory())
    return dict(stored)


MOST_STATES, MOST_STATES_FOUND = 9, 3  # more would be found by nobody's eye; what auto looks for


@dataclass(frozen=True)
class StateOptions:
    """Particles that do not all show the same."""

    states: str = option(
        "1",
        "Number of models, each for the particles that show it: 1 to 9, or auto for 1 to 3. States that held-out "
        "particles do not support are not written.",
    )
    junk: str = option(
        "off", "auto: particles that no state explains are set aside, and listed.", choices=("off", "auto")
    )
    other_models: list[str] = field(
        default_factory=list, metadata=rules_of_field("Starts of further states.", None, is_path=True)
    )
    second_pass: bool = setting(True, None, "Whether a pass follows that fits those held out of few particles too.")


_MOST_TWINS, _MOST_CYCLES = 20, 30  # errors are then known to a tenth of their size; as many as runs have


@dataclass(frozen=True)
class TwinOptions:
    """Fits to halves of the particles, by which errors of residues are told."""

    twin: int | None = option(
        None,
        "Then fit halves of the particles so often, in pairs that share none: how far these models lie apart tells "
        "how wrong each residue may be. 2 cost as much as the run again, more tell it better.",
        within=(2, _MOST_TWINS),
    )
    # Of a run that is a twin itself: its number from 0, and the cycle up to which it goes.
    twin_number: int | None = setting(None, (0, _MOST_TWINS - 1), "Which half of the particles is fitted.")
    twin_cycle: int | None = setting(None, (1, _MOST_CYCLES), "Cycle with which a twin ends.")
