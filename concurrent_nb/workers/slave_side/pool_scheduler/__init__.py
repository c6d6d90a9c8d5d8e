"""The pool scheduler: which task waits, which worker gets it, which worker is too slow or broken, which is stopped.

Pure: no process, no socket, no clock. The pool calls `PoolScheduler` with events and the time at which they happened,
and executes the commands that it returns. What the slave must report to the master gathers in `PoolReports`.

    pool_scheduler       the way in: events of the slave and of the workers, each followed by an assignment of tasks
    assignment           which worker gets which tasks; starts the workers of task systems
    worker_lifecycle     start, recall, stop, kill, restart and death of a worker; which task is to blame for a death
    thread_process       the process whose threads run tasks: its threads, its death, the suspects
    reserve              workers for the slots of blocked tasks
    pool_state           what all of them share: attempts, queues, reports; with worker_table and attempt_queue
    outcome_frames       the outcome of an attempt that its worker did not report: stopped, or lost with its worker

**Packs.** An idle worker gets a pack: one task if the function's run time is unknown or long, else as many as make up
about `ahead_s` of work. A busy worker gets a second pack ahead, so that it never waits for the slave, unless its
current task is known to be slow. Tasks behind one that turns out slow, or that an idle worker could run, are recalled
and return to the front of the queue. A recall is safe at any moment: a worker may start a task only with a token, and
each token is read either by the worker or by the slave.

**Tasks of several slots** run in one worker and keep other workers idle. While such a task waits, no worker gets a new
pack, so that the slots get free as soon as the running tasks have ended. A **task system** gets a worker of its own
beside the slots, started for it and dismissed after it.

**Tasks in threads** share one process, which is started for the first of them. Each of its threads is a worker, and
takes a slot while it has a task. The death of one is the death of all: the tasks of the others return to the master
without blame. If the process died by itself while several tasks ran, each of these is a suspect: on its next run in
this slave it is the only task in the process.

**A blocked task** waits for tasks of its own, and lends its slot to a worker of the reserve. Otherwise tasks that wait
for tasks could hold all workers for ever. The reserve grows on demand and shrinks after a while without use.

**A broken worker** is killed: one that sent something invalid, or whose task has ended while its result does not come
and nothing moves. A task may write to anything in its worker, so all that a worker reports is a claim. The task that
broke it counts a death; the tasks behind it run elsewhere.

**Replacement.** A worker that has had as many tasks as it may have, or that is to be restarted, gets no more tasks, is
dismissed when it has none, and another one takes its place. This counts as no death. With `stop`, its running task
returns to the master.
"""
