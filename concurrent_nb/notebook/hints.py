"""Hints: one line, printed at the end of a cell, about what its author probably intended. Pure.

Used by the magics. There is a hint only where following it changes the result.
"""

import ast
import re
from typing import Final

from concurrent_nb import Job
from concurrent_nb.telemetry.advice import BATCH_TASKS, short_tasks

_PRANGE: Final = re.compile(r"^[^#\n]*\bprange\s*\(", re.MULTILINE)


def lost_value(tree: ast.Module) -> str | None:
    """Explain why a cell that ends in an assignment has no value; None for any other cell."""
    body = tree.body
    target = _assigned_last(body[-1]) if body else None
    if target is None:
        return None
    kind = "an assignment" if isinstance(body[-1], (ast.Assign, ast.AnnAssign, ast.AugAssign)) else "a block"
    return (
        f"this cell has no value: the value is the last expression, and this cell ends in {kind};"
        f" add a last line `{target}`, and --out NAME to assign it to a variable"
    )


def _assigned_last(statement: ast.stmt) -> str | None:
    """Return the target that a statement assigns last; None if it does something else."""
    if isinstance(statement, ast.Assign):
        return ast.unparse(statement.targets[-1])
    if isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        return ast.unparse(statement.target)
    if isinstance(statement, (ast.For, ast.While, ast.With, ast.If, ast.Try)):
        return _assigned_last(statement.body[-1])
    return None


def not_found(until: str, tasks: int) -> str:
    """Report a search that has ended without a hit."""
    times = f"all {tasks:,} tasks" if tasks != 1 else "the one task"
    return f"not found: `{until}` was not true for the result of {times}"


def many_short_tasks(job: Job) -> str | None:
    """Suggest --batch auto for a job that has ended, if its tasks were many and short."""
    if len(job.futures) < BATCH_TASKS:
        return None
    return short_tasks(len(job.futures), job.elapsed_s, sum(future.elapsed_s for future in job.futures)) or None


def prange_without_openmp(source: str) -> str | None:
    """Warn about a Cython cell with `prange` that is compiled without --openmp."""
    if _PRANGE.search(source) is None:
        return None
    return "prange runs on one thread, because the cell was compiled without OpenMP: use %%cython_task --openmp"
