"""Relaxation of models by molecular mechanics, held near where the images put them."""
