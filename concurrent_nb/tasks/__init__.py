"""Tasks and jobs as the master keeps them, and the states that they go through. A pure machine."""
