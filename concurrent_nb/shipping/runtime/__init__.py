"""Code that runs around a task in its worker: notes, chunks of calls, batches of items, figures, setups."""
