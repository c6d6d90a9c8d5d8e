"""A thread for the user's callbacks, so that their code never delays the client thread.

Callbacks run here one at a time, in the order of the events. The thread starts with the first one.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any

from concurrent_nb import foreign

log = foreign.Log(__name__)


class CallbackThread:
    """Calls callbacks. May be used from many threads."""

    def __init__(self, name: str) -> None:
        self.receiver: object | None = (
            None  #: its methods are called when tasks and systems end, see `ApplicationNode.call_back`
        )
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def call(self, what: Callable[..., object], *args: Any) -> None:
        """Call `what(*args)` soon, in the callback thread. What it raises is logged."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"concurrent_nb {self._name} callbacks", daemon=True
                )
                self._thread.start()
        self._calls.put(lambda: what(*args))

    def call_receiver(self, method: str, *args: Any) -> None:
        """Call a method of the receiver, if it has one of that name. For the callback thread."""
        if (to_call := getattr(self.receiver, method, None)) is not None:
            to_call(*args)

    def close(self) -> None:
        """End the thread when all has been called."""
        self._calls.put(None)

    def join(self) -> None:
        """Wait until the thread has ended; return immediately in that thread."""
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            foreign.call(log, f"a callback of application {self._name} has raised", call)
            del call  # it holds a result
