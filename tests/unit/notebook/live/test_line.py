"""The line that lives: its display, its thread, and what is left of them."""

import threading
from collections.abc import Iterator
from typing import Any

import comm
import pytest

from concurrent_nb.api import TaskEvent
from concurrent_nb.notebook.live import choice, line
from concurrent_nb.notebook.live.line import LiveLine
from concurrent_nb.notebook.live.views import TableView, View
from concurrent_nb.notebook.output import Printer
from tests.stories import MadeUp


class Page:
    """Stands for the notebook: remembers what is displayed where."""

    def __init__(self) -> None:
        self.shown: list[dict[str, Any]] = []
        self.updated = threading.Event()

    def display(self, data: dict[str, Any], **options: Any) -> Any:
        self.shown.append(data)
        return self if options.get("display_id") else None

    def update(self, data: dict[str, Any], **options: Any) -> None:
        self.shown.append(data)
        self.updated.set()


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    page = Page()
    monkeypatch.setattr(line, "display", page.display)
    monkeypatch.setattr(choice, "display", page.display)
    yield page
    assert comm.get_comm_manager().comms == {}, "a widget was left open"


def made(tasks: int, view: View | None = None) -> tuple[MadeUp, LiveLine]:
    it = MadeUp(tasks, view)
    it.job._events.clear()
    return it, LiveLine(it.job, it.story, 0.0, None, clock=lambda: 1.0)


def happens(it: MadeUp, *events: TaskEvent) -> None:
    it.job._events.extend(events)


def test_a_quick_job_shows_its_summary_only(page: Page) -> None:
    it, live = made(2)
    happens(it, it.end(0, 1), it.end(1, 2))
    live.make_room()
    live.end("done")
    assert page.shown == [{"text/plain": "done"}]


def test_a_quick_job_with_a_view_or_an_error_has_a_snapshot(page: Page) -> None:
    it, live = made(1, TableView([], lambda index: ()))
    happens(it, it.end(0, 1))
    live.end("done")
    it, live = made(1)
    it.job.futures[0].job = it.job
    happens(it, it.end(0, ValueError("oh")))
    live.end("failed")
    assert [set(shown) for shown in page.shown] == [{"text/plain", "text/html"}] * 2
    assert "oh" in page.shown[1]["text/html"]


def test_the_widget_gives_way_to_the_snapshot(page: Page) -> None:
    it, live = made(2)
    live.show("[----]")
    live.show("[#---]")
    widget = live._widget
    assert widget is not None
    assert widget.head["total"] == 2
    happens(it, it.end(0, 1), it.end(1, 2))
    live.end("done")
    first, last = page.shown
    assert first["text/plain"] == "[----]"
    assert first["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert last.keys() == {"text/plain", "text/html"}
    assert last["text/plain"] == "done"
    assert live._thread is not None
    assert not live._thread.is_alive()
    assert widget.comm is None


def test_a_lone_task_leaves_one_line(page: Page) -> None:
    it, live = made(1)
    live.show("running")
    happens(it, it.end(0, 1))
    live.end("done")
    assert page.shown[-1] == {"text/plain": "done"}


def test_a_view_that_fails_says_so_and_the_summary_is_shown(page: Page) -> None:
    class Broken(TableView):
        def ended(self, task: Any, state: int) -> None:
            raise RuntimeError("broken")

    it, live = made(1, Broken([], lambda index: ()))
    live.show("running")
    happens(it, it.end(0, 1))
    with pytest.warns(RuntimeWarning, match="the live view has failed: RuntimeError"):
        live.end("done")
    assert page.shown[-1] == {"text/plain": "done"}


def test_a_job_that_nobody_waits_for_ends_by_itself(page: Page) -> None:
    it, live = made(2)
    live.follow("[----]", lambda: "done", Printer(True))
    for future in it.job.futures:
        future.job = it.job
    happens(it, it.end(0, 1), it.end(1, 2))
    assert page.updated.wait(20)
    assert live._thread is not None
    live._thread.join(20)
    assert page.shown[-1]["text/plain"] == "done"
    assert "2 of" not in page.shown[-1]["text/html"]


def test_a_kernel_that_goes_down_takes_the_thread_along(page: Page) -> None:
    _, live = made(2)
    live.follow("[----]", lambda: "done", Printer(True))
    live._leave()
    assert live._thread is not None
    assert not live._thread.is_alive()
    assert len(page.shown) == 1


def test_many_tasks_are_announced(page: Page) -> None:
    assert choice.announce(10) is None
    place = choice.announce(10_000)
    assert page.shown == [{"text/plain": "sending 10,000 tasks"}]
    it = MadeUp(1)
    live = LiveLine(it.job, it.story, 0.0, None, place, clock=lambda: 1.0)
    happens(it, it.end(0, 1))
    live.end("done")
    assert page.shown[-1] == {"text/plain": "done"}
