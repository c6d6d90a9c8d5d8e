"""Snapshots: whole, small, and without anything that runs."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

from concurrent_nb import TaskFuture
from concurrent_nb.api import Counts, TaskNote
from concurrent_nb.ids import JobId
from concurrent_nb.notebook.live import job_page
from concurrent_nb.notebook.live.colours import RUNNING
from concurrent_nb.notebook.live.picture import Picture
from concurrent_nb.notebook.live.views import ImageView, SearchView, TableView, View
from concurrent_nb.notebook.progress_display import job_text
from concurrent_nb.shipping.runtime.notes import ProgressReport
from tests.made_up_jobs import MadeUpJob

EVIL = "</pre></div><script>alert(1)</script><img src=x onerror=alert(1)>\"'\x1b[2J\u202e"


TAGS = {"div", "span", "details", "summary", "b", "bdi", "pre", "img", "table", "thead", "tbody", "tr", "th", "td"}


class Seen(HTMLParser):
    """Collects tags, checks that they are closed in order, and reads the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}
        if tag not in ("img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def taken(it: MadeUpJob, picture: Picture | None = None, notes: Sequence[str] = ()) -> str:
    model = it.model
    model.finish()
    counts = it.job.counts()
    view = job_page.view(model.view_parts(), picture.png() if picture is not None else None)
    return job_page.page(
        {
            "head": job_page.head(model.head(counts, 2.0), notes),
            "bars": job_page.bars(model.bars()),
            "errors": job_page.errors(model.error_groups.parts()),
            "view": view,
            "timeline": job_page.timeline(model.timeline_parts(2.0)),
        }
    )


def finished(view: View | None, values: list[Any]) -> MadeUpJob:
    it = MadeUpJob(len(values), view)
    for future in it.job.futures:
        future.job = it.job
    it.model.update([it.end(index, value, slave=f"slave {EVIL}") for index, value in enumerate(values)], [])
    return it


def test_the_counts_come_first_and_the_timeline_last() -> None:
    seen = Seen(taken(finished(None, [1, 2]), notes=["on <3> slaves"]))
    assert seen.words.startswith("2 of 2 doneon <3> slaves · 2.0 s")
    assert "details" not in seen.tags
    assert "2 tasks" in seen.words
    assert seen.words.endswith("2.0 s")
    assert "failed" not in seen.words
    assert "cancelled" not in seen.words


def test_the_page_of_a_job_that_runs_looks_the_same() -> None:
    it = MadeUpJob(4)
    it.model.update([it.start(0, 0.5), it.end(1, 1)], [TaskNote(0, ProgressReport(0.25, "x" * 150))])
    head = job_page.head(it.model.head(Counts(2, 1, 1, 0, 0), 2.0))
    words = Seen(head).words
    assert words.startswith("1 of 4 done1 running2 waiting")
    assert "width:25.00%" in head
    assert "width:6.25%" in head  # what the running one has done
    bars = job_page.bars(it.model.bars())
    assert f'title="{"x" * 150}"' in bars
    page = job_page.page({"head": head, "bars": bars}, "cnb-job-1")
    assert page.startswith('<div class="concurrent-nb cnb-job-1" style="')
    assert page.partition("style=")[2].partition(">")[0] in taken(finished(None, [1, 2]))


def test_a_job_that_waits_for_results_of_others_says_so() -> None:
    it = MadeUpJob(4)
    needed = [TaskFuture(JobId(b"another".ljust(16)), index, lambda job, indexes: None) for index in range(3)]
    it.job._note_inputs([*needed, needed[0]])
    assert (
        "waits for 3 of 3 results of others · " in Seen(job_page.head(it.model.head(Counts(4, 0, 0, 0, 0), 2.0))).words
    )
    for future in needed[:2]:
        future.end(1, None)
    assert "waits for 1 of 3 results of others" in job_text(it.job, 2.0)
    del needed, future  # nobody keeps the last one
    assert it.job.input_counts() == (3, 0)
    assert "waits for" not in Seen(job_page.head(it.model.head(Counts(4, 0, 0, 0, 0), 2.0))).words


def test_the_way_to_the_first_task_is_named_where_it_is_long() -> None:
    it = MadeUpJob(2)
    it.model.update([it.end(0, 1, 1.9, 0.001), it.end(1, 1, 1.9, 0.001, worker=8)], [])
    assert "0 s · the first task began after 1.9 s" in Seen(taken(it)).words
    assert "began after" not in Seen(taken(finished(None, [1, 2]))).words


def test_the_timeline_of_many_slaves_has_to_be_opened() -> None:
    it = MadeUpJob(12)
    it.model.update([it.end(index, 1, slave=f"slave {index}") for index in range(12)], [])
    seen = Seen(taken(it))
    assert "timeline of 8 slaves" in seen.words
    assert "and 4 more slaves" in seen.words


def test_no_text_of_a_task_is_markup() -> None:
    views: list[View] = [
        TableView([EVIL], lambda index: (EVIL,)),
        SearchView(2, lambda index: EVIL),
        ImageView(2, None),
    ]
    for view in views:
        it = finished(view, [EVIL, ValueError(EVIL)])
        it.model.states[0] = RUNNING
        it.job.label = lambda index: EVIL
        it.model.update([], [TaskNote(0, ProgressReport(0.5, EVIL))])
        html = taken(it)
        seen = Seen(html)
        assert seen.tags <= TAGS
        assert seen.names <= {
            "class", "style", "src", "alt", "colspan", "title", "data-key", "data-pixels", "role",
            "aria-valuemin", "aria-valuemax", "aria-valuenow",
        }  # fmt: skip
        assert re.findall(r'src="(?!data:image/png;base64,[A-Za-z0-9+/=]*")', html) == []
        assert "\x1b" not in html
        assert "\u202e" not in html
        assert seen.words.count("<script>alert(1)</script>") >= 3


def test_a_picture_is_in_it() -> None:
    view = ImageView(3, None)
    html = taken(finished(view, [[1, 2], [3, 4], "odd"]), view.picture)
    words = Seen(html).words
    assert html.count("<img") == 3  # the picture, its colours, the timeline
    assert "3 \N{MULTIPLICATION SIGN} 2 pixels" in words
    assert "1 not drawn; task 2: str is not an array of pixels" in words
    empty = ImageView(1, None)
    assert "picture made" not in taken(finished(empty, [None]), empty.picture)


def test_a_search_shows_its_hit_or_that_there_was_none() -> None:
    it = MadeUpJob(4, SearchView(4, lambda index: f"n = {index}"))
    for future in it.job.futures:
        future.job = it.job
    it.model.update([it.end(0, None), it.hit(1, 42), it.cancel(2), it.cancel(3)], [])
    words = Seen(taken(it)).words
    assert "hit: 42 task 1 (n = 1) · 2 of 4 searched" in words
    assert "2 of 4 done2 cancelled" in words
    words = Seen(taken(finished(SearchView(2, str), [None, ValueError("x")]))).words
    assert "not found" in words
    assert "1 failed" in words
    assert Seen(taken(finished(SearchView(0, str), []))).words


def test_a_table_shows_where_rows_are_left_out() -> None:
    words = Seen(taken(finished(TableView(["n"], lambda index: (index,)), list(range(50))))).words
    assert "… 30 more" in words


def test_many_tasks_make_no_large_snapshot() -> None:
    it = MadeUpJob(20_000)
    events = [it.end(index, ValueError(f"{index % 40}th") if index % 3 else 1, index / 1e4) for index in range(20_000)]
    it.model.update(events, [])
    html = taken(it)
    assert len(html) < 20_000
    assert "13,333 times: tasks 1, 2, 4, 5, 7 and 13,328 more" in Seen(html).words


def test_errors_of_many_kinds_are_counted() -> None:
    words = Seen(taken(finished(None, [ValueError("x" * size) for size in range(30)]))).words
    assert "and 18 more errors of other kinds" in words


def test_a_lone_task_has_neither_bar_nor_timeline() -> None:
    it = finished(None, [1])
    assert "<img" not in taken(it)
    assert it.model.head(Counts(0, 0, 1, 0, 0), 1.0)["total"] == 1
