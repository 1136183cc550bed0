"""A folder of simulated particles: stack, STAR, and the truth about them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import mrcfile
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy.spatial.transform import Rotation

from cocofold import __version__
from cocofold.imaging.fourier import Ctf, contrast_transfer
from cocofold.likelihood.reconstruction import reconstruct
from cocofold.particles.mrc import write_map
from cocofold.particles.particle_set import OpticsGroup, ParticleSet
from cocofold.particles.star_write import write_star
from cocofold.simulation.scene import (
    PARTICLE,
    GaussianCloud,
    NoiseFreeImages,
    disturb_rotations,
    draw_image_contents,
    draw_rotations,
    largest_radius_angstrom,
    particle_clouds,
    prefer_poles,
)
from cocofold.simulation.simulation_settings import SimulationSettings
from cocofold.structure.model import Model
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model
from cocofold.system.atomic_files import atomic_path, check_new_folder, new_folder, write_json
from cocofold.system.errors import InputError


@dataclass(frozen=True)
class RandomStreams:
    """Independent random generators, one for each thing that is drawn: one setting leaves the others' draws alone.

    Each is used by one function only and its state moves on with every draw.
    """

    poses: np.random.Generator
    defoci: np.random.Generator
    pose_errors: np.random.Generator
    counting_noise: np.random.Generator
    preferred_views: np.random.Generator
    neighbours: np.random.Generator
    junk: np.random.Generator
    ice_noise: np.random.Generator
    defocus_errors: np.random.Generator
    tilts: np.random.Generator

    @classmethod
    def from_seed(cls, seed: int) -> RandomStreams:
        """All generators at their start; the order of the attributes decides what each of them draws."""
        names = [attribute.name for attribute in fields(cls)]
        return cls(**{name: np.random.default_rng([seed, number]) for number, name in enumerate(names)})


@dataclass(frozen=True)
class SimulationOutput:
    """What was written.

    Attributes
    ----------
    star, stack : Path
        The particles, with disturbed poses and defoci if that was asked for.
    true_star : Path
        The same stack with the poses and defoci that were imaged.
    model : Path
        The model that was imaged, in the map's frame.
    clean : Path or None
        Stack of noise-free images.
    map : Path or None
        Reconstruction from the particles.
    signal_variance : float
        Of the noise-free images of the particle, in units of the noise's variance: the SNR.
    """

    star: Path
    stack: Path
    true_star: Path
    model: Path
    clean: Path | None
    map: Path | None
    signal_variance: float


def simulate(settings: SimulationSettings, out: Path) -> SimulationOutput:
    """Simulate particles of a model; noise of standard deviation 1.

    Files appear whole or not at all, ``particles.star`` last. The same settings give the same stacks, bit by bit.

    Raises
    ------
    InputError
        For input that cannot be used, before anything is written.
    """
    _check_folder(out, settings)
    model = _centred_if_asked(read_model(settings.model), settings)
    streams = RandomStreams.from_seed(settings.seed)
    truth = _tilted(_draw_particles(settings, out / "particles.mrcs", streams), settings, streams.tilts)
    parts = particle_clouds(model, settings)
    _check_inside(model, parts, truth, settings)
    shows = draw_image_contents(settings, streams.junk)
    with new_folder(out):
        scenes = NoiseFreeImages.prepare(model, parts, truth, shows, settings, streams.neighbours, streams.junk)
        written = SimulationOutput(
            star=out / "particles.star",
            stack=out / "particles.mrcs",
            true_star=out / "true_poses.star",
            model=out / "truth.cif",
            clean=out / "clean.mrcs" if settings.clean else None,
            map=out / "map.mrc" if settings.map else None,
            signal_variance=_write_stacks(scenes, settings, out, streams),
        )
        write_model(written.model, model, details="model of simulated particles, in the frame of their box")
        content = {
            "cocofold_version": __version__,
            "settings": {**asdict(settings), "defocus": list(settings.defocus)},
            "noise_variance": 1.0,
            "signal_variance": written.signal_variance,
            "junk": np.flatnonzero(shows != PARTICLE).tolist(),
        }
        write_json(out / "truth.json", content)
        write_star(written.true_star, truth)
        disturbed = _with_pose_errors(truth, settings, streams)
        if written.map is not None:
            write_map(written.map, reconstruct(disturbed).map, disturbed.pixel_size_angstrom)
        write_star(written.star, disturbed)
        return written


def _centred_if_asked(model: Model, settings: SimulationSettings) -> Model:
    if not settings.centre:
        return model
    centre = (settings.box // 2) * settings.pixel_size
    return model.moved_to(model.positions - model.positions.mean(0) + centre)


def _draw_particles(settings: SimulationSettings, stack: Path, streams: RandomStreams) -> ParticleSet:
    count = settings.count
    poses, defoci = streams.poses, streams.defoci
    mean = defoci.uniform(*settings.defocus, count)
    half = defoci.uniform(0, settings.astigmatism, count) / 2
    rotations = draw_rotations(count, settings.cone_deg, poses)
    if settings.preferred is not None:
        rotations = prefer_poles(rotations, settings.preferred, settings.preferred_share, streams.preferred_views)
    group = OpticsGroup(
        name="simulated",
        voltage_kv=settings.voltage,
        cs_mm=settings.cs,
        amplitude_contrast=settings.amplitude_contrast,
        pixel_size_angstrom=settings.pixel_size,
        box=settings.box,
    )
    return ParticleSet(
        optics=(group,),
        optics_index=np.zeros(count, dtype=int),
        rotations=rotations,
        origins_angstrom=poses.normal(0, settings.shift_spread, (count, 2)),
        defocus_u_angstrom=mean + half,
        defocus_v_angstrom=mean - half,
        defocus_angle_deg=defoci.uniform(0, 180, count),
        phase_shift_deg=np.full(count, settings.phase_shift),
        ctf_bfactor_a2=np.zeros(count),
        ctf_scale=np.ones(count),
        half_set=np.arange(count) % 2 + 1,
        stacks=(stack,),
        stack_index=np.zeros(count, dtype=int),
        slice_index=np.arange(count),
        contrast=np.ones(count),
    )


# Tilts of a series reach so far to either side; the axis is turned as far from y in the images as is usual.
_MOST_TILT_DEG, _TILT_AXIS_DEG = 60.0, 85.0


def _tilted(particles: ParticleSet, settings: SimulationSettings, rng: np.random.Generator) -> ParticleSet:
    """Images of a tilt series for each particle, the least tilted first; particles themselves if there are no tilts."""
    if settings.tilts == 1:
        return particles
    tilts = np.linspace(-_MOST_TILT_DEG, _MOST_TILT_DEG, settings.tilts)
    tilts = tilts[np.argsort(np.abs(tilts), kind="stable")]
    turns = Rotation.from_euler("yz", np.stack([tilts, np.full_like(tilts, _TILT_AXIS_DEG)], axis=1), degrees=True)
    count = len(particles)
    rows = np.repeat(np.arange(count), settings.tilts)
    matrices = np.tile(turns.as_matrix(), (count, 1, 1))
    depths = rng.normal(0, settings.shift_spread, (count, 1))
    places = np.concatenate([particles.origins_angstrom, depths], axis=1)[rows]
    return replace(
        particles.subset(rows),
        rotations=matrices @ particles.rotations[rows],
        origins_angstrom=np.einsum("nij,nj->ni", matrices, places)[:, :2],
        ctf_scale=np.tile(np.cos(np.radians(tilts)), count),
        slice_index=np.arange(len(rows)),
        particle_index=rows,
        dose_e_a2=np.tile(settings.tilt_dose * np.arange(settings.tilts), count),
    )


def _with_pose_errors(truth: ParticleSet, settings: SimulationSettings, streams: RandomStreams) -> ParticleSet:
    errors, of_defoci = streams.pose_errors, streams.defocus_errors
    return replace(
        truth,
        rotations=disturb_rotations(truth.rotations, settings.pose_noise, errors),
        origins_angstrom=truth.origins_angstrom + errors.normal(0, settings.shift_noise, (len(truth), 2)),
        defocus_u_angstrom=truth.defocus_u_angstrom + of_defoci.normal(0, settings.defocus_noise, len(truth)),
        defocus_v_angstrom=truth.defocus_v_angstrom + of_defoci.normal(0, settings.defocus_noise, len(truth)),
    )


def _check_inside(model: Model, parts: list[GaussianCloud], truth: ParticleSet, settings: SimulationSettings) -> None:
    """Refuse a model that leaves the images in some view."""
    centre = (settings.box // 2) * settings.pixel_size
    reach = largest_radius_angstrom(parts, centre)
    shift = float(np.abs(truth.origins_angstrom).max())
    room = settings.extent_angstrom / 2 - settings.pixel_size
    if reach + shift <= room:
        return
    needed = 2 * (int((reach + shift) / settings.pixel_size) + 2)
    radius = max(float(np.linalg.norm(part.positions - model.positions.mean(0), axis=1).max()) for part in parts)
    if not settings.centre and radius + shift <= room:
        remedy = "add --centre to move it to the centre of the box"
    else:
        remedy = f"give --box {needed} or more" + (", or a smaller --shift-spread" if reach <= room else "")
    low, high = model.positions.min(0).round(1).tolist(), model.positions.max(0).round(1).tolist()
    what = "atoms and the belt" if settings.belt else "atoms"
    raise InputError(
        f"{settings.model}: {what} reach {reach:.1f} Å from the centre of the box and particles are shifted by up to "
        f"{shift:.1f} Å, but the images hold {room:.1f} Å (x, y, z from {low} to {high} Å; the box is 0 to "
        f"{settings.extent_angstrom:g} Å on each axis, its centre at {centre:g} Å); {remedy}"
    )


def _check_folder(out: Path, settings: SimulationSettings) -> None:
    check_new_folder("--out", out)
    needed = settings.images * settings.box**2 * 4 * (2 if settings.clean else 1)
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"--out {out}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free there; "
            "give a smaller --count or another folder"
        )


def _write_stacks(scenes: NoiseFreeImages, settings: SimulationSettings, out: Path, streams: RandomStreams) -> float:
    """Write the noise-free images, learn the particle's variance, then scale them and add noise in place."""
    chunks = [
        np.arange(start, min(start + scenes.images_at_once, settings.images))
        for start in range(0, settings.images, scenes.images_at_once)
    ]
    noise = NoiseGenerator(
        settings.box,
        settings.pixel_size,
        settings.ice,
        settings.bfactor,
        streams.counting_noise,
        streams.ice_noise,
    )
    with contextlib.ExitStack() as files:
        stack = files.enter_context(_new_stack(out / "particles.mrcs", settings))
        clean = files.enter_context(_new_stack(out / "clean.mrcs", settings)) if settings.clean else None
        variance = 0.0
        for rows in _shown("images", chunks):
            images = scenes.particle_images(rows)
            variance += float(images.var(axis=(1, 2), dtype=np.float64).sum()) / settings.images
            scenes.add_surroundings(images, rows)
            stack.data[rows] = images
        if not variance > 0:
            raise InputError(f"{settings.model}: its images are empty; give a model with atoms heavier than none")
        scale = np.float32(np.sqrt(settings.snr / variance))
        for rows in _shown("noise", chunks):
            images = stack.data[rows] * scale
            if clean is not None:
                clean.data[rows] = images
            stack.data[rows] = images + noise.images(scenes.ctf[torch.as_tensor(rows)])
        for file in (stack, clean):
            if file is not None:
                _complete_header(file, chunks)
    return variance * float(scale) ** 2


@contextlib.contextmanager
def _new_stack(path: Path, settings: SimulationSettings) -> Iterator[mrcfile.mrcmemmap.MrcMemmap]:
    shape = (settings.images, settings.box, settings.box)
    with atomic_path(path) as partial, mrcfile.new_mmap(partial, shape, mrc_mode=2, overwrite=True) as file:
        file.set_image_stack()
        file.voxel_size = settings.pixel_size
        yield file


def _complete_header(file: mrcfile.mrcmemmap.MrcMemmap, chunks: list[np.ndarray]) -> None:
    """Statistics, gathered in chunks, and a label without the time of day."""
    sums = (
        np.array(
            [
                [file.data[rows].sum(dtype=np.float64), np.square(file.data[rows]).sum(dtype=np.float64)]
                for rows in chunks
            ]
        ).sum(0)
        / file.data.size
    )
    file.header.dmin = min(file.data[rows].min() for rows in chunks)
    file.header.dmax = max(file.data[rows].max() for rows in chunks)
    file.header.dmean = sums[0]
    file.header.rms = np.sqrt(max(0.0, sums[1] - sums[0] ** 2))
    file.header.label[:] = b""
    file.header.label[0] = f"Simulated by cocofold {__version__}"
    file.header.nlabl = 1


def _shown(what: str, chunks: list[np.ndarray]) -> Iterable[np.ndarray]:
    """The chunks, with a bar on standard error if that is a terminal."""
    console = Console(stderr=True)
    return track(chunks, what, console=console, disable=not console.is_terminal, transient=True)


# Length over which the potential of the ice is correlated; longer makes its noise coarser.
_ICE_CORRELATION_ANGSTROM = 10.0


class NoiseGenerator:
    """Noise of standard deviation 1, a share of which has passed the microscope.

    The ice is a random potential whose power falls as ``1 / (1 + (10 Å k)^2)``; like the particle it is seen through
    the image's CTF and envelope. The rest, from counting, is white.

    Parameters
    ----------
    box : int
    pixel_size_angstrom : float
    ice : float
        Share of the variance that comes from the ice, 0 to 1.
    bfactor_a2 : float
        Of the envelope ``exp(-B k^2 / 4)``.
    counting, structural : numpy.random.Generator
    """

    def __init__(
        self,
        box: int,
        pixel_size_angstrom: float,
        ice: float,
        bfactor_a2: float,
        counting: np.random.Generator,
        structural: np.random.Generator,
    ) -> None:
        self._box = box
        self._ice = np.float32(ice)
        self._counting, self._structural = counting, structural
        ky = torch.fft.fftfreq(box, pixel_size_angstrom)
        kx = torch.fft.rfftfreq(box, pixel_size_angstrom)
        self._ky, self._kx = (axis.reshape(-1) for axis in torch.meshgrid(ky, kx, indexing="ij"))
        k2 = self._kx**2 + self._ky**2
        self._colour = torch.exp(-bfactor_a2 * k2 / 4) / torch.sqrt(1 + k2 * _ICE_CORRELATION_ANGSTROM**2)
        # Columns other than the first and the last stand for their Friedel mates too.
        weight = torch.full((box // 2 + 1,), 2.0)
        weight[0] = weight[-1] = 1.0
        self._weight = weight.repeat(box)

    def images(self, ctf: Ctf) -> np.ndarray:
        """Noise of the next images, (n, box, box) float32, whose CTFs are these."""
        count = len(ctf.scale)
        white = self._counting.standard_normal((count, self._box, self._box), dtype=np.float32)
        if not self._ice:
            return white
        return np.sqrt(1 - self._ice) * white + np.sqrt(self._ice) * self._ice_noise(ctf, count)

    def _ice_noise(self, ctf: Ctf, count: int) -> np.ndarray:
        seen = contrast_transfer(ctf, self._kx, self._ky) * self._colour
        variance = (seen**2 * self._weight).sum(1, keepdim=True) / self._box**2
        white = torch.as_tensor(self._structural.standard_normal((count, self._box, self._box), dtype=np.float32))
        planes = torch.fft.rfft2(white) * (seen / variance.sqrt()).view(count, self._box, -1)
        return torch.fft.irfft2(planes, s=(self._box, self._box)).numpy()
