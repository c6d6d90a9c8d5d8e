"""What tasks change in their process is restored for the next job. Each change in a process of its own."""

import subprocess
import sys

import pytest

CHECK = """
import gc, os, signal, sys, threading
from concurrent_nb.shipping.environment.process_state import ProcessState

def mask():
    old = os.umask(0)
    os.umask(old)
    return old

def limits():
    import resource
    return resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_NOFILE)

def lower_limits():
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

CHANGES = {
    "handler": (lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN), lambda: signal.getsignal(signal.SIGTERM)),
    "function": (lambda: signal.signal(signal.SIGTERM, print), lambda: signal.getsignal(signal.SIGTERM)),
    "timer": (lambda: signal.setitimer(signal.ITIMER_REAL, 1000), lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0),
    "limits": (lower_limits, limits),
    "mask": (lambda: os.umask(0o777), mask),
    "collection": (gc.disable, gc.isenabled),
    "threshold": (lambda: gc.set_threshold(1), gc.get_threshold),
    "switches": (lambda: sys.setswitchinterval(1), sys.getswitchinterval),
    "trace": (lambda: sys.settrace(lambda *_: None), sys.gettrace),
    "profile": (lambda: sys.setprofile(lambda *_: None), sys.getprofile),
    "hook": (lambda: setattr(sys, "excepthook", print), lambda: sys.excepthook),
    "hook_of_threads": (lambda: setattr(threading, "excepthook", print), lambda: threading.excepthook),
    "nothing": (lambda: None, lambda: None),
}
change, look = CHANGES[sys.argv[1]]
state, before = ProcessState(), look()
change()
assert sys.argv[1] == "nothing" or look() != before
state.restore()
assert look() == before, (look(), before)
"""


@pytest.mark.parametrize("what", [line.split('"')[1] for line in CHECK.splitlines() if line.startswith('    "')])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timers, limits or signals of this kind")
def test_a_change_is_restored(what: str) -> None:
    done = subprocess.run([sys.executable, "-c", CHECK, what], stderr=subprocess.PIPE, text=True, timeout=60)
    assert not done.returncode, done.stderr
