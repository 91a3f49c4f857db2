"""What geometry says of a network that runs: dimensions, curvature, stability under rounding, symmetry, attention."""
