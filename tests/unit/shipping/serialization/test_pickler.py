"""What our pickler adds to cloudpickle's."""

import copyreg
import dataclasses
import functools
import gc
import io
import linecache
import multiprocessing
import queue
import sqlite3
import sys
import tempfile
import threading
import traceback
import types
import warnings
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import attrs
import pytest
from deap import base, creator

from concurrent_nb.shipping.functions.pickled_functions import Functions
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.pickler import reduced_to_what_travels
from concurrent_nb.shipping.serialization.pickling_failures import describe_arguments, describe_failure
from concurrent_nb.shipping.serialization.sizes import estimate_bytes
from concurrent_nb.shipping.serialization.source_lines import lines_entry, unwrapped


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


def test_the_lines_of_a_cell_travel_with_its_code_once() -> None:
    text = "def f():\n    return g\ndef g():\n    pass\n"
    filename = "<a cell that is nowhere else>"
    linecache.cache[filename] = lines_entry(filename, text)
    body, _ = pickles.dumps([notebook(text, filename)["f"]])
    assert body.count(b"return g") == 1
    del linecache.cache[filename]
    pickles.loads(body)
    assert linecache.getline(filename, 2) == "    return g\n"
    del linecache.cache[filename]


# --------------------------------------------------------------------------------------------- what is refused, and not


class Reader:
    """As in Python's documentation: it leaves its file out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.file = open(name)  # noqa: SIM115

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, file=None)


class Careless(Reader):
    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))


class Stream(io.TextIOWrapper):
    """A file that says how it travels."""

    def __reduce__(self) -> tuple[Any, ...]:
        return io.StringIO, (self.read(),)


def refused(thing: Any, name: str = "it") -> str:
    with pytest.raises(Exception) as raised:
        pickles.dumps(thing)
    return describe_failure(name, thing, raised.value)


def test_an_object_that_leaves_its_file_out_travels_and_one_that_does_not_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("text")
    reader, careless = Reader(str(path)), Careless(str(path))
    with reader.file, careless.file:
        assert returned([reader])[0].name == str(path)
        assert refused([careless]).startswith("it uses it[0].file, an open file: ")
    with open(path) as file:
        assert refused(file).startswith("it is an open file: ")
        assert refused(deque([1, file])).startswith("it uses it[1], an open file: ")
        assert refused(OrderedDict(log=file)).startswith("it uses it['log'], an open file: ")
        assert refused(functools.partial(print, file=file)).startswith("it uses it.keywords['file'], an open file: ")
        assert "an open file" in refused(ValueError(file))
    with Stream(open(path, "rb")) as stream:
        assert returned(stream).getvalue() == "text"
    with tempfile.TemporaryFile("w+") as file:
        assert refused(file).startswith("it is an open file: ")
    assert returned([io.StringIO("a"), io.BytesIO(b"b")])[1].getvalue() == b"b"


def test_standard_streams_travel_by_name() -> None:
    assert returned([sys.stdout, sys.stderr]) == [sys.stdout, sys.stderr]


def test_a_module_s_own_way_to_pickle_a_class_is_asked_first() -> None:
    class Odd:
        def __init__(self) -> None:
            self.items = (i for i in [1])

    copyreg.pickle(Odd, lambda it: (list, ((1, 2),)))  # type: ignore[arg-type, return-value]
    try:
        assert returned({"odd": Odd()}) == {"odd": [1, 2]}
    finally:
        del copyreg.dispatch_table[Odd]
    assert refused(Odd()).startswith("it uses it.items, a generator: ")


def test_a_class_that_a_library_makes_from_its_parts_is_made_once() -> None:
    creator.create("Fitness", base.Fitness, weights=(1.0,))
    creator.create("Individual", list, fitness=creator.Fitness)
    try:
        first, made = creator.Individual, pickles.dumps([creator.Individual([1]), creator.Individual([2])])
        one, other = pickles.loads(*made)
        assert type(one) is type(other) is first is creator.Individual
        assert type(one.fitness) is creator.Fitness
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of DEAP: a class of that name is overwritten
            creator.create("Individual", list, fitness=creator.Fitness, strategy=7)
        second = creator.Individual
        assert (type(pickles.loads(*made)[0]), creator.Individual) == (first, second)
        assert returned(second([1])).strategy == 7
        del first, one, other
        gc.collect()  # as in another process:
        assert not hasattr(type(pickles.loads(*made)[0]), "strategy")
        assert creator.Individual is second
        del creator.Individual
        gc.collect()
        assert type(pickles.loads(*made)[0]) is creator.Individual
    finally:
        del creator.Fitness, creator.Individual


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: memoryview(b"x"), "a memoryview"),
        (lambda: (i for i in [1]), "a generator"),
        (threading.Lock, "a lock"),
        (threading.Event, "a lock"),
        (lambda: Future[int](), "a future"),
        (lambda: weakref.ref(Reader), "a weak reference"),
        (lambda: sqlite3.connect(":memory:"), "a database connection"),
        (lambda: ContextVar("variable"), "a context variable"),
        (lambda: Pipe()[0], "an end of a pipe"),
        (multiprocessing.Lock, "a lock of multiprocessing"),
        (multiprocessing.SimpleQueue, "a queue of multiprocessing"),
        (queue.Queue, "a queue"),
    ],
)
def test_it_is_named_wherever_it_is(make: Callable[[], Any], what: str) -> None:
    thing = make()
    assert refused(thing).startswith(f"it is {what}: ")
    assert refused({"a": [0, thing]}).startswith(f"it uses it['a'][1], {what}: ")
    assert refused(types.SimpleNamespace(of=thing)).startswith(f"it uses it.of, {what}: ")
    if isinstance(thing, (sqlite3.Connection, Connection)):
        thing.close()


class Pretends:
    """A proxy: its class is said to be that of the object behind it, which it does not do everything of."""

    @property
    def __class__(self) -> Any:
        return list

    @__class__.setter
    def __class__(self, kind: Any) -> None: ...


def test_an_object_that_pretends_to_be_of_another_class_is_refused_by_name() -> None:
    assert refused([Pretends()]).startswith("it uses it[0], ")


class Fixture:
    """Allows no changes."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        object.__setattr__(self, "code", code)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be changed")


def test_an_object_that_allows_no_changes_travels() -> None:
    assert returned([Fixture(7)])[0].code == 7


def test_what_a_class_of_the_notebook_holds_may_go_into_a_module() -> None:
    it = notebook("import weakref\nclass Base: pass\nclass C:\n    known = weakref.ref(Base)")["C"]()
    text = refused(it)
    assert text.startswith("it uses the class of it.known, a weak reference: use the object itself")
    assert text.endswith("or put the class C into a module that workers can import")
    assert refused(type(it)).endswith("or put the class C into a module that workers can import")


def test_the_argument_is_named_by_its_place_and_its_name() -> None:
    def f(first: int, second: Any = None, *more: Any, **rest: Any) -> None:
        return

    lock = threading.Lock()
    for args, kwargs, start in [
        ((1, lock), {}, "argument 2 (second) is a lock: "),
        ((1, [lock]), {}, "argument 2 (second) uses second[0], a lock: "),
        ((1, 2, lock), {}, "argument 3 is a lock: "),
        ((1,), {"key": {"a": lock}}, "argument key uses key['a'], a lock: "),
    ]:
        with pytest.raises(TypeError) as raised:
            pickles.dumps_call(args, kwargs)
        assert describe_arguments(f, args, kwargs, raised.value).startswith(start)


# ----------------------------------------------------------------------------------------------------------- exceptions


class Coded(Exception):
    """Takes what it does not hand on."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"code {code} at {where}")
        self.code, self.where = code, where


class Prefixed(Exception):
    """Would have its prefix twice if its `__init__` were called again."""

    def __init__(self, text: str) -> None:
        super().__init__(f"broken: {text}")


class Missing(FileNotFoundError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "gone", path)
        self.path = path


class Undecodable(UnicodeDecodeError):
    def __init__(self, text: bytes) -> None:
        super().__init__("utf-8", text, 0, 1, "bad")


class Silent(Exception):
    def __init__(self, one: int, two: int) -> None:
        self.sum = one + two


class Several(ExceptionGroup[Exception]):
    def __new__(cls, count: int) -> "Several":
        return super().__new__(cls, f"{count} of them", [Coded(1, where="x"), ValueError(2)])

    def __init__(self, count: int) -> None:
        self.count = count


class Grouped(ExceptionGroup[Exception]):
    def __new__(cls, text: str, errors: list[Exception], count: int = 0) -> "Grouped":
        made = super().__new__(cls, text, errors)
        made.count = count
        return made

    count: int


@dataclasses.dataclass(frozen=True)
class Fixed(Exception):
    code: int


@dataclasses.dataclass(frozen=True, slots=True)
class FixedSlots(Exception):
    code: int


@attrs.define
class Defined(Exception):
    code: int


@attrs.frozen(kw_only=True)
class DefinedFixed(Exception):
    code: int


class ReadOnly(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        vars(self)["code"] = code

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be changed")


class Guarded(Exception):
    """Leaves its lock out."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code, self.lock = code, threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"code": self.code}


class Arguments(Exception):
    def __new__(cls, code: int) -> "Arguments":
        made = super().__new__(cls)
        made.code = code
        return made

    def __init__(self, code: int) -> None: ...

    def __getnewargs__(self) -> tuple[int]:
        return (self.code,)

    code: int


class SaysHow(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a + b)
        self.a, self.b = a, b

    def __reduce__(self) -> tuple[Any, ...]:
        return SaysHow, (self.a, self.b)


def test_importing_dask_changes_nothing_about_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    def pickle_exception(error: BaseException) -> Any:
        return type(error), error.args

    pickle_exception.__module__ = "tblib.pickling_support"  # which Dask has register all exceptions
    monkeypatch.setitem(copyreg.dispatch_table, Undecodable, pickle_exception)
    back = returned(Undecodable(b"\xff"))
    assert (type(back), str(back)) == (Undecodable, str(Undecodable(b"\xff")))


@pytest.mark.parametrize(
    "error",
    [
        Coded(7, where="disk"),
        Prefixed("pipe"),
        Missing("/x"),
        Undecodable(b"\xff"),
        Silent(1, 2),
        SaysHow(1, 2),
        ImportError("no", name="n", path="p"),
        StopIteration(3),
        KeyError("k"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_arrive_as_they_were(error: BaseException) -> None:
    error.add_note("a note")
    back = returned([error])[0]
    assert type(back) is type(error)
    assert (str(back), back.args, vars(back)) == (str(error), error.args, vars(error))
    for fact in ("errno", "strerror", "filename", "reason", "object", "name", "path", "value"):
        assert getattr(back, fact, None) == getattr(error, fact, None)


@pytest.mark.parametrize(
    "error",
    [Fixed(7), FixedSlots(7), Defined(7), DefinedFixed(code=7), ReadOnly(7), Guarded(7), Arguments(7)],
    ids=lambda error: type(error).__name__,
)
def test_exceptions_that_set_their_attributes_themselves_arrive(error: Any) -> None:
    back = returned([error])[0]
    assert (type(back), back.code, back.args) == (type(error), 7, error.args)
    vars(error)["__notes__"] = ["a note"]
    assert returned([error])[0].__notes__ == ["a note"]


def test_a_group_with_arguments_of_its_own_arrives() -> None:
    back = returned(Grouped("some", [Coded(1, where="x")], 5))
    assert (str(back), back.count, back.exceptions[0].where) == ("some (1 sub-exception)", 5, "x")


def test_of_a_group_all_travels_that_can() -> None:
    bad = Coded(7, where="disk")
    bad.args = (threading.Lock(),)
    back = returned(reduced_to_what_travels(Grouped("some", [bad, ValueError(1)], 5)))
    assert (back.message, back.count, [type(it) for it in back.exceptions]) == ("some", 5, [Coded, ValueError])


def test_groups_of_exceptions_arrive_as_they_were() -> None:
    back = returned(ExceptionGroup("outer", [Several(3), Prefixed("x")]))
    assert [type(error) for error in back.exceptions] == [Several, Prefixed]
    inner = back.exceptions[0]
    assert (str(inner), inner.count, inner.exceptions[0].where) == ("3 of them (2 sub-exceptions)", 3, "x")


def test_of_an_exception_all_travels_that_can() -> None:
    error = Coded(7, where="disk")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    error.args = ("text", threading.Lock())
    back = returned(reduced_to_what_travels(error))
    assert (type(back), back.code, back.args[0]) == (Coded, 7, "text")
    assert back.args[1].startswith("<unlocked _thread.lock")
    assert back.__notes__ == ["argument 2, lock of this exception could not be pickled, and stayed with the task"]
    assert not hasattr(back, "lock")


class Attributes(dict[str, int]):
    """Has its items as attributes, and raises KeyError for others, also when Python or a library asks for its own."""

    def __getattr__(self, name: str) -> int:
        return self[name]

    def __call__(self, name: str) -> int:
        return self[name]


class HasEveryName:
    def __getattr__(self, name: str) -> int:
        return 42

    def __call__(self, number: int) -> int:
        return number


@pytest.mark.parametrize(
    "function", [Attributes(a=1), HasEveryName(), Mock(return_value=1)], ids=["keys", "all", "mock"]
)
def test_nothing_is_asked_of_an_object_that_answers_to_any_name(function: Any) -> None:
    pickled = Functions().pickle(function)
    assert pickled.name.startswith("a ")
    assert pickled.inputs == ()
    assert unwrapped(function) is function
    assert estimate_bytes([function]) < 10_000
    assert isinstance(describe_failure("it", [function, threading.Lock()], TypeError()), str)
