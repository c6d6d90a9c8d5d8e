"""What a task may change in its process besides the environment. It is restored before a task of another job.

Comparing it takes 10 us, so it is not done for each task.
"""

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

try:
    import resource
except ImportError:  # Windows
    _LIMITS: list[int] = []
else:
    _LIMITS = sorted({number for name, number in vars(resource).items() if name.startswith("RLIMIT_")})

_TIMERS: Final = [
    getattr(signal, name) for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF") if hasattr(signal, name)
]
#: not restored: the worker restores its handler of SIGINT itself, and that of SIGUSR2, which writes stacks, is in C, so
#: Python would restore the default, which ends the process
_OWN: Final = {signal.SIGINT, getattr(signal, "SIGUSR2", signal.SIGINT)}
_SIGNALS: Final = sorted(int(number) for number in signal.valid_signals() - _OWN)
#: without the conversion to an enum, which takes 30 times as long
_handler_of: Final[Callable[[int], Any]] = getattr(signal.getsignal, "__wrapped__", signal.getsignal)
_HOOKS: Final = ((sys, "excepthook"), (sys, "unraisablehook"), (sys, "displayhook"), (threading, "excepthook"))


class ProcessState:
    """Signal handlers, timers, resource limits, the mask of new files and hooks, as they are when the object is made.

    Also garbage collection, tracing, and how often threads switch. For the main thread of a process.
    """

    def __init__(self) -> None:
        self._handlers = [_handler_of(number) for number in _SIGNALS]
        self._limits = [resource.getrlimit(number) for number in _LIMITS]
        self._mask = _mask()
        self._hooks = [getattr(owner, name) for owner, name in _HOOKS]
        self._switches: list[tuple[Callable[[], Any], Callable[[Any], object], Any]] = [
            (get, set_, get())
            for get, set_ in (
                (gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
                (gc.get_threshold, lambda to: gc.set_threshold(*to)),
                (sys.getswitchinterval, sys.setswitchinterval),
                (sys.gettrace, sys.settrace),
                (sys.getprofile, sys.setprofile),
            )
        ]

    def restore(self) -> None:
        """Restore what has changed. A hard limit that was lowered stays if this user may not raise it."""
        for timer in _TIMERS:
            if signal.getitimer(timer)[0]:
                signal.setitimer(timer, 0)
        for number, handler in zip(_SIGNALS, self._handlers, strict=True):
            if _handler_of(number) is not handler and handler is not None:
                signal.signal(number, handler)
        for number, (soft, hard) in zip(_LIMITS, self._limits, strict=True):
            present = resource.getrlimit(number)
            highest = (present[1], present[1])  # for a hard limit that was lowered below the soft one
            for limit in (highest, (soft, present[1]), (soft, hard)) if present != (soft, hard) else ():
                with contextlib.suppress(OSError, ValueError):
                    resource.setrlimit(number, limit)
        os.umask(self._mask)
        for get, set_, value in self._switches:
            if get() != value:
                set_(value)
        for (owner, name), hook in zip(_HOOKS, self._hooks, strict=True):
            if getattr(owner, name) is not hook:
                setattr(owner, name, hook)


def _mask() -> int:
    mask = os.umask(0o077)
    try:
        return mask
    finally:
        os.umask(mask)
