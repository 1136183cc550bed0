"""Models of molecules: reading and writing, residue frames, torsions, geometry.

Knows nothing of images.
"""
