"""Geometric flows and Hamiltonian systems."""
