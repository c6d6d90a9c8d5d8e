"""The worker's side: the loop that runs tasks, and how its process is started (forked or spawned)."""
