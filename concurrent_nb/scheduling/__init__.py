"""Scheduling, pure: events in, instructions out. The same events give the same instructions; time is an argument.

It imports `tasks`, `wire.messages` and the base modules; no sockets, threads, files, clock or random numbers.

Read events and instructions (the contract), then scheduler (the only entry point), client_events and slave_events (what
each event does) and task_lifecycle (which ends are final, which tasks run again). They share scheduler_state and
slave_state, which use task_queue, estimates, ranking, object_locations and outbox; validation has their invariants. A
strategy chooses the next slave and how many tasks it gets; active_strategies maps jobs to strategies. placement assigns
multi-slot tasks and system hosts, suspects assigns tasks that may have killed a slave, balance moves tasks to idle
slots. liveness is independent: it turns the silence of a node into suspicion and loss.
"""
