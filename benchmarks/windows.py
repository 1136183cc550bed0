"""Pictures of Scipion's windows for the documents: a part of ``make docs-pictures``.

``take_windows`` starts an X server without a screen (Xvfb) and, inside it, this module as a program, which opens a copy
of the project that ``make demo`` made: the project's window, the form of each protocol with its tabs, and what *Analyze
results* opens. Protocols that the project lacks (selection, reconstruction) are run in the copy. Plots are those of the
viewers, drawn by matplotlib without the frame and buttons of a window; views in ChimeraX are left out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageGrab

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
_COLOURS = 256
# Dots per inch: two plots of the usual size fit side by side on a page
_PLOT_DPI = 70
# Pixels: the project's window shows all its buttons, and the list of protocols whole names
_PROJECT_SIZE, _TREE_WIDTH = "1760x900", 330
# The pointer stands in the middle, where no window reaches
_SCREEN = "3400x2000x24"
# Of the demo's 500 particles
_SELECTED = 100
# Seconds
_LONGEST = 900.0


def take_windows(demo: Path) -> None:
    """Take pictures of Scipion's windows, or say in one line why none are taken.

    Parameters
    ----------
    demo : Path
        Folder of ``scipion-em-cocofold/demo.sh``, whose project is made first if there is none.
    """
    if shutil.which("Xvfb") is None or importlib.util.find_spec("scipion") is None:
        print("no Xvfb, or no Scipion: pictures of Scipion's windows are not taken")
        return
    settings = demo / "scipion"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    if not (settings / "projects" / "demo").is_dir():
        words = ["sh", str(ROOT / "scipion-em-cocofold" / "demo.sh"), "run", str(demo)]
        subprocess.run(words, check=True, env=environment)
    environment.update(SCIPION_HOME=str(settings), SCIPION_USER_DATA=str(settings), SCIPION_NOTIFY="False")
    environment.update(COCOFOLD_ENV_ACTIVATION="", PYTHONWARNINGS="ignore")
    with tempfile.TemporaryDirectory() as folder, x_server() as display:
        project = Path(folder) / "demo"
        # Viewers and windows write into the project that they show
        shutil.copytree(settings / "projects" / "demo", project)
        words = [sys.executable, "-m", "scipion", "python", "-m", "benchmarks.windows", str(project)]
        environment["DISPLAY"] = display
        subprocess.run(words, check=True, env=environment, cwd=ROOT, timeout=_LONGEST)


@contextlib.contextmanager
def x_server() -> Iterator[str]:
    """Start an X server of its own on a free display, and give the display's name."""
    reading, writing = os.pipe()
    words = ["Xvfb", "-displayfd", str(writing), "-screen", "0", _SCREEN, "-nolisten", "tcp"]
    server = subprocess.Popen(words, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    try:
        with os.fdopen(reading) as told:
            number = told.readline().strip()
        if not number:
            raise SystemExit("Xvfb did not start: run it by hand to see why, or take it off the PATH to go on without")
        yield f":{number}"
    finally:
        server.terminate()
        server.wait()


def save_small(image: Image.Image, name: str) -> None:
    """Save a picture under ``docs/pictures``, as a PNG file with a palette."""
    target = PICTURES / name
    image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
    print(target, flush=True)


def below_each_other(images: list[Image.Image]) -> Image.Image:
    """Return one picture with the given ones below each other, as wide as the widest, on white."""
    whole = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        whole.paste(image, ((whole.width - image.width) // 2, top))
        top += image.height
    return whole


def plots_of(views: list) -> Image.Image:
    """Return one picture of the plots among a viewer's views."""
    from pwem.viewers import EmPlotter

    images = []
    for plotter in (view for view in views if isinstance(view, EmPlotter)):
        figure = plotter.getFigure()
        figure.tight_layout()
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=_PLOT_DPI)
        images.append(Image.open(drawn).convert("RGB"))
    if not images:
        raise SystemExit("a viewer shows no plot: a protocol of the project has not ended well; look into its log")
    return below_each_other(images)


def photograph(top, name: str) -> None:
    """Save what the screen shows of a Tk window, with its menu, under a name."""
    top.geometry("+0+0")
    top.deiconify()
    top.lift()
    # A size that follows from another window's needs more than one round of events
    for _ in range(3):
        top.update()
    corner = top.winfo_rootx() + top.winfo_width(), top.winfo_rooty() + top.winfo_height()
    save_small(ImageGrab.grab((0, 0, *corner), xdisplay=os.environ["DISPLAY"]), name)


def photograph_form(window, names: list[str]) -> None:
    """Save a picture of each tab of a form under its name, and close the form."""
    for section, name in zip(window._sections, names):
        section.master.select(section)
        photograph(window.root, name)
    window.root.destroy()


def forms_of(project) -> Iterator[tuple[list[str], object]]:
    """Give the names of the pictures of each protocol's form, and a new protocol whose inputs are the project's."""
    from scipion_cocofold import protocols

    runs = {type(run).__name__: run for run in project.getRuns()}
    fit, tuned = runs["ProtCocofoldFit"], runs["ProtCocofoldFinetune"]
    for name in protocols.__all__:
        kind = name.removeprefix("ProtCocofold").lower()
        protocol = project.newProtocol(getattr(protocols, name))
        protocol.setObjLabel(protocol.getClassLabel())
        if name in runs:
            protocol.copyDefinitionAttributes(runs[name])
        elif hasattr(protocol, "inputParticles"):
            protocol.inputParticles.copy(tuned.inputParticles)
        if name not in runs and hasattr(protocol, "inputStructure"):
            protocol.inputStructure.set(fit)
            protocol.inputStructure.setExtended("outputAtomStruct")
        if kind == "select":
            protocol.count.set(_SELECTED)
        tabs = [f"scipion_{kind}.png"]
        if kind == "finetune":
            # The tutorial begins with what this protocol does alone
            protocol.inputPlacement.set(None)
            protocol.checkFirst.set(True)
            tabs = [f"scipion_finetune_{tab}.png" for tab in ("input", "settings", "states", "results")]
        yield tabs, protocol


def take_project(project) -> object:
    """Save a picture of the project's window, with fine-tuning chosen, and return the window."""
    import tkinter as tk

    from pyworkflow.gui.project import ProjectWindow

    window = ProjectWindow(project.path)
    window.root.geometry(f"{_PROJECT_SIZE}+0+0")
    window.root.deiconify()
    window.root.update()
    view = window.viewWidget
    tree = pane = view.protTree
    for item in tree.get_children(tree.get_children()[0]):
        tree.item(item, open=tree.item(item, "text") in ("Imports", "Flexible fitting"))
    while not isinstance(pane, tk.PanedWindow):
        pane = pane.master
    pane.sash_place(0, _TREE_WIDTH, 1)
    nodes = view.project.getRunsGraph().getNodes()
    view._runItemClick(next(node.item for node in nodes if type(node.run).__name__ == "ProtCocofoldFinetune"))
    photograph(window.root, "scipion_project.png")
    return window


def take_forms(project, master) -> None:
    """Save pictures of all forms, of the window of results, and of the table of cycles."""
    from pyworkflow.gui.form import FormWindow
    from scipion_cocofold.viewers import CocofoldFinetuneViewer

    for names, protocol in forms_of(project):
        window = FormWindow("Form", protocol, None, master)
        # As the project's window does; it does not for viewers
        window.adjustSize()
        photograph_form(window, names)
    (tuned,) = (run for run in project.getRuns() if type(run).__name__ == "ProtCocofoldFinetune")
    viewer = CocofoldFinetuneViewer(project=project)
    viewer.setProtocol(tuned)
    shown = dict.fromkeys(viewer._getVisualizeDict(), viewer._visualizeParam)
    window = FormWindow("Results", viewer, None, master, visualizeDict=shown, visualizeMode=True)
    photograph_form(window, ["scipion_viewer.png"])
    (table,) = viewer._getVisualizeDict()["showCycles"]()
    table.show()
    # The table is a child of the hidden window that all others have too
    photograph(master.root.master.winfo_children()[-1], "scipion_cycles.png")


def take_plots(project) -> None:
    """Save the plots of all viewers."""
    from scipion_cocofold import viewers
    from scipion_cocofold.protocols import ProtCocofoldReconstruct, ProtCocofoldSelect

    for _, protocol in forms_of(project):
        if isinstance(protocol, (ProtCocofoldReconstruct, ProtCocofoldSelect)):
            project.launchProtocol(protocol, wait=True)
    found = (project.getProtocol(run.getObjId(), fromRuns=False) for run in project.getRuns(refresh=True))
    runs = {type(run).__name__: run for run in found}
    tuning = viewers.CocofoldFinetuneViewer(project=project)
    tuning.setProtocol(runs["ProtCocofoldFinetune"])
    for name in ("Training", "Rings", "Residues", "Widths"):
        title = {"Training": "agreement"}.get(name, name.lower())
        save_small(plots_of(tuning._getVisualizeDict()[f"plot{name}"]()), f"scipion_{title}.png")
    for kind in ("Fit", "Check", "Select", "Reconstruct", "Relax", "Assess"):
        protocol = runs[f"ProtCocofold{kind}"]
        viewer = getattr(viewers, f"Cocofold{kind}Viewer")(project=project, protocol=protocol)
        save_small(plots_of(viewer._visualize(protocol)), f"scipion_view_{kind.lower()}.png")
    placement = runs["ProtCocofoldFit"].outputPlacement
    viewer = viewers.CocofoldPlacementViewer(project=project, protocol=runs["ProtCocofoldFit"])
    save_small(plots_of(viewer._visualize(placement)), "scipion_view_placement.png")


def main() -> None:
    """Take all pictures of the project whose path is the only word of the command line."""
    from pyworkflow import Config
    from pyworkflow.project import Project

    project = Project(Config.getDomain(), sys.argv[1])
    project.load()
    window = take_project(project)
    take_forms(window.project, window)
    take_plots(window.project)


if __name__ == "__main__":
    main()
