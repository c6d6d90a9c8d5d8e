"""Engines: tasks of an application run on workers of Dask, Ray or an executor instead of our slaves' workers.

    ApplicationNode --> master (a process of its own) --> EngineSlave, a thread of this process
                                                            EnginePool -- groups of tasks --> the engine
                                                              |                                  |
                                                              local pool: system hosts           EngineHost in each slot

An engine (Dask, Ray, an executor of the standard library's kind) decides where work runs. Everything else is ours:
futures, jobs, retries, timeouts, output, statistics and the live view. They need a master and an application node, so
both run on the user's machine, and the engine takes the place of a slave's workers. The master's slave is a thread of
the user's process, because the user's `distributed.Client` or `Executor` is there; instead of workers it has an
`EnginePool`.

**Groups.** An engine takes 0.3 to 7 ms for each of its tasks, so several of ours travel as one of its: a group.
`group_scheduler` (pure) decides how many: as much work as takes `GROUP_S`, at least a share for every slot, one task
while the function's time is not known. While tasks are short there is one group more per slot than can run, so that no
slot waits for the engine. A group whose task turns out to be slow returns the tasks behind it.

**Hosts.** On the engine's side, a group is run by an `EngineHost`: a worker process of ours with its pool
(`workers/slave_side/pool.py`), started once per slot inside of the engine's worker process. It loads functions once,
runs tasks, captures their output, ends them at their timeout, stops them by SIGINT and then SIGKILL, and survives their
crashes. So the engine loses no worker when a task is stopped or crashes, not even an engine that cannot stop tasks,
such as Dask.

**Reports.** While a group runs, its host sends reports to the pool: output, notes, stacks, the start of a slow task,
and results of tasks before it. They travel over the engine's own messages: events (Dask), a stream of results
(Ray), or a connection that the host opens (executors). They are numbered, and the result of the group has their number.
Orders (withdraw, stop, show the stack) travel in the other direction.

**Objects.** Functions, and buffers that lie in shared memory here (large arguments, `app.put`), are named by digest or
place, and put into the engine's object store once, where it has one. A host keeps the objects that it has received. A
group names the objects that it needs; a host that lacks one reports it, and gets the group again, with the object.

**Task systems** live in a worker process beside this one, because their master is here; their tasks run on the engine.

**inline** is a pool of one worker which is a thread of this process: no pickles leave it, and a debugger sees the task.

Failures: the engine reports an error for a group when the worker that ran it has died. The first unfinished task of a
group that had begun counts a death, as with a slave; the others run again. When an engine is lost, every open
future ends with `EngineLost`.
"""
