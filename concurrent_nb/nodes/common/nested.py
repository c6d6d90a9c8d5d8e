"""Applications in tasks: what such a one waits for runs on the same cluster, and may need the slot of its own task.

A worker puts a function here that takes whether the applications of its process have unanswered tasks, and calls it
with every turn of theirs. So a task that waits for its own tasks, in whatever way, is known to be blocked, and the
slave lets another worker have its slot (workers/slave_side/pool_scheduler/). In other processes there is none.
"""

from collections.abc import Callable

#: takes whether tasks of an application of this process are unanswered; None where no task runs
note_blocked: Callable[[bool], None] | None = None
