"""Run a project's protocols without a screen, one after the other.

PROJECT is run if it exists. With --template it is made first, from a template and values for its fields. If the same
command is given again without the template, it runs the protocols that have not finished.

Exit statuses: 0 the data support the model, 3 undecided, 4 not supported, 5 supported in part, 6 nothing to change, 7
mixed, 8 does not belong; 1 a protocol failed, 2 bad input or no project, 70 something unexpected, 75 the time limit was
reached, 143 SIGTERM, 130 Ctrl-C.
"""

import argparse
import json
import os
import re
import shlex
import sys
import traceback
from typing import Any, Dict

import pyworkflow
from pyworkflow.project import Manager

from .engine import printable
from .project_run import BAD_INPUT, DEFECT, Ended, Limits, runProject
from .workflows import TemplateError, fieldsOf, fillIn, readTemplate

_SECONDS_OF = {"": 1, "s": 1, "m": 60, "h": 3600}


def makeProject(name, template, values):
    """Make a project of a template.

    Parameters
    ----------
    name : str
    template : str
        As `readTemplate` takes it.
    values : dict
        Values of its fields by alias.

    Raises
    ------
    Ended
        If there is such a project, no such template, or a value cannot be used; then no project is made.
    """
    manager = Manager()
    if manager.hasProject(name):
        path = manager.getProjectPath(name)
        raise Ended(
            BAD_INPUT, f"There is a project {name} already: {path}. Run it without --template, or name another."
        )
    # Scipion turns other letters into '-', and empties the folder that is there under the name that results
    if not re.fullmatch(r"[\w-]+", name):
        raise Ended(BAD_INPUT, f"{name}: names of projects have letters, digits, '_' and '-' only; give another name.")
    try:
        flow = fillIn(readTemplate(template), values)
    except TemplateError as error:
        raise Ended(BAD_INPUT, str(error)) from None
    here = os.getcwd()
    project = manager.createProject(name)
    try:
        made, wanted = project.loadProtocols(jsonStr=flow), json.loads(flow)
        if len(made) != len(wanted):
            raise Ended(
                BAD_INPUT,
                f"Only {len(made)} of {len(wanted)} protocols are known: a plugin that {template} needs is missing.",
            )
        for one in wanted:
            # Those of other plugins have lost theirs
            protocol = made[one["object.id"]]
            protocol.setObjLabel(one.get("object.label", protocol.getObjLabel()))
            project.saveProtocol(protocol)
    except BaseException:
        os.chdir(here)
        manager.deleteProject(name)
        raise
    os.chdir(here)


def secondsOf(text):
    """Return the seconds of a duration such as 90s, 55m or 2h; a number alone is seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text}: is no duration; write it as 90s, 55m or 2h")
    return float(found[1]) * _SECONDS_OF[found[2]]


def queueOf(text):
    """Return the name of a queue and its values from text such as gpu,JOB_MEMORY=32,JOB_HOURS=12."""
    name, *values = text.split(",")
    if not name or not all("=" in value for value in values):
        raise argparse.ArgumentTypeError(f"{text}: write it as QUEUE,NAME=VALUE,NAME=VALUE")
    return name, dict(value.split("=", 1) for value in values)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m scipion_cocofold.headless",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python -m scipion_cocofold.headless S1 --template cocofold-relion "
        "particles=run_data.star map=map.mrc model=model.cif",
    )
    parser.add_argument("project", help="name of a Scipion project")
    parser.add_argument("values", nargs="*", metavar="NAME=VALUE", help="with --template: values of its fields")
    parser.add_argument(
        "--template", help="make the project from it: cocofold-relion, cocofold-cryosparc, ... or a file"
    )
    parser.add_argument("--fields", action="store_true", help="with --template: list its fields, and do nothing")
    parser.add_argument("--timeout", type=secondsOf, metavar="TIME", help="stop after 90s, 55m, 2h: status 75")
    parser.add_argument(
        "--queue", type=queueOf, metavar="NAME,KEY=VALUE", help="submit CoCoFold's protocols to a queue"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on the standard output, the rest elsewhere"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing but verdicts and what went wrong")
    return parser


def main(words=None):
    """Run the command line; ends the process with the exit status."""
    parser = _parser()
    given = parser.parse_intermixed_args(words)
    wrong = [value for value in given.values if "=" not in value]
    if given.fields and not given.template:
        parser.error("--fields lists the fields of a template; name it by --template")
    if wrong or (given.values and not given.template):
        parser.error(f"{wrong[0]}: write it as NAME=VALUE" if wrong else "values are for --template")
    limits = Limits(given.timeout)
    limits.catchSignals()
    # Scipion and its jobs write to the standard output, which is kept for what is answered
    with os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace") as answers:
        if given.json or given.quiet:
            os.dup2(2, 1)
        told = _Told(sys.stderr if given.json else answers, given.quiet)
        report = _work(given, told, limits)
        if given.quiet:
            told.last(report)
        if given.json:
            print(json.dumps(report, ensure_ascii=False, allow_nan=False), file=answers, flush=True)
    sys.exit(report["status"])


def _refuseBlanks():
    """Refuse a Scipion below a folder with a blank: it starts protocols by command lines without quotes."""
    folder = os.path.dirname(pyworkflow.__file__)
    if re.search(r"\s", folder):
        raise Ended(
            BAD_INPUT,
            f"Scipion is in {folder}, and cannot start protocols from a path with a blank. Call it by a link without "
            f"one: ln -s {shlex.quote(sys.prefix)} LINK, by the whole path of LINK, then LINK/bin first in the PATH.",
        )


def _work(given, told, limits):
    """Do what the command line asks; return the content of ``--json``."""
    report: Dict[str, Any] = {"schema_version": 1, "project": None, "status": 0, "message": None}
    report.update(boxes=[], verdicts=[])
    try:
        if given.fields:
            for field in fieldsOf(readTemplate(given.template)):
                told(f"{field.alias}: {field.title}" + (f" (default {field.default})" if field.default else ""))
            return report
        _refuseBlanks()
        if given.template:
            makeProject(given.project, given.template, dict(value.split("=", 1) for value in given.values))
        runProject(given.project, told, limits, given.queue, report)
    except (Ended, TemplateError) as error:
        report.update(status=getattr(error, "status", BAD_INPUT), message=str(error))
        told(str(error))
    except Exception as error:
        traceback.print_exc()
        report.update(status=DEFECT, message=f"Something unexpected: {error!r}")
    return report


class _Told:
    """Prints lines, unless all is quiet; then only the last words are said."""

    def __init__(self, stream, quiet):
        self.stream, self.quiet = stream, quiet

    def __call__(self, line):
        if not self.quiet:
            print(printable(line), file=self.stream, flush=True)

    def last(self, report):
        """Print verdicts, and what went wrong."""
        lines = [f"{found['verdict']:9} {found['path']}" for found in report["verdicts"]]
        for line in [*lines, *([report["message"]] if report["message"] else [])]:
            print(printable(line), file=self.stream, flush=True)


if __name__ == "__main__":
    main()
