"""The line that lives: its display, its thread, and what is left of them."""

import io
import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import comm
import pytest

from concurrent_nb.api import OutputPiece, TaskEvent
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.master_calls import MasterCalls
from concurrent_nb.notebook.cell_output import Printer
from concurrent_nb.notebook.live import live_display, view_choice
from concurrent_nb.notebook.live.job_views import JobViews
from concurrent_nb.notebook.live.live_display import RENEW_S, LiveDisplay
from concurrent_nb.notebook.live.views import ImageView, TableView, View
from tests.made_up_jobs import MadeUpJob


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
    monkeypatch.setattr(live_display, "display", page.display)
    monkeypatch.setattr(view_choice, "display", page.display)
    yield page
    assert comm.get_comm_manager().comms == {}, "a widget was left open"


def made(tasks: int, view: View | None = None) -> tuple[MadeUpJob, LiveDisplay]:
    it = MadeUpJob(tasks, view)
    it.job._events.clear()
    return it, LiveDisplay(it.job, it.model, 0.0, None, clock=lambda: 1.0)


def happens(it: MadeUpJob, *events: TaskEvent) -> None:
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
    assert "0 of 2" in widget.head
    assert widget.beat[0] == 1
    happens(it, it.end(0, 1), it.end(1, 2))
    live.end("done")
    first, last = page.shown
    assert first["text/plain"] == "[----]"
    assert first.keys() == {"text/plain", "text/html"}  # no widget that a saved notebook would miss
    assert f'class="concurrent-nb {widget.page_class}"' in first["text/html"]
    assert last.keys() == {"text/plain", "text/html"}
    assert last["text/plain"] == "done"
    assert widget.page_class not in last["text/html"]
    assert widget.last == last["text/html"]
    assert live._thread is not None
    assert not live._thread.is_alive()
    assert widget.comm is None


def test_a_lone_task_that_was_shown_stays_in_the_same_display(page: Page) -> None:
    it, live = made(1)
    live.show("running")
    happens(it, it.end(0, 1))
    live.end("done", 2.5)
    assert page.shown[-1]["text/plain"] == "done"
    assert "2.5 s" in page.shown[-1]["text/html"]


def test_the_page_is_renewed_for_notebooks_that_are_loaded_again(page: Page) -> None:
    now = [0.0]
    it = MadeUpJob(2, ImageView(2, None))
    it.job._events.clear()
    live = LiveDisplay(it.job, it.model, 0.0, None, clock=lambda: now[0])
    live.show("[----]")
    first = live._widget
    happens(it, it.end(0, [1, 2]))
    now[0] = 1 + RENEW_S[0]
    assert page.updated.wait(20)
    renewed = page.shown[1]["text/html"]
    assert "as of" in renewed
    assert "data:image/png" in renewed
    second = live._widget
    assert second is not None
    assert first is not None
    assert second is not first
    assert first.comm is None
    assert second.page_class == first.page_class
    assert second.tiles["full"]
    live.end("done")


@pytest.mark.parametrize("name", ["VSCODE_PID", None])
def test_the_widget_is_displayed_where_its_program_runs_only_then(
    page: Page, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    monkeypatch.delenv("VSCODE_PID", raising=False)
    if name is not None:
        monkeypatch.setenv(name, "1")
    _, live = made(2)
    live.show("[----]")
    live.end("done")
    assert ("application/vnd.jupyter.widget-view+json" in page.shown[0]) is (name is not None)
    assert "application/vnd.jupyter.widget-view+json" not in page.shown[-1]


def test_a_view_that_fails_is_reported_and_the_summary_is_shown(page: Page) -> None:
    class Broken(TableView):
        def ended(self, task: Any, state: int) -> None:
            raise RuntimeError("broken")

    it, live = made(1, Broken([], lambda index: ()))
    live.show("running")
    happens(it, it.end(0, 1))
    with pytest.warns(RuntimeWarning, match="the live display has failed: RuntimeError"):
        live.end("done")
    assert page.shown[-1] == {"text/plain": "done"}


def test_a_job_in_the_background_ends_by_itself(page: Page) -> None:
    it, live = made(2)
    live.follow("[----]", lambda: "done", Printer(True))
    for future in it.job.futures:
        future.job = it.job
    happens(it, it.end(0, 1), it.end(1, 2))
    assert page.updated.wait(20)
    assert live._thread is not None
    live._thread.join(20)
    assert page.shown[-1]["text/plain"] == "done"
    assert "2 of 2" in page.shown[-1]["text/html"]


def test_a_kernel_that_goes_down_takes_the_thread_along(page: Page) -> None:
    _, live = made(2)
    live.follow("[----]", lambda: "done", Printer(True))
    live._stop_thread()
    assert live._thread is not None
    assert not live._thread.is_alive()
    assert len(page.shown) == 1


class Publisher:
    """Stands for the one of the process."""

    def __init__(self) -> None:
        self.added: list[Any] = []
        self.finished: list[dict[str, Any]] = []

    def add(self, view: Any) -> None:
        self.added.append(view)

    def finish(self, view: Any) -> None:
        view.finish()
        self.finished.append(json.loads(view.encode()))


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Publisher:
    publisher = Publisher()
    monkeypatch.setattr(live_display, "PUBLISHER", publisher)
    return publisher


def test_a_job_on_a_cluster_is_shared_until_all_was_shown(page: Page, publisher: Publisher) -> None:
    it, live = made(2, TableView([], lambda index: ()))
    printer = Printer(True, io.StringIO(), io.StringIO())
    live.share(printer.tail)
    assert publisher.added == [], "it runs without a cluster"
    it.job.ask = cast(MasterCalls, object())
    live.share(printer.tail)
    live.share(printer.tail)
    assert len(publisher.added) == 1
    happens(it, it.end(0, 1), it.end(1, ValueError("oh")))
    it.job.futures[1].job = it.job
    live.end("2 tasks in 1 s")
    printer.show([(0, 1, "the last print\n")])
    assert publisher.finished == []
    live.end_sharing()
    live.end_sharing()
    (last,) = publisher.finished
    assert (last["text"], last["is_over"], last["view"]["kind"]) == ("2 tasks in 1 s", True, "table")
    assert last["outputs"] == [{"type": "stream", "name": "stdout", "text": "[0] the last print\n"}]
    assert last["errors"]["kinds"][0]["type"] == "ValueError"


def test_a_job_in_the_background_is_shared_with_what_it_prints(page: Page, publisher: Publisher) -> None:
    it, live = made(1)
    it.job.ask = cast(MasterCalls, object())
    it.job.futures[0].job = it.job
    live.follow("[----]", lambda: "done", Printer(True, io.StringIO(), io.StringIO()))
    it.job._task_wrote(OutputPiece(0, 2, "not a whole line"))
    happens(it, it.end(0, 1))
    assert live._thread is not None
    live._thread.join(20)
    (last,) = publisher.finished
    assert (last["text"], last["outputs"][0]["name"]) == ("done", "stderr")
    assert last["outputs"][0]["text"] == "[0] not a whole line\n"


def test_a_cell_that_returns_a_system_shares_its_task_to_the_end(page: Page, publisher: Publisher) -> None:
    it, live = made(1)
    it.job.ask = cast(MasterCalls, object())
    live.share(Printer(True).tail)
    live.show("running")
    live.hand_over()
    assert [view["is_over"] for view in publisher.finished] == [True]


def test_many_tasks_are_announced(page: Page) -> None:
    assert view_choice.announce(10) is None
    handle = view_choice.announce(10_000)
    assert page.shown == [{"text/plain": "sending 10,000 tasks"}]
    it = MadeUpJob(1)
    live = LiveDisplay(it.job, it.model, 0.0, None, handle, clock=lambda: 1.0)
    happens(it, it.end(0, 1))
    live.end("done")
    assert page.shown[-1] == {"text/plain": "done"}


def views_of(it: MadeUpJob, monkeypatch: pytest.MonkeyPatch) -> JobViews:
    monkeypatch.setattr(view_choice, "is_possible", lambda shell: True)
    for future in it.job.futures:
        future.job = it.job
    shell: Any = SimpleNamespace(compile=SimpleNamespace(format_code_name=lambda name: None))
    return JobViews(shell)


def test_a_job_that_has_ended_is_shown_again(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    it = MadeUpJob(3)
    it.job.watched = False
    views = views_of(it, monkeypatch)
    it.end(0, 1)
    it.end(1, ValueError("oh no"))
    it.job.futures[2].end_cancelled()
    data = views.bundle(it.job)
    assert data["text/plain"] == repr(it.job)
    assert "1 of 3" in data["text/html"]
    assert "oh no" in data["text/html"]
    assert "cnb-job" not in data["text/html"]
    assert views.bundle(it.job) == data


def test_a_job_that_runs_is_followed_wherever_it_is_shown(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    it = MadeUpJob(2)
    views = views_of(it, monkeypatch)
    monkeypatch.setattr("concurrent_nb.notebook.live.job_views.display", page.display)
    data = views.bundle(it.job)
    assert f"cnb-job-{it.job.id.hex()}" in data["text/html"]
    assert "as of" in data["text/html"]
    views.show(it.job)
    happens(it, it.end(0, 1), it.end(1, 2))
    assert page.updated.wait(20)
    for thread in [thread for thread in threading.enumerate() if thread.name == "concurrent_nb live display"]:
        thread.join(20)
    assert "2 of 2" in page.shown[-1]["text/html"]
    assert "2 of 2" in views.bundle(it.job)["text/html"]


def test_a_job_in_the_background_is_shown_when_its_cell_ends_before_it(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, slow = MadeUpJob(1), MadeUpJob(2)
    views = views_of(quick, monkeypatch)
    views_of(slow, monkeypatch)
    slow.job.id = JobId(b"\2" * 16)
    for it in (quick, slow):
        views.job_started(it.job)
    quick.end(0, 1)
    views.cell_ended()
    [shown] = page.shown
    assert "0 of 2" in shown["text/html"]
    views.cell_ended()
    assert len(page.shown) == 1
    happens(slow, slow.end(0, 1), slow.end(1, 2))
    assert page.updated.wait(20)
    for thread in [thread for thread in threading.enumerate() if thread.name.startswith("concurrent_nb")]:
        thread.join(20)
    assert "2 of 2" in page.shown[-1]["text/html"]
