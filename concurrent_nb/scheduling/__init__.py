"""Scheduling, pure: events in, instructions out. Same events, same instructions; time is an argument.

Layer 2. Read events, instructions, then scheduler; a strategy answers two questions (has this slave room, who is next),
liveness turns silence into suspicion and loss.
"""
