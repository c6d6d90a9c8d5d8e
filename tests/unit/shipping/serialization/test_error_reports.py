"""What a worker reports of an error, whatever the error is like: the report is made, in time, and is not too long."""

import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.shipping.serialization import error_reports
from concurrent_nb.wire.codec import decode_error
from concurrent_nb.wire.messages import ErrorReport

ENDS = [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, RecursionError, ValueError]
#: nothing of a report is longer than this, in characters: a text, and what is added around it
LONG = 2 * error_reports.TEXT_MAX


def raised(error: BaseException) -> BaseException:
    """Give an error with a traceback."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001  (that is what it is for)
        return caught


def made(kind: str, **names: Any) -> BaseException:
    """Give an error of class E, made by source in a namespace of its own."""
    space = {"__builtins__": __builtins__, **names}
    exec(kind, space)
    return raised(space["E"]("why"))


def no(*_: object) -> NoReturn:
    raise SystemExit("no")


class Evil(str):
    """A text that is not as long as it seems."""

    def __getitem__(self, key: Any) -> NoReturn:
        raise SystemExit("no piece")

    def __len__(self) -> int:
        return -1 if sys.flags.optimize > 5 else 3

    def __str__(self) -> str:
        return self

    def __format__(self, spec: str) -> NoReturn:
        raise KeyboardInterrupt("no format")


def chained(count: int) -> BaseException:
    error: BaseException = ValueError("first")
    for number in range(count):
        later = ValueError(str(number))
        later.__cause__ = error
        error = later
    return raised(error)


def cyclic() -> BaseException:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    one.__context__ = one
    return raised(one)


def nested_group(depth: int) -> BaseException:
    error: Exception = ValueError("inmost")
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    return raised(error)


def with_notes(notes: Any) -> BaseException:
    error = ValueError("why")
    error.__notes__ = notes
    return raised(error)


def forever() -> Iterator[str]:
    while True:
        yield "another note"


def deep() -> BaseException:
    def down(count: int) -> None:
        if count:
            down(count - 1)
        raise ValueError("at the bottom")

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        down(10_000)
    except ValueError as error:
        return error
    finally:
        sys.setrecursionlimit(limit)
    raise AssertionError


def odd_syntax() -> BaseException:
    error = SyntaxError("odd")
    error.lineno, error.offset, error.text, error.filename = "x", -5, 7, ["f"]  # type: ignore[assignment]
    return raised(error)


META = "class M(type):\n    {}\nclass E(Exception, metaclass=M): pass"
ODD: dict[str, Callable[[], BaseException]] = {
    "a plain one": lambda: raised(ValueError("why")),
    "made by exec": lambda: made("class E(Exception): pass"),
    "made without a module": lambda: made("E = type('E', (Exception,), {})"),
    "__module__ = 5": lambda: made("class E(Exception): __module__ = 5"),
    "__module__ = None": lambda: made("class E(Exception): __module__ = None"),
    "__module__ is odd text": lambda: made("class E(Exception): __module__ = T('x')", T=Evil),
    "__module__ is long": lambda: made("class E(Exception): __module__ = 'x' * 10**7"),
    "__qualname__ is long": lambda: made("class E(Exception): __qualname__ = 'x' * 10**7"),
    "__qualname__ is no Unicode": lambda: made("class E(Exception): __qualname__ = '\\ud800'"),
    "metaclass: __module__ raises": lambda: made(META.format("__module__ = property(no)"), no=no),
    "metaclass: __name__ raises": lambda: made(META.format("__name__ = property(no)"), no=no),
    "metaclass: everything raises": lambda: made(META.format("def __getattribute__(self, name): no()"), no=no),
    "metaclass: equality raises": lambda: made(META.format("__eq__ = no; __hash__ = type.__hash__"), no=no),
    "metaclass: hash raises": lambda: made(META.format("__hash__ = no"), no=no),
    "metaclass: instance checks raise": lambda: made(META.format("__instancecheck__ = __subclasscheck__ = no"), no=no),
    "everything raises": lambda: made("class E(Exception):\n    def __getattribute__(self, name): no()", no=no),
    "__class__ raises": lambda: made("class E(Exception): __class__ = property(no)", no=no),
    "__class__ is another": lambda: made("class E(Exception): __class__ = property(lambda self: int)"),
    "__dict__ raises": lambda: made("class E(Exception): __dict__ = property(no)", no=no),
    "args raises": lambda: made("class E(Exception): args = property(no)", no=no),
    "__traceback__ = 5": lambda: made("class E(Exception): __traceback__ = 5"),
    "__cause__ raises": lambda: made("class E(Exception): __cause__ = property(no)", no=no),
    "__cause__ = 5": lambda: made("class E(Exception): __cause__ = 5"),
    "__context__ raises": lambda: made("class E(Exception): __context__ = property(no)", no=no),
    "__notes__ raises": lambda: made("class E(Exception): __notes__ = property(no)", no=no),
    "__reduce_ex__ raises": lambda: made("class E(Exception): __reduce_ex__ = no", no=no),
    "__reduce__ is nonsense": lambda: made("class E(Exception): __reduce__ = lambda self: 5"),
    "__reduce__ makes something else": lambda: made("class E(Exception): __reduce__ = lambda self: (int, ())"),
    "unpickling raises": lambda: made("class E(Exception): __reduce__ = lambda self: (no, ())", no=no),
    "__str__ gives no text": lambda: made("class E(Exception): __str__ = lambda self: 5"),
    "__str__ gives odd text": lambda: made("class E(Exception): __str__ = lambda self: T('x' * 10**6)", T=Evil),
    "__str__ never returns by recursion": lambda: made("class E(Exception): __str__ = lambda self: str(self)"),
    "a message of 10 MB": lambda: raised(ValueError("x" * 10**7)),
    "bytes of 10 MB": lambda: raised(ValueError(b"x" * 10**7)),
    "many arguments": lambda: raised(ValueError(*range(10**6))),
    "a message that is no Unicode": lambda: raised(ValueError("\ud800 \udfff")),
    "an odd message": lambda: raised(ValueError(Evil("why"))),
    "a message with an odd repr": lambda: raised(KeyError(type("R", (), {"__repr__": no})())),
    "notes that are none": lambda: with_notes(5),
    "notes that are a text": lambda: with_notes("a note"),
    "notes of all kinds": lambda: with_notes([5, None, Evil("x"), "\ud800", b"x", type("R", (), {"__str__": no})()]),
    "many notes": lambda: with_notes(["a note"] * 10**5),
    "notes of 10 MB": lambda: with_notes(["x" * 10**7]),
    "notes without an end": lambda: with_notes(forever()),
    "a cycle of causes": cyclic,
    "a thousand causes": lambda: chained(1_000),
    "ten thousand causes": lambda: chained(10_000),
    "groups in groups": lambda: nested_group(10_000),
    "a group of many": lambda: raised(ExceptionGroup("group", [ValueError(str(n)) for n in range(10_000)])),
    "deep in calls": deep,
    "an odd SyntaxError": odd_syntax,
    "odd bounds in a UnicodeDecodeError": lambda: raised(UnicodeDecodeError("x", b"y", -5, 10**9, "why")),
    **{
        f"__{name}__ raises {kind.__name__}": lambda name=name, kind=kind: made(  # type: ignore[misc]
            f"class E(Exception):\n    def __{name}__(self): raise K('no')", K=kind
        )
        for name in ("str", "repr", "reduce", "getstate")
        for kind in ENDS
    },
}


def report_of(answer: error_reports.FailureReport, status: Status) -> ErrorReport:
    number, body, buffers = answer
    assert number == status
    assert not buffers
    report = decode_error(body)
    assert len(report.type_name) <= LONG
    assert len(report.message) <= LONG
    assert len(report.traceback) <= LONG
    assert len(report.exception) <= error_reports.EXCEPTION_BYTES_MAX
    return report


@pytest.mark.parametrize("name", ODD)
def test_every_error_is_reported(name: str) -> None:
    error = ODD[name]()
    try:
        answers = [
            error_reports.failed(error),
            error_reports.not_loadable(error),
            error_reports.not_picklable(error, error),
        ]
        answers.append(error_reports.not_picklable([error], ValueError("why")))
    except BaseException as broken:  # noqa: BLE001  (it may be one that would end pytest)
        pytest.fail(f"the report raised {type(broken)}")
    statuses = [Status.ERROR, Status.NOT_LOADABLE, Status.NOT_PICKLABLE, Status.NOT_PICKLABLE]
    failed, *others = map(report_of, answers, statuses)
    assert failed.type_name
    assert failed.traceback
    assert all(report.message for report in others)


@pytest.mark.parametrize(
    ("name", "kind", "argument"),
    [
        ("a message of 10 MB", ValueError, "x" * error_reports.TEXT_MAX),
        ("bytes of 10 MB", ValueError, b"x" * error_reports.TEXT_MAX),
        ("many arguments", ValueError, 0),
        ("many notes", ValueError, "why"),
        ("a message that is no Unicode", ValueError, "\ud800 \udfff"),
    ],
)
def test_the_user_s_exception_arrives_cut_where_it_has_to_be(
    name: str, kind: type[BaseException], argument: object
) -> None:
    report = report_of(error_reports.failed(ODD[name]()), Status.ERROR)
    loaded: Any = pickle.loads(report.exception)
    assert type(loaded) is kind
    assert loaded.args[0] == argument


def test_what_was_cut_is_said_in_a_note() -> None:
    loaded = pickle.loads(report_of(error_reports.failed(ODD["a message of 10 MB"]()), Status.ERROR).exception)
    assert loaded.__notes__ == [
        "this exception is too large: argument 1 has 10,000,000 characters, of which 65,536 are here"
    ]
