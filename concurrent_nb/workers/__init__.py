"""Worker processes: started, fed, watched, stopped, and what they print.

Layer 3, a mechanism: imports no other mechanism, and stays light, because slaves have to start fast (no cloudpickle,
no asyncio, no multiprocessing). Reading order: books (decides, pure), pool (obeys), line (the slave's end of one
worker), serving (the worker's end), page (what both see), capture (whose output it is), processes and template (how
workers come to life and die), seats (workers that are threads of one process).

    slave process                                              worker process, one per slot
    -------------                                              ----------------------------
    Pool -- Books      tasks     <=== Run, Load, Drop / Results ===>      Serving.serve
     |                 tokens    ---- one byte per task ----------->      (takes one before it starts a task)
     |                 page      <--- ticket, start | stop ------->       shared memory
     |                 out, err  <--- output, markers --------------      descriptors 1 and 2
     |                 lifeline  ---- closed: the group is killed -->
     +-- Launcher ==== Template, which forks the workers and reaps them (or each worker is spawned)

Nothing here unpickles: what a task is made of is opaque until `nodes.worker.process` hands in the code that opens it.
"""
