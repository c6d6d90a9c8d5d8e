"""Waits for an application's tasks at the end of the interpreter."""

import atexit
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from concurrent_nb.nodes.application.node import ApplicationNode

#: the wait was interrupted for one application: so there is none for the others
_INTERRUPTED_AT_EXIT: Final = threading.Event()


def finish_at_exit(app: "ApplicationNode") -> Callable[[], None]:
    """At the end of the interpreter wait for the tasks of `app`, as the standard library's executors do.

    If an exception ends it, Ctrl-C for example, running tasks are stopped. Returns a function that removes the hook.
    """
    reference = weakref.ref(app)
    error_before = _unhandled_error()

    def finish() -> None:
        alive = reference()
        if alive is None:
            return
        # An interactive interpreter continues after exceptions, so the last one did not end it.
        if _INTERRUPTED_AT_EXIT.is_set() or (_unhandled_error() is not error_before and not hasattr(sys, "ps1")):
            alive.close()
            return
        try:
            alive._finish()
            alive._client_thread.output.join()
        except BaseException:
            _INTERRUPTED_AT_EXIT.set()
            raise

    atexit.register(finish)
    return lambda: atexit.unregister(finish)


def _unhandled_error() -> BaseException | None:
    """Return the last exception that nothing has caught in the main thread: it ends a script."""
    error: BaseException | None = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)  # new name, old
    return error
