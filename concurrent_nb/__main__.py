"""`python -m concurrent_nb` is `concurrent-nb`, for where the command is not on the path."""

import sys

from concurrent_nb.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
