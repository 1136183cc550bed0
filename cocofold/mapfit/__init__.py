"""A model placed rigidly in a map: the whole, its bodies, and the map's hand.

It imports nothing of networks and of particles.
"""
