"""The worker process: the only place where tasks run.

`system_host` runs task systems, each as a client of the master."""
