"""The log of a task system, printed by the process in which it runs."""

import logging
import sys

from concurrent_nb.tasks.system import ITaskSystem


def print_line(message: str) -> None:
    """Print a line, and flush."""
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()


class _PrintingHandler(logging.Handler):
    """Prints what a task system logs."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        print_line(f"{level}{self.format(record)}")


def print_log_of(system: ITaskSystem) -> logging.Logger:
    """Print in this process what a system logs, until the logger's handlers are cleared; return that logger."""
    log = system.log
    log.handlers[:] = [_PrintingHandler()]
    log.setLevel(logging.INFO)
    log.propagate = False
    return log
