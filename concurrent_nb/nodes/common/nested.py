"""Applications in tasks: they wait for tasks on the same cluster, which may need the slot of their own task.

A worker sets a function here, which the applications of its process call with every turn of their loops. So a task that
waits for its own tasks, in any way, is known to be blocked, and the slave lets another worker use its slot
(workers/slave_side/pool_scheduler/). Other processes set none.
"""

from collections.abc import Callable

#: called with whether an application of this process has unanswered tasks; None in a process that runs no tasks
note_blocked: Callable[[bool], None] | None = None
