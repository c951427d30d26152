"""Sets of images over a grid of known factors."""
