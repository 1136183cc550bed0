"""How an option of a run is told: its help, its flag, and what is allowed, all with the field that holds it."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, replace
from typing import Any


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
