"""Quantum states, path integrals and a scalar field on a lattice."""
