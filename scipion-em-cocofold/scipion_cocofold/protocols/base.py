"""Base class of all protocols: runs a verb of the engine and shows its message; parameters that several forms have."""

import hashlib
import json
import os
import shlex
from subprocess import CalledProcessError

from pwem.protocols import EMProtocol
from pyworkflow.exceptions import PyworkflowException
from pyworkflow.object import PointerList
from pyworkflow.protocol import params
from pyworkflow.utils import cleanPath

from scipion_cocofold import Plugin

from ..constants import STOP_WITH
from ..engine import commandWords, lastMessage

SEED_HELP = "The same seed gives the same result; on the CPU to the last digit."
# Ranges of numbers that the engine accepts, by verb and option; the engine refuses what lies outside
ENGINE_RANGES = {
    "check --count": (10, 100000),
    "finetune --batch-size": (1, 100000),
    "finetune --cycles": (1, 30),
    "finetune --effort": (0.01, 100),
    "finetune --heldout": (0, 0.5),
    "finetune --remove-below": (0, 100),
    "finetune --resolution": (0.5, 1000),
    # 0 leaves the option out
    "finetune --max-particles": (0, 10**9),
    "fit --resolution": (0.5, 100),
    "predict --rank": (1, 10000),
    # Stricter than the engine: of fewer particles none are held out
    "select --count": (20, 10**9),
}
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
    "oversubscribe",
}
# Inputs that forms had not from the start: while they are empty, a run that was begun without them goes on
_ADDED_INPUTS = {"inputContext"}


class ProtCocofoldBase(EMProtocol):
    """A protocol that runs verbs of the ``cocofold`` command.

    Options of a verb are dictionaries from option to value, as `commandWords` takes them.
    """

    _usesGpu = True

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # Scipion forgets the label with which a workflow is imported; without one it makes one up
        self.setObjLabel(kwargs.get("objLabel") or "")

    # --------------------------- form
    @staticmethod
    def _addGpuParams(form):
        form.addHidden(
            params.USE_GPU,
            params.BooleanParam,
            default=True,
            label="Use GPU?",
            help="Yes: the run uses the GPU that is named, or the processor if there is none. No: it uses the "
            "processor. There, on one core, fine-tuning takes about a minute for 214 residues and 2,000 images of 64 "
            "pixels.",
        )
        form.addHidden(
            params.GPU_LIST,
            params.StringParam,
            default="0",
            label="GPU ID",
            help='Number of the GPU, from 0. If several are given, as in "0 1", fine-tuning uses all of them, with one '
            "process each.",
        )

    # --------------------------- queue
    def getSubmitDict(self):
        """Return the values for a queue's job: GPUs only where this run uses them, cores for all its processes."""
        values = super().getSubmitDict()
        gpus = len(self.getGpuList()) if self.usesGpu() and self._comparesImages() else 0
        cores = self._processes(gpus) * max(1, self.numberOfThreads.get())
        # What is typed into the queue's dialog comes last
        return {**values, "GPU_COUNT": gpus, "JOB_CORES": cores, **self.getQueueParams()[1]}

    def _comparesImages(self):
        """Return whether this run has work for a GPU."""
        return True

    def _processes(self, gpus):
        """Return how many processes the engine starts with a number of GPUs."""
        return 1

    # --------------------------- steps
    def _inputsHash(self):
        """Return a hash of all parameters and inputs; each step has it as argument, so that a change runs it again."""
        values = {
            name: [_identity(one) for one in attribute] if isinstance(attribute, PointerList) else _identity(attribute)
            for name, attribute in self.iterDefinitionAttributes()
            if name not in _RUN_CONTROL and (name not in _ADDED_INPUTS or attribute.hasValue())
        }
        return hashlib.sha1(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]

    def _isFolderOf(self, folder, key):
        """Return whether `_startFolder` was called for this folder with the same parameters and inputs."""
        note = folder + ".key"
        if not os.path.isfile(note):
            return False
        with open(note, encoding="utf-8") as content:
            return content.read() == key

    def _startFolder(self, folder, key):
        """Remove a folder of the engine, and note for which parameters and inputs it will be written."""
        cleanPath(folder)
        with open(folder + ".key", "w", encoding="utf-8") as note:
            note.write(key)

    def runEngine(self, verb, options, arguments=(), accepted=(0,)):
        """Run a verb of the engine.

        Parameters
        ----------
        verb : str
            Verb of the ``cocofold`` command.
        options : dict
            Values by option, as the class describes them.
        arguments : iterable of str
            Words before the options.
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
        words = " ".join([*map(shlex.quote, arguments), commandWords(options)])
        try:
            self.runJob(Plugin.getProgram(verb), words, env=self._engineEnviron(), numberOfMpi=1)
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
        if not self.usesGpu():
            # Also for programs that the engine starts, such as ColabFold
            environ["CUDA_VISIBLE_DEVICES"] = ""
        elif self._gpus():
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in self._gpus())
        return environ

    def _gpus(self):
        """Return the numbers of the GPUs that this run may use."""
        return (self._stepsExecutor.getGpuList() or []) if self.usesGpu() else []

    def _deviceOptions(self):
        return {"--device": "auto" if self.usesGpu() else "cpu"}

    # --------------------------- information
    def _readJson(self, *names):
        """Return the content of a JSON file below the extra folder, or None if it is not there."""
        path = self._getExtraPath(*names)
        if not os.path.isfile(path):
            return None
        with open(path, encoding="utf-8") as content:
            return json.load(content)

    def _citations(self):
        return ["cocofold2026", "delarosatrevin2016"]


class EngineRange(params.Conditional):
    """Validator of a parameter: accepts an empty field and numbers in the range of an engine's option."""

    def __init__(self, option):
        least, most = ENGINE_RANGES[option]
        super().__init__(f"must be from {least:,} to {most:,}", allowsNull=True)
        self._condition = lambda value: least <= value <= most


def addSeed(form, condition="True"):
    """Add the parameter of the seed to a form."""
    form.addParam(
        "seed",
        params.IntParam,
        default=0,
        condition=condition,
        expertLevel=params.LEVEL_ADVANCED,
        label="Seed",
        help=SEED_HELP,
    )


def _identity(attribute):
    """Return what tells a parameter or an input from another: the number of an object, or the text of a value."""
    return attribute.getUniqueId() if attribute.isPointer() and attribute.hasValue() else str(attribute)


def _engineMessage(log, start):
    """Return the engine's last message in a log after a position (bytes), or the log's last lines if there is none."""
    if not os.path.exists(log):
        return ""
    with open(log, encoding="utf-8", errors="replace") as lines:
        lines.seek(start)
        return lastMessage(lines.read())
