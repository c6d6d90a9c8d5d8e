"""Functions are pickled as rarely as is safe: never again what cannot change, always again what can."""

import builtins
import functools
import os.path
import threading
import types
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest

from concurrent_nb import ids
from concurrent_nb.errors import NotPicklable
from concurrent_nb.ids import digest_of
from concurrent_nb.shipping.functions.pickled_functions import Functions
from concurrent_nb.shipping.serialization import pickles
from tests.unshared_pool import travelled


def main(source: str, **names: Any) -> dict[str, Any]:
    """Run code as if in `__main__`."""
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    exec(source, namespace)
    return namespace


def call(functions: Functions, fn: Callable[..., Any], *args: Any) -> Any:
    """Call what a worker would load."""
    pickled = functions.pickle(fn)
    return pickles.loads(pickled.body, travelled(pickled.buffers))(*args)


@pytest.mark.parametrize("fn", [pow, os.path.join, len, dict, threading.Thread, pickles.dumps, print])
def test_what_is_importable_is_pickled_once_by_name(fn: Callable[..., Any]) -> None:
    functions = Functions()
    pickled = functions.pickle(fn)
    assert functions.pickle(fn) is pickled
    assert len(pickled.body) < 100
    assert pickles.loads(pickled.body) is fn
    assert pickled.digest == digest_of(pickled.body)


def test_a_closure_is_pickled_once_while_it_stays_the_same() -> None:
    def outer(step: int) -> Callable[[int], int]:
        def inner(x: int) -> int:
            return x + step

        return inner

    functions = Functions()
    inner = outer(3)
    pickled = functions.pickle(inner)
    assert functions.pickle(inner) is pickled
    assert pickled.name.endswith("inner")
    assert call(functions, inner, 1) == 4


def test_an_assigned_cell_of_the_closure_is_noticed() -> None:
    step = 3

    def inner(x: int) -> int:
        return x + step

    functions = Functions()
    assert call(functions, inner, 1) == 4
    step = 5
    assert call(functions, inner, 1) == 6


def test_an_assigned_global_is_noticed_also_through_other_functions() -> None:
    space = main("step = 3\ndef g():\n    return step\ndef f():\n    return g()")
    functions = Functions()
    f = space["f"]
    first = functions.pickle(f)
    assert functions.pickle(f) is first
    space["step"] = 4
    assert call(functions, f) == 4
    exec("def g():\n    return 'other'", space)
    assert call(functions, f) == "other"
    del space["g"]
    with pytest.raises(NameError):
        call(functions, f)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("f.__defaults__ = (2,)", 12),
        ("f.__code__ = (lambda x=0, *, y=10: x * y).__code__", 10),
        ("f.__kwdefaults__ = {'y': 20}", 21),
        ("f.__kwdefaults__['y'] = 30", 31),
        ("f.note = 5", 11),
    ],
)
def test_other_changes_of_a_function_are_noticed(change: str, value: int) -> None:
    space = main("def f(x=1, *, y=10):\n    return x + y")
    functions = Functions()
    before = functions.pickle(space["f"])
    assert functions.pickle(space["f"]) is before
    exec(change, space)
    assert functions.pickle(space["f"]) is not before
    assert call(functions, space["f"]) == value


def test_what_uses_something_mutable_is_pickled_each_time() -> None:
    space = main("data = [1]\ndef f():\n    return data")
    functions = Functions()
    assert call(functions, space["f"]) == [1]
    space["data"].append(2)
    assert call(functions, space["f"]) == [1, 2]


def test_a_tuple_with_something_mutable_in_it_is_mutable() -> None:
    space = main("data = (1, [2])\ndef f():\n    return data")
    functions = Functions()
    functions.pickle(space["f"])
    space["data"][1].append(3)
    assert call(functions, space["f"]) == (1, [2, 3])


def test_a_function_that_calls_itself_can_be_kept() -> None:
    space = main("def f(n):\n    return n and n + f(n - 1)")
    functions = Functions()
    assert functions.pickle(space["f"]) is functions.pickle(space["f"])
    assert call(functions, space["f"], 4) == 10


def test_an_empty_cell_is_no_obstacle() -> None:
    space = main("def outer():\n    def f():\n        return late\n    yield f\n    late = 5\n    yield f")
    functions = Functions()
    made = space["outer"]()
    f = next(made)
    with pytest.raises(NameError):
        call(functions, f)
    next(made)
    assert call(functions, f) == 5


def test_registering_by_value_is_noticed() -> None:
    functions = Functions()
    import concurrent_nb.clock as module

    fn = module.ManualClock.advance
    assert len(functions.pickle(fn).body) < 100
    cloudpickle.register_pickle_by_value(module)
    try:
        assert len(functions.pickle(fn).body) > 100
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert len(functions.pickle(fn).body) < 100


def test_a_replaced_function_of_a_module_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = Functions()
    old = ids.task_name
    by_name = functions.pickle(old)
    monkeypatch.setattr(ids, "task_name", lambda thing: thing)
    assert functions.pickle(old) is not by_name  # its name means another function now


def test_partials_methods_and_callable_objects_are_pickled() -> None:
    class Adder:
        def __init__(self, n: int) -> None:
            self.n = n

        def __call__(self, x: int) -> int:
            return x + self.n

    functions = Functions()
    adder = Adder(1)
    assert call(functions, adder, 1) == 2
    adder.n = 2
    assert call(functions, adder, 1) == 3
    assert call(functions, adder.__call__, 1) == 3
    assert call(functions, functools.partial(pow, 2), 3) == 8
    assert call(functions, str.upper, "a") == "A"
    assert call(functions, np.add, 1, 2) == 3


def test_large_arrays_leave_the_pickle_as_a_snapshot() -> None:
    array = np.zeros(100_000)
    functions = Functions()
    pickled = functions.pickle(lambda: array)
    array[:] = 1
    buffers = travelled(pickled.buffers)
    assert [len(buffer) for buffer in buffers] == [800_000]
    assert pickled.digest == digest_of(pickled.body + bytes(buffers[0]))
    assert pickles.loads(pickled.body, buffers)().sum() == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f():\n    return lock", "f uses lock, a lock: "),
        ("def f():\n    return table['x'][0]", "f uses table['x'][0], a lock: "),
        ("def g():\n    return lock\ndef f():\n    return g()", "f uses g, which uses lock, a lock: "),
        ("def f(x=lock):\n    return x", "f uses a default argument, a lock: "),
        ("f = (lambda l: lambda: l)(lock)", "<lambda>.<locals>.<lambda> uses l, a lock: "),
        (
            "def f():\n    return odd",
            "f uses odd, a __main__.Stubborn: it cannot be pickled (TypeError: no way)",
        ),
    ],
)
def test_what_cannot_be_pickled_is_named(source: str, message: str) -> None:
    lock = threading.Lock()
    space = main("class Stubborn:\n    def __reduce__(self):\n        raise TypeError('no way')", lock=lock)
    space["table"] = {"x": (lock,)}
    space["odd"] = space["Stubborn"]()
    exec(source, space)
    with pytest.raises(NotPicklable) as raised:
        Functions().pickle(space["f"])
    assert str(raised.value).startswith(message)


def test_few_functions_are_kept() -> None:
    functions = Functions(kept=2)
    made: list[Callable[[], int]] = [eval(f"lambda: {n}") for n in range(3)]
    first = functions.pickle(made[0])
    for fn in made:
        functions.pickle(fn)
    assert functions.pickle(made[2]) is functions.pickle(made[2])
    assert functions.pickle(made[0]) is not first
    for name in ("pow", "len", "abs"):
        functions.pickle(getattr(builtins, name))
    assert len(functions._by_name) == len(functions._by_value) == 2


def test_many_threads_can_ask_at_once() -> None:
    functions = Functions(kept=8)
    failures: list[Exception] = []

    def ask() -> None:
        try:
            for n in range(300):
                assert call(functions, eval(f"lambda: {n}")) == n
                functions.pickle(getattr(builtins, ("len", "abs", "pow")[n % 3]))
        except Exception as error:  # noqa: BLE001  (the main thread reports it)
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_dynamic_module_is_refused() -> None:
    space = main("def f():\n    return mine", mine=types.ModuleType("mine"))
    with pytest.raises(NotPicklable, match="f uses mine, a module that exists in this process only"):
        Functions().pickle(space["f"])
