"""Side-by-side benchmarks, and the published networks that calibrate the cost model."""
