"""What a worker does with a pushed task: an object that is the work and its arguments at once.

It is here, and not in `tasks`, because frames of this room are left out of tracebacks: they begin with the task's own
lines. Used for `push_task(s)` and for the tasks of task systems.
"""

from typing import Any

from concurrent_nb.tasks.system import Task


def run_task(task: Task) -> Any:
    """Call the task, and have it tidy up before its result travels, also after an error.

    Raises what the task raises; if `clean_up` raises too, that is told in a note. If only `clean_up` raises, the task
    has failed: what it was to tidy up is still there, and nobody else would say so.
    """
    try:
        result = task()
    except BaseException as error:
        try:
            task.clean_up()
        except BaseException as second:  # noqa: BLE001  (the first error is the one that explains; this one is told with it)
            error.add_note(f"its clean_up raised too: {type(second).__name__}: {second}")
        raise
    task.clean_up()
    return result
