"""``cocofold simulate``: particle images of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import typer

from cocofold.simulation import Settings, Views


def simulate(
    model: Path = typer.Option(..., help="What is imaged: mmCIF or PDB, all atoms of it, in the frame of the box."),
    out: Path = typer.Option(..., help="Folder for the particles, made anew."),
    box: int = typer.Option(..., help="Pixels along each side of the images; even."),
    pixel_size: float = typer.Option(..., help="Å."),
    count: int = typer.Option(..., help="Number of images."),
    snr: float = typer.Option(
        ...,
        help="Signal to noise: variance of the noise-free images, each as a whole with the empty part around the "
        "particle, over the variance of the noise. The noise is white, of one strength for all images.",
    ),
    views: Optional[Views] = typer.Option(
        None, help="uniform: all orientations alike (default). missing-cone: without those of --missing-cone."
    ),
    missing_cone: Optional[float] = typer.Option(
        None,
        help="Leave out views nearer than this (degrees, 0 to 89) to the map's z axis, from above and from below: the "
        "tilt is then from DEG to 180 - DEG. With 80 only side views within 10 degrees of the equator are left.",
    ),
    defocus: Tuple[float, float] = typer.Option(
        Settings.defocus, help="Å, lowest and highest; each image's mean of U and V is drawn evenly between them."
    ),
    astigmatism: float = typer.Option(
        Settings.astigmatism, help="Å; each image's U - V is drawn evenly from 0 to this, its angle from 0 to 180."
    ),
    voltage: float = typer.Option(Settings.voltage, help="kV."),
    cs: float = typer.Option(Settings.cs, help="Spherical aberration, mm."),
    amplitude_contrast: float = typer.Option(Settings.amplitude_contrast, help="Fraction, 0 to 1."),
    phase_shift: float = typer.Option(Settings.phase_shift, help="Of a phase plate, degrees; 0 for none."),
    shift_spread: float = typer.Option(
        Settings.shift_spread, help="Particles lie off the centre: standard deviation of x and of y, Å."
    ),
    pose_noise: float = typer.Option(
        Settings.pose_noise,
        help="Error of the rotations in the STAR: a turn about a random axis by a normal angle, root mean square in "
        "degrees. The images have the true ones.",
    ),
    shift_noise: float = typer.Option(
        Settings.shift_noise, help="Error of the shifts in the STAR: standard deviation in x and in y, Å."
    ),
    centre: bool = typer.Option(False, "--centre", help="First move the mean of the atoms to the centre of the box."),
    clean: bool = typer.Option(False, "--clean", help="Also write the noise-free images, clean.mrcs."),
    seed: int = typer.Option(Settings.seed, help="The same seed gives the same particles, bit by bit."),
) -> None:
    """Simulate particle images of a model.

    Writes particles.mrcs and particles.star (RELION 3.1) into the folder --out, with white protein and noise of
    standard deviation 1; true_poses.star with the poses that were imaged, truth.cif with the model in the frame of the
    box, and truth.json with the settings.
    """
    from cocofold.simulation.simulate import simulate as run

    settings = Settings(
        model=str(model),
        box=box,
        pixel_size=pixel_size,
        count=count,
        snr=snr,
        views=views,
        missing_cone=missing_cone,
        defocus=defocus,
        astigmatism=astigmatism,
        voltage=voltage,
        cs=cs,
        amplitude_contrast=amplitude_contrast,
        phase_shift=phase_shift,
        shift_spread=shift_spread,
        pose_noise=pose_noise,
        shift_noise=shift_noise,
        centre=centre,
        clean=clean,
        seed=seed,
    )
    written = run(settings, out)
    typer.echo(
        f"{written.star}: {count} particles, box {box}, {pixel_size:g} Å/pixel, SNR {written.signal_variance:.4g}; "
        f"the model in their frame is {written.model}"
    )
