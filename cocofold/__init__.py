"""Engine of CoCoFold: move a predicted protein model until it explains raw cryo-EM particle images."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Give Scipion its plugin class when it takes this package for the plugin (``scipion installp --devel``)."""
    if name == "Plugin":
        from scipion_cocofold import Plugin

        return Plugin
    raise AttributeError(f"module 'cocofold' has no attribute {name!r}")
