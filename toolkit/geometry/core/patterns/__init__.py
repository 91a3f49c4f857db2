"""Bundles, Riemannian structure, cohomology and arithmetic of patterns."""
