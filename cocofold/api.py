"""The Python API: what the commands do, as functions that take paths or objects and return objects.

Import them from the package: ``from cocofold import finetune, read_model``; this module, and torch with it, is imported
when the first of them is asked for. What a run tells goes to the logger ``cocofold`` (Python's ``logging``), not to the
screen.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, Union

import cocofold.particles as particles_package
from cocofold.assessment.comparison import Assessment
from cocofold.assessment.comparison import assess as compare
from cocofold.finetuning.options import Options, option_rules, options_with_preset
from cocofold.finetuning.states import finetune_states as run_finetuning
from cocofold.likelihood.residue_support import ParticlesOfModel
from cocofold.mapfit.density_map import DensityMap
from cocofold.mapfit.density_map import read_map as read_map_file
from cocofold.mapfit.fit_model import FitResult
from cocofold.mapfit.map_files import reconstruct_particles
from cocofold.mapfit.workflow import MapFiles, place_and_write
from cocofold.particles.particle_set import ParticleSet
from cocofold.preflight.check_inputs import CheckSettings
from cocofold.preflight.check_inputs import check as check_together
from cocofold.preflight.check_report import CheckReport
from cocofold.relaxation.minimization import RelaxedModel, RelaxSettings, relax_with_particles
from cocofold.simulation.particle_simulation import SimulationOutput
from cocofold.simulation.particle_simulation import simulate as simulate_particles
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.confidence import only_ordered, read_order
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model as read_model_file
from cocofold.system.atomic_files import check_new_folder, check_writable
from cocofold.system.errors import InputError
from cocofold.system.hardware import find_device

AnyPath = Union[str, "os.PathLike[str]"]
AnyModel = Union[Model, AnyPath]
_Function = TypeVar("_Function", bound=Callable[..., Any])

_LOG = logging.getLogger("cocofold")
# An option of the command line as a message has it, and not two dashes within a path
_OPTION = re.compile(r"(?<![\w./-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*(?![\w/-]|\.\w)")


def _speaks_of_arguments(function: _Function) -> _Function:
    """Errors of a function name its arguments instead of the command line's options.

    Options that are no argument of the function stay what they are.
    """
    names = _arguments_by_option(function)

    @functools.wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except InputError as error:
            raise InputError(_OPTION.sub(lambda found: names.get(found[0], found[0]), str(error))) from error

    return called  # type: ignore[return-value]


def _arguments_by_option(function: Callable[..., Any]) -> dict[str, str]:
    """What stands for each option of the command line: ``max_particles``, or ``check=False`` for ``--no-check``."""
    known = [name for name in inspect.signature(function).parameters if name not in ("options", "settings")]
    more: type | None = {"finetune": Options, "simulate": SimulationSettings}.get(function.__name__)
    if more is not None:
        known += [one.name for one in fields(more)]
    found = {"--" + name.replace("_", "-"): name for name in known}
    if more is Options:
        for one in fields(Options):
            rules = option_rules(one)
            flag = str(rules.flag).rpartition("/")[2]
            if rules.switches_off or "/" in str(rules.flag):
                value = f"{one.name}={False if one.default is True else 0}"
                found[flag] = f"{found[flag]} and {value}" if flag in found else value
    return found


read_particles = _speaks_of_arguments(particles_package.read_particles)
read_model = _speaks_of_arguments(read_model_file)
read_map = _speaks_of_arguments(read_map_file)
reconstruct = _speaks_of_arguments(reconstruct_particles)


@_speaks_of_arguments
def simulate(
    model: AnyPath,
    out: AnyPath,
    *,
    box: int,
    pixel_size: float,
    count: int,
    snr: float,
    life_like: bool = False,
    **settings: Any,
) -> SimulationOutput:
    """Simulate particle images of a model into a folder.

    Parameters
    ----------
    model : str or Path
    out : str or Path
        Folder, made anew.
    box : int
        Pixels along each side of an image, even.
    pixel_size : float
        Å.
    count : int
        Number of images.
    snr : float
        Variance of the noise-free images over the variance of the noise.
    life_like : bool
        All that disturbs real particles, in moderate amounts.
    **settings
        Further fields of ``cocofold.simulation.simulation_settings.SimulationSettings``.

    Returns
    -------
    SimulationOutput
        Paths of the files; ``star`` lists the particles.

    Raises
    ------
    InputError
        For input that cannot be used, before anything is written.
    """
    make = SimulationSettings.life_like if life_like else SimulationSettings
    given = {"box": box, "pixel_size": pixel_size, "count": count, "snr": snr, **_known(settings, SimulationSettings)}
    return simulate_particles(make(model=os.fspath(model), **given), Path(out))


@_speaks_of_arguments
def check(
    particles: ParticleSet | AnyPath,
    model: AnyModel,
    map: DensityMap | AnyPath | None = None,
    *,
    count: int = 200,
    contrast: str = "white",
    seed: int = 0,
    device: str = "auto",
) -> CheckReport:
    """Ask whether particles, a model in place and a map belong together.

    Parameters
    ----------
    particles : ParticleSet, str or Path
    model : Model, str or Path
        In the map's frame, or in its mirror image if it says so, as ``fit_in_map`` leaves it: poses are then mirrored.
    map : DensityMap, str or Path, optional
        The particles' map: whether model and particles go with it is asked too.
    count : int
        Number of particles that are read.
    contrast : str
        Contrast of protein: white, dark, or auto, where either is fine.
    seed : int
        Seed of the draw.
    device : str
        auto, cpu, cuda or cuda:N.

    Returns
    -------
    CheckReport
        ``lines`` are the verdicts; ``contradictions`` is empty where nothing is clearly wrong.

    Raises
    ------
    InputError
        For input that cannot be used.
    """
    settings = CheckSettings(count=count, seed=seed, contrast=contrast)
    some = read_particles(particles) if isinstance(particles, (str, os.PathLike)) else particles
    density = read_map(map) if isinstance(map, (str, os.PathLike)) else map
    looked_at = _in_order(model)
    if looked_at.in_mirror_image:
        some = some.mirrored()
    return check_together(some, only_ordered(looked_at), settings, density, find_device(device))


@_speaks_of_arguments
def fit_in_map(
    model: AnyModel,
    map: AnyPath,
    out: AnyPath | None = None,
    *,
    bodies: str | None = None,
    mask: AnyPath | None = None,
    half1: AnyPath | None = None,
    half2: AnyPath | None = None,
    resolution: float | None = None,
    pixel_size: float | None = None,
    hand: str = "auto",
    symmetry: str | None = None,
    device: str = "auto",
) -> FitResult:
    """Place a model rigidly in a map, from any start, and find the map's hand.

    Parameters
    ----------
    model : Model, str or Path
    map : str or Path
    out : str or Path, optional
        Folder for ``placed.cif``, ``placement.json`` and ``placement.png``, made anew; nothing is written without it.
    bodies : str, optional
        Parts that are placed one after the other after the whole, as "A,B;C" or "A:1-120;A:121-214"; auto: each chain.
    mask, half1, half2 : str or Path, optional
        On the map's grid.
    resolution : float, optional
        Å; by default estimated from the half maps, or else from the map.
    pixel_size : float, optional
        Å; used in place of the headers'.
    hand : str
        auto, as-is or mirrored.
    symmetry : str, optional
        Point group of the map, of which the model is one subunit; auto to find it.
    device : str
        auto, cpu, cuda or cuda:N.

    Returns
    -------
    FitResult
        ``placed`` is the model in the map's frame, ``placement`` how it came there, ``warnings`` what is doubtful.

    Raises
    ------
    InputError
        For input that cannot be used, and files that cannot be written.
    """
    if out is not None:
        check_new_folder("--out", Path(out))
    files = MapFiles(Path(map), _path(mask), _path(half1), _path(half2), resolution, pixel_size)
    found, lines = place_and_write(
        _in_order(model), files, _path(out), bodies, hand, symmetry, find_device(device), _log_progress
    )
    for line in lines:
        _LOG.info(line)
    return found


@dataclass(frozen=True)
class FinetunedRun:
    """A finished run of fine-tuning.

    Attributes
    ----------
    folder : Path
        The run's folder, with all files.
    metrics : dict
        Content of ``metrics.json``.
    """

    folder: Path
    metrics: dict[str, Any]

    @property
    def verdict(self) -> str:
        """What the held-out particles say of the model."""
        return str(self.metrics["verdict"])

    @property
    def model(self) -> Model:
        """The answer: ``model.cif``."""
        return read_model(self.folder / "model.cif")


@_speaks_of_arguments
def finetune(
    particles: AnyPath, model: AnyPath | None, out: AnyPath, *, resume: bool = False, **options: Any
) -> FinetunedRun:
    """Move a model until it explains raw particle images.

    Parameters
    ----------
    particles : str or Path
    model : str or Path or None
        In the map's frame, or anywhere with ``map``; None where ``prediction`` is given.
    out : str or Path
        Folder of the run, made anew.
    resume : bool
        Go on with the run in ``out``, with the same options.
    **options
        Fields of ``cocofold.finetuning.options.Options``: the command's options with underscores, for instance ``map``,
        ``max_particles``, ``effort``, ``seed``.

    Returns
    -------
    FinetunedRun

    Raises
    ------
    InputError
        For input that cannot be used, and files that cannot be written.
    """
    given = {name: _plain(value) for name, value in _known(options, Options).items()}
    start = None if model is None else os.fspath(model)
    settings = options_with_preset(particles=os.fspath(particles), model=start, **given)
    return FinetunedRun(Path(out), run_finetuning(settings, Path(out), resume))


@_speaks_of_arguments
def relax(
    model: AnyModel,
    out: AnyPath | None = None,
    *,
    particles: AnyPath | None = None,
    particles_dir: AnyPath | None = None,
    max_particles: int = 2000,
    skip_bad_images: bool = False,
    hydrogens: bool = False,
    threads: int | None = None,
    device: str = "auto",
) -> RelaxedModel:
    """Take clashes and strain out of proteins, DNA and RNA by molecular mechanics (Amber14, implicit solvent, OpenMM).

    Parameters
    ----------
    model : Model, str or Path
    out : str or Path, optional
        mmCIF file to write.
    particles, particles_dir : str or Path, optional
        Particles of the model, of which ``max_particles`` at most pull while it is relaxed; ``skip_bad_images`` leaves
        out those whose images are empty or no signal.
    hydrogens : bool
        Keep the hydrogens.
    threads : int, optional
        Threads of the processor; by default all.
    device : str
        auto, cpu, cuda or cuda:N.

    Returns
    -------
    RelaxedModel
        ``model``, and clashes, bonds and angles ``before`` and ``after``; InputError for input that cannot be used, and
        files that cannot be written.
    """
    check_writable("--out", _path(out))
    pulling = None
    if particles is not None:
        pulling = ParticlesOfModel(Path(particles), _path(particles_dir), max_particles, False, skip_bad_images)
    settings = RelaxSettings(hydrogens, device, threads)
    return relax_with_particles(_as_model(model), _path(out), settings, pulling, _log_progress)


@_speaks_of_arguments
def assess(model: AnyModel, reference: AnyModel) -> Assessment:
    """Compare a model with a reference.

    Parameters
    ----------
    model, reference : Model, str or Path

    Returns
    -------
    Assessment
        ``ca_rmsd`` (Å, superposed), ``ca_rmsd_in_place``, TM-score and coverage as MM-align defines them, and the
        displacement of each residue; InputError if the models have nothing in common.
    """
    return compare(_as_model(model), _as_model(reference))


def _path(path: AnyPath | None) -> Path | None:
    return None if path is None else Path(path)


def _as_model(model: AnyModel) -> Model:
    return read_model(model) if isinstance(model, (str, os.PathLike)) else model


def _in_order(model: AnyModel) -> Model:
    return read_order(_as_model(model))[0] if isinstance(model, (str, os.PathLike)) else model


def _plain(value: Any) -> Any:
    """A path as the text that settings hold; other values as they are."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _known(given: dict[str, Any], settings: type) -> dict[str, Any]:
    """Refuse names that a dataclass of settings does not have."""
    known = [field.name for field in fields(settings)]
    if unknown := sorted(set(given) - set(known)):
        raise TypeError(f"unknown argument {', '.join(unknown)}; known are {', '.join(known)}")
    return given


def _log_progress(what: str, done: float) -> None:
    _LOG.debug("%s: %.0f %%", what, 100 * done)
