"""Example particles beside what start and result predict of them."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cocofold.finetuning.holdout import split_into_passes
from cocofold.finetuning.preparation import apply_particle_options
from cocofold.finetuning.state_files import class_numbers, held_out_particles
from cocofold.imaging.fourier import RingPixels, ring_count
from cocofold.imaging.projection import (
    REFERENCE_WIDTH_ANGSTROM,
    added_width_angstrom,
    project,
    render_density,
    rendering_grid,
)
from cocofold.likelihood.frc_loss import AtomGaussians, correlate_in_chunks, images_per_chunk, settle_contrast
from cocofold.likelihood.observed_images import Observations, ring_transforms
from cocofold.likelihood.particle_optics import ParticleOptics, magnified_poses, poses_of
from cocofold.mapfit.map_files import MIRRORED
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.poses import view_directions
from cocofold.reporting.run_contents import FinishedRun
from cocofold.structure.model import Model
from cocofold.structure.read_model import read_model
from cocofold.system.errors import InputError

# Resolution to which pictures are filtered: at finer resolution noise hides the molecule, at coarser its shape is lost.
LOW_PASS_ANGSTROM = 15.0
# Images on the page; more show more views and make it longer.
_EXAMPLES = 6
# Smallest side of a picture on the page; images with more Fourier pixels than that give larger ones.
_SIDE_PIXELS = 144
# Share of the rings over which the filter fades out; without it edges of the pictures ring.
_SOFT_EDGE = 0.4
# Noise beyond this many standard deviations is shown black or white.
_NOISE_WIDTHS = 2.5


@dataclass(frozen=True)
class ExampleParticle:
    """One particle; pictures are data URIs of PNGs.

    Attributes
    ----------
    number : int
        Place among the particles that the run used, from 1.
    image, start, result : str
        The particle; CTF times the projection of start and result; all low-passed alike.
    frc_start, frc_result : float
        Mean ring correlation with the image, on all rings of the run.
    """

    number: int
    image: str
    start: str
    result: str
    frc_start: float
    frc_result: float


@dataclass(frozen=True)
class RunParticles:
    """The particles of a run.

    Attributes
    ----------
    used : ParticleSet
    heldout : (n,) int
        Rows in ``used`` of the particles that were held out at first; empty if none were.
    """

    used: ParticleSet
    heldout: np.ndarray


def read_run_particles(run: FinishedRun, elsewhere: Path | None = None, folder: Path | None = None) -> RunParticles:
    """Read the particles of a run, from where they were or from ``elsewhere``.

    Raises
    ------
    InputError
        If they cannot be read any more, or are others.
    """
    options = run.options
    path = elsewhere or _resolve_run_path(options.particles, run.path)
    stacks = folder or (None if options.particles_dir is None else _resolve_run_path(options.particles_dir, run.path))
    passthrough = [_resolve_run_path(name, run.path) for name in options.passthrough]
    read = read_particles(path, stacks, passthrough, options.ignore_aberrations)
    used = apply_particle_options(read, options)
    if run.metrics.get("hand") == MIRRORED:
        used = used.mirrored()
    if len(used) != run.metrics["particles"]:
        raise InputError(f"{path}: gives {len(used)} particles, the run used {run.metrics['particles']}")
    if run.metrics.get("states"):
        # The result is the first state's model.
        of_first = class_numbers(run.path / "particles.star") == 1
        return RunParticles(used, np.flatnonzero(held_out_particles(used, options) & of_first))
    images = used.particle_numbers
    first_pass, *_ = split_into_passes(len(used), options.seed, options.heldout, marked=used.held_out, images=images)
    return RunParticles(used, first_pass.heldout.numpy())


def _resolve_run_path(name: str, run: Path) -> Path:
    """A path as the run was given it; if relative, from here or from the folder in which the run is."""
    path = Path(name)
    beside = run.absolute().parent / path
    return beside if not path.exists() and beside.exists() else path


def example_particles(run: FinishedRun, particles: RunParticles) -> list[ExampleParticle]:
    """Up to six particles seen from directions far apart, from those that the answer was not fitted to if there are."""
    used = particles.used
    sign = _contrast_sign(run, used)
    pool = np.arange(len(used)) if run.second_pass or not len(particles.heldout) else particles.heldout
    rows = pool[_spread_views(view_directions(used.rotations[pool]), _EXAMPLES)]
    chosen = used.subset(rows)
    rings = RingPixels.up_to(used.box, ring_count(used.box, used.pixel_size_angstrom, LOW_PASS_ANGSTROM))
    optics = ParticleOptics(chosen, rings)
    observed = sign * _observed_pictures(chosen, optics, rings)
    before, after = (
        _predicted_pictures(positions, gaussians, chosen, optics, rings)
        for positions, gaussians in (_start_gaussians(run), _result_gaussians(run))
    )
    frc_before, frc_after = _ring_means(run, chosen)
    found = []
    for place, row in enumerate(rows):
        brightest = max(np.abs(before[place]).max(), np.abs(after[place]).max())
        spread = _NOISE_WIDTHS * observed[place].std()
        found.append(
            ExampleParticle(
                number=int(row) + 1,
                image=_png(observed[place], spread),
                start=_png(before[place], brightest),
                result=_png(after[place], brightest),
                frc_start=sign * frc_before[place],
                frc_result=sign * frc_after[place],
            )
        )
    return found


# Size of a picture of a model (pixels), and its resolution (Å)
_VIEW_PIXELS, _VIEW_RESOLUTION_ANGSTROM = 120, 6.0


def model_views(models: list[Model]) -> list[list[str]]:
    """Three views of each model, along z, y and x, all drawn alike: densities at 6 Å as data URIs of PNGs."""
    places = np.concatenate([model.positions for model in models])
    middle, extent = (places.min(0) + places.max(0)) / 2, (places.max(0) - places.min(0)).max() + 12
    pixel, width = extent / _VIEW_PIXELS, _VIEW_RESOLUTION_ANGSTROM / 4
    pictures = []
    for model in models:
        inside = model.positions - middle + _VIEW_PIXELS // 2 * pixel
        masses = np.asarray(model.atomic_numbers, dtype=float)
        drawn = render_density(inside, masses, np.full(len(model), width), _VIEW_PIXELS, pixel)
        pictures.append([np.asarray(drawn).sum(axis) for axis in range(3)])
    brightest = max(float(picture.max()) for views in pictures for picture in views)
    return [[_png(2 * picture - brightest, brightest) for picture in views] for views in pictures]


def state_rows(run: FinishedRun) -> list[dict[str, Any]]:
    """Each state with its figures and views; none of a run that told no particles apart."""
    states = run.metrics.get("states") or []
    views = model_views([read_model(run.path / one["model"]) for one in states]) if states else []
    return [{**one, "views": of_model} for one, of_model in zip(states, views)]


def _start_gaussians(run: FinishedRun) -> tuple[torch.Tensor, AtomGaussians]:
    amplitudes = torch.as_tensor(run.start.atomic_numbers, dtype=torch.float32)
    positions = torch.as_tensor(run.start.positions, dtype=torch.float32)
    return positions, AtomGaussians(amplitudes, torch.full_like(amplitudes, REFERENCE_WIDTH_ANGSTROM))


def _result_gaussians(run: FinishedRun) -> tuple[torch.Tensor, AtomGaussians]:
    values = (torch.as_tensor(some, dtype=torch.float32) for some in (run.amplitudes, run.widths_angstrom))
    return torch.as_tensor(run.answer.positions, dtype=torch.float32), AtomGaussians(*values)


def _contrast_sign(run: FinishedRun, particles: ParticleSet) -> float:
    """1 if protein was taken for white in the images, -1 for dark."""
    few = ring_count(particles.box, particles.pixel_size_angstrom, LOW_PASS_ANGSTROM)
    with Observations(particles, few) as observations:
        settle_contrast(observations, *_start_gaussians(run), run.options.contrast)
        return observations.contrast_sign


def _ring_means(run: FinishedRun, chosen: ParticleSet) -> list[list[float]]:
    """Mean ring correlation of each particle with the start, and with the result."""
    n_rings = len(run.metrics["frc_curves"]["resolution_angstrom"])
    observations = Observations(chosen, n_rings)
    rows = torch.arange(len(chosen))
    chunk = images_per_chunk(len(run.start))
    pair = (_start_gaussians(run), _result_gaussians(run))
    return [
        correlate_in_chunks(*atoms, observations, rows, observations.rings(n_rings), chunk).mean(1).tolist()
        for atoms in pair
    ]


def _spread_views(directions: np.ndarray, count: int) -> np.ndarray:
    """Rows of directions each of which is as far from those before as can be, (count,); opposite ones are alike."""
    chosen = [0]
    nearest = np.abs(directions @ directions[0])
    while len(chosen) < min(count, len(directions)):
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, np.abs(directions @ directions[chosen[-1]]))
    return np.array(chosen)


def _observed_pictures(particles: ParticleSet, optics: ParticleOptics, rings: RingPixels) -> np.ndarray:
    return _low_passed_images(ring_transforms(particles, np.arange(len(particles)), rings, optics), rings)


def _predicted_pictures(
    positions: torch.Tensor, gaussians: AtomGaussians, particles: ParticleSet, optics: ParticleOptics, rings: RingPixels
) -> np.ndarray:
    pixel = particles.pixel_size_angstrom
    poses = magnified_poses(poses_of(particles), particles)
    transforms = project(positions, gaussians.amplitudes, gaussians.widths_angstrom, poses, rings, pixel)
    transfer = optics.transfer(torch.arange(len(particles)), rings)
    # Undo the width that rendering adds, to have the molecule's own fall-off.
    frequency = (rings.ring + 1) / (rings.box * pixel)
    width = added_width_angstrom(rings.box * pixel / rendering_grid(rings.n_rings))
    sharper = torch.exp(2 * (math.pi * width * frequency) ** 2)
    return _low_passed_images(torch.view_as_complex(transforms) * transfer * sharper, rings)


def _low_passed_images(transforms: torch.Tensor, rings: RingPixels) -> np.ndarray:
    """Real images, (n, side, side), of transforms at the pixels of the rings; the last rings fade out."""
    share = (rings.ring + 1) / (rings.n_rings + 1)
    fade = torch.cos(math.pi / 2 * ((share - 1 + _SOFT_EDGE) / _SOFT_EDGE).clamp(0, 1)) ** 2
    side = max(_SIDE_PIXELS, 2 * (rings.n_rings + 1))
    plane = torch.zeros(len(transforms), side * (side // 2 + 1), dtype=torch.complex64)
    plane[:, rings.flat_indices_in(side)] = transforms * fade
    return torch.fft.irfft2(plane.reshape(-1, side, side // 2 + 1), s=(side, side)).numpy()


def _png(picture: np.ndarray, brightest: float) -> str:
    """A data URI; grey is zero, white ``brightest``."""
    grey = 127.5 * (1 + np.clip(picture / (brightest or 1.0), -1, 1))
    file = io.BytesIO()
    Image.fromarray(grey.round().astype(np.uint8), mode="L").save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
