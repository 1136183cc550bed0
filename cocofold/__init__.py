"""Engine of CoCoFold: move a predicted protein model until it explains raw cryo-EM particle images.

The distribution ``scipion-em-cocofold`` holds this package and the Scipion plugin ``scipion_cocofold``. Each of them
imports the other, for one purpose each:

- The plugin imports ``__version__`` and `PYTHON_NEEDED` from here, and nothing else.
- ``scipion installp`` takes the first package of a distribution for the plugin and asks it for the class ``Plugin``.
  That package is ``cocofold`` here, so `__getattr__` imports the plugin when it is asked for that name.

Scipion installs the distribution into its own Python, which may be 3.8. There this module can be imported, and so can
the plugin; every other module of the engine needs `PYTHON_NEEDED` and says so. This file keeps to the syntax of 3.8.
"""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cocofold.api import assess as assess
    from cocofold.api import check as check
    from cocofold.api import finetune as finetune
    from cocofold.api import fit_in_map as fit_in_map
    from cocofold.api import read_map as read_map
    from cocofold.api import read_model as read_model
    from cocofold.api import read_particles as read_particles
    from cocofold.api import reconstruct as reconstruct
    from cocofold.api import relax as relax
    from cocofold.api import simulate as simulate
    from cocofold.system.errors import InputError as InputError

__version__ = "0.2.0.dev0"

PYTHON_NEEDED = (3, 9)
"""Oldest Python that runs the engine."""

# Read when torch is loaded: how long a thread that waits for the others spins before it sleeps. By default that is
# milliseconds: where something else needs the cores, a run takes five times as long and more. With no spinning at all a
# run on quiet cores takes 1.5 to 3 times as long. A tenth of a millisecond is near the better of both in either case.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")

# Read at the first matrix product: with it MKL gives the same bits on any number of threads, at no cost that was seen.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


class _EngineRefused:
    """Finder that refuses the engine's modules where Python is too old, before one of them fails for another reason."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name.startswith("cocofold."):
            needed, found = (".".join(map(str, version[:2])) for version in (PYTHON_NEEDED, sys.version_info))
            raise ImportError(
                f"the engine of CoCoFold needs Python {needed} or newer, and {sys.executable} is Python {found}: "
                "install scipion-em-cocofold[engine] into an environment with a newer Python (in Scipion "
                "'scipion3 installb cocofold' makes one)",
                name=name,
            )


if sys.version_info < PYTHON_NEEDED:
    sys.meta_path.insert(0, _EngineRefused)


API = (
    "InputError",
    "assess",
    "check",
    "finetune",
    "fit_in_map",
    "read_map",
    "read_model",
    "read_particles",
    "reconstruct",
    "relax",
    "simulate",
)
"""Names of the Python API, imported when they are asked for."""


def __getattr__(name: str) -> object:
    """Give the functions of the Python API, and Scipion's installer the class of the plugin."""
    if name in API:
        from cocofold import api

        return getattr(api, name)
    if name != "Plugin":
        raise AttributeError(f"module 'cocofold' has no attribute {name!r}")
    return _plugin()


def __dir__() -> "list[str]":
    return sorted([*globals(), *API])


def _plugin() -> object:
    import importlib.util
    from pathlib import Path

    # Right after an editable install the running process does not know the plugin's folder yet.
    beside = Path(__file__).resolve().parent.parent / "scipion-em-cocofold"
    if importlib.util.find_spec("scipion_cocofold") is None and beside.is_dir():
        sys.path.append(str(beside))
    from scipion_cocofold import Plugin

    return Plugin
