"""Cython cells: translated and compiled once, kept by content, carried to machines that are like this one or not.

    notebook: Recipe(source, flags) -> build.make -> Build -> CythonFunction for each def and cpdef
    worker:   CythonFunction, unpickled: the binary if it fits this machine, else built from the C, else from the source

`flags` and `recipe` say what may be built, `platforms` what fits where, `cache` keeps what was built, `compiler` is the
program that runs Cython and the C compiler, in a process of its own, and `build` starts it.
"""
