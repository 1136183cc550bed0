"""What comes before the first step of a run: which particles, whether they fit the model, images, memory, passes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cocofold.finetuning.holdout import FEWEST_HELD_OUT, half_of, split_into_passes
from cocofold.finetuning.options import Options
from cocofold.finetuning.run_folder import ModelState, RunFolder
from cocofold.finetuning.starting_model import PredictedStart, StartingModel, start_from_model
from cocofold.imaging.fourier import RingPixels, ring_count
from cocofold.likelihood.distributed import WorkerGroup
from cocofold.likelihood.frc_loss import AtomGaussians, ContrastEstimate, settle_contrast
from cocofold.likelihood.image_comparison import FEWEST_RINGS_FOR_POSES, Comparison, LocalComparison
from cocofold.likelihood.memory_plan import MemoryPlan, RunWorkload, memory_advice
from cocofold.likelihood.observed_images import Observations, refuse_incompatible_input
from cocofold.likelihood.particle_optics import leave_out_aberrations
from cocofold.likelihood.set_aside import MOST_POINTS, ContextComparison, read_context
from cocofold.likelihood.worker_messages import MessageShape
from cocofold.mapfit.map_files import MIRRORED
from cocofold.mapfit.workflow import SUBUNIT_FILE
from cocofold.particles import read_particles, without_bad_images
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.stack_files import copied_to_scratch
from cocofold.particles.star_write import write_star
from cocofold.preflight.check_inputs import CheckSettings, check
from cocofold.sources.base import AtomSource
from cocofold.structure.confidence import only_ordered
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.structure.topology import Backbone
from cocofold.system.atomic_files import write_json
from cocofold.system.errors import InputError
from cocofold.system.hardware import find_device
from cocofold.system.progress import image_progress_bar

# Sizes of an atom's row in an mmCIF file with its Gaussian, and of its numbers in a checkpoint, rounded up.
# They decide only whether a run is refused for want of disk space.
_BYTES_PER_ATOM_IN_MODEL, _BYTES_PER_ATOM_IN_CHECKPOINT = 150, 250
# Size of a row of particles.star, and of a pose in two checkpoints.
_BYTES_PER_POSE = 300


@dataclass(frozen=True)
class PreparedRun:
    """What the loop of a run reads.

    Attributes
    ----------
    start : StartingModel
    particles : ParticleSet
        In the start's hand, and on the scratch disk if there is one.
    device : torch.device
    observations : Observations
        The particles' images.
    comparison : Comparison
        Of atoms with them.
    memory : MemoryPlan
    backbone : Backbone
        Of the start's model.
    start_positions : (n_atoms, 3) float32
        Å, on the device.
    resolutions_angstrom : list of float
        Of each ring that is compared.
    process_count : int
        Number of processes that compare images.
    source_description : str
        Sentences about the source of atoms, for the report.
    context : Model, optional
        Atoms beside the model, in every image, which ``comparison`` knows of.
    """

    start: StartingModel
    particles: ParticleSet
    device: torch.device
    observations: Observations
    comparison: Comparison
    memory: MemoryPlan
    backbone: Backbone
    start_positions: torch.Tensor
    resolutions_angstrom: list[float]
    process_count: int
    source_description: str
    context: Model | None = None

    @property
    def model(self) -> Model:
        """Model that the run starts from."""
        return self.start.model

    def start_gaussians(self) -> AtomGaussians:
        """Gaussians of the atoms before anything is learned, made anew."""
        return AtomGaussians.of_model(self.model, self.device)

    def start_state(self) -> ModelState:
        """The start as a checkpoint has it."""
        plddt = None if self.start.plddt is None else torch.as_tensor(self.start.plddt, dtype=torch.float32)
        return ModelState(self.start_positions, self.start_gaussians(), plddt)


def find_start(
    options: Options,
    particles: ParticleSet,
    folder: RunFolder,
    run_inside: Callable[[Options, Path], dict[str, Any]],
) -> StartingModel:
    """Model that is moved; or the prediction whose network is trained, and the model that it is to learn first.

    ``run_inside`` is for the teacher's run: it fine-tunes in a folder and gives the content of ``metrics.json``.
    """
    device = find_device(options.device)
    if options.context is not None:
        read_model(Path(options.context))  # before anything that takes long
    if options.prediction is None:
        start = start_from_model(options, particles, folder, device)
    else:
        predicted = PredictedStart.read(options, particles, folder, device)
        if options.teacher:
            # The teacher's own run checks particles and model.
            return _taught_start(predicted, options, folder, run_inside)
        start = predicted.with_teacher(None)
    in_hand, model = start.apply_hand(particles), only_ordered(start.model)
    refuse_incompatible_input(model, in_hand, str(options.model or options.prediction), options.particles)
    check_before_run(options, in_hand, model, folder, device)
    return start


def _taught_start(
    predicted: PredictedStart,
    options: Options,
    folder: RunFolder,
    run_inside: Callable[[Options, Path], dict[str, Any]],
) -> StartingModel:
    """Start of a network that learns its model as a run of its own, in ``teacher``, has moved it."""
    placed, run = folder.path / "placed.cif", folder.path / "teacher"
    if not placed.is_file():
        marks, details = {"hand": predicted.place.hand}, "prediction, placed in the map"
        write_model(placed, predicted.model, details=details, plddt=predicted.plddt, placed_as=marks)
    folder.log(f"the prediction's model is moved first; see {run}")
    symmetry = predicted.place.symmetry
    teaching = run_inside(options.for_teacher(placed, symmetry), run)
    folder.log("now the network learns the result, then goes on with the images")
    start = predicted.with_teacher(read_model(run / ("model.cif" if symmetry is None else SUBUNIT_FILE)))
    return replace(start, teacher_seconds=teaching["seconds"], teacher_memory_gb=teaching["peak_memory_gb"])


def prepare_run(
    options: Options,
    particles: ParticleSet,
    start: StartingModel,
    folder: RunFolder,
    at_end: contextlib.ExitStack,
    processes: WorkerGroup | None,
) -> PreparedRun:
    """Check that particles and start go together, plan memory, open the images and share them.

    ``particles`` are those that are used, as they were given; ``at_end`` takes what is to be closed and removed at the
    end of the run.

    Raises
    ------
    InputError
        If particles and model do not go together, or a disk has too little space.
    """
    device, model = find_device(options.device), start.model
    particles = start.apply_hand(particles)
    model_name = str(options.model or options.prediction)
    refuse_incompatible_input(only_ordered(model), particles, model_name, options.particles)
    context = None
    if options.context is not None:
        context = read_context(Path(options.context), model, start.hand == MIRRORED, particles, folder.log)
    _write_hand_and_copies(start, particles, folder)
    source = start.source()
    run = bytes_to_write(model, source, options.cycles, particles.box)
    run += 0 if options.refine_poses == "off" else _BYTES_PER_POSE * len(particles)
    folder.require_space((1 + (options.twin or 0)) * run)
    if options.scratch is not None:
        particles = _copy_to_scratch(particles, Path(options.scratch), folder, at_end)
    box, pixel = particles.box, particles.pixel_size_angstrom
    n_rings = ring_count(box, pixel, options.resolution)
    if options.refine_poses != "off" and n_rings < FEWEST_RINGS_FOR_POSES:
        raise InputError(
            f"--refine-poses {options.refine_poses}: {n_rings} rings are compared, and poses take at least "
            f"{FEWEST_RINGS_FOR_POSES}; give a finer --resolution, or leave --refine-poses out"
        )
    process_count = 1 if processes is None else processes.count
    if processes is not None and options.supervision == "map":
        raise InputError("--supervision map: one process compares the map; leave --processes or torchrun out")
    n_atoms = len(model) + (0 if context is None else len(context))
    memory = _plan_memory(options, source, n_atoms, particles, n_rings, device, process_count)
    observations = Observations(particles, n_rings, device, memory.kept, on_warning=folder.log)
    at_end.callback(observations.close)
    backbone = Backbone.of(model)
    folder.log(
        f"{len(particles)} particles, box {box}, {pixel:g} Å/pixel, rings to {box * pixel / n_rings:.2f} Å; "
        f"{len(model)} atoms, {len(backbone)} residues with a backbone; on {device}"
    )
    _log_memory(memory, options.prediction is not None, device, process_count, folder)
    _log_notes(particles, model, options.model, folder)
    positions = torch.as_tensor(model.positions, dtype=torch.float32, device=device)
    gaussians = AtomGaussians.of_model(model, device)
    _log_contrast(settle_contrast(observations, positions, gaussians, options.contrast)[1], folder)
    room = n_atoms + (MOST_POINTS if options.set_aside == "on" else 0)
    comparison = _share_comparison(observations, processes, options.batch_size, room, folder)
    if context is not None:
        comparison = ContextComparison(comparison, context, device)
    return PreparedRun(
        start=start,
        particles=particles,
        device=device,
        observations=observations,
        comparison=comparison,
        memory=memory,
        backbone=backbone,
        start_positions=positions,
        resolutions_angstrom=[box * pixel / ring for ring in range(1, n_rings + 1)],
        process_count=process_count,
        source_description=source.describe() + (start.order.describe() if start.order else ""),
        context=context,
    )


def _write_hand_and_copies(start: StartingModel, particles: ParticleSet, folder: RunFolder) -> None:
    """Tell of the poses' hand, with a file of them, and of the copies of an assembly."""
    if start.hand == MIRRORED:
        mirrored = folder.path / "mirrored.star"
        write_star(mirrored, particles)
        folder.log(f"the map's hand was wrong: poses are mirrored along z, as {mirrored} has them")
    if start.subunit is not None:
        copies = len(start.model) // len(start.subunit)
        folder.log(f"{start.symmetry}: {copies} copies share the parameters of one")


def bytes_to_write(model: Model, source: AtomSource, cycles: int | None, box: int) -> int:
    """Space that a run takes on disk: models of all cycles, two checkpoints and a successor, the maps."""
    models = _BYTES_PER_ATOM_IN_MODEL * len(model) * ((cycles or len({stage.name for stage in source.stages()})) + 3)
    # Each value that is learned comes with two moments of the optimiser.
    learned = 3 * sum(values.nbytes for values in source.state().values())
    checkpoint = learned + _BYTES_PER_ATOM_IN_CHECKPOINT * len(model)
    return models + 3 * checkpoint + 3 * 4 * box**3


def _plan_memory(
    options: Options,
    source: AtomSource,
    n_atoms: int,
    particles: ParticleSet,
    n_rings: int,
    device: torch.device,
    process_count: int,
) -> MemoryPlan:
    work = RunWorkload(
        atoms=n_atoms,
        images=len(particles),
        rings=RingPixels.up_to(particles.box, n_rings),
        pixel_size_angstrom=particles.pixel_size_angstrom,
        source_bytes=source.step_memory_bytes(),
        atoms_at_once=options.chunk_atoms,
        batch_size=options.batch_size,
        processes=process_count,
    )
    return MemoryPlan.of(work, device)


def _copy_to_scratch(
    particles: ParticleSet, scratch: Path, folder: RunFolder, at_end: contextlib.ExitStack
) -> ParticleSet:
    with image_progress_bar("copying images to scratch") as report:
        copied = at_end.enter_context(copied_to_scratch(particles, scratch, report))
    # From here on the run reads the copy: what becomes of the stacks does not matter to it.
    folder.require_unchanged_stacks(particles, all_were_read=True)
    count = len(np.unique(particles.image_numbers))
    folder.log(f"{count} images copied to {copied.stacks[0].parent}, until the run ends")
    return copied


def _log_memory(
    memory: MemoryPlan, is_prediction: bool, device: torch.device, process_count: int, folder: RunFolder
) -> None:
    folder.log(str(memory))
    if memory.is_short:
        ways = memory_advice(is_prediction, device, process_count)
        folder.log(f"that may not suffice; what lowers it: {ways}")


def _log_notes(particles: ParticleSet, model: Model, model_file: str | None, folder: RunFolder) -> None:
    """Tell which rings are not fitted, and what the reader of the model has noted."""
    n_images = len(np.unique(particles.particle_numbers))
    if particles.particle_index is not None:
        folder.log(
            f"{len(particles)} tilt images of {n_images} particles: those of one are fitted or held out together"
        )
    elif n_images < len(particles):
        folder.log(f"{len(particles)} rows name {n_images} images: rows of one image are fitted or held out together")
    if particles.scored_rings:
        scored = ", ".join(str(ring) for ring in particles.scored_rings)
        folder.log(f"rings {scored} are not fitted: by them the particles were chosen")
    for note in (*particles.notes, *(f"{model_file}: {note}" for note in model.notes)):
        folder.log(note)


def _log_contrast(found: ContrastEstimate | None, folder: RunFolder) -> None:
    """Tell what the images say of their contrast, where they were asked and protein is not plainly white."""
    if found is not None and found.verdict == "dark":
        folder.log(f"protein is dark in the images ({found}): their contrast is inverted")
    elif found is not None and found.verdict == "undecided":
        advice = "taken for white; say --contrast white or dark if you know"
        folder.log(f"whether protein is white or dark is undecided ({found}): {advice}")


def _share_comparison(
    observations: Observations, processes: WorkerGroup | None, batch_size: int, n_atoms: int, folder: RunFolder
) -> Comparison:
    """Comparison with the images, here or by several processes."""
    if processes is None:
        return LocalComparison(observations)
    # A step sends the rows of its batch and those of the next.
    comparison = processes.share_images(observations, MessageShape(2 * batch_size, n_atoms))
    folder.log(f"{processes.count} processes compare images")
    return comparison


def read_particles_of_run(options: Options) -> ParticleSet:
    """Read the particles that the options ask for."""
    paths = options.particles, options.particles_dir, options.passthrough
    return apply_particle_options(read_particles(*paths, options.ignore_aberrations), options)


def apply_particle_options(particles: ParticleSet, options: Options) -> ParticleSet:
    """Those that the options ask for, without aberrations that are not applied; of a twin half of what is fitted."""
    return choose_particles(particles, options)[0]


def choose_particles(particles: ParticleSet, options: Options) -> tuple[ParticleSet, np.ndarray]:
    """See ``apply_particle_options``; and their rows in those given, (n,) int."""
    rows = particles.limited_rows(options.first, options.max_particles, options.seed)
    particles = leave_out_aberrations(particles, options.particles, options.resolution).subset(rows)
    if options.skip_bad_images:
        with image_progress_bar("looking at images") as report:
            particles, kept = without_bad_images(particles, report)
        rows = rows[kept]
    marked, images = particles.held_out, particles.particle_numbers
    if marked is not None:
        _check_marks(np.isin(np.unique(images), images[marked]), options)
    if options.twin is None and options.twin_number is None:
        return particles, rows
    *_, last = split_into_passes(len(particles), options.seed, options.heldout, marked=marked, images=images)
    half = half_of(last.work, images, options.twin_number or 0, options.seed)
    if options.twin_number is None:
        return particles, rows
    return replace(particles.subset(half), held_out=None), rows[half]


def _check_marks(held_out: np.ndarray, options: Options) -> None:
    """Refuse marks of held-out images, (n_images,) bool, that cannot be followed."""
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


_CHECK_FILE = "check.json"


def check_before_run(
    options: Options, particles: ParticleSet, model: Model, folder: RunFolder, device: torch.device
) -> None:
    """Ask whether particles and model belong together, once; not in the midst of a run that is resumed.

    What is found goes to ``check.json``.

    Raises
    ------
    InputError
        If something is clearly wrong.
    """
    report_file = folder.path / _CHECK_FILE
    if not options.check or report_file.is_file() or folder.checkpoint.is_file():
        return
    report = check(particles, model, CheckSettings(seed=options.seed, contrast=options.contrast), device=device)
    for line in report.lines:
        folder.log(f"check: {line}")
    if report.contradictions:
        raise InputError(f"{options.particles}: {' '.join(report.contradictions)} To go on as it is, give --no-check.")
    write_json(report_file, report.as_dict())
