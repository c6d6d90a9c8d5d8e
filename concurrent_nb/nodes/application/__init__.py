"""The application: what runs in the process of the user, such as the kernel of a notebook.

It is the only node that unpickles results. Reading order: `node` (the Executor that users have), `task_packer`
(pickles, in the user's thread), `client_thread` (owns the sockets), `core` (decides what is sent, pure), `futures` and
`job` (what users get). `map_call`, `batched_job`, `pushed_tasks` and `pushed_systems` are the other ways to submit.
"""
