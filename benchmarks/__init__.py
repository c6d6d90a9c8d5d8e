"""Measurements of this project, and of its peers beside it in one run.

    make bench-quick    # us and the standard library's pools, without installing anything
    make bench          # all peers, three rounds, benchmarks/RESULTS.md and results.svg

| module | what it does |
|---|---|
| `run` | the driver: a fresh process for each (round, contender), in turn; ends what hangs; writes the results |
| `measure` | what that process does: one contender, all figures |
| `workloads` | the functions that tasks run |
| `peers` | one class for each contender |
| `bare` | two processes that do the same work in a plain loop: the limit of every framework |
| `processes` | finds, measures and ends every process of a run |
| `targets` | the promised targets, and whether the figures meet them |
| `report` | statistics, tables, the plot |

`joblib_backend` and `engines` are parts of `make bench`: each writes a section of RESULTS.md, and runs alone too.
`scheduler_alone` is part of the run and can run alone too; `submits` and `compiled_mandelbrot` only run alone.
"""
