"""Run a project's protocols without a screen, one after the other: ``python -m scipion_cocofold.headless PROJECT``.

Prints a line when a protocol starts, its summary when it ends, and the verdicts of fine-tuning. The exit status is 1
if a protocol failed, 2 if there is no such project, and else that of the verdict: 0 if the data support the model, 3 if
they do not decide, and 4 if they do not support a change. If the command is given again, it runs the protocols that
have not finished.
"""

import argparse
import json
import os
import re
import sys
import time

from pyworkflow.project import Manager
from pyworkflow.protocol import MODE_RESUME

from .constants import VERDICT_JSON

# Statuses by verdict; of several verdicts the first in this order decides
STATUS_OF = {
    "does not belong": 8,
    "mixed": 7,
    "not supported": 4,
    "undecided": 3,
    "supported in part": 5,
    "nothing to change": 6,
    "supported": 0,
}
FAILED, NO_PROJECT = 1, 2
# How often the project's database is read while a protocol runs in a queue
_POLL_INTERVAL_S = 2.0


def runProject(name, tell=print):
    """Run the protocols of a project that have not finished, in the order of their connections.

    Parameters
    ----------
    name : str
        Name of the project.
    tell : callable
        Called with each line of output.

    Returns
    -------
    int
        Exit status.
    """
    manager = Manager()
    if not manager.hasProject(name):
        known = ", ".join(sorted(project.getName() for project in manager.listProjects())) or "none"
        tell(f"There is no project {name}; there are: {known}")
        return NO_PROJECT
    project = manager.loadProject(name)
    os.chdir(project.path)
    if not project.getRuns():
        tell(f"Project {name} has no protocols; make it anew with 'scipion template'.")
        return NO_PROJECT
    for protocol in _inDependencyOrder(project):
        if protocol.isFinished():
            continue
        tell(f"running   {protocol.getObjLabel()}")
        if protocol.isActive() or protocol.isFailed() or protocol.isAborted():
            protocol.runMode.set(MODE_RESUME)
        # All inputs are there in this order; with prerequisites Scipion would only schedule the protocol
        protocol.setPrerequisites()
        project.launchProtocol(protocol, wait=True)
        ended = _waitForEnd(project, protocol.getObjId())
        found = ended.summary() if ended.isFinished() else ["failed: " + ended.getErrorMessage().strip()]
        for line in _withoutMarkup("\n".join(found)):
            tell("          " + line)
        if not ended.isFinished():
            return FAILED
    verdicts = list(_verdicts(project))
    for path, verdict in verdicts:
        tell(f"{verdict:9} {os.path.join(project.path, path)}")
    return statusOf([verdict for _, verdict in verdicts])


def statusOf(verdicts):
    """Return the exit status of a project's verdicts: that of the one that asks most of the user, 0 without any."""
    return next((status for verdict, status in STATUS_OF.items() if verdict in verdicts), 0)


def _withoutMarkup(text):
    """Return the lines of a summary without Scipion's markup for links and bold."""
    text = re.sub(r"\[\[[^]]*\]\[([^]]*)\]\]", r"\1", text)
    text = re.sub(r"\*([^*\n]+)\*", r"\1", text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def _waitForEnd(project, number):
    """Return a protocol when it has ended; in a queue it still runs when launching it returns."""
    while True:
        (protocol,) = (run for run in project.getRuns(refresh=True, checkPids=False) if run.getObjId() == number)
        if not protocol.isActive():
            return protocol
        time.sleep(_POLL_INTERVAL_S)


def _inDependencyOrder(project):
    """Return the protocols, each after those whose outputs are its inputs."""
    graph = project.getRunsGraph()
    waiting = {run.getObjId(): run for run in project.getRuns()}
    ordered = []
    while waiting:
        ready = [
            run
            for number, run in waiting.items()
            if not any(
                parent.run is not None and parent.run.getObjId() in waiting
                for parent in graph.getNode(str(number)).getParents()
            )
        ]
        for protocol in ready or list(waiting.values()):
            ordered.append(waiting.pop(protocol.getObjId()))
    return ordered


def _verdicts(project):
    """Yield path and verdict of each verdict file of a project."""
    for protocol in project.getRuns():
        path = protocol._getExtraPath(VERDICT_JSON)
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as content:
                yield path, json.load(content)["verdict"]


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m scipion_cocofold.headless", description=__doc__)
    parser.add_argument("project", help="name of a Scipion project, as made by 'scipion template ... --noschedule'")
    sys.exit(runProject(parser.parse_args().project, lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main()
