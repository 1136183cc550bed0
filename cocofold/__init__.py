"""Engine of CoCoFold: move a predicted protein model until it explains raw cryo-EM particle images."""

import os

__version__ = "0.1.0"

# Read when torch is loaded: how long a thread that waits for the others spins before it sleeps. By default that is
# milliseconds: where something else needs the cores, a run takes five times as long and more. With no spinning at all a
# run on quiet cores takes 1.5 to 3 times as long. A tenth of a millisecond is near the better of both in either case.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")

# Read at the first matrix product: with it MKL gives the same bits on any number of threads, at no cost that was seen.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def __getattr__(name: str) -> object:
    """Give Scipion its plugin class when it takes this package for the plugin (``scipion installp --devel``)."""
    if name != "Plugin":
        raise AttributeError(f"module 'cocofold' has no attribute {name!r}")
    import importlib.util
    import sys
    from pathlib import Path

    # Right after an editable install the running process does not know the plugin's folder yet.
    beside = Path(__file__).resolve().parent.parent / "scipion-em-cocofold"
    if importlib.util.find_spec("scipion_cocofold") is None and beside.is_dir():
        sys.path.append(str(beside))
    from scipion_cocofold import Plugin

    return Plugin
