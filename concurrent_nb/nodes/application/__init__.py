"""The application: what runs in the process of the user, such as the kernel of a notebook.

It is the only node that unpickles results.

`core` decides (pure), `client_thread` owns the sockets, `node` is the Executor that users have.
"""
