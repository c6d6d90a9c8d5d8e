"""One line about what would make a job faster: where its time went, and what to do about it. Pure.

There is advice only where following it helps, so mostly there is none.
"""

from typing import Final, NamedTuple

from concurrent_nb.telemetry.amounts import bytes_text, seconds_text

#: minimum number of tasks, minimum job time, and maximum average run time for which --batch is suggested
BATCH_TASKS: Final = 1000
BATCH_JOB_S: Final = 1.0
BATCH_TASK_S: Final = 0.002
#: shorter jobs get no other advice, in seconds
JOB_S: Final = 1.0
#: part of the slots' time that is idle, or not spent on tasks, from which on there is advice
IDLE_SHARE: Final = 0.25
LOST_SHARE: Final = 0.4
#: bytes that travel, of a job and per second, from which on they may be what takes the time
TRAVELLED_BYTES: Final = 10_000_000
BYTES_PER_S: Final = 10_000_000
#: the longest task takes this many times the average
UNEVEN: Final = 4.0


class JobFacts(NamedTuple):
    """What advice is based on. Times are sums over all tasks that ended, in seconds."""

    tasks: int
    elapsed_s: float  #: from the start of the job to its end
    run_s: float  #: spent by workers
    longest_s: float = 0.0  #: run time of the longest task
    is_batched: bool = False
    waiting_s: float = 0.0  #: at the master, for a slot
    shipping_s: float = 0.0  #: to and from workers
    fetching_s: float = 0.0  #: from the master to the application
    slot_s: float = 0.0  #: slots times the seconds for which the job had tasks; 0 if it is not known
    idle_slot_s: float = 0.0  #: ... of slots without a task of anybody
    busy_s: float = 0.0  #: for which the job had tasks
    in_bytes: int = 0
    out_bytes: int = 0


def advice(facts: JobFacts) -> str:
    """Return one line, "" if there is no advice."""
    return (
        short_tasks(facts.tasks, facts.elapsed_s, facts.run_s, is_batched=facts.is_batched)
        or _bytes(facts)
        or _idle(facts)
    )


def short_tasks(tasks: int, elapsed_s: float, run_s: float, *, is_batched: bool = False) -> str:
    """Suggest batches for a job of many short tasks; "" if they would not help."""
    if is_batched or tasks < BATCH_TASKS or elapsed_s < BATCH_JOB_S or run_s / tasks >= BATCH_TASK_S:
        return ""
    each = 1000 * run_s / tasks
    return f"{tasks:,} tasks of {each:.2g} ms each: --batch auto runs several items per task, which is faster"


def _bytes(facts: JobFacts) -> str:
    travelled = max(facts.in_bytes, facts.out_bytes)
    if facts.elapsed_s < JOB_S or travelled < TRAVELLED_BYTES or travelled < BYTES_PER_S * facts.elapsed_s:
        return ""
    if not facts.slot_s or facts.run_s > (1 - LOST_SHARE) * facts.slot_s:
        return ""  # the slots were busy with the tasks themselves
    moved_s = facts.shipping_s + facts.fetching_s
    share = moved_s / (facts.waiting_s + moved_s + facts.run_s) if moved_s else 0.0
    if share < LOST_SHARE:
        return ""
    part = f"{100 * share:.0f} % of the tasks' time went into moving"
    if facts.in_bytes >= facts.out_bytes:
        return f"{part} {bytes_text(facts.in_bytes)} of arguments: app.put(value) sends what tasks share once"
    return f"{part} {bytes_text(facts.out_bytes)} of results: return less, or what has been computed from it"


def _idle(facts: JobFacts) -> str:
    if facts.busy_s < JOB_S or not facts.slot_s or facts.idle_slot_s < IDLE_SHARE * facts.slot_s:
        return ""
    slots = facts.slot_s / facts.busy_s
    idle = facts.idle_slot_s / facts.busy_s
    were = f"{idle:.2g} of {slots:.2g} slots were idle on average"
    if facts.tasks < slots:
        return f"{were}: the job has {facts.tasks:,} task{'s' * (facts.tasks != 1)}, cut it into more"
    average_s = facts.run_s / facts.tasks if facts.tasks else 0.0
    if average_s and facts.longest_s > UNEVEN * average_s and facts.longest_s > facts.busy_s / 2:
        longest, average = seconds_text(facts.longest_s), seconds_text(average_s)
        return f"{were}: the longest task took {longest}, the average {average}; start long ones first, or cut them"
    return ""
