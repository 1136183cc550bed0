"""A fine-tuning run: from particles and a model to a folder with a better model and what is known about it."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cocofold.finetuning.holdout import (
    MOST_CYCLES_WITHOUT_GAIN,
    Cycle,
    TrainingPass,
    answer_curves,
    answer_pass,
    lost_folds,
    mean_of_finite,
    plot_curves,
    split_into_passes,
    spread_draw,
    verdict_of_pass,
)
from cocofold.finetuning.options import Options
from cocofold.finetuning.preparation import PreparedRun, find_start, prepare_run, read_particles_of_run
from cocofold.finetuning.residue_findings import explain_changes, finish_twin, fit_twins
from cocofold.finetuning.run_folder import ModelState, RunFolder
from cocofold.finetuning.run_result import (
    examine_answer,
    poses_as_given,
    reconstruct_run,
    refine_answer_poses,
    run_metrics,
    start_of_second_fit,
    summary_line,
    write_answer,
)
from cocofold.finetuning.training_loop import TrainingLoop, load_checkpoint, refuse_bad_checkpoint, save_checkpoint
from cocofold.finetuning.verdict import MIXED, MOVES_THE_MODEL, SUPPORTED, UNDECIDED, Evidence, judge
from cocofold.likelihood.distributed import WorkerGroup
from cocofold.likelihood.explained_signal import ExplainedSignal
from cocofold.likelihood.image_comparison import Comparison
from cocofold.likelihood.memory_plan import memory_advice
from cocofold.likelihood.set_aside import MapComparison, SetAsideComparison
from cocofold.particles.particle_set import ParticleSet
from cocofold.structure.confidence import only_ordered, ordered_atoms, ordered_residues
from cocofold.structure.restraints import Restraints
from cocofold.system.errors import InputError
from cocofold.system.hardware import find_device, is_out_of_memory
from cocofold.system.processes import Interrupted, SignalHandler
from cocofold.system.progress import EtaEstimator, TrainingProgressBar

_REACHED = "reached."  # prefix in checkpoints of the last cycle's state, which may not be the answer
# Number of fitted particles that are scored at the end of a cycle, to show how the fit goes: more give a steadier mean
# and take longer; nothing is decided by it.
_MOST_FITTED_IMAGES_SCORED = 500


def finetune(
    options: Options,
    out: Path,
    resume: bool = False,
    stop_with: int | None = None,
    processes: WorkerGroup | None = None,
) -> dict[str, Any]:
    """Fine-tune a model against particles; returns the content of ``metrics.json``.

    Particles are split into those that are fitted and those that are held out: 5 %, at least 50. The answer is the
    cycle that explains these best, if it does so clearly better than the start. With fewer than 500 particles a first
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
            folder.log(f"{out}: is finished already; nothing to do")
            return folder.read_metrics()
        with errors_explained(folder, options, processes):
            particles = read_particles_of_run(options)
            folder.settle_inputs(particles)
            inside = functools.partial(run_inside, endings, stop_with=stop_with, processes=processes)
            start = find_start(options, particles, folder, inside)
            began = time.monotonic()
            prepared = prepare_run(options, particles, start, folder, at_end, processes)
            return _Run(prepared, options, folder, endings, began, inside).execute(particles)


def run_inside(endings: SignalHandler, options: Options, run: Path, **others: Any) -> dict[str, Any]:
    """A run of its own in another's folder, begun or gone on with; the content of its ``metrics.json``."""
    endings.check()
    return finetune(options, run, (run / "config.yaml").is_file(), **others)


@contextlib.contextmanager
def errors_explained(folder: RunFolder, options: Options, processes: WorkerGroup | None) -> Iterator[None]:
    """Say what to do where a run is interrupted, cannot write its files or runs out of memory."""
    try:
        yield
    except Interrupted as ended:
        ended.advice = "--resume goes on from here"
        with contextlib.suppress(OSError):
            folder.log_to_file(str(ended))
        raise
    except OSError as error:
        raise InputError(folder.explain(error)) from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        count = processes.count if processes else 1
        ways = memory_advice(options.prediction is not None, find_device(options.device), count)
        again = "--resume goes on from the last checkpoint" if folder.checkpoint.is_file() else "then run again"
        message = f"out of memory; what lowers it: {ways}; {again}"
        folder.log_to_file(f"{message}: {error}")
        raise InputError(message) from error


class _Run:
    """Passes of a prepared run that began at ``began`` on the monotonic clock; ``run_inside`` is one in its folder."""

    def __init__(
        self,
        prepared: PreparedRun,
        options: Options,
        folder: RunFolder,
        endings: SignalHandler,
        began: float,
        run_inside: Callable[[Options, Path], dict[str, Any]],
    ) -> None:
        self.prepared, self.options, self.folder = prepared, options, folder
        self.endings, self.began, self.run_inside = endings, began, run_inside
        self.eta = EtaEstimator(0, 0, 1)
        self.passes = split_into_passes(
            len(prepared.particles),
            options.seed,
            options.heldout if options.twin_number is None else 0,
            watches_fold=options.prediction is not None,
            marked=prepared.particles.held_out,
            images=prepared.particles.particle_numbers,
        )[: 1 + options.second_pass]
        self.passes[0].last_cycle = options.twin_cycle
        self.best = self.reached = prepared.start_state()
        self.second_fit: dict[str, Any] | None = None

    def _loop(self, this: TrainingPass) -> TrainingLoop:
        prepared, options = self.prepared, self.options
        model, backbone, device = prepared.model, prepared.backbone, prepared.device
        return TrainingLoop(
            prepared.start.source(),
            Restraints(model, backbone, options.neighbour_weight, device),
            prepared.start_gaussians(),
            torch.as_tensor(np.isin(model.residue_of_atom, backbone.residues) & ordered_atoms(model), device=device),
            prepared.observations,
            self._comparison(this),
            this.work,
            options,
            prepared.memory.images_at_once,
            judges=len(this.heldout) > 0,
        )

    def _comparison(self, this: TrainingPass) -> Comparison:
        """Comparison with the images, which may set density aside that no atom explains."""
        prepared, comparison = self.prepared, self.prepared.comparison
        if self.options.supervision == "map":
            comparison = MapComparison(prepared.observations, this.work, self.options.seed)
        if self.options.set_aside != "on":
            return comparison
        signal = ExplainedSignal(reconstruct_run(prepared, this.work, self.options.seed), prepared.context)
        return SetAsideComparison(comparison, signal, prepared.model, ordered_residues(prepared.model), prepared.device)

    def execute(self, given: ParticleSet) -> dict[str, Any]:
        """All passes, from the last checkpoint if there is one; ``given`` are the particles as they were read."""
        number, state = self._load_checkpoint()
        while number < len(self.passes):
            if number > 0:
                self.passes[number].last_cycle = self.passes[number - 1].best
            if self.passes[number].last_cycle != 0:
                self._run_pass(number, state)
            number, state = number + 1, None
        if self.options.scratch is None:
            self.folder.require_unchanged_stacks(given, all_were_read=False)
        return self._finish(given)

    def _load_checkpoint(self) -> tuple[int, dict[str, torch.Tensor] | None]:
        """Where to go on: number of the pass, and state of its loop, None at its beginning."""
        if not self.folder.checkpoint.is_file():
            return 0, None
        tensors, facts = load_checkpoint(self.folder.checkpoint)
        with refuse_bad_checkpoint(self.folder.checkpoint):
            for this, known in zip(self.passes, facts["passes"]):
                this.restore_from_checkpoint(known)
            self.best = self.reached = ModelState.pop_from_checkpoint(tensors, self.prepared.device)
            if any(name.startswith(_REACHED) for name in tensors):
                self.reached = ModelState.pop_from_checkpoint(tensors, self.prepared.device, _REACHED)
            step, number, self.began = int(tensors["step"]), facts["number"], self.began - facts["seconds"]
        self.folder.log(f"resumed at step {step}")
        return number, tensors

    def _save(self, number: int, loop: TrainingLoop) -> None:
        others = {} if self.reached is self.best else self.reached.tensors(_REACHED)
        tensors = {**loop.state(), **self.best.tensors(), **others}
        passes = [this.facts() for this in self.passes]
        facts = {"number": number, "passes": passes, "seconds": time.monotonic() - self.began}
        save_checkpoint(self.folder.checkpoint, tensors, facts)

    def _run_pass(self, number: int, state: dict[str, torch.Tensor] | None) -> None:
        """One pass: advance from cycle to cycle, score, keep the best, write files."""
        this = self.passes[number]
        loop = self._loop(this)
        if state is not None:
            with refuse_bad_checkpoint(self.folder.checkpoint):
                loop.restore(state)
        ends = loop.cycle_ends(self.options.cycles)[: this.last_cycle]
        if len(self.passes) > 1:
            which = f"{len(this.heldout)} particles held out" if len(this.heldout) else "all particles"
            self.folder.log(f"pass {number + 1} of 2: {which}")
        try:
            if not this.cycles:
                self._end_cycle(number, loop, "start")
            if loop.step == 0 and number > 0 and self.folder.coarse_stages.is_file():
                # A state that a signal leaves half taken would go into the checkpoint.
                with self.endings.deferred():
                    self._take_coarse_stages(this, loop)
            self.eta = EtaEstimator(loop.step, ends[-1], passes_left=len(self.passes) - number)
            with TrainingProgressBar(ends[-1], loop.step) as progress:
                for end in ends[len(this.cycles) - 1 :]:
                    if this.has_stopped_gaining:
                        self.folder.log(
                            f"held-out particles have not gained for {MOST_CYCLES_WITHOUT_GAIN} cycles: stopped"
                        )
                        break
                    self._advance(loop, end, progress)
                    self._end_cycle(number, loop, loop.stage_name())
        except Interrupted:
            if this.cycles:
                self._save(number, loop)
            raise

    def _take_coarse_stages(self, this: TrainingPass, loop: TrainingLoop) -> None:
        """Let a second pass go on from the first one's coarse stages, if there are any before the answer."""
        taken = self.folder.coarse_stages
        tensors, facts = load_checkpoint(taken)
        with refuse_bad_checkpoint(taken):
            if facts["cycle"] < (this.last_cycle or 0):
                loop.restore(tensors)
                this.go_on_from(self.passes[0], facts["cycle"])

    def _is_coarse(self, number: int, loop: TrainingLoop) -> bool:
        """Whether a second pass may go on from here: what is compared does not depend on which particles are fitted."""
        by_images = self.options.supervision == "images" and self.options.set_aside != "on"
        return by_images and number + 1 < len(self.passes) and 0 < loop.step <= loop.coarse_steps()

    def _advance(self, loop: TrainingLoop, end: int, progress: TrainingProgressBar) -> None:
        # A signal waits for the end of a step, when the state is whole.
        with self.endings.deferred():
            loop.advance(end, lambda correlation: self._after_step(correlation, loop.step, progress))

    def _after_step(self, correlation: float, done: int, progress: TrainingProgressBar) -> None:
        progress.step(correlation, done)
        self.endings.check()

    def _end_cycle(self, number: int, loop: TrainingLoop, stage: str) -> None:
        """Score the end of a cycle, keep the best, write files."""
        this = self.passes[number]
        work = loop.score(spread_draw(this.work, _MOST_FITTED_IMAGES_SCORED, self.options.seed)).cpu()
        heldout = loop.judge(this.heldout).cpu() if len(this.heldout) else None
        if loop.poses is not None and loop.poses.active and this.judging_rings is None:
            self.folder.log(f"poses are off, {loop.poses.prior}: they are refined; rings that were not asked judge")
            judge = functools.partial(loop.judge, this.heldout)
            this.judge_anew(loop.poses.judging, judge, self.prepared.start_state(), self.best)
        with self.endings.deferred():
            self._keep(number, loop, self._cycle(this, loop, stage, work, heldout), work, heldout)
            # Before the checkpoint, from which a run that is killed between them would go on without it
            if self._is_coarse(number, loop):
                save_checkpoint(self.folder.coarse_stages, loop.state(), {"cycle": this.cycles[-1].number})
            if stage != "start":
                self._save(number, loop)

    def _cycle(
        self, this: TrainingPass, loop: TrainingLoop, stage: str, work: torch.Tensor, heldout: torch.Tensor | None
    ) -> Cycle:
        positions = loop.positions()
        alpha = torch.as_tensor(self.prepared.backbone.atoms[:, 1], device=self.prepared.device)
        return Cycle(
            number=len(this.cycles),
            step=loop.step,
            images=loop.images,
            stage=stage,
            seconds=round(time.monotonic() - self.began, 1),
            frc_work=mean_of_finite(work),
            frc_heldout=None if heldout is None else mean_of_finite(this.judged(heldout)),
            moved_angstrom=float(((positions - self.prepared.start_positions)[alpha] ** 2).sum(1).mean().sqrt()),
            worst_link_angstrom=loop.restraints.worst_link(positions),
            link_rms_angstrom=loop.restraints.link_rms(positions),
        )

    def _keep(
        self, number: int, loop: TrainingLoop, cycle: Cycle, work: torch.Tensor, heldout: torch.Tensor | None
    ) -> None:
        """Take note of a cycle and write what it gave."""
        this = self.passes[number]
        self.reached = reached = ModelState(loop.positions(), loop.gaussians.detached(), loop.confidence())
        is_answer = this.add(cycle, work, heldout)
        written, placed_as = reached.to_output(self.prepared.model), self.prepared.start.placed_as
        # The second pass has nothing to judge itself by: its answer is its last cycle.
        if is_answer and (this.last_cycle is None or cycle.number == this.last_cycle):
            self.best = reached
            self.folder.write_model("model.cif", written, placed_as)
        if number == len(self.passes) - 1 or cycle.number == 0 or self._is_coarse(number, loop):
            self.folder.write_model(f"models/cycle_{cycle.number:02d}.cif", written, placed_as)
        self.folder.write_cycles(
            [{**asdict(one), "pass": row + 1} for row, each in enumerate(self.passes) for one in each.cycles]
        )
        self.folder.log(cycle.summary(self.eta.seconds_left(cycle.step)))

    def _finish(self, given: ParticleSet) -> dict[str, Any]:
        """Write the answer and what is known of it."""
        # The evidence is of images at the poses that were given, which no model has drawn to itself.
        poses_as_given(self.prepared, self.options)
        prepared, folder, held_out = self.prepared, self.folder, bool(self.passes[0].start_images)
        if self.options.twin_number is not None:
            return finish_twin(prepared, self.best, folder, self.options, time.monotonic() - self.began)
        other = self.best if answer_pass(self.passes).best else self.reached  # what single images may prefer
        evidence = self._fit_again(examine_answer(prepared, self.best, other, folder, self.options.seed))
        better = SUPPORTED if self.second_fit is not None else verdict_of_pass(self.passes[0])
        verdict, reasons = judge(better, evidence, only_ordered(prepared.model), held_out)
        # With none held out nothing tells whether the last cycle is better: it is given.
        moves = verdict in MOVES_THE_MODEL or (verdict == UNDECIDED and not held_out)
        if not moves and (self.second_fit is not None or answer_pass(self.passes).best > 0 or verdict == MIXED):
            candidate = self.best if self.second_fit is not None else other
            folder.write_model("candidate.cif", candidate.to_output(prepared.model), prepared.start.placed_as)
            self.best = prepared.start_state()
        answer = self.second_fit or {"best_cycle": answer_pass(self.passes).best}
        errors = fit_twins(prepared, self.best, folder, self.options, answer, self.run_inside) if moves else None
        removed = write_answer(prepared, self.best, folder, self.options, evidence if moves else None, errors)
        poses = refine_answer_poses(prepared, self.best, folder, self.options, given, self.passes, verdict)
        lost, note = lost_folds(self.passes)
        if note:
            folder.log(note)
        plot_curves(folder.path / "frc.png", prepared.resolutions_angstrom, answer_curves(self.passes))
        metrics = run_metrics(
            prepared,
            self.passes,
            verdict=verdict,
            reasons=reasons,
            evidence=evidence,
            second_fit=self.second_fit if moves else None,
            answer=self.best if moves else None,
            cycles_that_lost_the_fold=lost,
            residues_removed=removed,
            poses=poses,
            errors=errors,
            changed=explain_changes(prepared, self.best, folder, self.options.seed) if moves else None,
            seconds=time.monotonic() - self.began,
        )
        folder.write_metrics(metrics)
        folder.log(summary_line(metrics))
        return metrics

    def _fit_again(self, evidence: Evidence | None) -> Evidence | None:
        """Fit again without what only images or only the model show; that counts if held-out images agree as well."""
        prepared, folder, options = self.prepared, self.folder, self.options
        # By the pass that holds images out: the last one of a small set has none to be compared by.
        first = self.passes[0].cycles[self.passes[0].best].frc_heldout
        may = options.set_aside == "auto" and options.effort >= 1 and options.prediction is None and first is not None
        if not may or prepared.start.symmetry or evidence is None or not evidence.asks_for_second_fit:
            return evidence
        run = folder.path / "set_aside"
        folder.log(f"{evidence.why_again}: fitted again without these; see {run}")
        file, start = start_of_second_fit(prepared, evidence, folder)
        again = self.run_inside(options.for_second_fit(file, evidence.lacks_much), run)
        if not evidence.takes(again, self.passes[0].cycles[0].frc_heldout or 0.0, first or 0.0):
            return evidence
        stays = again["verdict"] not in MOVES_THE_MODEL
        tensors, _ = load_checkpoint(run / "checkpoints" / "latest.safetensors")
        self.best, self.second_fit = start if stays else ModelState.pop_from_checkpoint(tensors, prepared.device), again
        return examine_answer(prepared, self.best, self.best, folder, options.seed)
