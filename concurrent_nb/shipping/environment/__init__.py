"""What a function takes along of the process that sends it, and how a worker becomes like that process.

    application:  Tracker.current() -> Environment, the same one while nothing changes; `wrapped` puts a function in it
    worker:       Environments.begin(environment) before each task, `end()` after it undoes what the task has changed

What it is: the user's modules by content (`modules`, `loader`), folder, variables, sys.path and settings (`settings`).
docs/environment.md is the list for users.
"""
