"""Who gets the next tasks. One file for each strategy, which knows the slave's record and no more."""
