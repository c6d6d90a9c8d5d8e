"""The slave's side of its workers: scheduling tasks to them, starting, watching and stopping them, their output."""
