"""A small project of two stacks and a STAR file that tests change in one place."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np

BOX = 8
OPTICS = {
    "rlnOpticsGroup": "1",
    "rlnOpticsGroupName": "krios",
    "rlnVoltage": "300.0",
    "rlnSphericalAberration": "2.7",
    "rlnAmplitudeContrast": "0.1",
    "rlnImagePixelSize": "1.5",
    "rlnImageSize": str(BOX),
    "rlnImageDimensionality": "2",
}
PARTICLES = {
    "rlnImageName": ["2@stacks/a.mrcs", "000001@stacks/b.mrcs", "3@stacks/a.mrcs"],
    "rlnOpticsGroup": ["1", "1", "1"],
    "rlnAngleRot": ["10", "-170.5", "90"],
    "rlnAngleTilt": ["20", "95.25", "0"],
    "rlnAnglePsi": ["30", "-60", "0"],
    "rlnOriginXAngst": ["1.5", "-3", "0"],
    "rlnOriginYAngst": ["0.5", "4", "0"],
    "rlnDefocusU": ["15000", "12000", "9000"],
    "rlnDefocusV": ["14000", "11500", "9000"],
    "rlnDefocusAngle": ["45", "-30", "0"],
    "rlnRandomSubset": ["1", "2", "1"],
}


def loop(name: str, columns: dict[str, list[str]]) -> str:
    """One STAR block."""
    labels = "".join(f"_{label} #{number}\n" for number, label in enumerate(columns, start=1))
    rows = "".join(" ".join(row) + "\n" for row in zip(*columns.values()))
    return f"data_{name}\n\nloop_\n{labels}{rows}\n"


def write_stack(path: Path, images: np.ndarray) -> None:
    """A stack written by mrcfile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(images)
        file.set_image_stack()


class Project:
    """A folder with stacks/a.mrcs (4 images), stacks/b.mrcs (2 images) and a STAR file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        generator = np.random.default_rng(0)
        self.a = generator.normal(size=(4, BOX, BOX)).astype(np.float32)
        self.b = generator.normal(size=(2, BOX, BOX)).astype(np.float32)
        write_stack(folder / "stacks" / "a.mrcs", self.a)
        write_stack(folder / "stacks" / "b.mrcs", self.b)

    def star(self, optics: dict[str, str] | None = None, without: tuple[str, ...] = (), **particles: object) -> Path:
        """Write the STAR with some optics or particle columns changed (a text stands for every row) or left out."""
        table = {**PARTICLES}
        for label, values in particles.items():
            table[label] = [values] * 3 if isinstance(values, str) else list(values)  # type: ignore[call-overload]
        blocks = loop("optics", {k: [v] for k, v in {**OPTICS, **(optics or {})}.items() if k not in without})
        blocks += loop("particles", {k: v for k, v in table.items() if k not in without})
        return self.write(blocks)

    def write(self, text: str) -> Path:
        path = self.folder / "particles.star"
        path.write_text(text, encoding="utf-8")
        return path
