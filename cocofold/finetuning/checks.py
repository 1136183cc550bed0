"""The check of particles against the model that comes before a run."""

from __future__ import annotations

import json

import torch

from cocofold.errors import InputError
from cocofold.files import write_atomically
from cocofold.finetuning.folder import RunFolder
from cocofold.finetuning.options import Options
from cocofold.particles import ParticleSet
from cocofold.preflight import Settings, check
from cocofold.structure import Model

_NAME = "check.json"


def check_first(
    options: Options, particles: ParticleSet, model: Model, folder: RunFolder, device: torch.device
) -> None:
    """Ask whether particles and model belong together, once; not in the midst of a run that is resumed.

    What is found goes to ``check.json``.

    Raises
    ------
    InputError
        If something is clearly wrong.
    """
    report_file = folder.path / _NAME
    if not options.check or report_file.is_file() or folder.checkpoint.is_file():
        return
    report = check(particles, model, Settings(seed=options.seed, contrast=options.contrast), device=device)
    for line in report.lines:
        folder.say(f"check: {line}")
    if report.contradictions:
        raise InputError(f"{options.particles}: {'; '.join(report.contradictions)}; or go on as it is with --no-check")
    write_atomically(report_file, json.dumps(report.as_dict(), indent=1) + "\n")
