"""Geometry, quantum states, crystals and flows: analysis of networks, and the attention built on it."""
