"""Inspection of functions and networks: algorithms, shapes, receptive fields."""
