"""The mathematics: patterns (bundles, metrics, cohomology, arithmetic), quantum states, crystals."""
