"""Settings of a fine-tuning run, kept in its folder as YAML."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import yaml

from cocofold import __version__
from cocofold.errors import InputError, require_within
from cocofold.files import write_atomically

MOST_CYCLES = 30
CONTRASTS = ("auto", "white", "dark")
_FREE_ON_RESUME = {"device", "scratch"}


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
    teacher : bool
        Whether the prediction's model is moved first, and its network then learns the result.
    particles_dir : str or None
        Folder from which stacks are resolved.
    passthrough : list of str
        CryoSPARC passthrough files.
    contrast : str
        auto, white or dark: how protein appears in the images; auto asks the images and the model.
    scratch : str or None
        Folder on a fast disk to which the images are copied for the time of the run.
    max_particles, first : int or None
        Draw so many with the seed; take the first so many.
    heldout : float or None
        Share of the particles that are not fitted but judge when to stop; 0 for none. None: 5 %, at least 50, or a
        fifth of fewer than 500.
    cycles : int or None
        Intervals at whose ends the run is scored and a model written; None: one for each stage.
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
    amplitude_rate, width_rate : float
        Learning rates of the Gaussians (the paper's).
    weights_rate, adapter_rate, single_rate, pair_rate : float
        Learning rates of a prediction's network: its weights, the image adapter, additions to the representations;
        0 for what stays as it is.
    pair_rank : int
        Of the addition to the pair representation.
    remove_below : float or None
        Residues of a prediction whose pLDDT ends below this are left out of the answer; the paper's value is 30.
    chunk_atoms : int
        Atoms times images rendered at once: bounds the memory; part of the result's rounding.
    """

    particles: str
    model: str | None = None
    prediction: str | None = None
    teacher: bool = True
    particles_dir: str | None = None
    passthrough: list[str] = field(default_factory=list)
    contrast: str = "auto"
    scratch: str | None = None
    max_particles: int | None = None
    first: int | None = None
    heldout: float | None = None
    cycles: int | None = None
    batch_size: int = 16
    resolution: float | None = None
    effort: float = 1.0
    seed: int = 0
    device: str = "auto"
    data_weight: float = 10.0
    neighbour_weight: float = 0.03
    amplitude_rate: float = 0.01
    width_rate: float = 0.005
    weights_rate: float = 3e-5
    adapter_rate: float = 3e-4
    single_rate: float = 1e-2
    pair_rate: float = 1e-2
    pair_rank: int = 32
    remove_below: float | None = None
    chunk_atoms: int = 24_000

    def __post_init__(self) -> None:
        """Refuse values that cannot work, in the words of the command line."""
        if self.model is None and self.prediction is None:
            raise InputError("no start given; add --model FILE, or --prediction FOLDER of cocofold predict")
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

    def write(self, path: Path) -> None:
        """Write as YAML."""
        content = {"cocofold_version": __version__, **asdict(self)}
        write_atomically(path, yaml.safe_dump(content, sort_keys=False))

    def check_same_as(self, path: Path) -> None:
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
