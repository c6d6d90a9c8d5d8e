"""Engines: tasks of an application run on workers that are not our slaves', and everything else stays as it is.

    ApplicationNode --> master (a process of its own) --> EngineSlave, a thread of this process
                                                            EnginePool -- groups of tasks --> the engine
                                                              |                                  |
                                                              local pool: system hosts           EngineHost in each slot

An engine (Dask, Ray, an executor of the standard library's kind) decides where work runs. Whatever else a user has is
ours: futures, jobs, retries, timeouts, output, statistics and the live view need a master and an application node, so
an engine gets exactly these, on the user's machine, and stands where a slave's workers stand. The master's slave is a
thread of the user's process, because the user's `distributed.Client` or `Executor` is there; instead of workers it has
an `EnginePool`.

**Groups.** An engine takes 0.3 to 7 ms for each of its tasks, so several of ours travel as one of its: a group.
`group_scheduler` (pure) decides how many: as much work as takes `GROUP_S`, at least a share for every slot, one task
while the function's time is not known. While tasks are short there is one group more per slot than can run, so that no
slot waits for the engine. A group whose task turns out to be slow returns the tasks behind it.

**Hosts.** On the engine's side, a group is run by an `EngineHost`: a worker process of ours with its pool
(`workers/slave_side/pool.py`), started once per slot inside of the engine's worker process. It loads functions once,
runs tasks, captures their output, ends them at their timeout, stops them by SIGINT and then SIGKILL, and survives what
they do. So a task that is stopped or crashes costs the engine nothing, and an engine that cannot stop a task, as Dask,
need not.

**Reports.** What a host has to say while a group runs (output, notes, stacks, the beginning of a slow task, results
behind which a slow one runs) goes to the pool over the engine's own messages: events (Dask), a stream of results
(Ray), or a connection that the host opens (executors). They are numbered, and the result of the group says how many
there were. Orders (withdraw, stop, show the stack) take the way back.

**Objects.** Functions, and buffers that lie in shared memory here (large arguments, `app.put`), are named by digest or
place, and put into the engine's object store once, where it has one. A host keeps what it was given. A group names
what it needs; a host that lacks something of it says so, and gets the group again, with it.

**Task systems** live in a worker process beside this one, because their master is here; their tasks run on the engine.

**inline** is a pool of one worker which is a thread of this process: no pickles leave it, and a debugger sees the task.

Failures: the engine reports an error for a group when the worker that had it is gone. The first unfinished task of a
group that had begun counts a death, as with a slave; the others run again. An engine that is gone ends every open
future with `EngineLost`.
"""
