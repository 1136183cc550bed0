"""The folder of a run: its lock, its log and its files, each of which appears whole or not at all."""

from __future__ import annotations

import csv
import errno
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
from cocofold.files import appearing_whole, remove_partial, write_atomically
from cocofold.finetuning.answers import Written
from cocofold.finetuning.options import Options
from cocofold.imaging.density import density_map
from cocofold.structure import write_model

_LOCK = ".lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        # A lock alone is left of a run that was killed before it wrote anything.
        if not self._resume and self.path.is_dir() and {path.name for path in self.path.iterdir()} - {_LOCK}:
            raise InputError(
                f"--out {self.path}: the folder is not empty; give another one, or --resume to go on with the run in it"
            )
        if self._resume and not config.is_file():
            raise InputError(f"--resume: {self.path} holds no run (no config.yaml); leave --resume out to start one")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / _LOCK, "w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._resume:
                self._options.write(config)
            for name in ("models", "checkpoints"):
                (self.path / name).mkdir(exist_ok=True)
        except BlockingIOError as error:
            raise InputError(f"--out {self.path}: another run is writing there; wait for it or give another") from error
        except OSError as error:
            raise InputError(f"--out {self.path}: cannot be written ({error.strerror}); give another folder") from error
        if self._resume:
            self._options.check_same_as(config)
            self._mend()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(value, InputError) and not self._resume and not self.checkpoint.is_file():
            self._withdraw()
        if self._lock is not None:
            self._lock.close()

    def _mend(self) -> None:
        """Remove what a killed process left half-written."""
        remove_partial(self.path)
        log = self.path / "log.txt"
        if log.is_file():
            content = log.read_text()
            write_atomically(log, content[: content.rfind("\n") + 1])

    def require_space(self, n_bytes: int) -> None:
        """Refuse to begin what the disk cannot hold."""
        free = shutil.disk_usage(self.path).free
        if free < n_bytes:
            raise InputError(
                f"--out {self.path}: the run writes up to {n_bytes / 1e6:.1f} MB and {free / 1e6:.1f} MB are free "
                "there; make room, or give another folder"
            )

    def explain(self, error: OSError) -> str:
        """What to tell of a file that could not be written in mid-run."""
        if error.errno in _FULL:
            reason, remedy = f"the disk or quota is full ({error.strerror})", "make room"
        else:
            reason, remedy = error.strerror or str(error), "make it writable"
        again = "go on with --resume" if self.checkpoint.is_file() else "start again"
        return f"{error.filename or self.path}: cannot be written: {reason}; {remedy}, then {again}"

    def _withdraw(self) -> None:
        """Leave nothing behind of a run that could not start."""
        if not self.path.is_dir():
            return
        for folder in ("models", "checkpoints"):
            shutil.rmtree(self.path / folder, ignore_errors=True)
        for name in ("config.yaml", "log.txt", "metrics.csv", "model.cif", "placed.cif", _LOCK):
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

    def write_model(self, name: str, written: Written) -> None:
        """Write a model with its Gaussians."""
        model = written.model
        details = f"{model.structure.name}, fine-tuned against cryo-EM particle images"
        write_model(self.path / name, model, written.amplitudes, written.widths_angstrom, details, written.plddt)

    def write_density(self, written: Written, box: int, pixel_size: float) -> None:
        """Write the density of the Gaussians as density.mrc."""
        volume = density_map(written.model.positions, written.amplitudes, written.widths_angstrom, box, pixel_size)
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
