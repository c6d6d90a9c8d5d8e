"""Calls of user code in our own threads: everything that it raises is logged, and the thread continues.

User code is done callbacks, receivers and presenters, streams, unpickling of results, and the handlers of a user's
loggers. Imports no module of ours.
"""

import contextlib
import logging
import os
import threading
import traceback
from collections.abc import Callable, MutableMapping
from typing import Any


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger that never raises: exceptions of a user's handlers are written to descriptor 2."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), None)

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log as `logging.Logger.log`."""
        try:
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            super().log(level, msg, *args, **kwargs)
        except BaseException as error:
            if is_interrupt(error):
                raise
            _write_to_descriptor(f"a logging handler has raised an exception for the message: {msg}\n", error)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Return the message unchanged."""
        return msg, kwargs


log = Log(__name__)


def is_interrupt(error: BaseException) -> bool:
    """Return whether it may be a press of the stop button: KeyboardInterrupt in the main thread."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def describe(error: BaseException) -> str:
    """Return an exception as one line, also one whose `__str__` raises."""
    kind = type(error).__name__
    try:
        text = str(error)
    except BaseException as broken:
        if is_interrupt(broken):
            raise
        text = f"<its __str__ raised {type(broken).__name__}>"
    return f"{kind}: {text}" if text else kind


def call(log: Log, what: str, function: Callable[..., object], *args: Any) -> BaseException | None:
    """Call user code. Logs an exception with the text `what`, and returns it; None if there was none.

    Raises KeyboardInterrupt in the main thread only, where it comes from the stop button.
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
    """Return a function that calls `function` as `call` does."""

    def safe(*args: Any) -> None:
        call(log, what, function, *args)

    return safe


def _write_to_descriptor(text: str, error: BaseException) -> None:
    try:
        lines = "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001  (formatting runs user code; report at least the type)
        lines = f"{type(error).__name__}\n"
    with contextlib.suppress(OSError):  # there is no other place to report it
        os.write(2, f"{text}{lines}".encode(errors="backslashreplace"))
