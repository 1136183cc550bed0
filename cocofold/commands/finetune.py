"""``cocofold finetune``: move a model until it explains particle images; ``cocofold report``: show what that did.

The flags of the first are made of the fields of ``Options``, group by group; those of the command itself stand here.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import shlex
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, List, Optional, Tuple, get_type_hints

import typer

from cocofold.commands import echo, own_command
from cocofold.finetuning.options import OPTION_GROUPS, PAPER_SETTINGS, Options, option_rules, options_with_preset
from cocofold.system.hardware import OVERSUBSCRIBE_HELP, OVERSUBSCRIBE_OPTION
from cocofold.system.processes import WorkerProcess, time_limit

# Exit statuses of --exit-verdict
_STATUS_OF_VERDICT = {
    "supported": 0,
    "undecided": 3,
    "not supported": 4,
    "supported in part": 5,
    "nothing to change": 6,
    "mixed": 7,
    "does not belong": 8,
}
_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}


def _with_flags_of_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, in place of its ``**given``, a parameter for each flag that sets a field of ``Options``."""
    flags = [
        _parameter(one, group)
        for group, options in OPTION_GROUPS.items()
        for one in fields(options)
        if option_rules(one).flag is not None
    ]
    types = get_type_hints(command)
    own = [
        one.replace(annotation=types[one.name])
        for one in inspect.signature(command).parameters.values()
        if one.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    parameters = {one.name: one for one in (*flags, *own)}
    command.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters.values()}
    return command


def _parameter(one: Field, group: str) -> inspect.Parameter:
    """Parameter of the command for a field."""
    rules = option_rules(one)
    kind: Any = Path if rules.is_path else _TYPES.get(str(one.type).replace(" | None", ""), str)
    # Where a preset has a say, "not given" must be told from the default.
    default: Any = None if one.name in PAPER_SETTINGS else one.default
    if rules.switches_off:
        kind, default = bool, False
    elif rules.more_in or str(one.type).startswith("list["):
        kind, default = List[kind], []
    elif default is MISSING:
        default = ...
    elif default is None:
        kind = Optional[kind]
    return inspect.Parameter(
        _parameter_name(one),
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        annotation=kind,
        default=typer.Option(default, str(rules.flag), help=rules.help, rich_help_panel=group),
    )


def _parameter_name(one: Field) -> str:
    """A flag that switches off may be shared by fields, and is a parameter of its own."""
    rules = option_rules(one)
    return str(rules.flag)[2:].replace("-", "_") if rules.switches_off else one.name


def _options_from(given: dict[str, Any]) -> Options:
    """Options from the command's parameters; None stands for what was not given."""
    settings: dict[str, Any] = {}
    for one in fields(Options):
        rules = option_rules(one)
        value = given.get(_parameter_name(one))
        if rules.flag is None or value is None:
            continue
        if rules.switches_off:
            if value:
                settings[one.name] = False if one.default is True else 0.0
        elif rules.more_in:
            settings |= {one.name: str(value[0]), rules.more_in: [str(path) for path in value[1:]]} if value else {}
        elif rules.is_path:
            settings[one.name] = [str(path) for path in value] if isinstance(value, list) else str(value)
        else:
            settings[one.name] = value
    return options_with_preset(**settings)


@_with_flags_of_options
def finetune(
    out: Path = typer.Option(..., help="Folder of the run, made anew.", rich_help_panel="Run"),
    processes: int = typer.Option(
        1,
        help="Processes on this machine that share the images, one for each GPU or core; the model is the same. With "
        "OMP_NUM_THREADS=1 each has one thread.",
        rich_help_panel="Run",
    ),
    oversubscribe: bool = typer.Option(False, OVERSUBSCRIBE_OPTION, help=OVERSUBSCRIBE_HELP, rich_help_panel="Run"),
    stop_with: Optional[int] = typer.Option(
        None,
        help="End, with a checkpoint, when the process of this number is gone; for programs that start runs.",
        rich_help_panel="Run",
    ),
    resume: bool = typer.Option(
        False, "--resume", help="Go on with the run in --out, with the same settings.", rich_help_panel="Run"
    ),
    limit: Optional[str] = typer.Option(
        None,
        "--time-limit",
        help="End, with a checkpoint and status 75, when this time is over (55m, 1h30m): for queues, which then start "
        "the same command again with --resume.",
        rich_help_panel="Run",
    ),
    exit_verdict: bool = typer.Option(
        False,
        "--exit-verdict",
        help="Tell the verdict by the exit status: 0 supported, 3 undecided, 4 not supported, 5 in part, 6 nothing to "
        "change, 7 mixed, 8 does not belong.",
        rich_help_panel="Run",
    ),
    **given: Any,
) -> None:
    """Move a predicted model until it explains raw particle images.

    Writes model.cif (the answer), models/cycle_NN.cif, density.mrc, metrics.json, metrics.csv, frc.png, config.yaml,
    log.txt and checkpoints/ into the folder --out. On several machines, torchrun --nnodes ... -m cocofold finetune ...
    starts processes that share the images.
    """
    # Others are started before anything large is imported, which they do at the same time.
    started = WorkerProcess.start_or_join(processes, oversubscribe)
    with started as member, contextlib.ExitStack() as at_end, time_limit(limit):
        from cocofold.finetuning.run import finetune as fit_one_model
        from cocofold.finetuning.states import finetune_states as fit_several
        from cocofold.likelihood.distributed import WorkerGroup
        from cocofold.system.progress import console_log

        together = WorkerGroup(member) if member.count > 1 else None
        if together is not None and member.rank > 0:
            together.serve(given["device"])
            return
        if together is not None:
            at_end.enter_context(together)
        at_end.enter_context(console_log())
        options = _options_from(given)
        run = fit_several if options.tells_particles_apart else fit_one_model
        metrics = run(options, out, resume, stop_with, together)
        # By the log, which a terminal that is gone does not end
        next_step = f"{own_command()} report {shlex.quote(str(out))}"
        told = f"{out / 'model.cif'}: the model. Next: {next_step}, which writes {out / 'report.html'}"
        logging.getLogger("cocofold").info(told)
    if exit_verdict:
        raise typer.Exit(_STATUS_OF_VERDICT[metrics["verdict"]])


def report(
    run: Path = typer.Argument(..., help="Folder that cocofold finetune wrote."),
    map_file: Optional[Path] = typer.Option(
        None, "--map", help="The reconstruction (MRC): contoured on the page, and what ISOLDE fits the model into."
    ),
    particles: Optional[Path] = typer.Option(
        None, help="Where the particles' file is now, if not where it was in the run."
    ),
    particles_dir: Optional[Path] = typer.Option(
        None, help="Folder from which the stacks' paths start now, if it is another."
    ),
    map_origin: Tuple[float, float, float] = typer.Option(
        (0.0, 0.0, 0.0),
        help="Å: where ISOLDE shows the map's first voxel, for programs with a frame of their own.",
    ),
    model_shift: Tuple[float, float, float] = typer.Option(
        (0.0, 0.0, 0.0), help="Å: what is added to the models' positions for ISOLDE, so that they lie on that map."
    ),
    title: Optional[str] = typer.Option(None, help="Title of the page; by default the name of the run's folder."),
    relaxed: Optional[Path] = typer.Option(
        None, help="Model that cocofold relax made of the result: its geometry stands beside that of start and result."
    ),
) -> None:
    """Show what a finished run did, on one page that works offline.

    Writes report.html, with the models in 3D, curves, particles beside projections, orientations, and methods and
    citations to paste; and isolde/open_in_isolde.cxc, which opens the result in ChimeraX for ISOLDE.
    """
    from cocofold.reporting.run_report import write_report
    from cocofold.reporting.viewer_files import ViewerFrame

    frame = ViewerFrame(map_origin, model_shift)
    written = write_report(run, map_file, particles, particles_dir, frame, title, relaxed)
    echo(f"{written.page}: open it in any browser; it needs no network")
    if written.missing is not None:
        echo(f"without pictures of particles and orientations: {written.missing}")
    echo(f"{written.script}: open it in ChimeraX to go on with ISOLDE")
