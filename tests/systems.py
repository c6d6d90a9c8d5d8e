"""Task systems for tests to push: importable by workers, and in step with the test through files."""

import gc
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from concurrent_nb import ITaskSystem, Task
from concurrent_nb.tasks.system import MasterHandle
from tests import work


class Square(Task):
    def __init__(self, n: int) -> None:
        super().__init__("square")
        self.n = n

    def __call__(self) -> int:
        return self.n * self.n


class SlowSquare(Square):
    """Takes a millisecond or so."""

    def __call__(self) -> int:
        return work.slow_square(self.n)[0]


class Squares(ITaskSystem):
    """The sum of squares."""

    kind: type[Square] = Square
    host: Path | None = None  #: a file that gets the pid of the process in which it is hosted

    def __init__(self, count: int, kind: type[Square] = Square) -> None:
        self.count = count
        self.kind = kind

    def init_system(self, master: MasterHandle) -> None:
        self.total = 0
        if self.host is not None:
            work.write_whole(self.host, str(os.getpid()))

    def generate_tasks(self, master: MasterHandle) -> Iterator[Task]:
        return (self.kind(n) for n in range(self.count))

    def task_finished(self, master: MasterHandle, task: Task, result: Any, error: BaseException | None) -> None:
        if error is not None:
            raise error
        self.total += result

    def gather_result(self, master: MasterHandle) -> int:
        return self.total


class TwoPhases(Squares):
    """Squares of squares: the second phase begins when the first is over."""

    def init_system(self, master: MasterHandle) -> None:
        super().init_system(master)
        self.first: list[int] = []

    def task_finished(  # type: ignore[override]
        self, master: MasterHandle, task: Task, result: Any, error: BaseException | None
    ) -> Iterable[Task] | None:
        if len(self.first) < self.count:
            self.first.append(result)
            return [self.kind(n) for n in self.first] if len(self.first) == self.count else None
        self.total += result
        return None


class FailsLate(Squares):
    """Raises when all is done."""

    def gather_result(self, master: MasterHandle) -> NoReturn:
        raise work.Trouble("in gather_result", self.total)


class Shares(Squares):
    """Tells whether its host has what it runs in from its template: then the collector does not look at it."""

    def gather_result(self, master: MasterHandle) -> bool:
        module = sys.modules[type(master).__module__]
        return not any(thing is vars(module) for thing in gc.get_objects())


class FirstAbove(Squares):
    """Ends with the first square above a limit; there is no end of tasks."""

    def __init__(self, limit: int, kind: type[Square] = Square) -> None:
        super().__init__(0, kind)
        self.limit = limit

    def init_system(self, master: MasterHandle) -> None:
        super().init_system(master)
        self.found: int | None = None

    def generate_tasks(self, master: MasterHandle) -> Iterator[Task]:
        n = 0
        while True:
            yield self.kind(n)
            n += 1

    def task_finished(self, master: MasterHandle, task: Task, result: Any, error: BaseException | None) -> None:
        if result > self.limit:
            self.found = result

    def is_complete(self, master: MasterHandle) -> bool:
        return self.found is not None

    def gather_result(self, master: MasterHandle) -> dict[str, Any]:  # type: ignore[override]
        return {"found": self.found, **master.stats()}


class Endless(Squares):
    """Is never complete; says so with a file when it has had some results."""

    def __init__(self, started: Path) -> None:
        super().__init__(0)
        self.started = started

    def generate_tasks(self, master: MasterHandle) -> Iterator[Task]:
        yield from (SlowSquare(n) for n in range(100))
        yield Holds(self.started.with_suffix(".pid"))
        n = 0
        while True:
            yield SlowSquare(n)
            n += 1

    def task_finished(self, master: MasterHandle, task: Task, result: Any, error: BaseException | None) -> None:
        if task.task_id.endswith("/99"):
            work.write_whole(self.started, str(os.getpid()))


class Holds(Task):
    """Writes its worker's pid into a file and stays."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __call__(self) -> NoReturn:
        work.note(self.path, str(os.getpid()))
        while True:
            time.sleep(work.PATIENCE_S)


class Fails(Squares):
    """Raises in the method of that name."""

    def __init__(self, method: str) -> None:
        super().__init__(5)
        self.method = method

    def _fail_in(self, method: str) -> None:
        if method == self.method:
            raise work.Trouble(f"in {method}", 3)

    def init_system(self, master: MasterHandle) -> None:
        self._fail_in("init_system")
        super().init_system(master)

    def generate_tasks(self, master: MasterHandle) -> Iterator[Task]:
        self._fail_in("generate_tasks")
        return self._generate()

    def _generate(self) -> Iterator[Task]:
        yield FailsToo(self.method)
        self._fail_in("_generate")
        yield Square(1)

    def task_finished(self, master: MasterHandle, task: Task, result: Any, error: BaseException | None) -> None:
        self._fail_in("task_finished")
        super().task_finished(master, task, result, error)

    def is_complete(self, master: MasterHandle) -> bool:
        self._fail_in("is_complete")
        return super().is_complete(master)

    def gather_result(self, master: MasterHandle) -> int:
        self._fail_in("gather_result")
        return super().gather_result(master)


class FailsToo(Square):
    def __init__(self, method: str) -> None:
        super().__init__(2)
        self.method = method

    def __call__(self) -> int:
        if self.method == "__call__":
            raise work.Trouble("in __call__", 3)
        return super().__call__()

    def clean_up(self) -> None:
        if self.method == "clean_up":
            raise work.Trouble("in clean_up", 3)

    def finished(self, result: Any, error: BaseException | None) -> None:
        if self.method == "finished":
            raise work.Trouble("in finished", 3)


class Tidy(Task):
    """Cleans up behind itself, whether it fails or not."""

    def __init__(self, path: Path, fails: bool) -> None:
        super().__init__()
        self.path = path
        self.fails = fails
        self.heard: list[Any] = []

    def __call__(self) -> str:
        work.note(self.path, "called")
        if self.fails:
            raise ValueError("I was told to")
        return self.path.name

    def clean_up(self) -> None:
        work.note(self.path, "cleaned")

    def finished(self, result: Any, error: BaseException | None) -> None:
        # The slave has cleaned up before the result travelled.
        self.heard.append((result, type(error).__name__, self.path.read_text().split()))


class Tidies(ITaskSystem):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        return [Tidy(self.folder / "good", False), Tidy(self.folder / "bad", True)]

    def init_system(self, master: MasterHandle) -> None:
        self.ended: dict[str, Any] = {}

    def task_finished(self, master: MasterHandle, task: Task, result: Any, error: BaseException | None) -> None:
        assert isinstance(task, Tidy)
        ids = (task.task_id, task.system_id, task.client_id, task.slave_id)
        self.ended[task.path.name] = (*task.heard, ids)

    def gather_result(self, master: MasterHandle) -> Any:
        return self.system_id, self.ended


class Chatty(Squares):
    """Logs, prints, asks."""

    def init_system(self, master: MasterHandle) -> None:
        super().init_system(master)
        master.log("prepared")
        self.log.info("logged %d", 1)
        self.log.warning("careful")
        self.names = [slave["name"] for slave in master.status()["slaves"]]

    def gather_result(self, master: MasterHandle) -> Any:
        work.say("printed")
        return self.names


class Says(Square):
    def __call__(self) -> int:
        work.say(f"task {self.n} says")
        return self.n


class DiesAtFirst(Squares):
    """Its host is killed so many times while tasks of it run."""

    def __init__(self, count: int, deaths: int, folder: Path) -> None:
        super().__init__(count, SlowSquare)
        self.deaths = deaths
        self.folder = folder

    def task_finished(self, master: MasterHandle, task: Task, result: Any, error: BaseException | None) -> None:
        super().task_finished(master, task, result, error)
        if task.task_id.endswith("/9"):
            died = len(list(self.folder.glob("death-*")))
            if died < self.deaths:
                (self.folder / f"death-{died}").touch()
                os.kill(os.getpid(), 9)


class Hangs(Squares):
    """Never comes back from a method, whatever is raised in it."""

    def __init__(self, started: Path) -> None:
        super().__init__(1)
        self.started = started

    def task_finished(self, master: MasterHandle, task: Task, result: Any, error: BaseException | None) -> None:
        self.started.touch()
        work.spin()


class Floods(ITaskSystem):
    """Each task gives more than it takes, until its host has no memory left or is stopped."""

    def __init__(self, started: Path) -> None:
        self.started = started

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        return [Square(n) for n in range(100)]

    def task_finished(
        self, master: MasterHandle, task: Task, result: Any, error: BaseException | None
    ) -> Iterable[Task]:
        if master.stats()["done"] == 10_000:
            self.started.touch()
        return (Square(n) for n in range(10))
