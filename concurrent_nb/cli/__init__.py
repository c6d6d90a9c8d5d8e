"""The command line: `concurrent-nb`. Layer 7, a face."""
