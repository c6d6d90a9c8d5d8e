"""The slave process: takes tasks from the master and feeds the workers of its machine.

`core` decides (pure), `process` owns the sockets; the rest is the slave as a Jupyter kernel.
"""
