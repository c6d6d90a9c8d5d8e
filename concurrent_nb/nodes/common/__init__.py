"""What several kinds of nodes use: registration, links of shared memory, wake-ups, descriptors. Imports no node."""
