"""A given model under a multi-scale field of rigid motions, with side-chain torsions at the finest level.

Knows nothing of images or networks.
"""
