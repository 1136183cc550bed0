"""Engine of CoCoFold: move a predicted protein model until it explains raw cryo-EM particle images."""

import os

__version__ = "0.1.0"

# Read when torch is loaded. By default idle threads spin: on a core that something else needs too, a run was
# eight times slower for it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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
