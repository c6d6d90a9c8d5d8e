"""Worlds: members with state that advance in steps, read shared data and send each other messages.

    World           the user's side: members, shared data, run(steps)           world.py
    StepDriver      which group advances when; in the user's process, pure      step_driver.py, world_state.py
    run_order       a task: advances the groups that live in this worker        step_task.py
    GroupRunner     calls the members of one group, pure                        group_runner.py, context.py, mail.py

Members are split into groups: ranges of consecutive ids. A group lives in a worker, in a table of its process, between
steps. Each step is a few ordinary tasks, and each carries the inputs of all groups: the worker that takes it advances
the groups that live there. If the worker of a group has died or is busy, another worker opens the last checkpoint
and repeats the steps since then, with the same inputs and so with the same result.
"""
