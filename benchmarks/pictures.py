"""Pictures of the documents: ``make docs-pictures``, or ``python -m benchmarks.pictures --demo FOLDER``.

Draws ``before_after.png`` from a run of ``cocofold demo``, which is made first if the folder has none, and takes the
pictures of its report with a headless Chromium where there is one. Those of Scipion's windows are taken of the project
of ``make demo``, where there is Xvfb: see `benchmarks.windows`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import mrcfile
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from PIL import Image

from benchmarks.windows import PICTURES, save_small, take_windows
from cocofold.structure.read_model import read_model

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Widths in pixels: a screen, and a phone
REPORT_WIDTHS = {"report.png": (1400, 1000), "report_phone.png": (390, 844)}
_GREY, _START, _RESULT = "#b9bec6", "#d55e00", "#0072b2"
_IMAGES_SHOWN, _NEAREST_LIGHT, _FARTHEST_LIGHT = 6, 0.0, 0.55


def alpha_carbons(path: Path) -> np.ndarray:
    """Positions (Å) of a model's CA atoms, (n, 3)."""
    model = read_model(path)
    rows = model.atoms_named("CA")
    return np.asarray(model.positions[rows[rows >= 0]])


def draw_trace(axes: Axes, positions: np.ndarray, colour: str, width: float) -> None:
    """Draw a CA trace as seen along z: what is nearer is darker and lies on top."""
    middles = (positions[1:, 2] + positions[:-1, 2]) / 2
    depth = (middles - middles.min()) / max(float(np.ptp(middles)), 1e-6)
    base = np.array(to_rgb(colour))
    for place in np.argsort(depth):
        light = _FARTHEST_LIGHT + (_NEAREST_LIGHT - _FARTHEST_LIGHT) * depth[place]
        ends = positions[place : place + 2]
        axes.plot(*ends[:, :2].T, color="white", linewidth=width + 2, zorder=depth[place], solid_capstyle="butt")
        shade = tuple(base + (1 - base) * light)
        axes.plot(*ends[:, :2].T, color=shade, linewidth=width, zorder=depth[place] + 1e-3, solid_capstyle="round")


def draw_before_after(demo: Path, target: Path) -> None:
    """Draw start and result on the structure that was imaged, and some of the images between them."""
    truth = alpha_carbons(demo / "particles" / "truth.cif")
    start = alpha_carbons(demo / "run" / "models" / "cycle_00.cif")
    result = alpha_carbons(demo / "run" / "model.cif")
    centre = truth.mean(0)
    # Seen along the direction in which the start is off least
    _, _, directions = np.linalg.svd(start - truth, full_matrices=False)
    if np.linalg.det(directions) < 0:
        directions[2] *= -1
    figure = plt.figure(figsize=(11, 4.2))
    grid = figure.add_gridspec(2, 7, width_ratios=(2.6, 2.6, 1.4, 1.4, 1.4, 2.6, 2.6), wspace=0.05, hspace=0.05)
    off = [np.sqrt(((one - truth) ** 2).sum(1).mean()) for one in (start, result)]
    for columns, model, colour, text in (
        (slice(0, 2), start, _START, f"before: {off[0]:.1f} Å off"),
        (slice(5, 7), result, _RESULT, f"after: {off[1]:.1f} Å off"),
    ):
        axes = figure.add_subplot(grid[:, columns])
        for positions, shade, width in ((truth, _GREY, 3.5), (model, colour, 3.5)):
            draw_trace(axes, (positions - centre) @ directions.T, shade, width)
        axes.set_title(text, color=colour, fontsize=13)
        axes.set_aspect("equal")
        axes.set_axis_off()
    with mrcfile.mmap(demo / "particles" / "particles.mrcs", permissive=True) as stack:
        images, count = np.array(stack.data[:_IMAGES_SHOWN]), len(stack.data)
    for place, image in enumerate(images):
        axes = figure.add_subplot(grid[place % 2, 2 + place // 2])
        axes.imshow(image, cmap="gray")
        axes.set_axis_off()
        # Two rows that touch, in the middle of the height
        axes.set_anchor("N" if place % 2 else "S")
        if place == 2:
            axes.set_title(f"{count} images like these", fontsize=11)
    figure.text(0.5, 0.02, "grey: the structure that was imaged (CA atoms)", ha="center", color="#5b6573", fontsize=10)
    figure.savefig(target, dpi=110, bbox_inches="tight")
    plt.close(figure)


def take_report_pictures(page: Path) -> None:
    """Take pictures of a report, in the width of a screen and of a phone."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        print("no Chromium: pictures of the report are not taken")
        return
    for name, (width, height) in REPORT_WIDTHS.items():
        size = f"--window-size={width},{height}"
        target = f"--screenshot={PICTURES / name}"
        wait = "--virtual-time-budget=20000"
        words = [browser, "--headless", "--no-sandbox", "--use-angle=swiftshader", size, target, wait, page.as_uri()]
        subprocess.run(words, check=True, capture_output=True)
        with Image.open(PICTURES / name) as picture:
            save_small(picture, name)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("bench_runs/demo"), help="folder of cocofold demo")
    parser.add_argument("--project", type=Path, default=Path("demo_run"), help="folder of make demo")
    given = parser.parse_args()
    demo = given.demo.resolve()
    if not (demo / "run" / "report.html").is_file():
        subprocess.run([sys.executable, "-m", "cocofold", "demo", "--out", str(demo)], check=True)
    target = PICTURES / "before_after.png"
    draw_before_after(demo, target)
    print(target)
    take_report_pictures(demo / "run" / "report.html")
    take_windows(given.project.resolve())


if __name__ == "__main__":
    main()
