"""Estimates of the time and memory of fine-tuning, from measurements on two processor cores (docs/performance.md)."""

from __future__ import annotations

# Steps of a whole run with an effort of 1, and images of each
_STEPS_OF_RUN, _IMAGES_PER_STEP = 1790, 16
# Seconds of one thread for an image with its share of a step, by atom, pixel and image: 1.1 ms for 1,656 atoms in a box
# of 64, 8 ms for 13,400 in 288
_S_PER_ATOM, _S_PER_PIXEL, _S_PER_IMAGE = 3e-7, 4.1e-8, 0.4e-3
_ATOMS_PER_RESIDUE = 7.8
# Seconds of one thread for a pair of residues in the structure module, forward and backward; the steps in which it
# runs, and how many times as many images these compare
_MODULE_S_PER_PAIR, _MODULE_STEPS, _MODULE_IMAGES_FACTOR = 3.5e-6, 290, 4
# Memory of the program, of a pair of residues, and of an image's pixel: half of its transform, in complex64. The engine
# keeps transforms up to a limit (4 GiB) and reads the others again
_GB_OF_PROGRAM, _GB_PER_PAIR, _GB_PER_PIXEL, _MOST_CACHE_GB = 0.5, 1.3e-6, 4e-9, 4.3
# What each further thread adds to the speed of comparing images and of the module, up to a number of threads
_SHARE_OF_THREADS, _SHARE_IN_MODULE, _MOST_THREADS = 0.2, 0.8, 8


def estimateSentence(particles: int, box: int, residues: int, effort: float, threads: int, network: bool) -> str:
    """Return a sentence on the expected time and memory on a processor.

    Parameters
    ----------
    particles : int
    box : int
        In pixels.
    residues : int
        Number of residues of all chains.
    effort : float
        Factor on the number of steps.
    threads : int
    network : bool
        Whether a prediction's network is trained, after its model was moved.
    """
    image = _S_PER_IMAGE + _S_PER_ATOM * _ATOMS_PER_RESIDUE * residues + _S_PER_PIXEL * box**2
    images, module = effort * _STEPS_OF_RUN * _IMAGES_PER_STEP * image, 0.0
    memory = _GB_OF_PROGRAM + min(_MOST_CACHE_GB, _GB_PER_PIXEL * particles * box**2)
    if network:
        images += effort * _MODULE_STEPS * _MODULE_IMAGES_FACTOR * _IMAGES_PER_STEP * image
        module = effort * _MODULE_STEPS * _MODULE_S_PER_PAIR * residues**2
        memory += _GB_PER_PAIR * residues**2
    more = min(threads, _MOST_THREADS) - 1
    minutes = (images / (1 + _SHARE_OF_THREADS * more) + module / (1 + _SHARE_IN_MODULE * more)) / 60
    return f"about {max(1, round(minutes))} min with {threads} threads, {memory:.1f} GB; on a GPU less time"
