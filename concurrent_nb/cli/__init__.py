"""The command line: `concurrent-nb`. Layer 7, an interface."""
