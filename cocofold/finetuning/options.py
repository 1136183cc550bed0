"""Options of a fine-tuning run: their defaults, their flags, what is allowed, and how they are kept as YAML.

Each field of ``Options`` stands once, with its help text and rules. The command line of ``cocofold finetune`` is made
from them, and so are the checks. Nothing here needs torch, so that ``cocofold finetune --help`` is quick.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from cocofold import __version__
from cocofold.finetuning import (
    MOST_STATES,
    MOST_STATES_FOUND,
    VERSION_KEY,
    StateOptions,
    TwinOptions,
    check_value,
    compared_value,
    option_rules,
    read_values,
)
from cocofold.finetuning import map_option as _map_option
from cocofold.finetuning import off_switch as _off_switch
from cocofold.finetuning import option as _option
from cocofold.finetuning import rules_of_field as _rules
from cocofold.finetuning import setting as _setting
from cocofold.system.atomic_files import write_atomically
from cocofold.system.errors import SKIP_HELP, SKIP_OPTION, InputError

MOST_CYCLES = 30  # each writes a model: more are more than anybody looks at
CONTRASTS = ("auto", "white", "dark")
HANDS = ("auto", "as-is", "mirrored")
PRESETS = ("default", "paper")
PAIR_PRECISIONS = ("auto", "float32", "bfloat16", "float16")
LEAST_EFFORT, _MOST_EFFORT = 0.01, 100
PAPER_EPOCHS = 10  # passes over the particles
# What the preset paper sets, as the paper says, or its authors' code where it does not; what is given goes before.
PAPER_SETTINGS: dict[str, Any] = {
    "teacher": False,
    "batch_size": 32,
    "data_weight": 1.0,
    "geometry_weight": 0.0,
    "penalty_mean": True,
    "weights_rate": 1e-4,
    "adapter_rate": 1e-3,
    "adapter_gate": False,
    "dropout": 0.1,
    "single_rate": 0.0,
    "pair_rate": 0.0,
}


# Wide enough for any use; beyond are slips of the pen and what is no number.
_WEIGHTS, _RATES = (0, 10**6), (0, 1)
_NETWORK_RATE: dict[str, Any] = {"network_only": True, "within": _RATES}
_NO_ADDITIONS = "With --prediction: learn no additions to the single and pair representations."


@dataclass(frozen=True)
class DataOptions:
    """Particles: which are used, and what is done before they are."""

    particles: str = _option(MISSING, "Particles with poses and CTFs: RELION .star or CryoSPARC .cs.", is_path=True)
    particles_dir: str | None = _option(None, "Folder from which the stacks' paths start.", is_path=True)
    passthrough: list[str] = field(
        default_factory=list,
        metadata=_rules("CryoSPARC passthrough file of the .cs; may be given again.", is_path=True),
    )
    check: bool = _option(
        True,
        "Ask first whether poses, hand, shifts, CTF and pixel size agree with the model (see cocofold check), and stop "
        "if something is clearly wrong.",
        "--check/--no-check",
        free_on_resume=True,
    )
    contrast: str = _option(
        "auto", "How protein appears in the images: white, dark, or auto to find out with the model.", choices=CONTRASTS
    )
    ignore_aberrations: bool = _option(False, "Leave out what of CryoSPARC is not applied.", "--ignore-aberrations")
    scratch: str | None = _option(
        None, "Folder on a fast disk to which the images are copied for the run.", is_path=True, free_on_resume=True
    )
    skip_bad_images: bool = _option(False, SKIP_HELP, SKIP_OPTION)
    max_particles: int | None = _option(None, "Use so many particles, drawn with the seed.", within=(1, 10**9))
    first: int | None = _option(None, "Use the first so many particles.", within=(1, 10**9))
    heldout: float | None = _option(
        None,
        "Share of the particles (0 to 0.5) that are not fitted but tell when to stop and whether the data support "
        "the change; 0: none, follow all stages. By default those that cocofold select has marked, or else 5 %, at "
        "least 50, or a fifth of fewer than 500.",
        within=(0, 0.5),
    )


@dataclass(frozen=True)
class ModelOptions:
    """Model that is moved, and where it lies in the map of the particles."""

    model: str | None = _option(
        None,
        "Predicted model in the map's frame: mmCIF or PDB; given again: the start of another state. With --prediction: "
        "its model where it lies in the map.",
        is_path=True,
        more_in="other_models",
    )
    prediction: str | None = _option(
        None, "Folder of cocofold predict: AlphaFold-Multimer's structure module itself is trained.", is_path=True
    )
    map: str | None = _option(
        None, "Map of the particles: the model is placed in it first, from anywhere (see cocofold fit).", is_path=True
    )
    map_resolution: float | None = _map_option(None, "its resolution (Å); else estimated.", within=(0.5, 100))
    map_pixel_size: float | None = _map_option(None, "its pixel size (Å), not its header's.", within=(0.1, 100))
    bodies: str | None = _map_option(None, 'parts placed one by one after the whole: "A,B;C", "A:1-120;A:121-214".')
    hand: str = _map_option("auto", "as-is, mirrored, or auto to find out the map's hand.", choices=HANDS)
    accept_placement: bool = _map_option(False, "go on if the place is not trusted.", "--accept-placement")
    b_factors: str = _option(
        "auto",
        "The model's B factors: plddt, experimental, or auto to find out. Disordered residues are only carried along.",
        choices=("auto", "plddt", "experimental"),
    )
    context: str | None = _option(None, "Fixed model beside it, in every image; not in model.cif.", is_path=True)
    remove_unseen: bool = _option(False, "Leave parts out of the answer that no image shows.", "--remove-unseen")
    placement: str | None = _option(
        None,
        "placement.json of cocofold fit; the model or prediction is then the one that was given to it.",
        is_path=True,
    )
    symmetry: str | None = _option(
        None, "Point group (C3, D2, T, ...; with --map also auto): the model is one subunit, and all copies move alike."
    )


@dataclass(frozen=True)
class TrainingOptions(TwinOptions):
    """Length of the run, what is compared, weights of the loss, and where it is computed."""

    cycles: int | None = _option(
        None,
        "Intervals at whose ends the run is scored and a model written, 1 to 30; by default one for each stage "
        "from coarse to fine. The length of the run does not depend on it.",
        within=(1, MOST_CYCLES),
    )
    # Without a number there are stages from low to high resolution.
    epochs: int | None = _setting(None, (1, MOST_CYCLES), "Passes over the particles, all rings, at constant rates.")
    batch_size: int = _option(
        16, "Images per optimiser step; by default 16, with --preset paper 32.", within=(1, 100_000)
    )
    resolution: float | None = _option(
        None, "Finest resolution compared (Å); by default all rings.", within=(0.5, 1000)
    )
    supervision: str = _option(
        "images",
        "map: fit projections of the map that the fitted particles give, not their images, to compare both.",
        choices=("images", "map"),
    )
    refine_poses: str = _option(
        "off", "Refine particles' poses with the model; auto: where they are off.", choices=("off", "on", "auto")
    )
    effort: float = _option(
        1.0, "Factor on the number of optimiser steps: 0.3 for a quick look.", within=(LEAST_EFFORT, _MOST_EFFORT)
    )
    seed: int = _option(0, "Seed: on CPU the same seed gives the same model, bit by bit.", within=(0, 2**63 - 1))
    device: str = _option("auto", "auto, cpu, cuda or cuda:N.", free_on_resume=True)
    # The larger, the more the images outweigh geometry and neighbourhoods.
    data_weight: float = _setting(10.0, _WEIGHTS, "Weight of the mean ring correlation in the loss.")
    neighbour_weight: float = _setting(0.03, _WEIGHTS, "Weight of the restraint on the start's neighbourhoods.")
    geometry_weight: float = _setting(1.0, _WEIGHTS, "Weight of all restraints on geometry.")
    penalty: bool = _off_switch(
        True, "Leave amplitudes and widths of the atoms' Gaussians unbounded (paper eq. 4).", "--no-penalty"
    )
    penalty_mean: bool = _setting(False, None, "Whether that penalty is a mean over atoms, as in the paper, or a sum.")
    amplitude_rate: float = _setting(0.01, _RATES, "Learning rate of the amplitudes of the Gaussians (the paper's).")
    width_rate: float = _setting(0.005, _RATES, "Learning rate of the widths of the Gaussians (the paper's).")
    # What a processor's caches hold; part of the result's rounding.
    chunk_atoms: int = _setting(30_000, (1, 10**9), "Atoms times images compared at once on a CPU.")


@dataclass(frozen=True)
class NetworkOptions:
    """Training of a prediction's network."""

    preset: str = _option(
        "default",
        "With --prediction: default keeps the fold, paper trains as the paper's authors did; a cycle is then a "
        "pass over the particles (10 of them unless --cycles says otherwise).",
        choices=PRESETS,
        network_only=True,
    )
    teacher: bool = _option(
        True,
        "With --prediction: move its model first; the network then learns the result. Keeps the fold best, and is "
        "the default, but for --preset paper.",
        "--teacher/--no-teacher",
    )
    deform: bool = _option(
        False,
        "With --prediction: a field of rigid motions moves the network's atoms further.",
        "--deform",
        network_only=True,
    )
    # Learning rates; 0 for what stays as it is.
    weights_rate: float = _off_switch(
        3e-5, "With --prediction: leave the structure module's weights as they are.", "--no-weights", **_NETWORK_RATE
    )
    adapter_rate: float = _off_switch(
        3e-4, "With --prediction: train without the image adapter.", "--no-adapter", **_NETWORK_RATE
    )
    single_rate: float = _off_switch(3e-3, _NO_ADDITIONS, "--no-additions", **_NETWORK_RATE)
    pair_rate: float = _off_switch(3e-3, _NO_ADDITIONS, "--no-additions", **_NETWORK_RATE)
    # The images then use a tenth of other rates.
    distil_rate: float = _setting(1e-2, _RATES, "Rate of the additions while they learn the teacher's model.")
    adapter_gate: bool = _setting(True, None, "Whether the adapter starts behind a closed gate; the paper has none.")
    dropout: float = _setting(0.0, (0, 0.9), "Share of the network's activations that are dropped in training.")
    pair_segments: int = _setting(
        256, (1, 10_000), "Most segments into which the chains are cut for the addition to the pair representation."
    )
    pair_precision: str = _option(
        "auto",
        "With --prediction: what its pair representation is kept in: float32, bfloat16 or float16; "
        "auto is float32, with a copy in bfloat16 for the gradient of large molecules where that is faster.",
        choices=PAIR_PRECISIONS,
        network_only=True,
    )
    set_aside: str = _option(
        "auto",
        "Density that no atom explains: on sets it aside as atoms move; auto fits again with it where there is much.",
        choices=("auto", "on", "off"),
    )
    remove_below: float | None = _option(
        None,
        "Leave residues out of the answer whose pLDDT is below this (with --prediction at the end); the paper's is 30.",
        within=(0, 100),
    )


# Groups by the name that --help gives them
_GROUPS = (DataOptions, ModelOptions, TrainingOptions, NetworkOptions, StateOptions)
OPTION_GROUPS = dict(zip(("Particles", "Model", "Training", "Network", "States"), _GROUPS))


@dataclass(frozen=True)
class Options(StateOptions, NetworkOptions, TrainingOptions, ModelOptions, DataOptions):
    """Options of a run, of all groups; raises ``InputError`` for values that cannot work."""

    def __post_init__(self) -> None:
        if self.model is None and self.prediction is None:
            raise InputError("no start given; add --model FILE, or --prediction FOLDER of cocofold predict")
        self._check_placement()
        for one in fields(self):
            check_value(one, getattr(self, one.name))
        self._check_network()
        self._check_states()

    def _check_placement(self) -> None:
        """Refuse options of the start's place that do not go together."""
        if self.map is not None and self.placement is not None:
            raise InputError("--map and --placement: one of them places the model; leave the other out")
        about_map = [option_rules(one).flag for one in self._set_by("map_only")]
        about_map += ["--symmetry auto"] if self.symmetry == "auto" else []
        if self.map is None and about_map:
            raise InputError(f"{about_map[0]}: is about a map; add --map FILE, or leave it out")
        if self.model is not None and self.prediction is not None:
            placed_by = "--map" if self.map is not None else "--placement" if self.placement is not None else None
            if placed_by:
                raise InputError(f"{placed_by} and --model: with --prediction either shows its place; leave one out")

    def _check_network(self) -> None:
        """Refuse options of a network that do not go together."""
        for one in self._set_by("network_only") if self.prediction is None else ():
            rules, value = option_rules(one), getattr(self, one.name)
            name = f"{rules.flag} {value}" if rules.choices else rules.flag
            raise InputError(f"{name}: is for predictions; add --prediction FOLDER, or leave it out")
        if not any((self.weights_rate, self.adapter_rate, self.single_rate, self.pair_rate)):
            raise InputError("--no-weights, --no-adapter and --no-additions: nothing is left to learn; leave one out")
        if self.preset == "paper":
            foreign = {"--teacher": self.teacher, "--deform": self.deform, "--effort": self.effort != 1}
            for option, is_set in foreign.items():
                if is_set:
                    raise InputError(
                        f"{option}: the paper has nothing of the kind, and its length is --cycles, passes over the "
                        f"particles; leave {option} or --preset paper out"
                    )
        if self.prediction is not None and self.teacher and not (self.single_rate or self.pair_rate):
            raise InputError("--no-additions: only they learn a teacher's model; add --no-teacher, or leave it out")

    def _check_states(self) -> None:
        """Refuse numbers of states that are none, and starts of states that cannot be."""
        if self.states != "auto" and str(self.states) not in map(str, range(1, MOST_STATES + 1)):
            raise InputError(f"--states {self.states}: give a number from 1 to {MOST_STATES}, or auto")
        if self.other_models and (self.prediction is not None or self.map is not None or self.placement is not None):
            raise InputError(
                "--model: several starts are taken where they lie; leave --map, --placement and --prediction out"
            )
        if (self.tells_particles_apart or self.refine_poses != "off") and self.preset == "paper":
            raise InputError("--states, --junk, --refine-poses: the paper has nothing of the kind; drop --preset paper")
        if self.tells_particles_apart and self.refine_poses != "off":
            raise InputError("--refine-poses: takes one state for all; leave it out, or --states and --junk")
        others = self.tells_particles_apart or self.refine_poses != "off" or self.context is not None
        if self.supervision == "map" and others:
            raise InputError("--supervision map: leave out --states, --junk, --refine-poses and --context with it")

    @property
    def starts(self) -> list[str]:
        """Models of the starts; one with ``prediction`` may have none."""
        return [*([] if self.model is None else [self.model]), *self.other_models]

    @property
    def most_states(self) -> int:
        """States that are looked for."""
        return max(MOST_STATES_FOUND if self.states == "auto" else int(self.states), len(self.starts))

    @property
    def fewest_states(self) -> int:
        """States for which there must be particles."""
        return max(1 if self.states == "auto" else int(self.states), len(self.starts))

    @property
    def tells_particles_apart(self) -> bool:
        """Whether particles are looked at one by one."""
        return self.most_states > 1 or self.junk != "off"

    def for_state(
        self, star: Path, start: str | None, placement: Path | None, effort: float, check: bool, judged: bool
    ) -> Options:
        """Options of the run that fits one state, to the particles of a STAR with marks of those held out, if any."""
        own: dict[str, Any] = {one.name: one.default for one in fields(StateOptions) if one.name != "other_models"}
        own |= dict.fromkeys(("particles_dir", "first", "max_particles"))
        if placement is not None:
            own |= {one.name: one.default for one in self._set_by("map_only")}
            own |= {"map": None, "placement": str(placement), "symmetry": None}
        own |= {"model": self.model if start is None else start, "other_models": [], "passthrough": []}
        own |= {"particles": str(star), "heldout": None if judged else 0.0, "second_pass": False}
        return replace(self, effort=effort, check=check, **own)

    def _set_by(self, kind: str) -> list[Field]:
        """Fields of a kind, an attribute of their rules, that do not have their default."""
        return [f for f in fields(self) if getattr(option_rules(f), kind) and getattr(self, f.name) != f.default]

    def for_teacher(self, model: Path, symmetry: str | None) -> Options:
        """Options of the run that moves a prediction's model, placed, before its network learns the result."""
        own: dict[str, Any] = {"map": None, "placement": None, "remove_below": None, "remove_unseen": False}
        own |= {"twin": None, "twin_cycle": None, "refine_poses": "off"}
        own |= {one.name: one.default for kind in ("map_only", "network_only") for one in self._set_by(kind)}
        return replace(self, model=str(model), prediction=None, symmetry=symmetry, **own)

    def for_second_fit(self, start: Path, sets_aside: bool) -> Options:
        """Options of a run from a placed start that may set density aside, and runs no further one."""
        own: dict[str, Any] = {"set_aside": "on" if sets_aside else "off", "check": False}
        return replace(self.for_teacher(start, None), **own, refine_poses=self.refine_poses)

    def write(self, path: Path) -> None:
        """Write as YAML, with the version."""
        write_atomically(path, yaml.safe_dump({VERSION_KEY: __version__, **asdict(self)}, sort_keys=False))

    @classmethod
    def read(cls, path: Path) -> Options:
        """Read what ``write`` wrote, here or in an older version; ``InputError`` for what this one does not know."""
        return cls(**read_values(path, cls))

    def refuse_other_settings(self, path: Path, by_content: bool = False) -> None:
        """Refuse to resume a run of other options in ``config.yaml``; ``by_content``: files are compared elsewhere."""
        # Values are compared as they stand: what an older version allowed may be refused by this one.
        stored = read_values(path, Options)
        changed = [
            f"{one.name} ({stored[one.name]!r} then, {getattr(self, one.name)!r} now)"
            for one in fields(self)
            if compared_value(one, stored[one.name], by_content)
            != compared_value(one, getattr(self, one.name), by_content)
        ]
        if changed:
            raise InputError(
                f"{path.parent}: was started with other settings: {', '.join(changed)}; "
                "resume with the same settings, or start anew in another folder"
            )


def options_with_preset(**given: Any) -> Options:
    """Options of a run: those that are given, and for the others what the preset among them says.

    The preset paper is its authors' training: structure module and adapter without a gate, dropout (which only their
    code has), all rings from the first step on, constant rates, a loss of reconstruction and penalty alone. A cycle is
    an epoch.
    """
    if given.get("preset") != "paper":
        return Options(**given)
    epochs = PAPER_EPOCHS if given.get("cycles") is None else given["cycles"]
    return Options(**{**PAPER_SETTINGS, **given, "cycles": epochs, "epochs": epochs})
