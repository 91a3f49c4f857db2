"""Crystals by diffraction and symmetry, and what happens when the scale changes."""
