"""Scipion plugin of CoCoFold: protocols that move a predicted model until it explains raw particle images.

The plugin runs in Scipion's Python. The engine is the ``cocofold`` command, which runs in an environment of its own.
They exchange nothing but command lines and files.
"""

import importlib.util
import os
import shlex
import shutil
import sys

import pwem
from pyworkflow import VarTypes
from pyworkflow.utils import Environ

from cocofold import PYTHON_NEEDED, __version__

from .constants import (
    COCOFOLD,
    COCOFOLD_COLABFOLD,
    COCOFOLD_ENV_ACTIVATION,
    COCOFOLD_HOME,
    COCOFOLD_WEIGHTS,
    COLABFOLD,
    COLABFOLD_VERSION,
    DISTRIBUTION,
    ENGINE_INSTALLED,
    ENGINE_MODULES,
    ENV_CREATED,
    ENV_PYTHON,
    WEIGHTS,
    WEIGHTS_LAST,
    WEIGHTS_PATTERN,
    WEIGHTS_URL,
    WEIGHTS_VERSION,
)

__all__ = ["Plugin", "__version__"]

_logo = "cocofold_logo.png"
_references = ["cocofold2026"]


def load_tests(loader, tests, pattern):
    """Give unittest the plugin's tests, for ``scipion3 tests scipion_cocofold``."""
    from .tests import test_workflow

    tests.addTests(loader.loadTestsFromModule(test_workflow))
    return tests


class Plugin(pwem.Plugin):
    """Configuration variables, installation of the engine, and the command lines that run its verbs."""

    _homeVar = COCOFOLD_HOME
    _pathVars = (COCOFOLD_HOME,)
    _supportedVersions = (__version__,)
    _url = f"https://pypi.org/project/{DISTRIBUTION}/"

    def __init__(self):
        super().__init__()
        # Shown to the user; without it Scipion shows the name of the module
        self._name = COCOFOLD

    @classmethod
    def _defineVariables(cls):
        cls._defineEmVar(
            COCOFOLD_HOME,
            cls.getEnvName(),
            description="Folder that marks the engine's conda environment as installed.",
            var_type=VarTypes.FOLDER,
        )
        cls._defineVar(
            COCOFOLD_ENV_ACTIVATION,
            cls.getDefaultEnvActivation(),
            description="Command that makes the cocofold command available. Leave it empty if cocofold is in the PATH "
            "or installed with its extra 'engine' in Scipion's own environment.",
            var_type=VarTypes.STRING,
        )
        cls._defineEmVar(
            COCOFOLD_COLABFOLD,
            f"{COLABFOLD}-{COLABFOLD_VERSION}/env",
            description="Environment that has colabfold_batch, or that command, for predictions from sequences. "
            f"'scipion3 installb {COLABFOLD}' makes the one named here.",
            var_type=VarTypes.FOLDER,
        )
        cls._defineEmVar(
            COCOFOLD_WEIGHTS,
            f"{WEIGHTS}-{WEIGHTS_VERSION}",
            description="Folder with AlphaFold-Multimer's weights, params_model_K_multimer_v3.npz. "
            f"'scipion3 installb {WEIGHTS}' fetches them.",
            var_type=VarTypes.FOLDER,
        )

    @classmethod
    def getColabFold(cls):
        """Return ColabFold's environment or command, or an empty string to look for it in the PATH."""
        place = cls.getVar(COCOFOLD_COLABFOLD) or ""
        return place if os.path.exists(place) else ""

    @classmethod
    def getWeights(cls):
        """Return the folder with AlphaFold-Multimer's weights, or an empty string to look where ColabFold has them."""
        place = cls.getVar(COCOFOLD_WEIGHTS) or ""
        return place if os.path.isdir(place) else ""

    @classmethod
    def getEnvName(cls):
        """Return the name of the conda environment that this version of the plugin installs."""
        return f"{COCOFOLD}-{__version__}"

    @classmethod
    def getDefaultEnvActivation(cls):
        """Return the activation of the environment that `defineBinaries` makes."""
        return f"conda activate {cls.getEnvName()}"

    @classmethod
    def getEnviron(cls):
        """Return the variables for the engine: Scipion's, without the paths to Scipion's or the user's own packages."""
        environ = Environ(os.environ)
        environ.pop("PYTHONPATH", None)
        environ["PYTHONNOUSERSITE"] = "1"
        return environ

    @classmethod
    def getProgram(cls, verb):
        """Return the command line that runs a verb of the engine, without the verb's options.

        Parameters
        ----------
        verb : str
            Verb of the ``cocofold`` command, such as ``finetune``.

        Returns
        -------
        str
            For ``Protocol.runJob``, with `getEnviron` as its environment.
        """
        activation = cls._getEnvActivation()
        if activation:
            return " ".join([*cls._condaWords(), activation, "&&", COCOFOLD, verb])
        if cls._engineSharesInterpreter():
            return f"{shlex.quote(sys.executable)} -m {COCOFOLD} {verb}"
        return f"{COCOFOLD} {verb}"

    @classmethod
    def validateInstallation(cls):
        """Return what keeps the engine from running, as messages for the form; an activation of the user is trusted."""
        activation = cls._getEnvActivation()
        marker = cls.getHome(ENGINE_INSTALLED)
        if activation == cls.getDefaultEnvActivation() and not os.path.exists(marker):
            return [
                f"The engine of CoCoFold is not installed: {marker} not found.",
                f"Run 'scipion3 installb {COCOFOLD}', or set {COCOFOLD_ENV_ACTIVATION} in scipion.conf to the command "
                "that activates an environment with the cocofold command, or to nothing if that is in the PATH.",
            ]
        if not activation and not cls._engineSharesInterpreter() and not cls._engineInPath():
            return [
                f"{COCOFOLD_ENV_ACTIVATION} is empty, and the engine of CoCoFold is neither in the PATH nor installed "
                f"for {sys.executable}.",
                f"Set {COCOFOLD_ENV_ACTIVATION} in scipion.conf to the command that activates its environment, or run "
                f"{shlex.quote(sys.executable)} -m pip install '{DISTRIBUTION}[engine]'.",
            ]
        return []

    @classmethod
    def defineBinaries(cls, env):
        """Add the engine's conda environment to Scipion's installer; ColabFold and AlphaFold's weights on request."""
        cls._addEngine(env)
        cls._addColabFold(env)
        cls._addWeights(env)

    @classmethod
    def _addEngine(cls, env):
        # Only the installer has this module
        from scipion.install.funcs import VOID_TGZ

        conda = cls._condaWords()
        create = [
            *conda,
            # Anaconda's own channels ask for terms to be accepted, which would stop an unattended installation
            f"conda create -y -n {cls.getEnvName()} --override-channels -c conda-forge python={ENV_PYTHON} pip",
            "&& touch",
            ENV_CREATED,
        ]
        install = [
            *conda,
            cls.getDefaultEnvActivation(),
            "&& python -m pip install",
            cls._engineRequirement(),
            "&& touch",
            ENGINE_INSTALLED,
        ]
        env.addPackage(
            COCOFOLD,
            version=__version__,
            tar=VOID_TGZ,
            commands=[(" ".join(create), ENV_CREATED), (" ".join(install), ENGINE_INSTALLED)],
            neededProgs=[] if conda else ["conda"],
            vars=cls.getEnviron(),
            default=True,
        )

    @classmethod
    def _addColabFold(cls, env):
        from scipion.install.funcs import VOID_TGZ

        conda = cls._condaWords()
        # An environment in this folder, so that a path says where it is
        create = f"conda create -y -p ./env --override-channels -c conda-forge python={ENV_PYTHON} pip"
        install = f"env/bin/python -m pip install '{COLABFOLD}[alphafold]=={COLABFOLD_VERSION}'"
        env.addPackage(
            COLABFOLD,
            version=COLABFOLD_VERSION,
            tar=VOID_TGZ,
            commands=[(" ".join([*conda, create]), "env/bin/python"), (install, "env/bin/colabfold_batch")],
            neededProgs=[] if conda else ["conda"],
            vars=cls.getEnviron(),
            default=False,
        )

    @classmethod
    def _addWeights(cls, env):
        from scipion.install.funcs import VOID_TGZ

        archive = os.path.basename(WEIGHTS_URL)
        fetch = f"curl --fail --location --continue-at - --output {archive}.part {WEIGHTS_URL}"
        fetch += f" && mv {archive}.part {archive}"
        unpack = f"tar --extract --file {archive} --wildcards '{WEIGHTS_PATTERN}' && rm {archive}"
        env.addPackage(
            WEIGHTS,
            version=WEIGHTS_VERSION,
            tar=VOID_TGZ,
            # One command, since the archive is gone in the end
            commands=[(f"{fetch} && {unpack}", WEIGHTS_LAST)],
            neededProgs=["curl", "tar"],
            default=False,
        )

    @classmethod
    def _getEnvActivation(cls):
        return (cls.getVar(COCOFOLD_ENV_ACTIVATION) or "").strip().rstrip(";& ")

    @classmethod
    def _condaWords(cls):
        """Return Scipion's own conda activation, which ends in ``&&`` or ``;``, as a list of one string or none."""
        activation = (cls.getCondaActivationCmd() or "").strip()
        return [activation] if activation else []

    @staticmethod
    def _engineSharesInterpreter():
        """Return whether Scipion's own Python can run the engine; looks for the modules without importing them."""
        found = all(importlib.util.find_spec(name) is not None for name in ENGINE_MODULES)
        return found and sys.version_info >= PYTHON_NEEDED

    @staticmethod
    def _engineInPath():
        """Return whether the PATH has an engine; the plugin's own command, without the extra, does not count."""
        found = shutil.which(COCOFOLD)
        return found is not None and os.path.dirname(found) != os.path.dirname(sys.executable)

    @staticmethod
    def _engineRequirement():
        """Return pip's requirement: in devel mode the folder of this module, else this version."""
        folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
        if os.path.isfile(os.path.join(folder, "setup.py")):
            return "-e " + shlex.quote(folder + "[engine]")
        return shlex.quote(f"{DISTRIBUTION}[engine]=={__version__}")
