"""Settings of a simulation, and which of them can work."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, Dict

from cocofold.system.errors import InputError, require_within

WIDEST_CONE_DEG = 89.0  # at 90 no view would be left
# Defoci below this many Å are most likely meant in micrometres.
MAX_DEFOCUS_IN_MICROMETRES = 100.0


class ViewDistribution(str, Enum):
    """How viewing directions are spread."""

    UNIFORM = "uniform"
    MISSING_CONE = "missing-cone"
    PREFERRED = "preferred"


@dataclass(frozen=True)
class SimulationSettings:
    """What to simulate; the defaults are the command's.

    Attributes
    ----------
    model : str
        mmCIF or PDB file of what is imaged.
    box : int
        Pixels along each side, even.
    pixel_size : float
        Å.
    count : int
        Images; with tilts, particles.
    tilts : int
        Images of each particle, tilted evenly from -60 to 60 degrees and taken from the least tilt on; 1 for none.
    tilt_dose : float
        Electrons per Å^2 of each tilt; what were there before fade the signal, and are in the STAR.
    snr : float
        Variance of the noise-free images of the particle alone, whole images and their mean over all, over the variance
        of the noise.
    views : ViewDistribution or None
        None: a missing cone or preferred views if their angle is given, uniform otherwise.
    missing_cone : float or None
        No view is nearer than this (degrees) to the map's z axis, in either direction.
    preferred : float or None
        Most views lie about the map's z axis, from above and below, with this spread (degrees).
    preferred_share : float
        Of the views that do; the others are uniform.
    defocus : (lowest, highest)
        Å; an image's mean of U and V is drawn uniformly between them.
    astigmatism : float
        Å; U - V is drawn uniformly from 0 to this, its angle from 0 to 180°.
    voltage, cs, amplitude_contrast, phase_shift : float
        kV, mm, fraction, degrees.
    shift_spread : float
        Standard deviation (Å) of the particles' x and of their y.
    pose_noise : float
        Each rotation in the STAR is off by a turn about a random axis: normal, root mean square in degrees.
    shift_noise : float
        Standard deviation (Å) of the error of x, and of y, in the STAR.
    defocus_noise : float
        Standard deviation (Å) of the error of U, and of V, in the STAR.
    bfactor : float
        Å²; the images have the envelope ``exp(-B k^2 / 4)``, of which the STAR says nothing.
    ice : float
        Share of the noise's variance that comes from the ice, coloured and seen through the CTF; the rest is white.
    solvent : bool
        Whether there is solvent around the atoms and none where they are.
    belt : float
        Height (Å) of a belt of detergent about the middle of the model's longest axis; 0 for none.
    neighbours : float
        Mean number of other particles that reach into an image.
    junk : float
        Share of the images that show no particle: every other one is empty, the others show a shapeless blob.
    centre : bool
        Move the mean of the atoms' positions to the centre of the box first.
    clean : bool
        Keep the noise-free images too.
    map : bool
        Reconstruct a map from the images too.
    seed : int
    """

    model: str
    box: int
    pixel_size: float
    count: int
    snr: float
    views: ViewDistribution | None = None
    missing_cone: float | None = None
    preferred: float | None = None
    preferred_share: float = 0.8
    defocus: tuple[float, float] = (8_000.0, 25_000.0)
    astigmatism: float = 500.0
    voltage: float = 300.0
    cs: float = 2.7
    amplitude_contrast: float = 0.1
    phase_shift: float = 0.0
    shift_spread: float = 3.0
    tilts: int = 1
    tilt_dose: float = 3.0
    pose_noise: float = 0.0
    shift_noise: float = 0.0
    defocus_noise: float = 0.0
    bfactor: float = 0.0
    ice: float = 0.0
    solvent: bool = False
    belt: float = 0.0
    neighbours: float = 0.0
    junk: float = 0.0
    centre: bool = False
    clean: bool = False
    map: bool = False
    seed: int = 0

    @classmethod
    def life_like(cls, **given: Any) -> SimulationSettings:
        """Settings with all that disturbs real images at usual strengths, but for what is given.

        Preferred views are not among them where another distribution of views is asked for.
        """
        usual = dict(LIFE_LIKE)
        if given.get("views") is not None or given.get("missing_cone") is not None:
            del usual["preferred"]
        return cls(**{**usual, **given})

    def __post_init__(self) -> None:
        """Refuse values that cannot work, in the words of the command line."""
        for one in fields(self):
            if isinstance(value := getattr(self, one.name), float):
                object.__setattr__(self, one.name, value + 0.0)  # -0.0 becomes 0.0
        require_within("--box", self.box, 16, 4096)
        if self.box % 2:
            raise InputError(
                f"--box {self.box}: must be even, because programs disagree by a pixel on the centre of odd boxes; "
                f"give {self.box - 1} or {self.box + 1}"
            )
        require_within("--count", self.count, 1, 10**7)
        require_within("--tilts", self.tilts, 1, 200)
        require_within("--tilt-dose", self.tilt_dose, 0, 100)
        if not 0 < self.snr < float("inf"):
            raise InputError(
                f"--snr {self.snr:g}: must be above 0, the variance of the signal over that of the noise; "
                "0.1 is a clear image, 0.01 a usual one"
            )
        self._check_views()
        self._check_defocus()
        require_within("--astigmatism", self.astigmatism, 0, 50_000)
        self._check_optics()
        require_within("--phase-shift", self.phase_shift, -180, 180)
        require_within("--shift-spread", self.shift_spread, 0, 1000)
        require_within("--pose-noise", self.pose_noise, 0, 180)
        require_within("--shift-noise", self.shift_noise, 0, 1000)
        require_within("--defocus-noise", self.defocus_noise, 0, 50_000)
        require_within("--bfactor", self.bfactor, 0, 2000)
        require_within("--ice", self.ice, 0, 1)
        require_within("--belt", self.belt, 0, 1000)
        require_within("--neighbours", self.neighbours, 0, 20)
        require_within("--junk", self.junk, 0, 0.9)
        require_within("--seed", self.seed, 0, 2**63 - 1)

    @property
    def images(self) -> int:
        """Number of images."""
        return self.count * self.tilts

    @property
    def cone_deg(self) -> float:
        """Half-angle of the cone without views; 0 if there is none."""
        return self.missing_cone or 0.0

    @property
    def extent_angstrom(self) -> float:
        """Side of the box."""
        return self.box * self.pixel_size

    def _check_views(self) -> None:
        angles = {ViewDistribution.MISSING_CONE: self.missing_cone, ViewDistribution.PREFERRED: self.preferred}
        if self.missing_cone is not None:
            require_within("--missing-cone", self.missing_cone, 0, WIDEST_CONE_DEG)
        if self.preferred is not None:
            require_within("--preferred", self.preferred, 0, 90)
        require_within("--preferred-share", self.preferred_share, 0, 1)
        for kind, angle in angles.items():
            if self.views == kind and angle is None:
                raise InputError(f"--views {kind.value}: its angle is not given; add --{kind.value} DEG")
        given = [f"--{kind.value} {angle:g}" for kind, angle in angles.items() if angle is not None]
        asked = given if self.views is None else [f"--views {self.views.value}", *given]
        expected = 1 if self.views in (None, ViewDistribution.UNIFORM) else 2
        if len(asked) > expected:
            raise InputError(f"{' with '.join(asked)}: contradict each other; leave one out")

    def _check_optics(self) -> None:
        # Imported here, since the command line reads the defaults of this module at every start.
        from cocofold.particles.particle_set import OPTICS_LIMITS

        for option, value, name in (
            ("--pixel-size", self.pixel_size, "pixel_size_angstrom"),
            ("--voltage", self.voltage, "voltage_kv"),
            ("--cs", self.cs, "cs_mm"),
            ("--amplitude-contrast", self.amplitude_contrast, "amplitude_contrast"),
        ):
            lowest, highest, _ = OPTICS_LIMITS[name]
            require_within(option, value, lowest, highest)

    def _check_defocus(self) -> None:
        lowest, highest = self.defocus
        if 0 < highest < MAX_DEFOCUS_IN_MICROMETRES:
            raise InputError(
                f"--defocus {lowest:g} {highest:g}: is taken in Å, from 100 to 100000; "
                f"if these are micrometres, give {lowest * 1e4:g} {highest * 1e4:g}"
            )
        for value in self.defocus:
            require_within("--defocus", value, 100, 100_000)
        if lowest > highest:
            raise InputError(f"--defocus {lowest:g} {highest:g}: the lower value comes first; swap them")


# All that disturbs real images, at strengths that are usual: a bad day at the microscope, not the worst one.
LIFE_LIKE: Dict[str, Any] = {
    "ice": 0.4,
    "bfactor": 80.0,
    "solvent": True,
    "belt": 30.0,
    "neighbours": 0.5,
    "junk": 0.1,
    "pose_noise": 2.0,
    "shift_noise": 0.7,
    "defocus_noise": 150.0,
    "preferred": 30.0,
    "preferred_share": 0.6,
}
