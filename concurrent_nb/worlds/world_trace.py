"""Steps as events of Chrome's trace event format: each slave is a process, each worker a row of it. Pure.

Steps follow each other without gaps, so the time between two runs is left out.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from concurrent_nb.worlds.step_record import Step


def events_of(steps: Iterable[Step]) -> Iterator[dict[str, Any]]:
    """Yield the events: a slice for each step, and one for each group's part of it and its time at the barrier."""
    numbers: dict[str, int] = {}  # of processes and rows
    ended_s = 0.0
    yield _named("process_name", 0, 0, "world")
    for step in steps:
        began_s, ended_s = ended_s, ended_s + step.elapsed_s
        counts = {"members": step.members, "messages": step.messages, "undelivered": step.undelivered}
        yield _slice(f"step {step.number}", 0, 0, began_s, step.elapsed_s, counts)
        for share in step.groups:
            slave = share.slave or "slave"
            if slave not in numbers:
                numbers[slave] = len(numbers) + 1
                yield _named("process_name", numbers[slave], 0, f"slave {slave}")
            if share.worker not in numbers:
                numbers[share.worker] = len(numbers) + 1
                yield _named("thread_name", numbers[slave], numbers[share.worker], f"worker {share.worker}")
            process, row = numbers[slave], numbers[share.worker]
            finished_s = ended_s - share.wait_s
            counts = {"group": share.group, "members": share.members, "messages": share.messages}
            yield _slice(f"step {step.number}", process, row, finished_s - share.elapsed_s, share.elapsed_s, counts)
            if share.wait_s:
                yield _slice("barrier", process, row, finished_s, share.wait_s, {})


def _slice(name: str, process: int, row: int, began_s: float, elapsed_s: float, args: dict[str, Any]) -> dict[str, Any]:
    times = {"ts": round(began_s * 1e6, 3), "dur": round(elapsed_s * 1e6, 3)}
    return {"name": name, "cat": "world", "ph": "X", "pid": process, "tid": row, **times, "args": args}


def _named(kind: str, process: int, row: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": row, "args": {"name": name}}
