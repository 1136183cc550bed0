"""What a run is given: the particles it uses, and whether they and the model belong together."""

from __future__ import annotations

import numpy as np

from cocofold.errors import InputError
from cocofold.finetuning.options import Options
from cocofold.finetuning.passes import FEWEST_HELD_OUT
from cocofold.particles import ParticleSet, unsupported_aberrations
from cocofold.structure import Model


def choose(particles: ParticleSet, options: Options) -> ParticleSet:
    """Those of the particles that the options ask for."""
    if options.first is not None:
        particles = particles.subset(np.arange(min(options.first, len(particles))))
    if options.max_particles is not None and options.max_particles < len(particles):
        drawn = np.random.default_rng(options.seed).choice(len(particles), options.max_particles, replace=False)
        particles = particles.subset(np.sort(drawn))
    if particles.held_out is not None:
        _check_marks(particles.held_out, options)
    return particles


def _check_marks(held_out: np.ndarray, options: Options) -> None:
    """Refuse marks of held-out particles, (n,) bool, that cannot be followed."""
    if options.heldout is not None:
        raise InputError(
            f"--heldout {options.heldout:g}: {options.particles} says itself which particles are held out; leave "
            "--heldout out, or remove the column cocofoldHeldOut"
        )
    count = int(held_out.sum())
    if count < FEWEST_HELD_OUT or count == len(held_out):
        raise InputError(
            f"{options.particles}: {count} of {len(held_out)} particles are marked as held out (cocofoldHeldOut); at "
            f"least {FEWEST_HELD_OUT} must be, and not all: use more of the particles, or remove the column"
        )


def check_together(model: Model, particles: ParticleSet, model_name: str, particles_name: str) -> None:
    """Refuse what would give a wrong answer in silence."""
    aberrations = unsupported_aberrations(particles)
    if aberrations:
        raise InputError(f"{particles_name}: " + "; ".join(aberrations))
    extent = particles.box * particles.pixel_size_angstrom
    outside = ((model.positions < 0) | (model.positions > extent)).any(1).mean()
    if outside > 0.1:
        low, high = model.positions.min(0).round(1).tolist(), model.positions.max(0).round(1).tolist()
        raise InputError(
            f"{model_name}: {outside:.0%} of the atoms lie outside the particles' box "
            f"(x, y, z from {low} to {high} Å; the box is 0 to {extent:g} Å on each axis); place the model in the "
            "map's frame, with voxel (0, 0, 0) at 0 Å"
        )
