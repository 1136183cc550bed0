"""A model placed rigidly in a map: the whole, its bodies, and the map's hand.

It knows neither networks nor poses and CTFs of particles.
"""
