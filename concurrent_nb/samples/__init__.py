"""The thesis's samples, as programs: `concurrent-nb run NAME`. They use only the public API of a cluster.

A sample is a component whose config items are its options. It is registered as an entry point `concurrent_nb.samples`;
samples of other packages are found in the same way. The command line uses its config items, the first line of its
docstring, and `run`.
"""
