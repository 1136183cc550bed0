"""Image formation: Gaussians of atoms, projection, CTF, Fourier rings (paper eq. 1-3).

Knows nothing of where atoms come from.
"""
