"""cryoJAX's projection of Gaussian atoms, forward and backward, for ``benchmarks.step --cryojax PYTHON``.

Run by the Python of an environment of its own (``pip install cryojax``), which has nothing of cocofold. Reads an npz
file with ``positions`` (n, 3) Å from the image's middle as its pose shows them, ``amplitudes`` (n,), ``variances`` (n,)
Å², ``weights`` (side, side), ``spacing`` Å and ``spread``, pixels along an atom's square. Prints one JSON object: the
median of five times, after a first one that compiles, and the version. The projection goes to a second npz file.
"""

import json
import statistics
import sys
import time
from importlib.metadata import version

import cryojax.simulator as cxs
import jax
import jax.numpy as jnp
import numpy as np


def main() -> None:
    """Measure and write."""
    given = np.load(sys.argv[1])
    side, spread = len(given["weights"]), int(given["spread"])
    config = cxs.BasicImageConfig((side, side), float(given["spacing"]))
    integrator = cxs.GaussianMixtureProjection(sampling_mode="point", n_spread=spread)
    weights = jnp.asarray(np.fft.rfft2(given["weights"]), dtype=jnp.complex64)

    def projected(positions: jax.Array, amplitudes: jax.Array, variances: jax.Array) -> jax.Array:
        volume = cxs.GaussianMixtureVolume(positions, amplitudes, variances)
        return integrator.integrate(volume, config)

    def weighted(*atoms: jax.Array) -> jax.Array:
        return jnp.real(projected(*atoms) * jnp.conj(weights)).sum()

    both = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2)))
    atoms = [jnp.asarray(given[name], dtype=jnp.float32) for name in ("positions", "amplitudes", "variances")]
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        jax.block_until_ready(both(*atoms))
        seconds.append(time.perf_counter() - began)
    np.savez(sys.argv[2], image=np.fft.irfft2(np.asarray(jax.jit(projected)(*atoms)), s=(side, side)))
    print(json.dumps({"cryojax": statistics.median(seconds[1:]), "cryojax_version": version("cryojax")}))


if __name__ == "__main__":
    main()
