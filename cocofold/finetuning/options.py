"""Settings of a fine-tuning run, kept in its folder as YAML."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from cocofold import __version__
from cocofold.system.atomic_files import write_atomically
from cocofold.system.errors import InputError, require_within

MOST_CYCLES = 30
CONTRASTS = ("auto", "white", "dark")
PRESETS = ("default", "paper")
PAIR_PRECISIONS = ("auto", "float32", "bfloat16", "float16")
PAPER_EPOCHS = 10
_FREE_ON_RESUME = {"check", "device", "scratch"}
# Fields that say something of a network only, and the option that sets each.
_NEEDS_PREDICTION = {
    "preset": "--preset paper",
    "deform": "--deform",
    "adapter_rate": "--no-adapter",
    "weights_rate": "--no-weights",
    "pair_rate": "--no-additions",
    "single_rate": "--no-additions",
    "pair_precision": "--pair-precision",
}


@dataclass(frozen=True)
class Options:
    """Settings of a run; the defaults are the command's.

    Attributes
    ----------
    particles : str
    model : str or None
        Start, in the map's frame; with a prediction a model of it, which shows its place.
    prediction : str or None
        Folder that ``cocofold predict`` wrote; its network is trained.
    map, map_resolution, bodies, hand
        Map in which the start is placed first, and how: see ``cocofold fit``.
    placement : str or None
        ``placement.json`` of ``cocofold fit``, of the start as it was before.
    symmetry : str or None
        Point group of an assembly of which the start is one subunit; all copies share its parameters.
    teacher : bool
        Whether the prediction's model is moved first, and its network then learns the result.
    preset : str
        default, or paper: see ``paper_options``.
    deform : bool
        Whether a field of rigid motions moves the network's atoms further.
    particles_dir : str or None
        Folder from which stacks are resolved.
    passthrough : list of str
        CryoSPARC passthrough files.
    check : bool
        Whether particles and start are checked first, and a clear contradiction stops the run.
    contrast : str
        auto, white or dark: how protein appears in the images; auto asks the images and the model.
    scratch : str or None
        Folder on a fast disk to which the images are copied for the time of the run.
    max_particles, first : int or None
        Draw so many with the seed; take the first so many.
    heldout : float or None
        Share of the particles that are not fitted but judge when to stop; 0 for none. None: those that the particles'
        file marks, or else 5 %, at least 50, or a fifth of fewer than 500.
    cycles : int or None
        Intervals at whose ends the run is scored and a model written; None: one for each stage.
    epochs : int or None
        Passes over the particles, with all rings, at constant rates; None: stages from low to high resolution.
    batch_size : int
        Images per optimiser step.
    resolution : float or None
        Finest resolution (Å) compared; None: all rings.
    effort : float
        Factor on the number of optimiser steps.
    seed : int
    device : str
        auto, cpu, cuda or cuda:N.
    data_weight, neighbour_weight : float
        Weights of the mean ring correlation and of the restraint on the start's neighbourhoods.
    geometry_weight : float
        Of all restraints on geometry.
    penalty : bool
        Whether hinges keep amplitudes and widths of Gaussians in bounds (paper eq. 4).
    amplitude_rate, width_rate : float
        Learning rates of the Gaussians (the paper's).
    weights_rate, adapter_rate, single_rate, pair_rate : float
        Learning rates of a prediction's network: its weights, the image adapter, additions to the representations;
        0 for what stays as it is.
    distil_rate : float
        Of the additions while they learn the teacher's model; the images then go on at a tenth of the other rates.
    adapter_gate : bool
        Whether the adapter starts behind a closed gate; the paper has none.
    dropout : float
        Share of the network's activations that are dropped in training.
    pair_segments : int
        Into how many segments at most the chains are cut for the addition to the pair representation.
    pair_precision : str
        float32, bfloat16 or float16: what the pair representation is kept in; auto: float32, with a copy in bfloat16
        for the gradient of large molecules where that is faster.
    remove_below : float or None
        Residues of a prediction whose pLDDT ends below this are left out of the answer; the paper's value is 30.
    chunk_atoms : int
        Atoms times images compared at once on a CPU: what its caches hold; part of the result's rounding.
    """

    particles: str
    model: str | None = None
    prediction: str | None = None
    map: str | None = None
    map_resolution: float | None = None
    bodies: str | None = None
    hand: str = "auto"
    placement: str | None = None
    symmetry: str | None = None
    teacher: bool = True
    preset: str = "default"
    deform: bool = False
    particles_dir: str | None = None
    passthrough: list[str] = field(default_factory=list)
    check: bool = True
    contrast: str = "auto"
    scratch: str | None = None
    max_particles: int | None = None
    first: int | None = None
    heldout: float | None = None
    cycles: int | None = None
    epochs: int | None = None
    batch_size: int = 16
    resolution: float | None = None
    effort: float = 1.0
    seed: int = 0
    device: str = "auto"
    data_weight: float = 10.0
    neighbour_weight: float = 0.03
    geometry_weight: float = 1.0
    penalty: bool = True
    amplitude_rate: float = 0.01
    width_rate: float = 0.005
    weights_rate: float = 3e-5
    adapter_rate: float = 3e-4
    single_rate: float = 3e-3
    pair_rate: float = 3e-3
    distil_rate: float = 1e-2
    adapter_gate: bool = True
    dropout: float = 0.0
    pair_segments: int = 256
    pair_precision: str = "auto"
    remove_below: float | None = None
    chunk_atoms: int = 30_000

    def __post_init__(self) -> None:
        """Refuse values that cannot work, in the words of the command line."""
        if self.model is None and self.prediction is None:
            raise InputError("no start given; add --model FILE, or --prediction FOLDER of cocofold predict")
        self._check_place()
        if self.remove_below is not None:
            require_within("--remove-below", self.remove_below, 0, 100)
        if self.cycles is not None:
            require_within("--cycles", self.cycles, 1, MOST_CYCLES)
        if self.heldout is not None:
            require_within("--heldout", self.heldout, 0, 0.5)
        if self.contrast not in CONTRASTS:
            raise InputError(f"--contrast {self.contrast}: give {', '.join(CONTRASTS[:-1])} or {CONTRASTS[-1]}")
        require_within("--batch-size", self.batch_size, 1, 100_000)
        require_within("--effort", self.effort, 0.01, 100)
        if self.resolution is not None:
            require_within("--resolution", self.resolution, 0.5, 1000)
        for name in ("max_particles", "first"):
            if getattr(self, name) is not None:
                require_within("--" + name.replace("_", "-"), getattr(self, name), 1, 10**9)
        self._check_network()

    def _check_place(self) -> None:
        """Refuse what does not go together of where the start is."""
        if self.map is not None and self.placement is not None:
            raise InputError("--map and --placement: one of them places the model; leave the other out")
        if self.map is None:
            for option, value in (
                ("--bodies", self.bodies),
                ("--map-resolution", self.map_resolution),
                ("--hand", None if self.hand == "auto" else self.hand),
                ("--symmetry auto", self.symmetry if self.symmetry == "auto" else None),
            ):
                if value is not None:
                    raise InputError(f"{option}: is about a map; add --map FILE, or leave it out")
        elif self.model is not None and self.prediction is not None:
            raise InputError("--map and --model: with --prediction either shows its place; leave one of them out")
        if self.placement is not None and self.model is not None and self.prediction is not None:
            raise InputError("--placement and --model: with --prediction either shows its place; leave one of them out")

    def _check_network(self) -> None:
        """Refuse what does not go together of a network's settings."""
        for option, value, allowed in (
            ("--preset", self.preset, PRESETS),
            ("--pair-precision", self.pair_precision, PAIR_PRECISIONS),
        ):
            if value not in allowed:
                raise InputError(f"{option} {value}: give {', '.join(allowed[:-1])} or {allowed[-1]}")
        defaults = {option.name: option.default for option in fields(self)}
        for name, option in _NEEDS_PREDICTION.items():
            if self.prediction is None and getattr(self, name) != defaults[name]:
                raise InputError(f"{option}: is for predictions; add --prediction FOLDER, or leave it out")
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

    def for_teacher(self, model: Path, symmetry: str | None) -> Options:
        """Settings with which a prediction's model, placed, is moved before its network learns the result."""
        of_place: dict[str, Any] = {"map": None, "map_resolution": None, "bodies": None, "hand": "auto"}
        of_network: dict[str, Any] = {
            option.name: option.default for option in fields(self) if option.name in _NEEDS_PREDICTION
        }
        of_place.update(placement=None, symmetry=symmetry)
        return replace(self, model=str(model), prediction=None, **of_place, **of_network)

    def write(self, path: Path) -> None:
        """Write as YAML."""
        content = {"cocofold_version": __version__, **asdict(self)}
        write_atomically(path, yaml.safe_dump(content, sort_keys=False))

    def refuse_other_settings(self, path: Path) -> None:
        """Refuse to resume a run that was started with other settings."""
        try:
            stored = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{path}: cannot be read ({error}); start the run anew in another folder") from error
        if not isinstance(stored, dict):
            raise InputError(f"{path}: holds no settings; start the run anew in another folder")
        changed = [
            f"{name} ({stored.get(name)!r} then, {getattr(self, name)!r} now)"
            for name in (option.name for option in fields(self))
            if name not in _FREE_ON_RESUME and stored.get(name) != getattr(self, name)
        ]
        if changed:
            raise InputError(
                f"{path.parent}: was started with other settings: {', '.join(changed)}; "
                "resume with the same settings, or start anew in another folder"
            )


def paper_options(**given: Any) -> Options:
    """Settings of the paper's own training, as its authors' code has them; what is given goes before.

    The structure module and an adapter without a gate, dropout, all rings from the first step on, constant rates, a
    loss of reconstruction and penalty of equal weight, no restraints on geometry. A cycle is an epoch.

    Parameters
    ----------
    given
        Fields of ``Options``.
    """
    settings: dict[str, Any] = {
        "preset": "paper",
        "teacher": False,
        "batch_size": 32,
        "data_weight": 1.0,
        "geometry_weight": 0.0,
        "weights_rate": 1e-4,
        "adapter_rate": 1e-3,
        "adapter_gate": False,
        "dropout": 0.1,
        "single_rate": 0.0,
        "pair_rate": 0.0,
    }
    epochs = given.get("cycles") or PAPER_EPOCHS
    return Options(**{**settings, **given, "cycles": epochs, "epochs": epochs})
