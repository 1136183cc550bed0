"""Queues of hosts.conf: the values of their dialogs, and how long a queue that answers nothing is asked again."""

import time

from pyworkflow.protocol.constants import STATUS_FINISHED, UNKNOWN_JOBID
from pyworkflow.protocol.launch import _checkJobStatus

# Slurm waits as long for a controller that does not answer before another one takes over (SlurmctldTimeout)
_SILENCE_S = 120.0


def valuesOfQueue(protocol, name, values):
    """Return a queue and the values of its dialog: those given, and the defaults of hosts.conf.

    Raises
    ------
    ValueError
        If hosts.conf has no such queue, or the queue no such value.
    """
    queues = protocol.getHostConfig().queueSystem.queues or {}
    if name not in queues:
        known = ", ".join(queues) or "none"
        raise ValueError(f"hosts.conf has no queue {name}; there are: {known}")
    given = {one[0]: one[1] for one in queues[name]}
    unknown = sorted(set(values) - set(given))
    if unknown:
        known = ", ".join(given) or "none"
        raise ValueError(f"Queue {name} has no value {', '.join(unknown)}; there are: {known}")
    return name, {**given, **values}


def outlastSilence(project, seconds=_SILENCE_S):
    """Have a project ask a queue that says nothing of a job again, for so long, before it takes the job for ended.

    Scipion takes a first silence for the job's end, and stores the protocol as failed. A queue whose controller is
    busy or restarts says nothing either, while the job goes on.
    """
    ask = project.checkJobId
    silentSince: dict[str, float] = {}

    def checkJobId(protocol):
        jobs = list(protocol.getJobIds())
        if not jobs or jobs[0] == UNKNOWN_JOBID or not protocol.isActive():
            return ask(protocol)
        if _checkJobStatus(protocol.getHostConfig(), jobs[0]) != STATUS_FINISHED:
            silentSince.pop(jobs[0], None)
            return True
        began = silentSince.setdefault(jobs[0], time.monotonic())
        return time.monotonic() - began < seconds or ask(protocol)

    project.checkJobId = checkJobId
