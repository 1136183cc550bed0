"""What a run ends with: its answer, its curves and the figures of ``metrics.json``."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cocofold import __version__
from cocofold.finetuning.holdout import MOST_ADDED_LINK_RMS_ANGSTROM, TrainingPass, verdict_of_pass
from cocofold.finetuning.preparation import PreparedRun
from cocofold.finetuning.run_folder import ModelState, RunFolder
from cocofold.mapfit.workflow import SUBUNIT_FILE
from cocofold.system.atomic_files import atomic_path
from cocofold.system.hardware import peak_resident_bytes


def write_answer(prepared: PreparedRun, state: ModelState, folder: RunFolder, remove_below: float | None) -> int:
    """Write ``model.cif``, the first subunit of an assembly, and ``density.mrc``.

    Parameters
    ----------
    prepared : PreparedRun
    state : ModelState
        Atoms of the answer.
    folder : RunFolder
    remove_below : float, optional
        Residues of a lower pLDDT are left out.

    Returns
    -------
    int
        Number of residues that are left out.
    """
    start, particles = prepared.start, prepared.particles
    whole = state.to_output(prepared.model)
    of_start = None if start.order is None else start.order.plddt
    written, removed = whole.without_low_plddt(remove_below, of_start)
    folder.write_model("model.cif", written, start.placed_as)
    if start.subunit is not None:
        first, _ = whole.first_copy(start.subunit).without_low_plddt(remove_below, of_start)
        folder.write_model(SUBUNIT_FILE, first, {"hand": start.hand})
    folder.write_density(written, particles.box, particles.pixel_size_angstrom)
    if removed:
        folder.log(f"{removed} residues of a pLDDT below {remove_below:g} are left out")
    return removed


def plot_curves(path: Path, resolutions: list[float], curves: dict[str, list[float]]) -> None:
    """Draw the Fourier ring correlation curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    frequency = 1 / np.array(resolutions)
    for name, curve in sorted(curves.items()):
        kind, when = name.split(", ")
        axes.plot(
            frequency,
            curve,
            color="tab:blue" if kind == "work" else "tab:orange",
            linestyle=":" if when == "start" else "-",
            label=name,
        )
    axes.axhline(0, color="grey", linewidth=0.5)
    ticks = np.linspace(frequency[0], frequency[-1], 6)
    axes.set_xticks(ticks, [f"{1 / tick:.1f}" for tick in ticks])
    axes.set_xlabel("resolution (Å)")
    axes.set_ylabel("Fourier ring correlation, mean over images")
    axes.legend(frameon=False)
    with atomic_path(path) as partial:
        FigureCanvasAgg(figure).print_figure(str(partial), format="png", dpi=120)


def lost_folds(passes: list[TrainingPass]) -> tuple[int, str | None]:
    """Number of cycles that are no answer for their geometry, and a sentence about them."""
    cycles = [cycle for this in passes for cycle in this.cycles if not this.keeps_fold(cycle)]
    if not cycles:
        return 0, None
    worst, start = max(cycle.link_rms_angstrom for cycle in cycles), passes[0].cycles[0].link_rms_angstrom
    return len(cycles), (
        f"{len(cycles)} cycles have lost the fold and are no answer: C-N bonds deviate by up to {worst:.2f} Å "
        f"root mean square (start {start:.2f} Å, allowed {start + MOST_ADDED_LINK_RMS_ANGSTROM:.2f} Å)"
    )


def answer_pass(passes: list[TrainingPass]) -> TrainingPass:
    """Pass whose best cycle is the answer: the last one, or the first where the last came to none."""
    return passes[-1] if passes[-1].gave_answer else passes[0]


def answer_curves(passes: list[TrainingPass]) -> dict[str, list[float]]:
    """Ring correlations at the start and end: held-out ones of the first pass, of fitted particles those of the answer.

    Keys are those of ``metrics.json``, such as "work, start".
    """
    fitted = {name: curve for name, curve in answer_pass(passes).curves.items() if name.startswith("work")}
    return {**passes[0].curves, **fitted}


@dataclass(frozen=True)
class VerdictText:
    """A verdict in whole sentences, as the log, ``metrics.json``, the report and Scipion have it."""

    headline: str
    explanation: str


def verdict_text(
    verdict: str, heldout_particles: int, frc_start: float | None, frc_best: float | None, best_cycle: int
) -> VerdictText:
    """A verdict of ``verdict_of_pass`` in words.

    Parameters
    ----------
    verdict : str
    heldout_particles : int
    frc_start, frc_best : float or None
        Mean ring correlation of the held-out particles at the start and with the answer; None if there are none.
    best_cycle : int
        The cycle that is the answer.
    """
    if not heldout_particles or frc_start is None or frc_best is None:
        return VerdictText(
            "Nothing checks this model: no particles were held out.",
            f"The model is that of cycle {best_cycle}. Whether the particles support the change cannot be said. To "
            "know, run again with held-out particles (the default from 20 particles on).",
        )
    if verdict == "supported":
        return VerdictText(
            "The particles support the new model.",
            f"{heldout_particles} particles were held out of the fit, and they agree better with the new model than "
            f"with the start: their mean Fourier ring correlation rose from {frc_start:.3f} to {frc_best:.3f}, by more "
            "than three standard errors.",
        )
    if verdict == "undecided":
        return VerdictText(
            "The particles do not decide: the model is the start.",
            f"A cycle agreed with the {heldout_particles} held-out particles a little better than the start did, by "
            "one to three standard errors, which is a hint and no more. More particles, or better poses, may decide.",
        )
    return VerdictText(
        "The particles do not support a change: the model is the start.",
        f"No cycle agreed with the {heldout_particles} held-out particles better than the start did by more than one "
        "standard error. A start that is right already ends like this, and so do particles that are too few, too noisy "
        "or too badly aligned to tell.",
    )


def run_metrics(
    prepared: PreparedRun,
    passes: list[TrainingPass],
    *,
    cycles_that_lost_the_fold: int,
    residues_removed: int,
    seconds: float,
) -> dict[str, Any]:
    """Content of ``metrics.json``.

    Parameters
    ----------
    prepared : PreparedRun
    passes : list of TrainingPass
    cycles_that_lost_the_fold, residues_removed : int
    seconds : float
        Time of the run without the fit into a map and the teacher's run.
    """
    start, judged, answer = prepared.start, passes[0], answer_pass(passes)
    best = answer.cycles[answer.best]
    last_cycles = [this.cycles[-1] for this in passes if this.cycles]
    verdict, heldout_start = verdict_of_pass(judged), judged.cycles[0].frc_heldout
    heldout = judged.cycles[min(best.number, len(judged.cycles) - 1)].frc_heldout
    says = verdict_text(verdict, len(judged.heldout), heldout_start, heldout, best.number)
    return {
        "verdict": verdict,
        "verdict_headline": says.headline,
        "verdict_explanation": says.explanation,
        "best_cycle": best.number,
        "frc_work": best.frc_work,
        "frc_heldout": heldout,
        "frc_work_start": answer.cycles[0].frc_work,
        "frc_heldout_start": heldout_start,
        "moved_angstrom": best.moved_angstrom,
        "worst_link_angstrom": best.worst_link_angstrom,
        "link_rms_angstrom": best.link_rms_angstrom,
        "cycles_that_lost_the_fold": cycles_that_lost_the_fold,
        "residues_removed": residues_removed,
        "disordered": list(start.order.stretches) if start.order else [],
        "hand": start.hand,
        "source": prepared.source_description,
        "symmetry": start.symmetry or "C1",
        "particles": len(prepared.particles),
        "heldout_particles": len(judged.heldout),
        "passes": len(passes),
        "steps": sum(cycle.step for cycle in last_cycles),
        "images": sum(cycle.images for cycle in last_cycles),
        "seconds": round(seconds + start.placing_seconds + start.teacher_seconds, 1),
        "placing_seconds": start.placing_seconds,
        "teacher_seconds": start.teacher_seconds,
        "expected_memory_gb": round(prepared.memory.expected / 1e9, 3),
        "peak_memory_gb": round(max(peak_memory_gb(), start.teacher_memory_gb), 3),
        "device": str(prepared.device),
        "threads": torch.get_num_threads(),
        "processes": prepared.process_count,
        "frc_curves": {"resolution_angstrom": prepared.resolutions_angstrom, **answer_curves(passes)},
        "versions": versions(),
    }


def peak_memory_gb() -> float:
    """Peak memory of this process, or on a GPU of its tensors if that is more."""
    peak = peak_resident_bytes() / 1e9
    if torch.cuda.is_available():
        peak = max(peak, torch.cuda.max_memory_allocated() / 1e9)
    return peak


def versions() -> dict[str, str]:
    """Versions of the programs that computed."""
    return {
        "cocofold": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def summary_line(metrics: dict[str, Any]) -> str:
    """The figures of a run in a line."""
    text = f"verdict: {metrics['verdict']}. {metrics['verdict_headline']} "
    if metrics["frc_heldout"] is not None:
        text += f"Held-out FRC {metrics['frc_heldout_start']:.4f} -> {metrics['frc_heldout']:.4f}, "
    text += f"moved {metrics['moved_angstrom']:.2f} Å, best cycle {metrics['best_cycle']}, "
    return text + f"{metrics['seconds']:.0f} s, {metrics['peak_memory_gb']:.2f} GB"
