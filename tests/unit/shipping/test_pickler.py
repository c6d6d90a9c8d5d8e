"""What our pickler adds to cloudpickle's."""

import traceback
from typing import Any

from concurrent_nb.shipping import pickles


def notebook(source: str, filename: str = "<cell 7>") -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, filename, "exec"), namespace)
    return namespace


def returned(thing: Any) -> Any:
    body, buffers = pickles.dumps(thing)
    return pickles.loads(body, [bytes(buffer) for buffer in buffers])


# ------------------------------------------------------------------------------------------------ the names of files


def test_code_keeps_the_name_of_its_file_and_its_lines() -> None:
    made = notebook("def deep(n):\n    def inner():\n        return [1 / 0 for _ in range(n)]\n    return inner()")
    try:
        returned(made["deep"])(1)
    except ZeroDivisionError as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]
    assert {(frame.filename) for frame in frames} == {"<cell 7>"}
    assert [frame.lineno for frame in frames][:2] == [4, 3]


def test_methods_and_lambdas_keep_the_name_of_their_file() -> None:
    made = notebook("class C:\n    def m(self): pass\nkey = lambda x: x", "/home/me/script.py")
    assert returned(made["C"]).m.__code__.co_filename == "/home/me/script.py"
    assert returned(made["key"]).__code__.co_filename == "/home/me/script.py"


def test_the_pickle_of_a_function_is_the_same_each_time() -> None:
    made = notebook("def f():\n    return lambda: g()\ndef g(): pass")
    assert pickles.dumps(made["f"]) == pickles.dumps(made["f"])
