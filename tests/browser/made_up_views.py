"""Views of made-up jobs, as an application shares them: a picture, a search, a table, and one that no page may run."""

import base64
from functools import cache
from typing import Any, Final

from concurrent_nb.notebook.live.colours import viridis
from concurrent_nb.notebook.live.png import palette_png

#: what would run, hide or turn other texts around if it were not shown as text
EVIL: Final = "<img src=x onerror='window.caught=1'><script>window.caught=2</script> \x1b[2J \u202egnp.exe"
#: what would run if it were not an image
EVIL_SVG: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="120" height="40" onload="top.caught=3">'
    '<script>top.caught=4</script><rect width="120" height="40" fill="#c3d9ee"/>'
    '<circle cx="20" cy="20" r="14" fill="#0072b2"/></svg>'
)
_SIZE: Final = (384, 256)
_NAMES: Final = {"aa": "image", "bb": "table", "cc": "search", "dd": "evil"}


def view_of(job: str, done: int, tasks: int) -> dict[str, Any] | None:
    """Return the view of a job of which `done` of `tasks` tasks have ended; None for jobs that share none."""
    kind = _NAMES.get(job[:2])
    if kind is None:
        return None
    view: dict[str, Any] = {
        "format": 1,
        "text": f"{done:,} of {tasks:,} tasks done",
        "is_over": done >= tasks,
        "bars": {"bars": [], "others": [], "more": 0, "single": False, "most": 0},
        "errors": {"kinds": [], "more": 0},
        "view": None,
        "outputs": [],
        "dropped_bytes": 0,
    }
    return {**view, **_PARTS[kind](done, tasks)}


def errors_of(job: str) -> dict[str, Any] | None:
    """Return the errors of a job as the master folds them; None for jobs without any."""
    if not job.startswith("0"):
        return None
    text = f"Traceback (most recent call last):\n  File <cell>, line 3\nValueError: {EVIL}\n"
    kind = {"type": "ValueError", "message": EVIL, "count": 12, "tasks": [1, 4, 9], "text": text}
    died = {"type": "POISON", "message": "3 times the worker died", "count": 1, "tasks": [5], "text": "killed"}
    return {"kinds": [kind, died], "more": 2}


def _image(done: int, tasks: int) -> dict[str, Any]:
    width, height = _SIZE
    columns = width * done // max(1, tasks)
    rows = [row[:columns] + bytes(width - columns) for row in _mandelbrot()]
    png = palette_png(width, height, b"".join(rows), viridis(), b"\0")
    view = {
        "kind": "image", "width": 1536, "height": 1024, "step": 4, "range": ["0", "20"], "odd": 0, "first_odd": "",
        "png": base64.b64encode(png).decode(),
    }  # fmt: skip
    lines = "".join(f"[{column}] column {column}: {7 * column % 911} points\n" for column in range(columns))
    return {"view": view, "outputs": [{"type": "stream", "name": "stdout", "text": lines}]}


@cache
def _mandelbrot() -> list[bytes]:
    """Return the rows of a picture, as indexes of colours."""
    width, height = _SIZE
    return [bytes(_steps(3 * x / width - 2, 2 * y / height - 1) for x in range(width)) for y in range(height)]


def _steps(x: float, y: float) -> int:
    c, z = complex(x, y), 0j
    for step in range(20):
        z = z * z + c
        if abs(z) > 2:
            return 1 + 12 * step
    return 255


def _search(done: int, tasks: int) -> dict[str, Any]:
    cells = "".join(
        str(2 if at < 300 * done // tasks else 1 if at < 300 * done // tasks + 3 else 0) for at in range(300)
    )
    hit = {"index": tasks // 3, "label": "n = 4711", "value": "'concurrent'"} if done > tasks // 3 else None
    view = {
        "kind": "search", "tasks": tasks, "cells": cells, "first": "n = 0", "last": f"n = {tasks - 1}", "hit": hit,
        "over": done >= tasks, "searched": done, "cancelled": 0, "failed": 3,
    }  # fmt: skip
    return {"view": view}


def _table(done: int, tasks: int) -> dict[str, Any]:
    def row(task: int) -> list[str]:
        state = "failed" if task % 7 == 3 else "done"
        value = "ValueError: singular matrix" if state == "failed" else f"{(task * 7919 % 1000) / 1000:.3f}"
        return [str(task), f"{0.01 * task:.2f}", value, f"node{task % 4 + 1:02d}", f"{1 + task % 5:.3f}", state]

    shown = min(done, 20)
    first, last = min(10, shown), max(0, shown - 10)
    rows: list[Any] = [row(task) for task in range(first)]
    if done > 20:
        rows.append(done - 20)
    rows += [row(task) for task in range(done - last, done)]
    view = {
        "kind": "table", "columns": ["task", "rate", "value", "slave", "seconds", "status"],
        "right": [True, True, False, False, True, False], "rows": [*rows, 0], "best": ["4"],
        "limits": "least 0.013 (task 4, rate = 0.04) · greatest 0.998 (task 2, rate = 0.02)",
    }  # fmt: skip
    trace = (
        "Traceback (most recent call last):\n  Cell In[4], line 3\n    fitted = solve(matrix, rate)\n"
        "ValueError: singular matrix"
    )
    kinds = [
        {"type": "ValueError", "message": "singular matrix", "count": 12, "tasks": [3, 10, 17, 24, 31], "text": trace},
        {"type": "OSError", "message": "no space left on device", "count": 1, "tasks": [5], "text": trace},
    ]
    running = [[f"task {task} · rate = 0.{task}", (done % 10) / 10, f"epoch {done % 10} of 10", 1] for task in (41, 42)]
    bars = [*running, ["task 43 · rate = 0.43", None, "loads its data", 1], ["task 12", 1.0, "epoch 10 of 10", 2]]
    outputs = [
        {"type": "stream", "name": "stdout", "text": "[3] begins\n[4] begins\n"},
        {"type": "stream", "name": "stderr", "text": "[3] RuntimeWarning: overflow encountered in exp\n"},
        {"type": "display", "data": {"text/plain": "<Figure>", "image/svg+xml": EVIL_SVG}, "metadata": {}},
        {"type": "display", "data": {"text/html": "<table>", "text/plain": "   a  b\n0  1  2"}, "metadata": {}},
        {"type": "stream", "name": "stdout", "text": f"[4] ends after {done} steps\n"},
    ]
    return {
        "view": view, "errors": {"kinds": kinds, "more": 4}, "outputs": outputs, "dropped_bytes": 51_200,
        "bars": {"bars": bars, "others": running, "more": 2, "single": False, "most": 4},
    }  # fmt: skip


def _evil(done: int, tasks: int) -> dict[str, Any]:
    lines = (
        f"{EVIL}\n" + "x" * 1_000_000 + "\n" + "y\n" * 1000 + f"10 %\r20 %\r{done}\n\x1b[31mred\x1b[0m \x1b]0;title\x07"
    )
    many = [[EVIL * 9, 7e99, EVIL, 1], ["b", "not a number", None, "state"], None, [[]]]
    kind = {"type": EVIL, "message": EVIL * 100, "count": "many", "tasks": [EVIL], "text": lines}
    return {
        "text": EVIL,
        "bars": {"bars": many * 2, "others": many * 1000, "more": EVIL},
        "errors": {"kinds": [kind, None, 7], "more": -1},
        "view": {"kind": "table", "columns": [EVIL] * 3, "right": EVIL, "rows": [[EVIL] * 3, [None, {}, []], 1e9]},
        "outputs": [
            {"type": "stream", "name": EVIL, "text": lines},
            {"type": "display", "data": {"image/png": "javascript:alert(1)", "text/html": EVIL, "text/plain": EVIL}},
            {"type": "display", "data": {EVIL: EVIL}},
            {"type": "display", "data": {"image/svg+xml": EVIL_SVG}},
            {"type": EVIL}, None, 4711,
        ],
        "dropped_bytes": EVIL,
    }  # fmt: skip


_PARTS: Final = {"image": _image, "table": _table, "search": _search, "evil": _evil}
