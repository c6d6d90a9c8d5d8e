"""Setups on their way: what a worker runs before a function, once, and what it lends to it."""

import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from concurrent_nb.errors import CaptureError, SetupFailed
from concurrent_nb.ids import Digest
from concurrent_nb.shipping.cells.cell_code import parse_cell
from concurrent_nb.shipping.cells.cell_task import setup_cell
from concurrent_nb.shipping.functions.pickled_functions import (
    PickledFunction,
    copied,
    pickled_by_value,
    pickled_with_arguments,
)
from concurrent_nb.shipping.functions.setups import Setup, prepared
from concurrent_nb.shipping.runtime import notes, setup_runner
from concurrent_nb.shipping.runtime.setup_runner import NotLoaded, Prepared
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.wire.messages import Slice
from tests.cells import task_of_cell

ran: list[Any] = []


@pytest.fixture(autouse=True)
def told() -> Iterator[list[notes.Note]]:
    """What workers tell, in a worker that has run nothing yet."""
    ran.clear()
    setup_runner._ran.clear()
    reader, told = notes.NoteReader(), list[notes.Note]()
    notes.sink().open(lambda data: told.extend(reader.feed(data)))
    yield told
    notes.sink().close()


def setup_of(
    function: Callable[..., Any], *args: Any, id: bytes = b"1", place: bytes = b"p", broken: str = ""
) -> Setup:
    return Setup(id, place, "its name", pickled_with_arguments(function, args, copied), broken)


def arrived(function: Callable[..., Any], *setups: Setup) -> Prepared:
    """Send a function with setups; give what a worker unpickles."""
    pickled = prepared(pickled_by_value(function, function, copied), setups)
    whole = pickles.loads(pickled.body, [it for it in pickled.buffers if not isinstance(it, Slice)])
    assert type(whole) is Prepared
    return whole


def foreign(source: str, **names: Any) -> Any:
    """Make a function of the notebook: `f` of the source, with names of its own."""
    namespace = {"__name__": "__main__", **names}
    exec(source, namespace)
    return namespace["f"]


def test_each_runs_once_in_order_and_before_the_function() -> None:
    one = setup_of(_note, 1)
    two = setup_of(_note, 2, id=b"2", place=b"q")
    function = foreign("def f(x): return x + 1")
    assert arrived(function, one, two)(1) == 2
    assert arrived(function, one, two).open()(2) == 3
    assert ran == [1, 2]


def _note(what: Any) -> Any:
    ran.append(what)
    return what


def test_another_of_the_same_place_runs_and_the_old_one_is_forgotten(told: list[notes.Note]) -> None:
    arrived(abs, setup_of(_note, 1)).open()
    arrived(abs, setup_of(_note, 2, id=b"2")).open()
    assert ran == [1, 2]
    assert list(setup_runner._ran) == [b"2"]
    assert [note.value for note in told if isinstance(note, notes.SetupRan)] == [1, 2]


def test_a_failure_is_remembered_and_told(told: list[notes.Note]) -> None:
    failing = setup_of(foreign("def f(): note(1); 1 / 0", note=_note))
    for _ in range(3):
        with pytest.raises(SetupFailed, match=r"(?s)'its name' has failed in this worker.*ZeroDivisionError"):
            arrived(abs, failing).open()
    assert ran == [1]
    (note,) = told
    assert isinstance(note, notes.SetupRan)
    assert not note.ok
    assert "ZeroDivisionError" in note.text


@pytest.mark.parametrize("stop", [KeyboardInterrupt, GeneratorExit])
def test_one_that_is_stopped_runs_again(stop: type[BaseException]) -> None:
    def stopped() -> None:
        raise stop

    with pytest.raises(stop):
        arrived(abs, setup_of(stopped)).open()
    assert not setup_runner._ran


def test_one_that_exits_has_failed() -> None:
    with pytest.raises(SetupFailed, match="SystemExit"):
        arrived(abs, setup_of(foreign("def f(): raise SystemExit(3)"))).open()


def test_one_that_is_broken_is_not_tried() -> None:
    with pytest.raises(SetupFailed, match=r"(?s)'its name' is not run any more.*it kills"):
        arrived(abs, setup_of(_note, 1, broken="it kills")).open()
    assert not ran


def test_a_function_that_cannot_be_loaded_is_no_failure_of_the_setup() -> None:
    inner = PickledFunction(Digest(b""), b"no pickle", (), "f")
    pickled = prepared(inner, [setup_of(_note, 1)])
    with pytest.raises(NotLoaded) as failure:
        pickles.loads(pickled.body, pickled.buffers).open()  # type: ignore[arg-type]
    assert failure.value.__cause__ is not None
    assert ran == [1]


@pytest.mark.parametrize("size", [0, 1, 100, 20_000, pickles.OUT_OF_BAND_BYTES, 3_000_000])
def test_large_parts_travel_beside_and_come_to_where_they_belong(size: int) -> None:
    numpy = pytest.importorskip("numpy")
    first, second, third = (numpy.full(size, number, dtype="u1") for number in (1, 2, 3))
    one, two = setup_of(_note, first), setup_of(_note, second, id=b"2", place=b"q")
    function = foreign("def f(x): return (int(third[:1].sum()), len(third), x)", third=third)
    assert arrived(function, one, two)(4) == (3 if size else 0, size, 4)
    assert [len(array) for array in ran] == [size, size]
    assert all((array == number).all() for number, array in enumerate(ran, 1))
    pickled = prepared(pickled_by_value(function, function, copied), [one, two])
    assert sum(map(len, pickled.buffers)) == (3 * size if size >= pickles.OUT_OF_BAND_BYTES else 0)  # type: ignore[arg-type]


def test_what_lies_in_shared_memory_stays_there() -> None:
    slice_ = Slice(b"s" * 16, 0, 100_000, 1)
    inner = PickledFunction(Digest(b""), b"", (slice_, bytearray(70_000)), "f", "lease")
    pickled = prepared(inner, [Setup(b"1", b"p", "n", PickledFunction(Digest(b""), b"body", (slice_,), "g", None))])
    assert pickled.buffers == [slice_, slice_, bytearray(70_000)]
    assert pickled.lease == ["lease"]


def test_other_setups_make_another_digest_and_the_same_the_same() -> None:
    function = pickled_by_value(abs, abs, copied)
    digests = [
        prepared(function, [setup_of(_note, 1)]).digest,
        prepared(function, [setup_of(_note, 1)]).digest,
        prepared(function, [setup_of(_note, 1, id=b"2")]).digest,
        prepared(function, [setup_of(_note, 2)]).digest,
        prepared(None, [setup_of(_note, 1)]).digest,
        function.digest,
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5


def test_alone_they_are_told_also_where_they_had_run(told: list[notes.Note]) -> None:
    arrived(abs, setup_of(_note, 1)).open()
    for _ in range(2):
        pickled = prepared(None, [setup_of(_note, 1)])
        waiting = pickles.loads(pickled.body, pickled.buffers).open()  # type: ignore[arg-type]
        waiting(0.0)
    assert ran == [1]
    assert [note.value for note in told if isinstance(note, notes.SetupRan)] == [1, 1, 1]


# -------------------------------------------------------------------------------------------------------- setup cells


def cell(source: str, namespace: dict[str, Any] | None = None, *, id: bytes = b"1", place: bytes = b"p") -> Setup:
    function, _ = setup_cell(parse_cell(source), namespace if namespace is not None else {})
    return setup_of(function, id=id, place=place)


def run_cell(source: str, namespace: dict[str, Any], names: set[str], *setups: Setup) -> Any:
    task = task_of_cell(source, namespace, setup_names=names)
    return arrived(task.function, *setups)()


def test_a_cell_finds_what_setups_have_bound_and_its_own_first() -> None:
    one = cell("import math\ncount = [0]\ndef area(r): return math.floor(math.pi * r * scale)", {"scale": 10})
    names = {"math", "count", "area"}
    assert run_cell("count.append(1); area(1), len(count)", {}, names, one) == (31, 2)
    assert run_cell("count.append(1); len(count)", {}, names, one) == 3  # it stays in the worker
    assert run_cell("count", {"count": "mine"}, names, one) == "mine"
    assert run_cell("area = 1; area", {}, names, one) == 1
    assert run_cell("[area(x) for x in (1, 2)]", {}, names, one) == [31, 62]


def test_functions_of_the_notebook_find_it_too() -> None:
    setup = cell("model = lambda x: 3 * x")
    function = foreign("def f(x): return g(x)\ndef g(x): return model(x)")
    assert arrived(function, setup)(2) == 6
    assert run_cell("f(2)", {"f": function}, {"model"}, setup) == 6
    assert arrived(function.__globals__["f"], setup)(3) == 9


def test_a_setup_sees_those_before_it() -> None:
    one = cell("base = 5")
    function, captured = setup_cell(parse_cell("more = base + 1"), {}, setup_names={"base"})
    two = setup_of(function, id=b"2", place=b"q")
    assert run_cell("more", {}, {"more"}, one, two) == 6
    assert [(each.name, each.kind) for each in captured] == [("base", "setup")]


def test_what_is_lent_is_shown_and_what_is_nowhere_is_missed() -> None:
    task = task_of_cell("model(1) + rate", {"rate": 1}, setup_names={"model"})
    assert [(each.name, each.kind) for each in task.captured] == [("rate", "value"), ("model", "setup")]
    with pytest.raises(CaptureError, match="modle is not defined in the notebook; did you mean model"):
        task_of_cell("modle(1)", {}, setup_names={"model"})
    found = task_of_cell("x", {}, for_text="x in (1,)", until_text="result == model", setup_names={"model", "x"})
    assert [each.name for each in found.captured] == ["model"]


def test_functions_of_modules_are_lent_nothing() -> None:
    before = dict(types.__dict__)
    setup_runner.lend(types.new_class, {"lent": 1})
    setup_runner.lend(abs, {"lent": 1})
    assert types.__dict__ == before
