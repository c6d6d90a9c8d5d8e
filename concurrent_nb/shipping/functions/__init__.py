"""Functions, task objects and setups on their way to workers: pickled once, named by the digest of their pickle."""
