"""Calls of code that is not ours, in threads that are: whatever it raises is logged, and the thread goes on.

Foreign are done callbacks, receivers and presenters, streams, results that are being opened, and the handlers of a
user's loggers. Imports nothing of ours.
"""

import contextlib
import logging
import os
import threading
import traceback
from collections.abc import Callable, MutableMapping
from typing import Any


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger that never raises: what one of the user's handlers raises goes to descriptor 2."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), None)

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log, as `logging.Logger.log`."""
        try:
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            super().log(level, msg, *args, **kwargs)
        except BaseException as error:
            if is_interrupt(error):
                raise
            _write_to_descriptor(f"a logging handler has raised, and this was to be logged: {msg}\n", error)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Leave the message as it is."""
        return msg, kwargs


log = Log(__name__)


def is_interrupt(error: BaseException) -> bool:
    """Say whether it may be a press of the stop button, which is raised in the main thread and nowhere else."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def describe(error: BaseException) -> str:
    """Write an exception on one line, also one whose `__str__` raises."""
    kind = type(error).__name__
    try:
        text = str(error)
    except BaseException as broken:
        if is_interrupt(broken):
            raise
        text = f"<its __str__ raised {type(broken).__name__}>"
    return f"{kind}: {text}" if text else kind


def call(log: Log, what: str, function: Callable[..., object], *args: Any) -> BaseException | None:
    """Call foreign code. What it raises is logged as an exception of `what`, and given back.

    Raises KeyboardInterrupt in the main thread alone, where it is the stop button's.
    """
    try:
        function(*args)
    except BaseException as error:
        if is_interrupt(error):
            raise
        log.exception(what)
        return error
    return None


def guarded(log: Log, what: str, function: Callable[..., object]) -> Callable[..., None]:
    """Give a function that calls `function` as `call` does."""

    def safe(*args: Any) -> None:
        call(log, what, function, *args)

    return safe


def _write_to_descriptor(text: str, error: BaseException) -> None:
    try:
        lines = "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001  (formatting runs foreign code; that it raised is all that can be said)
        lines = f"{type(error).__name__}\n"
    with contextlib.suppress(OSError):  # there is nowhere left to say it
        os.write(2, f"{text}{lines}".encode(errors="backslashreplace"))
