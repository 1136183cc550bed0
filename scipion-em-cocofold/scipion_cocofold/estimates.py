"""How long fine-tuning takes and how much memory, before it starts: from measurements on two processor cores."""

# Steps of a whole run, and images of each
_STEPS, _BATCH = 1790, 16
# Seconds of one thread for an image: 3.8 ms for 1,656 atoms in a box of 64, 28 ms for 13,400 atoms in 288
_S_PER_ATOM, _S_PER_PIXEL, _S_PER_IMAGE = 1.7e-6, 7e-8, 0.7e-3
_ATOMS_PER_RESIDUE = 7.8
# Of the structure module, forward and backward, for a residue pair; and the steps in which it runs
_MODULE_S_PER_PAIR, _MODULE_STEPS = 4.2e-6, 290
_GB_OF_PROGRAM, _GB_PER_PAIR, _MOST_CACHE_GB = 0.5, 1.3e-6, 4.3
_SHARE_OF_THREADS = 0.7


def expectation(particles, box, residues, effort, threads, network):
    """Return a sentence on expected time and memory, on a processor.

    Parameters
    ----------
    particles : int
    box : int
        In pixels.
    residues : int
        Of all chains.
    effort : float
    threads : int
    network : bool
        Whether a prediction's network is trained, after its model was moved.
    """
    image = _S_PER_IMAGE + _S_PER_ATOM * _ATOMS_PER_RESIDUE * residues + _S_PER_PIXEL * box**2
    seconds = effort * _STEPS * _BATCH * image
    memory = _GB_OF_PROGRAM + min(_MOST_CACHE_GB, 4e-9 * particles * box**2)
    if network:
        seconds += effort * _MODULE_STEPS * (_MODULE_S_PER_PAIR * residues**2 + 4 * _BATCH * image)
        memory += _GB_PER_PAIR * residues**2
    minutes = seconds / (1 + _SHARE_OF_THREADS * (min(threads, 8) - 1)) / 60
    return f"about {max(1, round(minutes))} min with {threads} threads, {memory:.1f} GB; on a GPU less time"
