"""Hints: what a cell probably meant, said in one line when it ends. Pure; the magics print what they get from here.

Used by the magics. A hint is given only where following it changes what the user gets.
"""

import ast
import re
from typing import Final

from concurrent_nb import Job

#: a job of so many tasks that takes so long in all, with tasks that are shorter on average, is told of --batch
BATCH_TASKS: Final = 1000
BATCH_JOB_S: Final = 1.0
BATCH_TASK_S: Final = 0.002

_PRANGE: Final = re.compile(r"^[^#\n]*\bprange\s*\(", re.MULTILINE)


def lost_value(tree: ast.Module) -> str | None:
    """Explain why a cell that ends in an assignment has no value; None for any other cell."""
    body = tree.body
    target = _assigned_last(body[-1]) if body else None
    if target is None:
        return None
    kind = "an assignment" if isinstance(body[-1], (ast.Assign, ast.AnnAssign, ast.AugAssign)) else "a block"
    return (
        f"no value came back: a cell's value is its last expression, and this one ends in {kind};"
        f" end it with a line `{target}`, and keep that with --out NAME"
    )


def _assigned_last(statement: ast.stmt) -> str | None:
    """Name what a statement assigns in the end; None if it does something else."""
    if isinstance(statement, ast.Assign):
        return ast.unparse(statement.targets[-1])
    if isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        return ast.unparse(statement.target)
    if isinstance(statement, (ast.For, ast.While, ast.With, ast.If, ast.Try)):
        return _assigned_last(statement.body[-1])
    return None


def not_found(until: str, tasks: int) -> str:
    """Say that a search has ended without a hit."""
    times = f"all {tasks:,} tasks" if tasks != 1 else "the one task"
    return f"not found: `{until}` was not true for the result of {times}"


def many_short_tasks(job: Job) -> str | None:
    """Say that --batch auto pays, of a job that has ended, if it does."""
    tasks = len(job.futures)
    if tasks < BATCH_TASKS or job.elapsed_s < BATCH_JOB_S:
        return None
    each = sum(future.elapsed_s for future in job.futures) / tasks
    if each >= BATCH_TASK_S:
        return None
    return f"{tasks:,} tasks of {1000 * each:.2g} ms each: --batch auto lets many travel together, which is faster"


def prange_without_openmp(source: str) -> str | None:
    """Say that a cell of Cython with `prange` runs on one thread if it is compiled without --openmp."""
    if _PRANGE.search(source) is None:
        return None
    return "prange runs on one thread here, because the cell was compiled without OpenMP: %%cython_task --openmp"
