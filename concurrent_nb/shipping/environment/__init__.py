"""The environment of a function: the state of the process that sends it, which workers enter before they run it.

    application:  Tracker.current() -> Environment, the same object while nothing changes
                  in_envelope(environment, pickle) puts a function in it
    worker:       Environments.begin(environment) before each task; `end()` after it undoes changes of the task

It consists of the user's modules by content (`modules`, `loader`), folder, variables, sys.path and settings
(`settings`). docs/environment.md is the list for users.
"""
