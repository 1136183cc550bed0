"""``cocofold simulate``: particle images of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import typer

from cocofold.simulation.simulation_settings import LIFE_LIKE, SimulationSettings, ViewDistribution


def _list_disturbances(settings: Dict[str, Any]) -> str:
    return ", ".join(
        name.replace("_", "-") + ("" if value is True else f" {value:g}") for name, value in settings.items()
    )


def simulate(
    model: Path = typer.Option(..., help="What is imaged: mmCIF or PDB, all atoms of it, in the frame of the box."),
    out: Path = typer.Option(..., help="Folder for the particles, made anew."),
    box: int = typer.Option(..., help="Pixels along each side of the images; even."),
    pixel_size: float = typer.Option(..., help="Å."),
    count: int = typer.Option(..., help="Number of images."),
    snr: float = typer.Option(
        ...,
        help="Signal to noise: variance of the noise-free images, each as a whole with the empty part around the "
        "particle, over the variance of the noise, which is the same for all images.",
    ),
    views: Optional[ViewDistribution] = typer.Option(
        None,
        help="uniform: all orientations alike (default). missing-cone: without those of --missing-cone. "
        "preferred: most as --preferred says.",
    ),
    missing_cone: Optional[float] = typer.Option(
        None,
        help="Leave out views nearer than this (degrees, 0 to 89) to the map's z axis, from above and from below: the "
        "tilt is then from DEG to 180 - DEG. With 80 only side views within 10 degrees of the equator are left.",
    ),
    preferred: Optional[float] = typer.Option(
        None,
        help="Preferred orientation: most views lie about the map's z axis, from above and below, with this spread "
        "(standard deviation, degrees).",
    ),
    preferred_share: Optional[float] = typer.Option(
        None,
        help=f"Share of the views that do; the others are uniform. Default {SimulationSettings.preferred_share:g}.",
    ),
    defocus: Tuple[float, float] = typer.Option(
        SimulationSettings.defocus,
        help="Å, lowest and highest; each image's mean of U and V is drawn evenly between them.",
    ),
    astigmatism: float = typer.Option(
        SimulationSettings.astigmatism,
        help="Å; each image's U - V is drawn evenly from 0 to this, its angle from 0 to 180.",
    ),
    voltage: float = typer.Option(SimulationSettings.voltage, help="kV."),
    cs: float = typer.Option(SimulationSettings.cs, help="Spherical aberration, mm."),
    amplitude_contrast: float = typer.Option(SimulationSettings.amplitude_contrast, help="Fraction, 0 to 1."),
    phase_shift: float = typer.Option(SimulationSettings.phase_shift, help="Of a phase plate, degrees; 0 for none."),
    shift_spread: float = typer.Option(
        SimulationSettings.shift_spread, help="Particles lie off the centre: standard deviation of x and of y, Å."
    ),
    pose_noise: Optional[float] = typer.Option(
        None,
        help="Error of the rotations in the STAR: a turn about a random axis by a normal angle, root mean square in "
        "degrees. The images have the true ones. Default 0.",
    ),
    shift_noise: Optional[float] = typer.Option(
        None, help="Error of the shifts in the STAR: standard deviation in x and in y, Å. Default 0."
    ),
    defocus_noise: Optional[float] = typer.Option(
        None, help="Error of the defocus in the STAR: standard deviation of U and of V, Å. Default 0."
    ),
    bfactor: Optional[float] = typer.Option(
        None, help="The images fade as exp(-B k^2 / 4); B in Å^2, not in the STAR. Default 0."
    ),
    ice: Optional[float] = typer.Option(
        None,
        help="Share (0 to 1) of the noise's variance that comes from the ice: coloured, and seen through the CTF. "
        "The rest is white. Default 0.",
    ),
    solvent: Optional[bool] = typer.Option(
        None, help="Whether flat solvent is around the atoms and none where they are. Default: vacuum."
    ),
    belt: Optional[float] = typer.Option(
        None,
        help="A belt of detergent of this height (Å) about the middle of the model's longest axis, 15 Å thick. "
        "Default 0: none.",
    ),
    neighbours: Optional[float] = typer.Option(
        None, help="Mean number of other particles that reach into an image. Default 0."
    ),
    junk: Optional[float] = typer.Option(
        None, help="Share (0 to 0.9) of images without a particle: empty, or a shapeless blob. Default 0."
    ),
    life_like: bool = typer.Option(
        False,
        "--life-like",
        help="All that disturbs real images, at usual strengths: "
        f"{_list_disturbances(LIFE_LIKE)}. Options given besides replace these.",
    ),
    centre: bool = typer.Option(False, "--centre", help="First move the mean of the atoms to the centre of the box."),
    clean: bool = typer.Option(False, "--clean", help="Also write the noise-free images, clean.mrcs."),
    map_too: bool = typer.Option(
        False, "--map", help="Also reconstruct map.mrc from the images, at the poses of particles.star."
    ),
    seed: int = typer.Option(SimulationSettings.seed, help="The same seed gives the same particles, bit by bit."),
) -> None:
    """Simulate particle images of a model.

    Writes particles.mrcs and particles.star (RELION 3.1) into the folder --out, with white protein and noise of
    standard deviation 1; true_poses.star with the poses and defoci that were imaged, truth.cif with the model in the
    frame of the box, and truth.json with the settings and which images are junk.
    """
    from cocofold.simulation.particle_simulation import simulate as run

    given = {
        "preferred": preferred,
        "preferred_share": preferred_share,
        "pose_noise": pose_noise,
        "shift_noise": shift_noise,
        "defocus_noise": defocus_noise,
        "bfactor": bfactor,
        "ice": ice,
        "solvent": solvent,
        "belt": belt,
        "neighbours": neighbours,
        "junk": junk,
    }
    disturbances: Dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    make = SimulationSettings.life_like if life_like else SimulationSettings
    settings = make(
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
        centre=centre,
        clean=clean,
        map=map_too,
        seed=seed,
        **disturbances,
    )
    written = run(settings, out)
    typer.echo(
        f"{written.star}: {count} particles, box {box}, {pixel_size:g} Å/pixel, SNR {written.signal_variance:.4g}; "
        f"the model in their frame is {written.model}"
    )
