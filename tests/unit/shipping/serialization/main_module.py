"""A module `__main__` of a test, as that of a notebook, and a process in which what is sent from it is opened."""

import contextlib
import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def main_module(source: str) -> Iterator[types.ModuleType]:
    """Have this source as the module `__main__`."""
    module = types.ModuleType("__main__")
    before = sys.modules["__main__"]
    sys.modules["__main__"] = module
    try:
        exec(compile(source, "<main>", "exec"), module.__dict__)
        yield module
    finally:
        sys.modules["__main__"] = before


def answers_of(program: str, bodies: dict[str, Any]) -> Any:
    """Run a program in another process. It reads the pickled bodies; return the object whose pickle it writes."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=pickle.dumps(bodies), stdout=subprocess.PIPE, check=True, timeout=60)
    return pickle.loads(done.stdout)
