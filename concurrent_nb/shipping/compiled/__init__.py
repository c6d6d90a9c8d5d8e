"""Cython cells: translated and compiled once, cached by content, sent to machines of the same or another kind.

    notebook: Recipe(source, flags) -> build.make -> Build -> CythonFunction for each def and cpdef
    worker:   CythonFunction, unpickled: the binary if it fits this machine, else built from the C, else from the source

`flags` and `recipe` define what may be built, `platforms` which binary fits a machine, `cache` keeps what was built,
`compiler` is the program that runs Cython and the C compiler in a process of its own, and `build` starts it.
"""
