"""The worker's side: the loop that runs tasks, and how its process is made (forked or spawned)."""
