"""What the protocols share: how a verb of the engine is run, and how its message reaches the user."""

import hashlib
import json
import os
import shlex
from subprocess import CalledProcessError

from pwem.protocols import EMProtocol
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.protocol import params

from scipion_cocofold import Plugin

from ..constants import MESSAGE_START, STOP_WITH

SEED_HELP = "The same seed gives the same result; on the CPU to the last digit."
# Parameters that say where and how a protocol runs, not what comes out
_RUN_CONTROL = {
    "runName",
    "runMode",
    "hostName",
    "numberOfThreads",
    "numberOfMpi",
    "useGpu",
    "gpuList",
    "_useQueue",
    "_queueParams",
    "expected",
}
_LOG_LINES_SHOWN = 5


class ProtCocofoldBase(EMProtocol):
    """A protocol that runs verbs of the ``cocofold`` command."""

    _usesGpu = True

    # --------------------------- form
    @staticmethod
    def _addGpuParams(form):
        form.addHidden(
            params.USE_GPU,
            params.BooleanParam,
            default=True,
            label="Use GPU?",
            help="Yes: on the GPU named, if there is one, otherwise on the processor. No: on the processor. Without a "
            "GPU 2,000 images of 64 pixels take about 2 minutes.",
        )
        form.addHidden(
            params.GPU_LIST,
            params.StringParam,
            default="0",
            label="GPU ID",
            help='Number of the GPU, from 0. Of several, "0 1", fine-tuning takes all, one process each.',
        )

    # --------------------------- steps
    def _inputsHash(self):
        """Return a word that changes with any parameter or input; steps that have it are run again when it changes."""
        values = {
            name: attribute.getUniqueId() if attribute.isPointer() and attribute.hasValue() else str(attribute)
            for name, attribute in self.iterDefinitionAttributes()
            if name not in _RUN_CONTROL
        }
        return hashlib.sha1(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]

    def runEngine(self, verb, words, accepted=(0,)):
        """Run a verb of the engine.

        Parameters
        ----------
        verb : str
        words : list
            Options and their values; None and "" are left out together with the option before them.
        accepted : tuple of int
            Exit statuses that are no failure.

        Returns
        -------
        int
            Exit status.

        Raises
        ------
        PyworkflowException
            If the engine fails, with its message.
        """
        log = self.getStderrLog()
        start = os.path.getsize(log) if os.path.exists(log) else 0
        arguments = " ".join(shlex.quote(str(word)) for word in _withoutEmptyOptions(words))
        try:
            self.runJob(Plugin.getProgram(verb), arguments, env=self._engineEnviron(), numberOfMpi=1)
        except CalledProcessError as error:
            if error.returncode in accepted:
                return error.returncode
            raise PyworkflowException(
                _engineMessage(log, start) or f"The engine ended with status {int(error.returncode)}."
            ) from None
        return 0

    def _engineEnviron(self):
        environ = Plugin.getEnviron()
        environ[STOP_WITH] = str(os.getpid())
        environ["OMP_NUM_THREADS"] = str(max(1, self.numberOfThreads.get()))
        if self._gpus():
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in self._gpus())
        return environ

    def _gpus(self):
        """Return the numbers of the GPUs that this run may use."""
        return (self._stepsExecutor.getGpuList() or []) if self.usesGpu() else []

    def _deviceOptions(self):
        return ["--device", "auto" if self.usesGpu() else "cpu"]

    # --------------------------- information
    def _readJson(self, *names):
        """Return the content of a JSON file below the extra folder, or None if it is not there."""
        path = self._getExtraPath(*names)
        if not os.path.isfile(path):
            return None
        with open(path, encoding="utf-8") as content:
            return json.load(content)

    def _citations(self):
        return ["cocofold2026"]


def addSeed(form):
    """Add the parameter of the seed to a form."""
    form.addParam("seed", params.IntParam, default=0, expertLevel=params.LEVEL_ADVANCED, label="Seed", help=SEED_HELP)


def _withoutEmptyOptions(words):
    """Leave out options whose value is None or empty."""
    kept: list = []
    for word in words:
        if word is None or word == "":
            kept.pop()
        else:
            kept.append(word)
    return kept


def _engineMessage(log, start):
    """Return what the engine complained of in a log after a position, or else the log's last lines."""
    if not os.path.exists(log):
        return ""
    with open(log, encoding="utf-8", errors="replace") as lines:
        lines.seek(start)
        written = [line.strip() for line in lines if line.strip()]
    complaints = [line[len(MESSAGE_START) :] for line in written if line.startswith(MESSAGE_START)]
    return complaints[-1] if complaints else "\n".join(written[-_LOG_LINES_SHOWN:])
