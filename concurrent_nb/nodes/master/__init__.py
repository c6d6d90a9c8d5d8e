"""The master process. It must not import a module that unpickles or that runs a user's code.

`core` decides (pure), `process` owns the sockets and threads.
"""
