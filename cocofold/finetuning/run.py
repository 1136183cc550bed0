"""A fine-tuning run: from particles and a model to a folder with a better model and what is known about it."""

from __future__ import annotations

import contextlib
import json
import platform
import resource
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cocofold import __version__
from cocofold.finetuning.holdout import (
    MOST_ADDED_LINK_RMS_ANGSTROM,
    Cycle,
    TrainingPass,
    split_into_passes,
    verdict_of_pass,
)
from cocofold.finetuning.options import Options
from cocofold.finetuning.preparation import apply_particle_options, check_before_run, copied_to_scratch
from cocofold.finetuning.run_folder import (
    ModelState,
    RunFolder,
    load_checkpoint,
    refuse_bad_checkpoint,
    save_checkpoint,
)
from cocofold.finetuning.starting_model import PredictedStart, StartingModel, start_from_model
from cocofold.finetuning.training_loop import TrainingLoop
from cocofold.imaging.rings import RingPixels, ring_count
from cocofold.likelihood.distributed import Comparison, LocalComparison, WorkerGroup
from cocofold.likelihood.frc_loss import AtomGaussians, settle_contrast
from cocofold.likelihood.memory_plan import MemoryPlan, RunWorkload, is_out_of_memory, memory_advice
from cocofold.likelihood.observed_images import Observations, refuse_incompatible_input
from cocofold.likelihood.worker_messages import MessageShape
from cocofold.mapfit.placement_file import MIRRORED
from cocofold.mapfit.workflow import SUBUNIT_FILE
from cocofold.particles import read_particles
from cocofold.particles.particle_set import ParticleSet
from cocofold.particles.star_write import write_star
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.structure.restraints import Restraints
from cocofold.structure.topology import Backbone
from cocofold.system.atomic_files import write_atomically
from cocofold.system.errors import InputError
from cocofold.system.hardware import find_device
from cocofold.system.progress import EtaEstimator, TrainingProgressBar, image_progress_bar
from cocofold.system.signals import Interrupted, SignalHandler

_MOST_FITTED_IMAGES_SCORED = 500
_MOST_CYCLES_WITHOUT_GAIN = 4
_BYTES_PER_ATOM_IN_MODEL, _BYTES_PER_ATOM_IN_CHECKPOINT = 150, 250


def finetune(
    options: Options,
    out: Path,
    resume: bool = False,
    stop_with: int | None = None,
    processes: WorkerGroup | None = None,
) -> dict[str, Any]:
    """Fine-tune a model against particles; returns the content of ``metrics.json``.

    Particles are split into those that are fitted and those that are held out: 5 %, at least 50. The answer is the
    cycle that explains these best, if it does so clearly better than the start. Of fewer than 500 particles a first
    pass holds out a fifth to find when to stop, then a second pass fits all of them up to there.

    Parameters
    ----------
    options : Options
    out : Path
        Folder of the run.
    resume : bool
        Go on with the run in ``out``.
    stop_with : int, optional
        End, with a checkpoint, when the process of this number is gone.
    processes : WorkerGroup, optional
        Others that compare images for this one.

    Raises
    ------
    InputError
        For input that cannot be used, and for files that cannot be written.
    Interrupted
        If a signal ends the run (a ``SystemExit``).
    """
    with SignalHandler(stop_with) as endings, contextlib.ExitStack() as at_end:
        with endings.deferred():
            folder = at_end.enter_context(RunFolder(out, options, resume))
        if folder.finished and resume:
            folder.say(f"{out}: is finished already; nothing to do")
            return json.loads((folder.path / "metrics.json").read_text())
        try:
            every = read_particles(options.particles, options.particles_dir, options.passthrough)
            particles = apply_particle_options(every, options)
            start = _find_start(options, particles, folder, stop_with, processes)
            return _Run(options, particles, folder, at_end, endings, start, processes).execute()
        except Interrupted as ended:
            ended.advice = "--resume goes on from here"
            with contextlib.suppress(OSError):
                folder.note(str(ended))
            raise
        except OSError as error:
            raise InputError(folder.explain(error)) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            ways = memory_advice(
                options.prediction is not None, find_device(options.device), processes.count if processes else 1
            )
            again = "--resume goes on from the last checkpoint" if folder.checkpoint.is_file() else "then run again"
            message = f"out of memory; what lowers it: {ways}; {again}"
            folder.note(message)
            raise InputError(f"{message} ({str(error).splitlines()[0]})") from error


def _find_start(
    options: Options,
    particles: ParticleSet,
    folder: RunFolder,
    stop_with: int | None,
    processes: WorkerGroup | None,
) -> StartingModel:
    """The model that is moved; or the prediction whose network is trained, and the model that it is to learn first."""
    device = find_device(options.device)
    if options.prediction is None:
        start = start_from_model(options, particles, folder, device)
        check_before_run(options, start.apply_hand(particles), start.model, folder, device)
        return start
    predicted = PredictedStart(options, particles, folder, device)
    if not options.teacher:
        start = predicted.with_teacher(None)
        check_before_run(options, start.apply_hand(particles), start.model, folder, device)
        return start
    placed, run = folder.path / "placed.cif", folder.path / "teacher"
    if not placed.is_file():
        marks, details = {"hand": predicted.place.hand}, "prediction, placed in the map"
        write_model(placed, predicted.model, details=details, plddt=predicted.plddt, placed_as=marks)
    folder.say(f"the prediction's model is moved first; see {run}")
    symmetry = predicted.place.symmetry
    begun = (run / "config.yaml").is_file()
    teaching = finetune(options.for_teacher(placed, symmetry), run, begun, stop_with, processes)
    folder.say("now the network learns the result, then goes on with the images")
    start = predicted.with_teacher(read_model(run / ("model.cif" if symmetry is None else SUBUNIT_FILE)))
    return replace(start, teacher_seconds=teaching["seconds"], teacher_memory_gb=teaching["peak_memory_gb"])


class _Run:
    def __init__(
        self,
        options: Options,
        particles: ParticleSet,
        folder: RunFolder,
        at_end: contextlib.ExitStack,
        endings: SignalHandler,
        start: StartingModel,
        processes: WorkerGroup | None,
    ) -> None:
        self.options = options
        self.folder = folder
        self.endings = endings
        self.began = time.monotonic()
        self.eta = EtaEstimator(0, 0, 1)
        self.device = find_device(options.device)
        self._given, self.model, self._source = start, start.model, start.source
        self.particles = start.apply_hand(particles)
        refuse_incompatible_input(
            self.model, self.particles, str(options.model or options.prediction), options.particles
        )
        if start.hand == MIRRORED:
            write_star(folder.path / "mirrored.star", self.particles)
            folder.say(
                f"the map's hand was wrong: poses are mirrored along z, as {folder.path / 'mirrored.star'} has them"
            )
        if start.subunit is not None:
            folder.say(f"{start.symmetry}: {len(self.model) // len(start.subunit)} copies share the parameters of one")
        folder.require_space(self._bytes_to_write())
        if options.scratch is not None:
            report = at_end.enter_context(image_progress_bar("copying images to scratch"))
            self.particles = at_end.enter_context(copied_to_scratch(self.particles, Path(options.scratch), report))
            folder.say(f"{len(self.particles)} images copied to {self.particles.stacks[0].parent}, until the run ends")
        box, pixel = self.particles.box, self.particles.pixel_size_angstrom
        n_rings = ring_count(box, pixel, options.resolution)
        self.resolutions = [box * pixel / ring for ring in range(1, n_rings + 1)]
        self.processes = 1 if processes is None else processes.count
        work = RunWorkload(
            atoms=len(self.model),
            images=len(self.particles),
            rings=RingPixels.up_to(box, n_rings),
            pixel_size_angstrom=pixel,
            source_bytes=self._source().step_memory_bytes(),
            atoms_at_once=options.chunk_atoms,
            batch_size=options.batch_size,
            processes=self.processes,
        )
        self.memory = MemoryPlan.of(work, self.device)
        self.observations = Observations(self.particles, n_rings, self.device, self.memory.kept)
        self.observations.on_warning = folder.say
        at_end.callback(self.observations.close)
        self.backbone = Backbone.of(self.model)
        self.start = torch.as_tensor(self.model.positions, dtype=torch.float32, device=self.device)
        watches_fold = options.prediction is not None
        self.passes = split_into_passes(
            len(self.particles), options.seed, options.heldout, watches_fold, self.particles.held_out
        )
        plddt = None if start.plddt is None else torch.as_tensor(start.plddt, dtype=torch.float32)
        self.best = ModelState(self.start, self._starting_gaussians(), plddt)
        folder.say(
            f"{len(self.particles)} particles, box {box}, {pixel:g} Å/pixel, rings to {box * pixel / n_rings:.2f} Å; "
            f"{len(self.model)} atoms, {len(self.backbone)} residues with a backbone; on {self.device}"
        )
        folder.say(str(self.memory))
        if self.memory.is_short:
            ways = memory_advice(options.prediction is not None, self.device, self.processes)
            folder.say(f"that may not suffice; what lowers it: {ways}")
        if self.particles.scored_rings:
            scored = ", ".join(str(ring) for ring in self.particles.scored_rings)
            folder.say(f"rings {scored} are not fitted: by them the particles were chosen")
        for note in self.model.notes:
            folder.say(f"{options.model}: {note}")
        self._settle_contrast()
        self.comparison: Comparison = (
            LocalComparison(self.observations)
            if processes is None
            else processes.share_images(self.observations, self._room())
        )
        if processes is not None:
            folder.say(f"{processes.count} processes compare images")

    def _room(self) -> MessageShape:
        """For a step: the rows of its batch, and those of the next."""
        return MessageShape(2 * self.options.batch_size, len(self.model))

    def _bytes_to_write(self) -> int:
        """Models of all cycles, the checkpoint and its successor, the density."""
        source = self._source()
        self._source_description = source.describe()
        models = _BYTES_PER_ATOM_IN_MODEL * len(self.model) * ((self.options.cycles or len(source.stages())) + 3)
        # Each value that is learned comes with two moments of the optimiser.
        learned = 3 * sum(values.nbytes for values in source.state().values())
        checkpoint = learned + _BYTES_PER_ATOM_IN_CHECKPOINT * len(self.model)
        return models + 2 * checkpoint + 4 * self.particles.box**3

    def _settle_contrast(self) -> None:
        """Take protein for white or dark, as told or as the images say."""
        found = settle_contrast(self.observations, self.start, self._starting_gaussians(), self.options.contrast)
        if found is not None and found.verdict == "dark":
            self.folder.say(f"protein is dark in the images ({found}): their contrast is inverted")
        elif found is not None and found.verdict == "undecided":
            self.folder.say(
                f"whether protein is white or dark is undecided ({found}): taken for white; "
                "say --contrast white or dark if you know"
            )

    def _starting_gaussians(self) -> AtomGaussians:
        return AtomGaussians.from_elements(self.model.atomic_numbers, self.device)

    def _loop(self, this: TrainingPass) -> TrainingLoop:
        counted = np.isin(self.model.residue_of_atom, self.backbone.residues)
        return TrainingLoop(
            self._source(),
            Restraints(self.model, self.backbone, self.options.neighbour_weight, self.device),
            self._starting_gaussians(),
            torch.as_tensor(counted, device=self.device),
            self.observations,
            self.comparison,
            this.work,
            self.options,
            self.memory.images_at_once,
        )

    def execute(self) -> dict[str, Any]:
        """All passes, from the last checkpoint if there is one."""
        number, state, spent = self._load_checkpoint()
        self.began -= spent
        while number < len(self.passes):
            if number > 0:
                self.passes[number].last_cycle = self.passes[number - 1].best
            if self.passes[number].last_cycle != 0:
                self._run_pass(number, state)
            number, state = number + 1, None
        return self._finish()

    def _load_checkpoint(self) -> tuple[int, dict[str, torch.Tensor] | None, float]:
        if not self.folder.checkpoint.is_file():
            return 0, None, 0.0
        tensors, facts = load_checkpoint(self.folder.checkpoint)
        with refuse_bad_checkpoint(self.folder.checkpoint):
            for this, known in zip(self.passes, facts["passes"]):
                this.restore_from_checkpoint(known)
            self.best = ModelState.pop_from_checkpoint(tensors, self.device)
            step, number, seconds = int(tensors["step"]), facts["number"], facts["seconds"]
        self.folder.say(f"resumed at step {step}")
        return number, tensors, seconds

    def _save(self, number: int, loop: TrainingLoop) -> None:
        tensors = {**loop.state(), **self.best.tensors()}
        facts = {
            "number": number,
            "passes": [this.facts() for this in self.passes],
            "seconds": time.monotonic() - self.began,
        }
        save_checkpoint(self.folder.checkpoint, tensors, facts)

    def _run_pass(self, number: int, state: dict[str, torch.Tensor] | None) -> None:
        """One pass: advance from cycle to cycle, score, keep the best, write files."""
        this = self.passes[number]
        loop = self._loop(this)
        if state is not None:
            with refuse_bad_checkpoint(self.folder.checkpoint):
                loop.restore(state)
        ends = _cycle_ends(loop, self.options.cycles)
        if this.last_cycle is not None:
            ends = ends[: this.last_cycle]
        if len(self.passes) > 1:
            self.folder.say(
                f"pass {number + 1} of 2: "
                + (f"{len(this.heldout)} particles held out" if len(this.heldout) else "all particles")
            )
        self.eta = EtaEstimator(loop.step, ends[-1], passes_left=len(self.passes) - number)
        try:
            if not this.cycles:
                self._end_cycle(number, loop, "start")
            with TrainingProgressBar(ends[-1], loop.step) as progress:
                for end in ends[len(this.cycles) - 1 :]:
                    if _has_stopped_gaining(this):
                        self.folder.say(
                            f"held-out particles have not gained for {_MOST_CYCLES_WITHOUT_GAIN} cycles: stopped"
                        )
                        break
                    # A signal waits for the end of a step, when the state is whole.
                    with self.endings.deferred():
                        loop.advance(end, lambda correlation: self._after_step(correlation, progress))
                    self._end_cycle(number, loop, loop.stage_name())
        except Interrupted:
            if this.cycles:
                self._save(number, loop)
            raise

    def _after_step(self, correlation: float, progress: TrainingProgressBar) -> None:
        progress.step(correlation)
        self.endings.check()

    def _end_cycle(self, number: int, loop: TrainingLoop, stage: str) -> None:
        """Score the end of a cycle, keep the best, write files."""
        this = self.passes[number]
        work = loop.score(this.work[:_MOST_FITTED_IMAGES_SCORED]).cpu()
        heldout = loop.score(this.heldout).cpu() if len(this.heldout) else None
        with self.endings.deferred():
            self._keep(number, loop, self._cycle(this, loop, stage, work, heldout), work, heldout)
            if stage != "start":
                self._save(number, loop)

    def _cycle(
        self, this: TrainingPass, loop: TrainingLoop, stage: str, work: torch.Tensor, heldout: torch.Tensor | None
    ) -> Cycle:
        positions = loop.positions()
        alpha = torch.as_tensor(self.backbone.atoms[:, 1], device=self.device)
        return Cycle(
            number=len(this.cycles),
            step=loop.step,
            images=loop.images,
            stage=stage,
            seconds=round(time.monotonic() - self.began, 1),
            frc_work=float(work.mean()),
            frc_heldout=None if heldout is None else float(heldout.mean()),
            moved_angstrom=float(((positions - self.start)[alpha] ** 2).sum(1).mean().sqrt()),
            worst_link_angstrom=loop.restraints.worst_link(positions),
            link_rms_angstrom=loop.restraints.link_rms(positions),
        )

    def _keep(
        self, number: int, loop: TrainingLoop, cycle: Cycle, work: torch.Tensor, heldout: torch.Tensor | None
    ) -> None:
        """Take note of a cycle and write what it gave."""
        this = self.passes[number]
        reached = ModelState(loop.positions(), loop.gaussians.detached(), loop.confidence())
        is_answer = this.add(cycle, work, heldout)
        # The second pass has nothing to judge itself by: its answer is its last cycle.
        if is_answer and (this.last_cycle is None or cycle.number == this.last_cycle):
            self.best = reached
            self.folder.write_model("model.cif", reached.in_files(self.model), self._given.placed_as)
        if number == len(self.passes) - 1 or cycle.number == 0:
            name = f"models/cycle_{cycle.number:02d}.cif"
            self.folder.write_model(name, reached.in_files(self.model), self._given.placed_as)
        self.folder.write_cycles([asdict(cycle) for cycle in this.cycles])
        self._tell(cycle)

    def _tell(self, cycle: Cycle) -> None:
        judged = "" if cycle.frc_heldout is None else f"  held-out {cycle.frc_heldout:.4f}"
        left = "" if cycle.number == 0 else f", left {self.eta.seconds_left(cycle.step):.0f} s at most"
        self.folder.say(
            f"cycle {cycle.number:2d}  {cycle.stage:>8}  step {cycle.step:5d}  FRC work {cycle.frc_work:.4f}{judged}  "
            f"moved {cycle.moved_angstrom:5.2f} Å  worst C-N {cycle.worst_link_angstrom:.3f} Å  {cycle.seconds:6.1f} s"
            f"{left}"
        )

    def _finish(self) -> dict[str, Any]:
        judged = self.passes[0]
        verdict = verdict_of_pass(judged)
        answer = self.passes[-1] if self.passes[-1].gave_answer else judged
        best = answer.cycles[answer.best]
        written, removed = self.best.in_files(self.model).without_low_plddt(self.options.remove_below)
        self.folder.write_model("model.cif", written, self._given.placed_as)
        if self._given.subunit is not None:
            first = self.best.in_files(self.model).first_copy(self._given.subunit)
            first, _ = first.without_low_plddt(self.options.remove_below)
            self.folder.write_model(SUBUNIT_FILE, first, {"hand": self._given.hand})
        self.folder.write_density(written, self.particles.box, self.particles.pixel_size_angstrom)
        if removed:
            self.folder.say(f"{removed} residues of a pLDDT below {self.options.remove_below:g} are left out")
        lost = self._log_lost_folds()
        curves = {**judged.curves, **{name: curve for name, curve in answer.curves.items() if "work" in name}}
        self.folder.plot_curves(self.resolutions, curves)
        placing_seconds = self._given.placing_seconds
        metrics = {
            "verdict": verdict,
            "best_cycle": best.number,
            "frc_work": best.frc_work,
            "frc_heldout": judged.cycles[min(best.number, len(judged.cycles) - 1)].frc_heldout,
            "frc_work_start": answer.cycles[0].frc_work,
            "frc_heldout_start": judged.cycles[0].frc_heldout,
            "moved_angstrom": best.moved_angstrom,
            "worst_link_angstrom": best.worst_link_angstrom,
            "link_rms_angstrom": best.link_rms_angstrom,
            "cycles_that_lost_the_fold": lost,
            "residues_removed": removed,
            "hand": self._given.hand,
            "source": self._source_description,
            "symmetry": self._given.symmetry or "C1",
            "particles": len(self.particles),
            "heldout_particles": len(judged.heldout),
            "passes": len(self.passes),
            "steps": sum(this.cycles[-1].step for this in self.passes if this.cycles),
            "images": sum(this.cycles[-1].images for this in self.passes if this.cycles),
            "seconds": round(time.monotonic() - self.began + placing_seconds + self._given.teacher_seconds, 1),
            "placing_seconds": placing_seconds,
            "teacher_seconds": self._given.teacher_seconds,
            "expected_memory_gb": round(self.memory.expected / 1e9, 3),
            "peak_memory_gb": round(max(peak_memory_gb(), self._given.teacher_memory_gb), 3),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "processes": self.processes,
            "frc_curves": {"resolution_angstrom": self.resolutions, **curves},
            "versions": versions(),
        }
        write_atomically(self.folder.path / "metrics.json", json.dumps(metrics, indent=1) + "\n")
        self.folder.say(summary_line(metrics))
        return metrics

    def _log_lost_folds(self) -> int:
        """Say how many cycles are no answer for their geometry; returns the count."""
        cycles = [cycle for this in self.passes for cycle in this.cycles if not this.keeps_fold(cycle)]
        if cycles:
            worst, start = max(cycle.link_rms_angstrom for cycle in cycles), self.passes[0].cycles[0].link_rms_angstrom
            self.folder.say(
                f"{len(cycles)} cycles have lost the fold and are no answer: C-N bonds deviate by up to {worst:.2f} Å "
                f"root mean square (start {start:.2f} Å, allowed {start + MOST_ADDED_LINK_RMS_ANGSTROM:.2f} Å)"
            )
        return len(cycles)


def _has_stopped_gaining(this: TrainingPass) -> bool:
    return len(this.heldout) > 0 and this.cycles[-1].number - this.highest >= _MOST_CYCLES_WITHOUT_GAIN


def _cycle_ends(loop: TrainingLoop, cycles: int | None) -> list[int]:
    """Steps at which cycles end: with the stages, or evenly spaced."""
    if cycles is None:
        return loop.stage_ends()
    return [round(loop.total_steps * (number + 1) / cycles) for number in range(cycles)]


def peak_memory_gb() -> float:
    """Of this process, or on a GPU of its tensors if that is more."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if torch.cuda.is_available():
        peak = max(peak, torch.cuda.max_memory_allocated() / 1e9)
    return peak


def versions() -> dict[str, str]:
    """Of what computed."""
    return {
        "cocofold": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def summary_line(metrics: dict[str, Any]) -> str:
    """The figures of a run in a line."""
    text = f"verdict: {metrics['verdict']}; "
    if metrics["frc_heldout"] is not None:
        text += f"held-out FRC {metrics['frc_heldout_start']:.4f} -> {metrics['frc_heldout']:.4f}, "
    text += f"moved {metrics['moved_angstrom']:.2f} Å, best cycle {metrics['best_cycle']}, "
    return text + f"{metrics['seconds']:.0f} s, {metrics['peak_memory_gb']:.2f} GB"
