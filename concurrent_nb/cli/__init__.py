"""The command line: `concurrent-nb`. An interface."""
