"""How the engine is laid out: sizes that must not grow, no circle, and names that the documents give."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from cocofold.__main__ import app
from cocofold.commands.demo import closed_state, open_state
from cocofold.finetuning.options import Options
from cocofold.simulation.particle_simulation import simulate
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.model import Model

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "cocofold"
MOST_MODULES = 120
MOST_WITH_ONE_IMPORTER = 30
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
MOST_FILES_THAT_FOLLOW = 8
# Packages from the one that knows nothing to the one that knows all
ORDER = (
    "system",
    "imaging",
    "structure",
    "particles",
    "alphafold",
    "sources",
    "likelihood",
    "mapfit",
    "preflight",
    "simulation",
    "assessment",
    "relaxation",
    "finetuning",
    "selection",
    "reporting",
    "commands",
)


def modules() -> dict[str, Path]:
    """Each module of the engine, by its dotted name."""
    found = {}
    for path in sorted(ENGINE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports_of(name: str) -> set[str]:
    """Modules of the engine that a module imports, at its top or within functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cocofold":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else str(node.module))
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in MODULES)
    # Every module's parent, which has the version, and gives the API when it is asked for
    return found - {name, "cocofold"}


IMPORTS = {name: imports_of(name) for name in MODULES}


def package_of(name: str) -> str:
    """Package of a module, or a module that lies beside the packages."""
    return name.split(".")[1] if "." in name else ""


def test_the_number_of_modules() -> None:
    assert len(MODULES) <= MOST_MODULES


def test_few_modules_have_a_single_importer() -> None:
    importers: dict[str, set[str]] = defaultdict(set)
    for name, imported in IMPORTS.items():
        for other in imported:
            importers[other].add(name)
    alone = sorted(name for name in MODULES if len(importers[name]) == 1)
    assert len(alone) <= MOST_WITH_ONE_IMPORTER, alone


def test_no_file_is_long() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: n for name, n in lines.items() if n > MOST_LINES} == {}


def test_no_function_is_long() -> None:
    """Without its docstring and without the options of a command, which are its signature."""
    found = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if length > MOST_LINES_OF_A_FUNCTION:
                    found[f"{name}.{node.name}"] = length
    assert found == {}


def test_no_file_name_stands_twice() -> None:
    names = Counter(path.name for path in MODULES.values())
    assert {name for name, count in names.items() if count > 1} <= {"__init__.py", "base.py"}


def test_packages_import_one_way() -> None:
    """From those that know less; so there is no circle of packages."""
    place = {package: number for number, package in enumerate(ORDER)}
    wrong = [
        f"{name} imports {other}"
        for name, imported in IMPORTS.items()
        for other in imported
        if package_of(name) in place
        and package_of(other) in place
        and place[package_of(other)] > place[package_of(name)]
    ]
    assert wrong == []
    assert {package_of(name) for name in MODULES} - {*ORDER, "", "api", "__main__"} == set()


def test_no_circle_of_modules() -> None:
    state: dict[str, str] = {}

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert state.get(name) != "open", " -> ".join((*way, name))
        if name in state:
            return
        state[name] = "open"
        for other in sorted(IMPORTS[name]):
            visit(other, (*way, name))
        state[name] = "done"

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize(
    "document", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
)
def test_paths_in_documents_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    paths = {
        path.rstrip(".") for path in re.findall(r"`((?:cocofold|tests|benchmarks|scipion-em-cocofold)/[\w/.-]+)", text)
    }
    assert {path for path in paths if not (ROOT / path).exists()} == set()


def test_the_index_links_all_pages() -> None:
    linked = set(re.findall(r"\]\(([\w.]+\.md)", (ROOT / "docs" / "README.md").read_text(encoding="utf-8")))
    assert linked >= {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("document", [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))])
def test_links_lead_to_files_and_headings(document: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        name, _, heading = link.partition("#")
        target = document.parent / name if name else document
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (heading and heading not in anchors_of(target)):
            wrong.append(link)
    assert wrong == []


def anchors_of(document: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", ["method.md", "architecture.md"])
def test_modules_in_documents_exist(document: str) -> None:
    """Names like `likelihood.frc_loss`, with or without something of the module."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    packages = {package_of(name) for name in MODULES if name.count(".") > 1}
    for package, module, member in re.findall(r"`([a-z]+)\.([a-z_]+)(?:\.(\w+))?[`(]", text):
        if package in packages:
            name = f"cocofold.{package}.{module}"
            assert name in MODULES, name
            assert not member or re.search(rf"\b{member}\b", MODULES[name].read_text(encoding="utf-8")), member


def names_defined_in(path: Path) -> set[str]:
    """Names of a module's functions, classes and constants, and of what classes have, as in ``Class.member``."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            found |= {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inside = list(ast.walk(node))
            members = {one.name for one in inside if isinstance(one, ast.FunctionDef)}
            members |= {one.id for one in inside if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
            members |= {one.attr for one in inside if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store)}
            found |= {f"{node.name}.{member}" for member in members}
    return found


@pytest.mark.parametrize(
    "document", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
)
def test_names_that_documents_place_in_a_module_are_there(document: Path) -> None:
    """As in `cocofold/selection.py` `select_particles`, and in `project` in `cocofold/imaging/projection.py`."""
    text = document.read_text(encoding="utf-8")
    after = re.findall(r"`((?:cocofold|benchmarks)/[\w/]+\.py)` `([A-Za-z_][\w.]*)`", text)
    before = re.findall(r"`([A-Za-z_][\w.]*)` in `((?:cocofold|benchmarks)/[\w/]+\.py)`", text)
    for path, name in [*after, *((path, name) for name, path in before)]:
        assert name in names_defined_in(ROOT / path), f"{path} has no {name}"


def test_names_of_the_paper_s_page_exist() -> None:
    """Those that stand without a module too: all their parts are in one file."""
    words = [
        set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
        for folder in ("cocofold", "benchmarks", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if path != Path(__file__)
    ]
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`([A-Za-z_][\w.]*)`", text) if "." not in name or name[0].isupper()}
    assert len(named) > 50
    assert {name for name in named if not any(set(name.split(".")) <= one for one in words)} == set()


def files_that_are_handed(kind: type, run: Callable[[], None]) -> set[str]:
    """Files of the engine with a function that is given an object of a kind, or makes one, while something runs."""
    found: set[str] = set()
    base = str(ENGINE)

    def note(frame, event: str, _: object) -> None:
        path = frame.f_code.co_filename
        if event in ("call", "return") and path.startswith(base) and path not in found:
            values = frame.f_locals.values()
            if any(isinstance(value, kind) for value in values):
                found.add(path)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return {str(Path(path).relative_to(ENGINE)) for path in found}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 60 particles of open adenylate kinase and a map of them."""
    folder = tmp_path_factory.mktemp("layout") / "particles"
    settings = SimulationSettings(
        model=str(open_state()), box=64, pixel_size=2.5, count=60, snr=0.5, seed=1, map=True, shift_spread=1.0
    )
    simulate(settings, folder)
    return folder


def command(*arguments: object) -> Callable[[], None]:
    return lambda: app([str(argument) for argument in arguments], standalone_mode=False)


@pytest.mark.slow
def test_a_model_is_followed_through_few_files(simulated: Path, tmp_path: Path) -> None:
    given = ["--model", closed_state(), "--map", simulated / "map.mrc", "--out", tmp_path / "fit"]
    # Profiling is slow, and a search of one hand at low resolution goes the same way.
    fit = command("fit", *given, "--hand", "as-is", "--resolution", 20)
    files = files_that_are_handed(Model, fit)
    assert "commands/fit.py" in files
    assert len(files) <= MOST_FILES_THAT_FOLLOW, sorted(files)


@pytest.mark.slow
def test_options_are_followed_through_few_files(simulated: Path, tmp_path: Path) -> None:
    arguments = ["--particles", simulated / "particles.star", "--model", closed_state(), "--map", simulated / "map.mrc"]
    # Options do not reach the search in the map, which takes longest where it compares fine detail.
    short = ["--map-resolution", 20, "--effort", 0.01, "--no-check", "--accept-placement"]
    finetune = command("finetune", *arguments, "--out", tmp_path / "run", *short)
    files = files_that_are_handed(Options, finetune)
    assert "finetuning/run.py" in files
    assert len(files) <= MOST_FILES_THAT_FOLLOW, sorted(files)


def test_one_process_runs_the_tests_of_a_file(request: pytest.FixtureRequest) -> None:
    """Several processes would each make the fixtures that its tests share."""
    if not hasattr(request.config, "workerinput"):
        pytest.skip("one process runs all tests (--numprocesses has several)")
    assert request.node.nodeid.endswith("@test_layout")
