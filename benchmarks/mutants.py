"""Whether tests notice that a decision is changed: ``python -m benchmarks.mutants``.

Each mutant changes one text of one file of the program. All of them are tried one after the other in a copy of the
project, with the tests that should notice. One table is printed; the exit status is 1 if a mutant goes unnoticed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_SECONDS = 900
_NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "demo_run", "bench_runs")
HEADINGS = ("mutant", "what is changed", "noticed by")


@dataclass(frozen=True)
class Mutant:
    """A change of the program that makes a decision wrong.

    Attributes
    ----------
    what : str
        For the table.
    file : str
        Path from the project's folder.
    text : str
        Part of a line, found once in the file.
    replacement : str
        What stands there instead.
    tests : tuple of str
        Files or tests that should notice, as pytest takes them.
    """

    what: str
    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]


_FIELD, _DEFORMATION = "cocofold/sources/motion_field.py", "cocofold/sources/deformation.py"
_RESTRAINTS, _LOOP = "cocofold/structure/restraints.py", "cocofold/finetuning/training_loop.py"
_SUPPORT, _LOSS = "cocofold/likelihood/residue_support.py", "cocofold/likelihood/frc_loss.py"
_HOLDOUT, _RUN = "cocofold/finetuning/holdout.py", "cocofold/finetuning/run.py"
_MEMORY, _IMAGES = "cocofold/likelihood/memory_plan.py", "cocofold/likelihood/observed_images.py"
_JUDGING, _QUESTIONS = "cocofold/preflight/judging.py", "cocofold/preflight/questions.py"

_STAGE_TESTS = ("tests/sources/test_coarse_to_fine.py",)
_CONTACT_TESTS = ("tests/structure/test_contact_limits.py",)
_LOOP_TESTS = ("tests/finetuning/test_loop_decisions.py",)
_STRETCH_TESTS = ("tests/likelihood/test_stretches.py",)
_STOPPING_TESTS = ("tests/finetuning/test_stopping_decisions.py",)
_THRESHOLD_TESTS = ("tests/preflight/test_preflight_thresholds.py",)
_CONTRAST_TESTS = ("tests/likelihood/test_images_contrast.py::test_a_contrast_is_clear_from_five_standard_errors_on",)
_HALVING_TESTS = (
    "tests/finetuning/test_memory_plan.py::test_out_of_memory_halves_what_is_compared_at_once_and_goes_on",
)
_PLAN_TESTS = (
    "tests/finetuning/test_memory_plan.py::test_with_less_memory_fewer_are_kept_and_then_none",
    "tests/finetuning/test_memory_plan.py::test_fewer_images_are_compared_at_once_where_a_gpu_is_short_of_memory",
    "tests/finetuning/test_memory_plan.py::test_a_batch_has_parts_for_several_processes",
)

MUTANTS = (
    # The field of motions and its stages
    Mutant(
        "shares of nodes are not tapered",
        _FIELD,
        "taper = np.clip(1 - (distance / distance[:, -1:]) ** 2, 0, None) ** 2",
        "taper = 1.0",
        _STAGE_TESTS,
    ),
    Mutant("shares of few nodes are tapered too", _FIELD, "if shared < len(chosen):", "if True:", _STAGE_TESTS),
    Mutant("field on top: 17 Å coarser than 20 Å", _FIELD, "(17.0, 12.0, 0.30)", "(17.0, 25.0, 0.30)", _STAGE_TESTS),
    Mutant("stage of 8 Å compares to 6 Å", _DEFORMATION, "8.0, 0.25, 17.0, 240", "8.0, 0.25, 6.0, 240", _STAGE_TESTS),
    Mutant("stage of 2.5 Å: all rings", _DEFORMATION, "2.5, 0.10, 6.25, 250", "2.5, 0.10, 0.0, 250", _STAGE_TESTS),
    Mutant("12 Å before 20 Å", _DEFORMATION, "12.0, 0.30, 17.0, 180", "24.0, 0.30, 17.0, 180", _STAGE_TESTS),
    Mutant("effort counts twice", _DEFORMATION, "round(effort * ", "round(effort * effort * ", _STAGE_TESTS),
    # Contacts
    Mutant(
        "no floor for contacts of the start",
        _RESTRAINTS,
        "np.minimum(least, _distances(self._model, pairs))",
        "least",
        _CONTACT_TESTS,
    ),
    Mutant(
        "contacts of half the distance",
        _RESTRAINTS,
        "_CONTACT_ANGSTROM = 3.2",
        "_CONTACT_ANGSTROM = 1.6",
        _CONTACT_TESTS,
    ),
    Mutant("polar pairs as others", _RESTRAINTS, "_CONTACT_ANGSTROM = 2.6", "_CONTACT_ANGSTROM = 3.2", _CONTACT_TESTS),
    Mutant(
        "contacts searched to 3.8 Å only",
        _RESTRAINTS,
        "_SEARCH_ANGSTROM = 4.5",
        "_SEARCH_ANGSTROM = 3.8",
        _CONTACT_TESTS,
    ),
    # The optimiser's loop
    Mutant(
        "a stage is always kept",
        _LOOP,
        "self._scores_of_judges()) > 0:",
        "self._scores_of_judges()) > -9:",
        _LOOP_TESTS,
    ),
    Mutant(
        "a stage is kept if nothing is gained",
        _LOOP,
        "self._scores_of_judges()) > 0:",
        "self._scores_of_judges()) >= 0:",
        _LOOP_TESTS,
    ),
    Mutant("no stage is judged", _LOOP, "if self._stages[stage].revert_unless_better:", "if False:", _LOOP_TESTS),
    Mutant(
        "contacts are never refreshed",
        _LOOP,
        "if within % _CONTACT_REFRESH_STEPS == 0 and",
        "if False and",
        _LOOP_TESTS,
    ),
    Mutant("rounds never end early", _LOOP, "_SETTLED_SHARE = 0.1", "_SETTLED_SHARE = 0.0", _LOOP_TESTS),
    Mutant("overlaps are never allowed", _LOOP, "energy(held, not stage.allows_overlaps)", "energy(held)", _LOOP_TESTS),
    Mutant("contacts refreshed half as often", _LOOP, "_REFRESH_STEPS = 25", "_REFRESH_STEPS = 50", _LOOP_TESTS),
    Mutant(
        "rates fall to a tenth",
        "cocofold/sources/base.py",
        "_FINAL_RATE_FACTOR = 0.05",
        "_FINAL_RATE_FACTOR = 0.1",
        _LOOP_TESTS,
    ),
    Mutant(
        "no warm-up", "cocofold/sources/base.py", "min(1.0, (within + 1) / stage.warm_up_steps)", "1.0", _LOOP_TESTS
    ),
    Mutant(
        "a stage's limit goes before the run's",
        _LOOP,
        "limit = max(stage.resolution_angstrom, self._settings.resolution or 0.0) or None",
        "limit = stage.resolution_angstrom or None",
        _LOOP_TESTS,
    ),
    # Held-out particles and the verdict
    Mutant("5 % held out are 10 %", _HOLDOUT, "0.05", "0.1", _STOPPING_TESTS),
    Mutant("25 held out at least", _HOLDOUT, "0.05, 50", "0.05, 25", _STOPPING_TESTS),
    Mutant("a tenth of few", _HOLDOUT, "_DIVISOR = 5", "_DIVISOR = 10", _STOPPING_TESTS),
    Mutant("40 particles to hold any out", _HOLDOUT, "TO_HOLD_OUT = 20", "TO_HOLD_OUT = 40", _STOPPING_TESTS),
    Mutant("one pass from 250 particles on", _HOLDOUT, "_FROM = 500", "_FROM = 250", _STOPPING_TESTS),
    Mutant("more than half held out", _HOLDOUT, "n_particles // 2)", "n_particles)", _STOPPING_TESTS),
    Mutant("an answer gains 1.5 errors", _HOLDOUT, "_CLEAR_IN_ERRORS = 3.0", "_CLEAR_IN_ERRORS = 1.5", _STOPPING_TESTS),
    Mutant("an answer gains 6 errors", _HOLDOUT, "_CLEAR_IN_ERRORS = 3.0", "_CLEAR_IN_ERRORS = 6.0", _STOPPING_TESTS),
    Mutant("any gain gives an answer", _HOLDOUT, "gain_in_errors > _CLEAR_IN_ERRORS and ", "", _STOPPING_TESTS),
    Mutant("a hint gains 2 errors", _HOLDOUT, "_HINT_IN_ERRORS = 1.0", "_HINT_IN_ERRORS = 2.0", _STOPPING_TESTS),
    Mutant("a hint gains half an error", _HOLDOUT, "_HINT_IN_ERRORS = 1.0", "_HINT_IN_ERRORS = 0.5", _STOPPING_TESTS),
    Mutant(
        "of equal cycles the first",
        _HOLDOUT,
        "(cycle.frc_heldout or 0.0) >= so_far",
        "(cycle.frc_heldout or 0.0) > so_far",
        _STOPPING_TESTS,
    ),
    Mutant(
        "the last clear gain is the answer",
        _HOLDOUT,
        "and (cycle.frc_heldout or 0.0) >= so_far",
        "and True",
        _STOPPING_TESTS,
    ),
    Mutant("a fold may lose 0.2 Å", _HOLDOUT, "_LINK_RMS_ANGSTROM = 0.1", "_LINK_RMS_ANGSTROM = 0.2", _STOPPING_TESTS),
    Mutant("the fold is not watched", _HOLDOUT, "return not self.watches_fold or", "return True or", _STOPPING_TESTS),
    # When a run stops
    Mutant(
        "eight cycles without gain", _HOLDOUT, "CYCLES_WITHOUT_GAIN = 4", "CYCLES_WITHOUT_GAIN = 8", _STOPPING_TESTS
    ),
    Mutant("two cycles without gain", _HOLDOUT, "CYCLES_WITHOUT_GAIN = 4", "CYCLES_WITHOUT_GAIN = 2", _STOPPING_TESTS),
    Mutant("patience from the answer on", _HOLDOUT, ".number - self.highest", ".number - self.best", _STOPPING_TESTS),
    Mutant("the second pass goes to the end", _RUN, "[: this.last_cycle]", "[:]", _STOPPING_TESTS),
    Mutant(
        "the second pass ends at what is not clear",
        _RUN,
        "self.passes[number - 1].best",
        "self.passes[number - 1].highest",
        _STOPPING_TESTS,
    ),
    Mutant("the last cycle is the answer", _RUN, "if is_answer and (", "if True and (", _STOPPING_TESTS),
    # Support of residues
    Mutant("a stretch takes no error", _SUPPORT, "9, 0.5, 3.0", "9, 0.5, 0.0", _STRETCH_TESTS),
    Mutant("a stretch takes 6 errors", _SUPPORT, "9, 0.5, 3.0", "9, 0.5, 6.0", _STRETCH_TESTS),
    Mutant("a stretch takes 1.5 errors", _SUPPORT, "9, 0.5, 3.0", "9, 0.5, 1.5", _STRETCH_TESTS),
    Mutant("a window of 5 residues", _SUPPORT, "9, 0.5, 3.0", "5, 0.5, 3.0", _STRETCH_TESTS),
    Mutant("a window of 17 residues", _SUPPORT, "9, 0.5, 3.0", "17, 0.5, 3.0", _STRETCH_TESTS),
    Mutant("a quarter of the mean share", _SUPPORT, "9, 0.5, 3.0", "9, 0.25, 3.0", _STRETCH_TESTS),
    Mutant("all of the mean share", _SUPPORT, "9, 0.5, 3.0", "9, 1.0, 3.0", _STRETCH_TESTS),
    # Contrast and memory
    Mutant("a contrast from 2.5 errors on", _LOSS, "_CLEAR_IN_ERRORS = 5.0", "_CLEAR_IN_ERRORS = 2.5", _CONTRAST_TESTS),
    Mutant("a contrast from 10 errors on", _LOSS, "_CLEAR_IN_ERRORS = 5.0", "_CLEAR_IN_ERRORS = 10.0", _CONTRAST_TESTS),
    Mutant(
        "a GPU's images at once are not halved",
        _IMAGES,
        "self.image_limit = count // 2",
        "self.image_limit = count - 1",
        _HALVING_TESTS,
    ),
    Mutant("a batch may come in one part", _MEMORY, "_LEAST_PARTS = 2", "_LEAST_PARTS = 1", _PLAN_TESTS),
    Mutant("images kept before memory is asked", _MEMORY, "int(left))) //", "10**12)) //", _PLAN_TESTS),
    Mutant("images at once take all memory", _MEMORY, "int(_MOST_SHARE_AT_ONCE * available)", "10**12", _PLAN_TESTS),
    # The check of the input
    Mutant(
        "clear from 2.5 errors on",
        _JUDGING,
        "CLEAR_STANDARD_ERRORS = 5.0",
        "CLEAR_STANDARD_ERRORS = 2.5",
        _THRESHOLD_TESTS,
    ),
    Mutant(
        "clear from 10 errors on",
        _JUDGING,
        "CLEAR_STANDARD_ERRORS = 5.0",
        "CLEAR_STANDARD_ERRORS = 10.0",
        _THRESHOLD_TESTS,
    ),
    Mutant(
        "agrees from 2 errors on",
        _JUDGING,
        "AGREES_STANDARD_ERRORS = 4.0",
        "AGREES_STANDARD_ERRORS = 2.0",
        _THRESHOLD_TESTS,
    ),
    Mutant(
        "agrees from 8 errors on",
        _JUDGING,
        "AGREES_STANDARD_ERRORS = 4.0",
        "AGREES_STANDARD_ERRORS = 8.0",
        _THRESHOLD_TESTS,
    ),
    Mutant("a gain of a fifth", _JUDGING, "MIN_RELATIVE_GAIN = 0.1", "MIN_RELATIVE_GAIN = 0.2", _THRESHOLD_TESTS),
    Mutant("any gain", _JUDGING, "MIN_RELATIVE_GAIN = 0.1", "MIN_RELATIVE_GAIN = 0.05", _THRESHOLD_TESTS),
    Mutant("as well as by chance", _JUDGING, "RATIO_TO_CHANCE = 2.0", "RATIO_TO_CHANCE = 1.0", _THRESHOLD_TESTS),
    Mutant("fine rings do not count", _JUDGING, "min(whole.z_score, fine.z_score)", "whole.z_score", _THRESHOLD_TESTS),
    Mutant("the furthest alternative counts", _QUESTIONS, "least = min(", "least = max(", _THRESHOLD_TESTS),
)


def mutate(mutant: Mutant, root: Path) -> str:
    """The file's content with the change.

    Raises
    ------
    LookupError
        Where the text is not found once.
    """
    path = root / mutant.file
    content = path.read_text(encoding="utf-8") if path.is_file() else ""
    count = content.count(mutant.text)
    if count != 1:
        found = "is no file" if not path.is_file() else f"has {mutant.text!r} {count} times, not once"
        raise LookupError(
            f"{mutant.file} {found}: the code has changed; correct the mutant {mutant.what!r} in benchmarks/mutants.py"
        )
    return content.replace(mutant.text, mutant.replacement)


def failing_test(tests: tuple[str, ...], tree: Path) -> str | None:
    """The first of the tests that fails in a copy of the project; None if all pass."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "scipion-em-cocofold")]),
        # Bytecode of a file that was changed twice in a second would be taken for that of the other change.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
    )
    if done.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if done.returncode != 1 or failed is None:
        sys.exit(f"the tests {' '.join(tests)} could not run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return failed[1]


def _copy_of_project(folder: Path) -> Path:
    """A copy that can be changed, beside the same test data."""
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=_NOT_COPIED)
    if (ROOT.parent / "shared").is_dir():
        (folder / "shared").symlink_to((ROOT.parent / "shared").resolve())
    return tree


def _checked(numbers: list[int]) -> dict[int, Mutant]:
    """The mutants of these numbers; ends the program where one of them does not fit the code."""
    for number in numbers:
        if not 1 <= number <= len(MUTANTS):
            sys.exit(f"--only {number}: there are mutants 1 to {len(MUTANTS)}")
    chosen = {number: MUTANTS[number - 1] for number in numbers}
    wrong = []
    for number, mutant in chosen.items():
        try:
            mutate(mutant, ROOT)
        except LookupError as error:
            wrong.append(f"mutant {number}: {error}")
    if wrong:
        sys.exit("\n".join(wrong))
    return chosen


def main() -> None:
    """Try the mutants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, action="append", metavar="N", help="only this mutant; may be given again")
    parser.add_argument("--list", action="store_true", help="say which there are, and whether they fit the code")
    options = parser.parse_args()
    chosen = _checked(options.only or list(range(1, len(MUTANTS) + 1)))
    if options.list:
        for number, mutant in chosen.items():
            print(f"{number:3d}  {mutant.file}: {mutant.what}")
        return
    unnoticed = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = _copy_of_project(Path(folder))
        tests = tuple(dict.fromkeys(test for mutant in chosen.values() for test in mutant.tests))
        failed = failing_test(tests, tree)
        if failed is not None:
            sys.exit(f"{failed} fails without any mutant; mend that first")
        print("| " + " | ".join(HEADINGS) + " |")
        print("| --- " * len(HEADINGS) + "|", flush=True)
        for number, mutant in chosen.items():
            path = tree / mutant.file
            content = path.read_text(encoding="utf-8")
            path.write_text(mutate(mutant, tree), encoding="utf-8")
            found = failing_test(mutant.tests, tree)
            path.write_text(content, encoding="utf-8")
            unnoticed += found is None
            print(f"| {number} | {mutant.what} | {found or '**NOTHING**'} |", flush=True)
    sys.exit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
