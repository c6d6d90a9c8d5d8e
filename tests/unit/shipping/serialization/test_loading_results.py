"""Classes of `__main__` that come back with an answer do not change those that are here."""

import subprocess
import sys
import types
from typing import Any

import cloudpickle

from concurrent_nb.shipping.serialization import pickles

SOURCE = """
FACTOR = 7
class Point:
    def scaled(self):
        return FACTOR
"""


def main_class() -> tuple[types.ModuleType, type]:
    """A class as notebooks define them: by exec, in a module that cloudpickle cannot import."""
    module = types.ModuleType("nowhere")
    exec(SOURCE, module.__dict__)
    point: type = module.__dict__["Point"]
    return module, point


def test_a_class_that_comes_home_stays_the_users() -> None:
    module, point = main_class()
    there_and_back = pickles.dumps(point())[0]
    module.__dict__["FACTOR"] = 8
    back: Any = pickles.loads_result(there_and_back)
    assert back.scaled() == 8  # what cloudpickle itself would put there says 7
    assert type(back) is point


def test_an_enumeration_that_comes_home_stays_the_users() -> None:
    module = types.ModuleType("nowhere")
    source = "import enum\nFACTOR = 7\nclass Size(enum.Enum):\n    ONE = 1\n    def scaled(self): return FACTOR\n"
    exec(source, module.__dict__)
    size = module.__dict__["Size"]
    there_and_back = pickles.dumps(size.ONE)[0]
    module.__dict__["FACTOR"] = 8
    back: Any = pickles.loads_result(there_and_back)
    assert back is size.ONE
    assert back.scaled() == 8


def test_a_class_that_was_never_here_is_made() -> None:
    make = f"import sys, types, cloudpickle; m = types.ModuleType('nowhere'); exec({SOURCE!r}, m.__dict__); "
    make += "sys.stdout.buffer.write(cloudpickle.dumps(m.Point()))"
    foreign = subprocess.run([sys.executable, "-c", make], capture_output=True, check=True).stdout
    assert cloudpickle.cloudpickle is not None  # loaded, so that the careful way is taken
    came: Any = pickles.loads_result(foreign)
    assert came.scaled() == 7
