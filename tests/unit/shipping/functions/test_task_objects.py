"""Tasks as objects: what travels of them, and what a worker makes of it."""

import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from concurrent_nb.errors import NotPicklable
from concurrent_nb.shipping.functions.pickled_functions import load_function
from concurrent_nb.shipping.functions.task_objects import TaskObjectPacker, run_task
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.tasks.system import Task


def there(packer: TaskObjectPacker, task: Task) -> Any:
    """Do a task as a worker does it, from its bytes."""
    function, body, buffers = packer.pack(task)
    call: Callable[..., Any] = load_function(function)
    return call(*pickles.loads(body, buffers))


class Plain(Task):
    def __init__(self, n: int) -> None:
        super().__init__("plain")
        self.n = n

    def __call__(self) -> Any:
        return self.n, self.name, type(self).__name__


class Slots(Task):
    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self) -> Any:
        return self.n


class Stateful(Plain):
    def __getstate__(self) -> Any:
        return {"n": self.n + 1}

    def __setstate__(self, state: Any) -> None:
        self.n = state["n"] * 10

    def __call__(self) -> Any:
        return self.n


class Made(Task):
    """Made with an argument."""

    def __new__(cls, n: int) -> "Made":
        made = super().__new__(cls)
        made.n = n  # type: ignore[attr-defined]
        return made

    def __init__(self, n: int) -> None:
        raise AssertionError("unpickling does not call this")

    def __getnewargs__(self) -> tuple[int]:
        return (self.n,)  # type: ignore[attr-defined]

    def __call__(self) -> Any:
        return self.n  # type: ignore[attr-defined]


class Reduced(Plain):
    def __reduce__(self) -> Any:
        return Plain, (self.n + 1,)


@dataclass
class Data(Task):
    n: int = 3

    def __call__(self) -> Any:
        return self.n


class Empty(Task):
    def __init__(self) -> None:
        return

    def __call__(self) -> Any:
        return vars(self)


@pytest.mark.parametrize(
    ("task", "result"),
    [
        (Plain(4), (4, "plain", "Plain")),
        (Slots(4), 4),
        (Stateful(4), 50),
        (Made.__new__(Made, 4), 4),
        (Reduced(4), (5, "plain", "Plain")),
        (Data(4), 4),
        (Empty(), {}),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_task_is_there_what_unpickling_makes_of_it(task: Task, result: Any) -> None:
    assert there(TaskObjectPacker(), task) == result


def test_a_class_travels_once_and_each_task_as_its_state() -> None:
    packer = TaskObjectPacker()
    first, second = packer.pack(Plain(1)), packer.pack(Plain(2))
    assert first[0] is second[0]
    assert pickle.loads(first[1]) == ((), {"name": "plain", "system_id": "", "client_id": "", "n": 1})
    assert len(second[1]) < 100


def test_large_buffers_travel_beside_it() -> None:
    data = Plain(1)
    data.n = pickle.PickleBuffer(bytearray(1 << 17))  # type: ignore[assignment]
    _, body, buffers = TaskObjectPacker().pack(data)
    assert (len(body) < 200, [len(buffer) for buffer in buffers]) == (True, [1 << 17])


class Own(Plain):
    """Refers to itself."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.grow = self.add_one

    def add_one(self) -> None:
        self.n += 1

    def __call__(self) -> Any:
        self.grow()
        return self.n


def test_a_task_that_refers_to_itself_still_does_there() -> None:
    assert there(TaskObjectPacker(), Own(1)) == 2


def test_a_class_of_a_function_travels_by_value() -> None:
    class Local(Task):
        def __call__(self) -> str:
            return f"of {len(self.__dict__)} attributes"

    assert there(TaskObjectPacker(), Local()) == "of 3 attributes"


def test_a_class_that_cannot_travel_is_refused_by_name() -> None:
    lock = threading.Lock()

    class Locked(Task):
        def __call__(self) -> None:
            with lock:
                return

    with pytest.raises(NotPicklable, match=r"Locked\.__call__ uses lock, a lock: it guards nothing"):
        TaskObjectPacker().pack(Locked())


def test_so_is_an_object() -> None:
    task = Plain(3)
    task.n = (n for n in range(3))  # type: ignore[assignment]
    with pytest.raises(NotPicklable, match=r"Plain uses Plain\.n, a generator: make a list of it first"):
        TaskObjectPacker().pack(task)


# ------------------------------------------------------------------------------------------- what a worker does with it


class Work(Task):
    """Does what it is told, and keeps a diary."""

    def __init__(self, fails: bool = False, litters: bool = False) -> None:
        super().__init__("work")
        self.fails, self.litters = fails, litters
        self.diary: list[str] = []

    def __call__(self) -> int:
        self.diary.append("called")
        if self.fails:
            raise ValueError("the work")
        return 7

    def clean_up(self) -> None:
        self.diary.append("tidied")
        if self.litters:
            raise OSError("the broom")


@pytest.mark.parametrize("fails", [False, True])
def test_a_task_tidies_up_once_after_its_work_whatever_came_of_it(fails: bool) -> None:
    work = Work(fails)
    if fails:
        with pytest.raises(ValueError, match="the work"):
            run_task(work)
    else:
        assert run_task(work) == 7
    assert work.diary == ["called", "tidied"]


def test_an_error_while_tidying_up_does_not_hide_the_error_of_the_work() -> None:
    with pytest.raises(ValueError, match="the work") as caught:
        run_task(Work(fails=True, litters=True))
    assert caught.value.__notes__ == ["its clean_up raised too: OSError: the broom"]


def test_a_task_that_cannot_tidy_up_has_failed() -> None:
    with pytest.raises(OSError, match="the broom"):
        run_task(Work(litters=True))


def test_a_task_without_work_says_what_it_lacks() -> None:
    with pytest.raises(NotImplementedError, match="give it a method __call__"):
        run_task(Task())


def test_so_it_does_where_its_class_was_sent() -> None:
    with pytest.raises(ValueError, match="the work") as caught:
        there(TaskObjectPacker(), Work(fails=True, litters=True))
    assert caught.value.__notes__ == ["its clean_up raised too: OSError: the broom"]
