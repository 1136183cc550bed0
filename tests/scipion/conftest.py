"""A Scipion of its own for these tests: pyworkflow reads its configuration from the environment when it is imported."""

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

# scipion-em pins libraries that use deprecated calls of others; everywhere else a warning fails the tests
OLD_CALLS = r"(bibtexparser|matplotlib|pwem|pyparsing)(\.|$)"

HOME = Path(tempfile.mkdtemp(prefix="cocofold-scipion-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)


def _python_without_blanks() -> str:
    """This Python, with its packages, by a path that Scipion can put into command lines as it is."""
    if not any(letter.isspace() for letter in sys.prefix):
        return sys.executable
    link = HOME / "environment"
    link.symlink_to(sys.prefix)
    sys.path[:] = [str(link) + path[len(sys.prefix) :] if path.startswith(sys.prefix) else path for path in sys.path]
    return str(link / "bin" / Path(sys.executable).name)


def _configure_scipion(package_folder: Path) -> None:
    (HOME / "config").mkdir()
    for name in ("COCOFOLD_HOME", "CONDA_ACTIVATION_CMD", "EM_ROOT", "SCIPION_SOFTWARE", "VIEWERS"):
        os.environ.pop(name, None)
    os.environ.update(
        SCIPION_HOME=str(HOME),
        SCIPION_USER_DATA=str(HOME / "user"),
        SCIPION_TESTS=str(HOME / "tests"),
        SCIPION_DOMAIN="pwem",
        SCIPION_PYTHON=_python_without_blanks(),
        SCIPION_HOSTS=str(package_folder / "templates" / "hosts.template"),
        SCIPION_NOTIFY="False",
        SCIPION_TEST_NOSYNC="True",
        MPLBACKEND="Agg",
        # The engine of the interpreter that runs the tests
        COCOFOLD_ENV_ACTIVATION="",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        import pwem
        import pwem.protocols
        import pwem.viewers
        import pwem.wizards
        import pyworkflow.gui.project  # noqa: F401
        import scipion.install.plugin_funcs  # noqa: F401

        assert Path(pwem.Config.EM_ROOT).is_relative_to(HOME), "pyworkflow was imported before its environment was set"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(f"ignore::DeprecationWarning:{OLD_CALLS}"))


_scipion = importlib.util.find_spec("scipion")
if _scipion is not None and importlib.util.find_spec("pwem") is not None:
    _configure_scipion(Path(_scipion.origin).parent)


@pytest.fixture(scope="session")
def _adenylate_kinase(shared_data):
    from scipion_project import adenylate_kinase, make_project

    project = make_project("adenylate_kinase")
    objects = adenylate_kinase(project, shared_data)
    objects.project = project
    return objects


@pytest.fixture
def adk(_adenylate_kinase, monkeypatch):
    """A real project with adenylate kinase's particles, map and models; the process is in the project's folder."""
    monkeypatch.chdir(_adenylate_kinase.project.path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return _adenylate_kinase


@pytest.fixture(scope="session")
def placed(_adenylate_kinase):
    """The closed state placed in the open state's map, from anywhere."""
    from scipion_cocofold.protocols import ProtCocofoldFit
    from scipion_project import finished, run

    os.chdir(_adenylate_kinase.project.path)
    inputs = {"inputModel": _adenylate_kinase.moved, "inputVolume": _adenylate_kinase.volume}
    return finished(run(_adenylate_kinase.project, ProtCocofoldFit, **inputs, numberOfThreads=1))


@pytest.fixture(scope="session")
def everything(_adenylate_kinase):
    """Fine-tuned from particles, a volume and a model from anywhere, and nothing else but a reference."""
    from scipion_cocofold.protocols import ProtCocofoldFinetune
    from scipion_project import finished, run

    adk = _adenylate_kinase
    os.chdir(adk.project.path)
    inputs = {"inputParticles": adk.particles, "inputModel": adk.moved, "inputVolume": adk.volume}
    settings = {"inputReference": adk.truth, "effort": 0.02, "keepCycles": True, "numberOfThreads": 1}
    return finished(run(adk.project, ProtCocofoldFinetune, **inputs, **settings))


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """A STAR of 2.5 Å, a map of 2.5 Å and a model, as far as templates look at them."""
    import mrcfile
    import numpy as np

    star = tmp_path / "particles.star"
    star.write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnImagePixelSize #3\n'one group' 1 2.5\n\n"
        "data_particles\n\nloop_\n_rlnImageName #1\n_rlnOpticsGroup #2\n000001@stack.mrcs 1\n"
    )
    with mrcfile.new(tmp_path / "map.mrc") as mrc:
        mrc.set_data(np.zeros((8, 8, 8), np.float32))
        mrc.voxel_size = 2.5
    (tmp_path / "model.cif").write_text("data_nothing\n")
    return {"particles": str(star), "map": str(tmp_path / "map.mrc"), "model": str(tmp_path / "model.cif")}
