"""Scheduling, pure: events in, instructions out. Same events, same instructions; time is an argument.

Layer 2: imports `tasks`, `wire.messages` and the words below; no sockets, threads, files, clock or random numbers.

Read events and instructions (the contract), then scheduler (the one way in), job_desk and slave_desk (what each event
does), endings (what is final, what runs again). They share the books: state and slave, with waiting, estimates,
ranking, holdings and outbox below them; validation says what always holds there. A strategy answers who is next and how
many tasks go there; in_use knows which job has which; placement places wide tasks and hosts, suspects those that
may have killed a slave; balance moves tasks to idle slots. liveness stands alone: it
turns silence into suspicion and loss.
"""
