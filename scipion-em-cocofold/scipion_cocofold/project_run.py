"""Run the protocols of a project one after the other: lock, limits, queue, verdicts. `headless` is its command line."""

import fcntl
import json
import os
import re
import signal
import socket
import sys
import time
from contextlib import contextmanager

import psutil
from pyworkflow.project import Manager
from pyworkflow.protocol import MODE_RESUME
from pyworkflow.protocol.constants import STATUS_INTERACTIVE
from pyworkflow.utils import cleanPath
from pyworkflow.utils.process import isProcessAlive, killWithChilds

from .constants import VERDICT_JSON
from .queues import outlastSilence, valuesOfQueue
from .verdict import addFacts, factsOfOthers, writeNotRun

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
FAILED, BAD_INPUT, DEFECT, TIME_IS_UP = 1, 2, 70, 75
# As shells count: 128 and the signal's number
_OF_SIGNAL = 128
LOCK = "cocofold.lock"
_FINETUNE = "ProtCocofoldFinetune"
_GOES_ON = "The same command without --template goes on."
# Of Scipion's message on a protocol whose process is gone
_DIED = "not found running"
# How often a running protocol is looked at; one in a queue is looked at by the queue's own program
_POLL_INTERVAL_S, _QUEUE_POLL_INTERVAL_S = 0.2, 2.0


class Ended(Exception):
    """Why a run ends before its verdicts: a status and a message."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Limits:
    """What ends a run from outside: a signal, or the time.

    Parameters
    ----------
    seconds : float, optional
    """

    def __init__(self, seconds=None):
        self.end = None if seconds is None else time.monotonic() + seconds
        self.signal = None

    def catchSignals(self):
        """From now on SIGTERM and SIGINT are noted, not obeyed at once: protocols are stopped first."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def reached(self):
        """Return why the run must end, as `Ended`, or None."""
        if self.signal is not None:
            name = signal.Signals(self.signal).name
            return Ended(_OF_SIGNAL + self.signal, f"{name}: the protocols were stopped. {_GOES_ON}")
        if self.end is not None and time.monotonic() >= self.end:
            return Ended(TIME_IS_UP, f"The time limit was reached; the protocols were stopped. {_GOES_ON}")
        return None

    def _note(self, number, frame):
        self.signal = number


def runProject(name, tell=print, limits=None, queue=None, report=None):
    """Run the protocols of a project that have not finished, in the order of their connections.

    Parameters
    ----------
    name : str
        Name of the project.
    tell : callable
        Called with each line of output.
    limits : Limits, optional
    queue : tuple of (str, dict), optional
        Name of a queue of hosts.conf and values for its dialog: protocols of CoCoFold are submitted to it.
    report : dict, optional
        Is filled with the content of ``--json``.

    Returns
    -------
    int
        Exit status.
    """
    report = {} if report is None else report
    report.update(boxes=[], verdicts=[], message=None)
    try:
        project = _openProject(name)
        report["project"] = project.path
        with _locked(project, tell):
            status = _runOpen(project, tell, limits or Limits(), queue, report)
    except Ended as ended:
        status, report["message"] = ended.status, str(ended)
        tell(str(ended))
    report["status"] = status
    return status


def statusOf(verdicts):
    """Return the exit status of a project's verdicts: that of the one that asks most of the user, 0 without any."""
    return next((status for verdict, status in STATUS_OF.items() if verdict in verdicts), 0)


def _openProject(name):
    manager = Manager()
    if not manager.hasProject(name):
        known = ", ".join(sorted(project.getName() for project in manager.listProjects())) or "none"
        raise Ended(BAD_INPUT, f"There is no project {name}; there are: {known}")
    project = manager.loadProject(name)
    outlastSilence(project)
    os.chdir(project.path)
    if not project.getRuns():
        raise Ended(BAD_INPUT, f"Project {name} has no protocols; make it anew with --template.")
    return project


@contextmanager
def _locked(project, tell):
    """Hold a project, so that no two runs start the same protocol; the lock ends with this process in any case."""
    with open(os.path.join(project.path, LOCK), "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise Ended(BAD_INPUT, f"The project is run already, by {holder}; wait for its end, or end it.") from None
        except OSError as error:
            # Some file systems of clusters have no locks; a project there can still be run
            tell(f"The project cannot be locked ({error.strerror}): see to it that nothing else runs it.")
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield


def _runOpen(project, tell, limits, queue, report):
    if queue is not None:
        try:
            valuesOfQueue(project.getRuns()[0], *queue)
        except ValueError as error:
            raise Ended(BAD_INPUT, str(error)) from error
    for number in [protocol.getObjId() for protocol in _inDependencyOrder(project)]:
        protocol = _protocol(project, number)
        if protocol.isFinished():
            report["boxes"].append(_box(protocol))
            continue
        tell(f"running   {protocol.getObjLabel()}")
        ended = _run(project, protocol, limits, queue)
        box = _box(ended)
        report["boxes"].append(box)
        for line in box["summary"] if ended.isFinished() else ["failed: " + box["error"]]:
            tell("          " + line)
        if not ended.isFinished():
            _collect(project, f"{ended.getObjLabel()}: {box['error']}")
            report["verdicts"] = _verdicts(project)
            report["message"] = f"{ended.getObjLabel()} failed: {box['error']}"
            return FAILED
    _collect(project)
    report["verdicts"] = _verdicts(project)
    for found in report["verdicts"]:
        tell(f"{found['verdict']:9} {found['path']}")
    return statusOf([found["verdict"] for found in report["verdicts"]])


def _run(project, protocol, limits, queue):
    """Run a protocol, or wait for one that another program has started; return it when it has ended."""
    if protocol.getStatus() == STATUS_INTERACTIVE:
        return protocol
    if _isRunByAnother(protocol):
        return _waitForEnd(project, protocol.getObjId(), None, limits)
    if protocol.isActive() or protocol.isFailed() or protocol.isAborted():
        protocol.runMode.set(MODE_RESUME)
    errors = protocol.validate()
    if errors:
        return _failed(project, protocol, " ".join(str(error) for error in errors))
    if protocol.getClassName() == _FINETUNE and protocol.getWorkingDir():
        # That of an earlier run says nothing of this one, however it ends
        cleanPath(protocol._getExtraPath(VERDICT_JSON))
    # All inputs are there in this order; with prerequisites Scipion would only schedule the protocol
    protocol.setPrerequisites()
    if queue is not None and protocol.getClassName().startswith("ProtCocofold"):
        protocol._useQueue.set(True)
        protocol.setQueueParams(valuesOfQueue(protocol, *queue))
    try:
        project.launchProtocol(protocol, wait=False)
    except Exception as error:
        _failed(project, protocol, str(error))
    if protocol.isFailed():
        # Refused by the queue; what is stored in the protocol's own database does not know it
        return protocol
    return _waitForEnd(project, protocol.getObjId(), protocol.getPid() or None, limits)


def _waitForEnd(project, number, process, limits):
    """Return a protocol when it has ended.

    Parameters
    ----------
    project : Project
    number : int
        The protocol's.
    process : int, optional
        Our child process in which it runs. Its end says that the protocol's status is final.
    limits : Limits
    """
    fate = "has ended"
    while True:
        reached = limits.reached()
        if reached:
            _stop(project, number, process)
            _collect(project, str(reached))
            raise reached
        if process is None:
            protocol = _protocol(project, number)
            died = protocol.isFailed() and _DIED in protocol.getErrorMessage()
            if died or not (_isRunByAnother(protocol) or _hasFinalStatus(protocol)):
                return _failed(project, protocol, f"Its process {fate} without a word. {_lastWords(protocol)}")
            if _hasFinalStatus(protocol):
                return protocol
            # Scipion reads what is newer than its last reading, and misses what was written in the course of that
            protocol.lastUpdateTimeStamp.set(None)
            project._storeProtocol(protocol)
            time.sleep(_QUEUE_POLL_INTERVAL_S)
        else:
            ending = _endingOf(process)
            if ending is None:
                time.sleep(_POLL_INTERVAL_S)
            else:
                process, fate = None, ending


def _hasFinalStatus(protocol):
    return not protocol.isActive() or protocol.getStatus() == STATUS_INTERACTIVE


def _lastWords(protocol):
    """Return a sentence with the last line of a protocol's log, and where the log is."""
    for path in (protocol.getStderrLog(), protocol.getStdoutLog()):
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as log:
                lines = [line.strip() for line in log if line.strip()]
            if lines:
                return f"Its log {path} ends with: {lines[-1]}"
    return "It has no log."


def _failed(project, protocol, message):
    """Store that a protocol has failed, and why; return it. Scipion's own way to save one makes it a new one."""
    protocol.setFailed(message)
    project._storeProtocol(protocol)
    return protocol


def _isRunByAnother(protocol):
    """Return whether a protocol has a job in a queue, or a process that is still its own.

    After a crash of the machine the protocol still has a number of a process, which may be that of any other by now.
    """
    if not protocol.isActive():
        return False
    if protocol.getJobIds():
        return True
    try:
        words = psutil.Process(protocol.getPid() or 0).cmdline()
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        # It cannot be looked at
        return True
    # Those of Scipion that run or schedule a protocol have its database as an argument
    return any(protocol.getDbPath() in word for word in words)


def _endingOf(process):
    """Return what became of a child process, in words that follow its name; None while it runs."""
    try:
        number, status = os.waitpid(process, os.WNOHANG)
    except ChildProcessError:
        return "has ended"
    if number != process:
        return None
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"has ended with status {code}"
    hint = " (memory may have run out)" if -code == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{hint}"


def _stop(project, number, process):
    """Stop a protocol with its engines, or take its job out of the queue."""
    protocol = _protocol(project, number)
    if protocol.isActive():
        try:
            project.stopProtocol(protocol)
        except Exception as error:
            print(f"The protocol could not be stopped: {error}", file=sys.stderr)
    if process is not None and isProcessAlive(process) and _endingOf(process) is None:
        killWithChilds(process)
        os.waitpid(process, 0)


def _protocol(project, number):
    (protocol,) = (run for run in project.getRuns(refresh=True) if run.getObjId() == number)
    return protocol


def _box(protocol):
    """Return what is told of a protocol that has ended."""
    finished = protocol.isFinished()
    error = "" if finished else _withoutBrackets(protocol.getErrorMessage().strip()) or protocol.getStatusMessage()
    if protocol.getStatus() == STATUS_INTERACTIVE:
        error = "It waits for somebody at a screen: run it in Scipion's window, then run the project again."
    return {
        "label": protocol.getObjLabel(),
        "class": protocol.getClassName(),
        "status": protocol.getStatus(),
        "seconds": round(protocol.getElapsedTime().total_seconds(), 1) if protocol.initTime.hasValue() else None,
        "summary": _withoutMarkup("\n".join(protocol.summary())) if finished else [],
        "error": error or None,
    }


def _withoutBrackets(message):
    """Return a message in which Scipion wrote the queue's lines as a list, such as ['', 'sbatch: error']."""
    found = re.fullmatch(r"(.*: )\[(.*)\]", message, flags=re.DOTALL)
    if not found:
        return message
    words = [
        word.replace("\\n", " ").strip()
        for word in re.findall(r"'((?:[^'\\]|\\.)*)'|\"([^\"]*)\"", found[2])
        for word in word
    ]
    return found[1] + (" ".join(word for word in words if word) or "it gave no reason")


def _withoutMarkup(text):
    """Return the lines of a summary without Scipion's markup for links and bold."""
    text = re.sub(r"\[\[[^]]*\]\[([^]]*)\]\]", r"\1", text)
    text = re.sub(r"\*([^*\n]+)\*", r"\1", text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def _inDependencyOrder(project):
    """Return the protocols, each after those whose outputs are its inputs, and after its prerequisites."""
    graph = project.getRunsGraph()
    waiting = {run.getObjId(): run for run in project.getRuns()}
    ordered = []
    while waiting:
        ready = [run for number, run in waiting.items() if not _waitsFor(graph, number, run) & set(waiting)]
        for protocol in ready or list(waiting.values()):
            ordered.append(waiting.pop(protocol.getObjId()))
    return ordered


def _waitsFor(graph, number, run):
    """Return the numbers of the protocols that a protocol waits for."""
    parents = {one.run.getObjId() for one in graph.getNode(str(number)).getParents() if one.run is not None}
    return parents | {int(one) for one in run.getPrerequisites() if str(one).isdigit()}


def _collect(project, error=None):
    """Complete the verdicts of fine-tuning by what other protocols found; say of those that did not run why."""
    runs = project.getRuns(refresh=True)
    for protocol in runs:
        if protocol.getClassName() != _FINETUNE:
            continue
        if not protocol.getWorkingDir():
            protocol.setWorkingDir(os.path.join("Runs", project.getProtWorkingDir(protocol)))
        if error is not None and not os.path.isfile(protocol._getExtraPath(VERDICT_JSON)):
            writeNotRun(protocol, error)
        addFacts(protocol, **factsOfOthers(protocol, runs))


def _verdicts(project):
    """Return path and verdict of each verdict file of a project that has a verdict."""
    found = []
    for protocol in project.getRuns():
        path = protocol._getExtraPath(VERDICT_JSON)
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as content:
                verdict = json.load(content)["verdict"]
            if verdict is not None:
                found.append({"verdict": verdict, "path": os.path.join(project.path, path)})
    return found
