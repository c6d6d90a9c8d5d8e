"""What is found in the notebook, what is refused and why, and what is sent how."""

import io
import socket
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import pytest

from concurrent_nb.errors import CaptureError, TooLarge
from concurrent_nb.shipping.cells import captured_names as capture_module
from concurrent_nb.shipping.cells.captured_names import Captured, capture
from concurrent_nb.shipping.cells.cell_task import CellFunction
from concurrent_nb.shipping.functions.pickled_functions import Functions
from concurrent_nb.shipping.functions.pickled_functions import opened as opened_function
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.sizes import measure_bytes, write_bytes
from tests.cells import task_of_cell


def notebook(source: str = "", /, **names: Any) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    exec(source, namespace)
    return namespace


def travelled(source: str, namespace: dict[str, Any], **options: Any) -> CellFunction:
    """Make a task of a cell and send it through a pickle."""
    function = task_of_cell(source, namespace, **options).function
    body, buffers = pickles.dumps(function)
    loaded = pickles.loads(body, [bytes(buffer) for buffer in buffers])
    assert isinstance(loaded, CellFunction)
    return loaded


@pytest.fixture
def close() -> Iterator[Callable[[Any], Any]]:
    with ExitStack() as stack:
        yield stack.enter_context


def opened(mode: str = "r") -> Any:
    return open("/dev/null", mode)


class Shell:
    """Stands for IPython's shell: it is recognised by the module of its class."""

    def get(self) -> None:
        pass


Shell.__module__ = "IPython.core.interactiveshell"


class Application:
    """Stands for an application node: the same."""


Application.__module__ = "concurrent_nb.nodes.application.node"


def generate() -> Iterator[int]:
    yield 1


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a lock": (threading.Lock, "a lock"),
    "a reentrant lock": (threading.RLock, "a lock"),
    "an event": (threading.Event, "a lock"),
    "a generator": (generate, "a generator"),
    "a generator expression": (lambda: (i for i in [1]), "a generator"),
    "a future": (Future, "a future"),
    "a memoryview": (lambda: memoryview(b"x"), "a memoryview"),
    "thread-local data": (threading.local, "thread-local data"),
    "a thread": (threading.Thread, "a thread"),
    "a weak reference": (lambda: weakref.ref(Shell), "a weak reference"),
    "a frame": (sys._getframe, "a frame of a running program"),
    "a module of the notebook": (lambda: types.ModuleType("mine"), "a module that exists in this process only"),
    "the main module": (lambda: sys.modules["__main__"], "a module that exists in this process only"),
    "the shell": (Shell, "part of the notebook's shell"),
    "a method of the shell": (lambda: Shell().get, "part of the notebook's shell"),
    "an application": (Application, "an Application of concurrent_nb"),
}


@pytest.mark.parametrize(("make", "what"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_travel_is_refused_by_name(make: Callable[[], Any], what: str) -> None:
    with pytest.raises(CaptureError) as raised:
        task_of_cell("1\nthing", notebook(thing=make()))
    assert raised.value.name == "thing"
    assert str(raised.value).startswith(f"line 2: thing is {what}: ")


@pytest.mark.parametrize(("make", "what"), REFUSED.values(), ids=REFUSED.keys())
def test_it_is_found_inside_of_other_things(make: Callable[[], Any], what: str) -> None:
    namespace = notebook("def use():\n    return helper()\ndef helper():\n    return table['key'][1]")
    namespace["table"] = {"key": [0, make()]}
    with pytest.raises(CaptureError) as raised:
        task_of_cell("use()", namespace)
    assert f"use uses helper, which uses table['key'][1], {what}: " in str(raised.value)


def test_open_files_and_sockets_are_refused(close: Callable[[Any], Any]) -> None:
    for thing, what in [(opened(), "an open file"), (socket.socket(), "a socket")]:
        with pytest.raises(CaptureError, match=f"thing is {what}"):
            task_of_cell("thing", notebook(thing=close(thing)))
    holder = types.SimpleNamespace(log=close(opened("w")))
    with pytest.raises(CaptureError, match=r"holder uses holder\.log, an open file"):
        task_of_cell("holder", notebook(holder=holder))
    # cloudpickle would send an open file as its contents.
    namespace = notebook("def read():\n    return source.read()", source=close(opened()))
    with pytest.raises(CaptureError, match="read uses source, an open file"):
        task_of_cell("read()", namespace)


def test_files_in_memory_travel() -> None:
    function = travelled("text.read()", notebook(text=io.StringIO("abc")))
    assert [function(), function()] == ["abc", "abc"]


def test_an_unpicklable_object_is_refused_with_the_part_that_is_to_blame() -> None:
    namespace = notebook("class Stubborn:\n    def __reduce__(self):\n        raise TypeError('no way')")
    namespace["thing"] = {"deep": [namespace["Stubborn"]()]}
    with pytest.raises(CaptureError) as raised:
        task_of_cell("thing", namespace)
    expected = "line 1: thing uses thing['deep'][0], a __main__.Stubborn: it cannot be pickled (TypeError: no way)"
    assert str(raised.value) == expected


@pytest.mark.parametrize("name", ["In", "_ih"])
def test_the_history_of_the_notebook_is_refused(name: str) -> None:
    history = ["", "1 + 1"]
    with pytest.raises(CaptureError, match=f"{name} is the list of inputs"):
        task_of_cell(name, notebook(_ih=history, In=history))
    assert travelled("In", notebook(_ih=history, In=["mine"]))() == ["mine"]


def test_an_undefined_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(CaptureError) as raised:
        task_of_cell("x = 1\nstpe * x", notebook(step=3))
    assert raised.value.name == "stpe"
    assert str(raised.value) == "line 2: stpe is not defined in the notebook; did you mean step?"


def test_all_undefined_names_are_named_at_once() -> None:
    with pytest.raises(CaptureError, match=r"line 1: qqq .*; line 2: zzz "):
        task_of_cell("qqq\nzzz", notebook())


def test_a_name_that_the_cell_binds_somewhere_is_left_to_python() -> None:
    function = travelled("if 0:\n    x = 1\nx", notebook())
    with pytest.raises(NameError):
        function()


def test_what_is_bound_before_it_is_read_is_not_sent() -> None:
    # A lock would be refused if it were.
    task = task_of_cell("x = 1\nx", notebook(x=threading.Lock()))
    assert task.captured == ()


def test_what_is_sent_is_reported() -> None:
    namespace = notebook("import math\ndef f(): pass\nclass C: pass", data=b"x" * 1000, a=np.zeros(100))
    task = task_of_cell("math, f, C, data, a, len", namespace)
    assert task.captured == (
        Captured("math", "module", 0),
        Captured("f", "function", 16),
        Captured("C", "class", 16),
        Captured("data", "value", 1016),
        Captured("a", "array", 816),
    )


def test_too_much_is_refused_before_it_is_pickled() -> None:
    class Loud:
        def __reduce__(self) -> Any:
            raise AssertionError("pickled")

    namespace = notebook(big=[b"x" * 1000, Loud()], small=3, array=np.zeros(1000))
    with pytest.raises(TooLarge) as raised:
        task_of_cell("big, small, array", namespace, limit_bytes=2000)
    assert raised.value.limit_bytes == 2000
    assert raised.value.size_bytes > 9000
    assert "array (7.8 KiB), big (1.0 KiB)" in str(raised.value)


def test_what_an_estimate_missed_is_refused_after_pickling() -> None:
    class Modest:
        __slots__ = ()

        def __reduce__(self) -> Any:
            return bytes, (b"x" * 5000,)

    with pytest.raises(TooLarge):
        task_of_cell("thing", notebook(thing=Modest()), limit_bytes=2000)


def test_large_arrays_are_limited_by_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    free = types.SimpleNamespace(available=6 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(capture_module, "LIMIT_BYTES", 1 << 20)
    array = np.zeros(7 << 16)
    namespace = notebook(big=array, both={"big": array[: 5 << 16]}, text=[bytes(5 << 18)])
    assert len(task_of_cell("both", namespace).function._captured.buffers) == 1
    for source, name in (("big, both", "big (3.5 MiB)"), ("text", "text (1.3 MiB)")):
        with pytest.raises(TooLarge) as raised:
            task_of_cell(source, namespace)
        for words in (name, "app.put", "--for", "capture_limit_bytes"):
            assert words in str(raised.value)
    with pytest.raises(TooLarge, match=r"the limit is 1\.0 MiB"):
        task_of_cell("big", namespace, limit_bytes=1 << 20)
    assert task_of_cell("big, both", namespace, limit_bytes=1 << 30).captured[0].size_bytes > array.nbytes
    free.available = 2 << 30
    task_of_cell("big, both", namespace)


def test_mutable_objects_are_fresh_for_each_call() -> None:
    function = travelled("data.append(1)\nlen(data)", notebook(data=[0]))
    assert [function(), function()] == [2, 2]


def test_references_among_captured_objects_are_kept() -> None:
    inner: list[int] = []
    function = travelled("one.append(1)\ntwo", notebook(one=inner, two=[inner]))
    assert function() == [[1]]


def test_what_cannot_change_is_loaded_once() -> None:
    namespace = notebook("def f(): return step", step=3)
    function = travelled("f", namespace)
    assert function() is function()


@pytest.mark.parametrize(
    "source",
    [
        "def f(seen=[]):\n    seen.append(1)\n    return len(seen)",
        "n = 0\ndef f():\n    global n\n    n += 1\n    return n",
        "def f():\n    f.n += 1\n    return f.n\nf.n = 0",
        "def make(n):\n    def f():\n        nonlocal n\n        n += 1\n        return n\n    return f\nf = make(0)",
        "class C:\n    seen = []\ndef f():\n    C.seen.append(1)\n    return len(C.seen)",
        "seen = {}\ndef g():\n    seen[len(seen)] = 1\ndef f():\n    g()\n    return len(seen)",
    ],
    ids=["default", "global", "attribute", "closure", "class", "through another"],
)
def test_a_function_with_state_is_fresh_for_each_call(source: str) -> None:
    function = travelled("f()\nf()", notebook(source))
    assert [function(), function()] == [2, 2]


def arrived(source: str, namespace: dict[str, Any], **options: Any) -> Callable[[], Any]:
    """Make a task of a cell and have it where a worker would have it."""
    function: Callable[[], Any] = opened_function(
        Functions().pickle(task_of_cell(source, namespace, **options).function)
    )
    return function


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize(
    "source",
    [
        "a += 1\na[0]",
        "a[0] += 1\na[0]",
        "a.fill(1)\na[0]",
        "change()\na[0]",
        "change()",
        "change_it(a)\na[0]",
        "d['a'][0] += 1\nd['a'][0]",
        "d['a'] += 1\nd['a'][0]",
        "s[0] += 1\ns[0]",
        "a.resize((a.size, 1), refcheck=False)\na[0, 0] += 1\na[0, 0]",
        "a = a + 1\na[0]",
        "l[0][0] += 1\na[0]",
        "f.loc[0, 'x'] += 1\nf.x[0]",
        "f.iloc[0, 0] += 1\nf.x[0]",
        "f['x'] = f['x'] + 1\nf.x[0]",
    ],
)
def test_what_a_cell_changes_of_an_array_is_its_own(source: str, size: int) -> None:
    names = notebook(
        "def change():\n    global a\n    a += 1\n    return a[0]\ndef change_it(b):\n    b[:1] = 1",
        a=np.zeros(size),
        d={"a": np.zeros(size)},
        s=np.zeros(2 * size)[::2],
    )
    names["l"] = [names["a"]]
    names["f"] = pd.DataFrame({"x": np.zeros(size)})
    function = arrived(source, names)
    assert [float(function()) for _ in range(3)] == [1, 1, 1]
    assert names["a"].sum() == names["d"]["a"].sum() == names["s"].sum() == names["f"].x.sum() == 0


def test_a_result_may_be_a_captured_array() -> None:
    function = arrived("a[0] += 1\na", notebook(a=np.zeros(100_000)))
    assert [function().copy()[0] for _ in range(2)] == [1, 1]


def test_what_the_notebook_has_made_read_only_stays_so() -> None:
    for size in (10, 100_000):
        array = np.zeros(size)
        array.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            arrived("a += 1", notebook(a=array))()


def test_a_shared_array_keeps_what_is_changed() -> None:
    for size in (10, 100_000):
        function = arrived("a[0] += 1\na[0]", notebook(a=np.zeros(size)), per_worker_names=["a"])
        assert [float(function()) for _ in range(3)] == [1, 2, 3]


def test_what_is_sent_is_a_snapshot() -> None:
    array = np.zeros(100_000)
    data = [1]
    task = task_of_cell("a.sum(), data", notebook(a=array, data=data))
    data.append(2)
    pickled = Functions().pickle(task.function)
    array[:] = 1
    assert opened_function(pickled)() == (0.0, [1])


@pytest.mark.parametrize("per_worker_names", [(), ("a",)])
def test_large_things_leave_the_pickle_uncopied(per_worker_names: tuple[str, ...]) -> None:
    array = np.zeros(100_000)
    names = notebook(a=array, text=["y" * 100_000], f=lambda: array)
    body, buffers = pickles.dumps(task_of_cell("a, text, f", names, per_worker_names=per_worker_names).function)
    assert any(np.shares_memory(np.frombuffer(buffer), array) for buffer in buffers if len(buffer) == array.nbytes)
    assert len(body) < 3000


def test_modules_are_imported_by_name_with_their_submodules() -> None:
    import xml.dom.minidom

    namespace = notebook("import xml, math as m")
    assert "xml.dom.minidom" in sys.modules
    captured = capture({"xml": xml, "m": namespace["m"]}, namespace, attributes={"dom", "minidom", "x"})
    assert captured.imports == {"xml": "xml", "m": "math"}
    assert captured.submodules == ("xml.dom", "xml.dom.minidom")
    assert travelled("xml.dom.minidom.__name__", namespace)() == "xml.dom.minidom"


def test_a_module_that_a_worker_lacks_is_missed_when_the_function_is_loaded() -> None:
    module = types.ModuleType("only_here")
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    sys.modules["only_here"] = module
    try:
        body, buffers = pickles.dumps(task_of_cell("only_here", notebook(only_here=module)).function)
    finally:
        del sys.modules["only_here"]
    with pytest.raises(ModuleNotFoundError, match="only_here"):
        pickles.loads(body, buffers)


def test_ipython_s_open_is_not_sent() -> None:
    fake = types.FunctionType((lambda path: None).__code__, {"__name__": "IPython.core.interactiveshell"}, "open")
    assert task_of_cell("open", notebook(open=fake)).captured == ()
    mine = notebook("def open(path):\n    return 'mine'")
    assert travelled("open('x')", mine)() == "mine"


@pytest.mark.parametrize(
    ("thing", "low", "high"),
    [
        (3, 1, 100),
        (10**1000, 400, 500),
        ("x" * 1000, 1000, 1100),
        (b"x" * 1000, 1000, 1100),
        ([b"%d" % i * 100 for i in range(5000)], 1_500_000, 2_500_000),
        ({i: "x" * i for i in range(1000)}, 400_000, 600_000),
        ([["x" * 100] * 3] * 5, 100, 1000),
        (np.zeros((10, 10)), 800, 900),
        ({"a": np.zeros(1000), "b": [np.zeros(1000)]}, 16_000, 17_000),
        (types.SimpleNamespace(data=b"x" * 1000), 1000, 1200),
        (int, 1, 100),
        (sys, 1, 100),
        (pickles.Shared(b"x" * 1000, [b"x" * 1000], None, ""), 1, 100),
    ],
)
def test_sizes_are_estimated(thing: Any, low: int, high: int) -> None:
    assert low <= measure_bytes(thing) <= high


def test_endless_structures_have_a_size() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert measure_bytes(endless) < 1000


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (2048, "2.0 KiB"), (3 << 20, "3.0 MiB"), (5 << 31, "10.0 GiB")]
)
def test_sizes_are_written_for_people(size: int, text: str) -> None:
    assert write_bytes(size) == text
