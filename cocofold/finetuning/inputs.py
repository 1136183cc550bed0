"""What a run is given: the device, the particles it uses, and whether they and the model belong together."""

from __future__ import annotations

import numpy as np
import torch

from cocofold.errors import InputError
from cocofold.finetuning.options import Options
from cocofold.particles import ParticleSet, unsupported_aberrations
from cocofold.structure import Model


def find_device(name: str) -> torch.device:
    """The device that ``--device`` names."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: give auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise InputError(f"--device {name}: {torch.cuda.device_count()} CUDA devices were found; use --device cpu")
    return device


def choose(particles: ParticleSet, options: Options) -> ParticleSet:
    """Those of the particles that the options ask for."""
    if options.first is not None:
        particles = particles.subset(np.arange(min(options.first, len(particles))))
    if options.max_particles is not None and options.max_particles < len(particles):
        drawn = np.random.default_rng(options.seed).choice(len(particles), options.max_particles, replace=False)
        particles = particles.subset(np.sort(drawn))
    return particles


def check_together(model: Model, particles: ParticleSet, options: Options) -> None:
    """Refuse what would give a wrong answer in silence."""
    aberrations = unsupported_aberrations(particles)
    if aberrations:
        raise InputError(f"{options.particles}: " + "; ".join(aberrations))
    extent = particles.box * particles.pixel_size_angstrom
    outside = ((model.positions < 0) | (model.positions > extent)).any(1).mean()
    if outside > 0.1:
        low, high = model.positions.min(0).round(1).tolist(), model.positions.max(0).round(1).tolist()
        raise InputError(
            f"{options.model or options.prediction}: {outside:.0%} of the atoms lie outside the particles' box "
            f"(x, y, z from {low} to {high} Å; the box is 0 to {extent:g} Å on each axis); place the model in the "
            "map's frame, with voxel (0, 0, 0) at 0 Å"
        )
