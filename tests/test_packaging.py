"""One version everywhere, distributions with all their files, and an engine that refuses a Python that is too old."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import cocofold

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "scipion-em-cocofold" / "scipion_cocofold"
FOLDERS = (".ci", ".github", "benchmarks", "cocofold", "docs", "scipion-em-cocofold", "tests")
NOT_PACKED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", ".*_cache")


def read_yaml(name):
    # "on" stands for true in YAML 1.1, and heads what starts a workflow
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of the project, so that building leaves nothing behind in it."""
    copy = tmp_path_factory.mktemp("sources")
    for path in ROOT.iterdir():
        # In a worktree .git is a file
        if path.is_file() and path.name not in (".git", "PKG-INFO", "setup.cfg"):
            shutil.copy2(path, copy)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=NOT_PACKED)
    return copy


def build(kind, folder, target):
    """Build a distribution of the sources in a folder without the network, and return its path."""
    program = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(target)!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def unpacked(sources, tmp_path_factory):
    """The folder of an unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", sources, folder)) as archive:
        archive.extractall(folder, filter="data")
    (inside,) = (path for path in folder.iterdir() if path.is_dir())
    assert inside.name == f"scipion_em_cocofold-{cocofold.__version__}"
    return inside


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory):
    """A wheel that was built from the source distribution."""
    with zipfile.ZipFile(build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))) as archive:
        yield archive


def test_changes_begin_with_the_version():
    version, state = re.search(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGES.md").read_text(encoding="utf-8"), re.M).groups()
    if state == "unreleased":
        assert re.fullmatch(re.escape(version) + r"\.dev\d+", cocofold.__version__)
    else:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", state)
        assert version == cocofold.__version__


def test_versions_in_changes_fall_from_top_to_bottom():
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGES.md").read_text(encoding="utf-8"), re.M)
    versions = [tuple(map(int, re.match(r"(\d+)\.(\d+)\.(\d+) \(", heading).groups())) for heading in headings]
    assert versions == sorted(set(versions), reverse=True)


def test_citation_names_the_version_and_the_paper():
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == cocofold.__version__
    assert ("date-released" in citation) == ("dev" not in cocofold.__version__)
    assert citation["preferred-citation"]["doi"] == "10.1038/s42004-026-01899-7"
    for work in (citation, citation["preferred-citation"]):
        assert {"title", "authors", "type"} <= set(work)


def test_plugin_takes_its_version_from_the_engine():
    tree = ast.parse((PLUGIN / "__init__.py").read_text(encoding="utf-8"))
    imported = [
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "cocofold"
        for name in node.names
    ]
    assert "__version__" in imported
    written = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    assert "__version__" not in written


def test_linters_have_one_version():
    pinned = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    revisions = {repo["repo"]: repo["rev"] for repo in read_yaml(".pre-commit-config.yaml")["repos"]}
    assert revisions["https://github.com/astral-sh/ruff-pre-commit"] == "v" + pinned["ruff"]


def test_workflows_have_jobs_that_run_something():
    paths = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert paths
    for path in paths:
        workflow = read_yaml(path.relative_to(ROOT))
        assert {"name", True, "jobs"} <= set(workflow), path
        for name, job in workflow["jobs"].items():
            assert {"runs-on", "timeout-minutes", "steps"} <= set(job), (path, name)
            assert all(("run" in step) != ("uses" in step) for step in job["steps"]), (path, name)


def test_source_distribution_holds_all_files(sources, unpacked):
    missing = {path for path in files_below(sources) - files_below(unpacked) if ".egg-info/" not in path}
    assert not missing


def test_scipion_finds_the_engine_first(unpacked, wheel):
    """Its installer takes the folder of the first ``__init__.py`` among a distribution's files for the plugin."""
    (listed,) = unpacked.glob("*.egg-info/SOURCES.txt")
    for names in (listed.read_text().splitlines(), wheel.namelist()):
        first = next(name for name in names if name.endswith("__init__.py"))
        assert first == "cocofold/__init__.py"


def test_wheel_holds_all_files_of_both_packages(sources, wheel):
    wanted = {f"cocofold/{path}" for path in files_below(sources / "cocofold")}
    wanted |= {f"scipion_cocofold/{path}" for path in files_below(sources / PLUGIN.relative_to(ROOT))}
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == wanted
    endings = (".json.template", "protocols.conf", "page.html", "page.css", "page.js", ".cif", ".npz", "py.typed")
    assert all(any(name.endswith(ending) for name in names) for ending in endings)


def test_metadata_of_the_wheel(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Name"] == "scipion-em-cocofold"
    assert metadata["Version"] == cocofold.__version__
    assert metadata["Author"] == "CoCoFold for Scipion contributors"
    assert metadata["Requires-Python"] == ">=3.8"
    entries = configparser.ConfigParser()
    entries.read_string(wheel.read(name.replace("METADATA", "entry_points.txt")).decode())
    assert entries["pyworkflow.plugin"]["scipion_cocofold"] == "scipion_cocofold"
    module, function = entries["console_scripts"]["cocofold"].split(":")
    assert f"def {function}(" in wheel.read(module.replace(".", "/") + ".py").decode()


def imported_by(version, program, tmp_path):
    """Run a program that takes its Python for another version, beside a plugin that is a stand-in."""
    stand_in = tmp_path / "scipion_cocofold"
    stand_in.mkdir()
    (stand_in / "__init__.py").write_text("from cocofold import PYTHON_NEEDED, __version__\n\nPlugin = 'the plugin'\n")
    start = f"import sys\nsys.version_info = {version}\nsys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(program)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PROGRAM = """
    import cocofold

    print(cocofold.__version__, cocofold.Plugin)
    try:
        import cocofold.commands
    except ImportError as error:
        print(error.name, error)
"""


def test_old_python_has_the_plugin_and_a_reason_for_the_engine(tmp_path):
    first, second = imported_by((3, 8, 18), PROGRAM, tmp_path).splitlines()
    assert first == f"{cocofold.__version__} the plugin"
    assert second.startswith("cocofold.commands the engine of CoCoFold needs Python 3.9 or newer, and ")
    assert "is Python 3.8" in second


def test_oldest_python_of_the_engine_has_both(tmp_path):
    assert imported_by((3, 9, 0), PROGRAM, tmp_path).splitlines() == [f"{cocofold.__version__} the plugin"]
