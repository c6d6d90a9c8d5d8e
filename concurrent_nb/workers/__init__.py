"""Worker processes: how a slave starts, feeds, watches and stops them, and captures their output.

A mechanism: imports no other mechanism, and stays light, because slaves must start fast (no cloudpickle, no
asyncio, no multiprocessing). `slave_side` runs in the slave's process, `worker_side` in the worker's, and `protocol` is
what both share. Reading order of the slave's side: pool_scheduler (decides, pure), pool (executes), worker_connection,
output_capture, launchers. Of the worker's side: task_loop, forkserver, thread_workers. Of both: records, status_page.

    slave process                                              worker process, one per slot
    -------------                                              ----------------------------
    Pool -- PoolScheduler
     |                 tasks      <=== RunTasks, ... / results ===>        TaskLoop.serve
     |                 tokens     ---- one byte per task ----------->      (reads one before it starts a task)
     |                 page       <--- ticket, start | stop ------->       shared memory
     |                 out, err   <--- output, markers --------------      descriptors 1 and 2
     |                 parent_death_pipe  -- closed: the group is killed ->
     +-- Launcher ==== ForkServer, which forks the workers and reaps them (or each worker is spawned)

Nothing here unpickles: the content of tasks is opaque until `nodes.worker.process` passes in the code that opens it.
"""
