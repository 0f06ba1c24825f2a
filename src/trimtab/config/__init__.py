"""Settings: what an experiment is, and the grid it spans; no torch."""
