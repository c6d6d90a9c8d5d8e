"""The log of a task system, printed by the process in which it runs."""

import logging
import sys

from concurrent_nb.tasks.system import ITaskSystem


def print_line(message: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()


class _PrintingHandler(logging.Handler):
    """What a system logs is what its host prints."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        print_line(f"{level}{self.format(record)}")


def print_log_of(system: ITaskSystem) -> logging.Logger:
    """Have what a system logs printed, by this process; clear the logger's handlers when that is over."""
    log = system.log
    log.handlers[:] = [_PrintingHandler()]
    log.setLevel(logging.INFO)
    log.propagate = False
    return log
