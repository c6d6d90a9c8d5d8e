"""A chaos soak: real load on a real cluster whose processes are killed and stopped at random."""
