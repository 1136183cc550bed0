"""The folder of a run: its lock, its log and its files, each of which appears whole or not at all."""

from __future__ import annotations

import csv
import fcntl
import io
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import mrcfile
import numpy as np
from rich.console import Console

from cocofold.errors import InputError
from cocofold.files import appearing_whole, write_atomically
from cocofold.finetuning.options import Options
from cocofold.imaging.density import density_map
from cocofold.structure import Model, write_model


class RunFolder:
    """A run's folder, held by one process at a time.

    Parameters
    ----------
    path : Path
    options : Options
        Written to ``config.yaml``; on resuming compared with it.
    resume : bool
        Go on with what is there; without it a folder that holds anything is refused.
    """

    def __init__(self, path: Path, options: Options, resume: bool) -> None:
        self.path = path
        self.checkpoint = path / "checkpoints" / "latest.safetensors"
        self._options = options
        self._resume = resume
        self._lock: IO[str] | None = None
        self._console = Console(highlight=False, soft_wrap=True)

    def __enter__(self) -> RunFolder:
        config = self.path / "config.yaml"
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path}: is a file; give a folder")
        if self.path.is_dir() and any(self.path.iterdir()) and not self._resume:
            raise InputError(
                f"--out {self.path}: the folder is not empty; give another one, or --resume to go on with the run in it"
            )
        if self._resume and not config.is_file():
            raise InputError(f"--resume: {self.path} holds no run (no config.yaml); leave --resume out to start one")
        try:
            for folder in (self.path, self.path / "models", self.path / "checkpoints"):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"--out {self.path}: another run is writing there; wait for it or give another") from error
        except OSError as error:
            raise InputError(f"--out {self.path}: cannot be written ({error.strerror}); give another folder") from error
        if self._resume:
            self._options.check_same_as(config)
        else:
            self._options.write(config)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(value, InputError) and not self._resume and not self.checkpoint.is_file():
            self._withdraw()
        if self._lock is not None:
            self._lock.close()

    def _withdraw(self) -> None:
        """Leave nothing behind of a run that could not start."""
        for folder in ("models", "checkpoints"):
            shutil.rmtree(self.path / folder, ignore_errors=True)
        for name in ("config.yaml", "log.txt", "metrics.csv", "model.cif", ".lock"):
            (self.path / name).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "metrics.json").is_file()

    def say(self, line: str) -> None:
        """Show a line and keep it in log.txt."""
        self._console.print(line)
        with open(self.path / "log.txt", "a") as log:
            log.write(line + "\n")

    def write_model(
        self, name: str, model: Model, positions: np.ndarray, amplitudes: np.ndarray, widths: np.ndarray
    ) -> None:
        """Write a model at new positions with its Gaussians."""
        details = f"{model.structure.name}, fine-tuned against cryo-EM particle images"
        write_model(self.path / name, model.moved_to(positions), amplitudes, widths, details)

    def write_density(
        self, positions: np.ndarray, amplitudes: np.ndarray, widths: np.ndarray, box: int, pixel_size: float
    ) -> None:
        """Write the density of the Gaussians as density.mrc."""
        volume = density_map(positions, amplitudes, widths, box, pixel_size)
        with appearing_whole(self.path / "density.mrc") as partial, mrcfile.new(partial) as file:
            file.set_data(volume)
            file.voxel_size = pixel_size

    def write_cycles(self, rows: list[dict[str, Any]]) -> None:
        """Write metrics.csv, one row a cycle."""
        text = io.StringIO()
        table = csv.DictWriter(text, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
        write_atomically(self.path / "metrics.csv", text.getvalue())

    def plot_curves(self, resolutions: list[float], curves: dict[str, list[float]]) -> None:
        """Draw the Fourier ring correlation curves as frc.png."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.add_subplot()
        frequency = 1 / np.array(resolutions)
        for name, curve in sorted(curves.items()):
            kind, when = name.split(", ")
            axes.plot(
                frequency,
                curve,
                color="tab:blue" if kind == "work" else "tab:orange",
                linestyle=":" if when == "start" else "-",
                label=name,
            )
        axes.axhline(0, color="grey", linewidth=0.5)
        ticks = np.linspace(frequency[0], frequency[-1], 6)
        axes.set_xticks(ticks, [f"{1 / tick:.1f}" for tick in ticks])
        axes.set_xlabel("resolution (Å)")
        axes.set_ylabel("Fourier ring correlation, mean over images")
        axes.legend(frameon=False)
        with appearing_whole(self.path / "frc.png") as partial:
            FigureCanvasAgg(figure).print_figure(str(partial), format="png", dpi=120)
