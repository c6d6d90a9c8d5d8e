"""Trace files: written page by page, whole or not at all."""

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from concurrent_nb.errors import ConfigurationError, MasterUnreachable
from concurrent_nb.nodes.common.trace_file import write_trace
from tests.traces import check_trace, slices_of_tasks
from tests.unit.telemetry.test_trace_format import JOB, task


class Pages:
    """A master with a number of tasks, in pages of ten."""

    def __init__(self, count: int, dropped: int = 0) -> None:
        self.tasks = [task(number) for number in range(count)]
        self.dropped = dropped
        self.asked: list[int] = []

    def read(self, since: int) -> Mapping[str, Any]:
        self.asked.append(since)
        more = since + 10 < len(self.tasks)
        page = {
            "name": "lab",
            "host": "host-1",
            "pid": 7,
            "dropped": self.dropped,
            "next": since + 10 if more else None,
        }
        jobs = {JOB: {"name": "squares", "application": "notebook"}}
        return {**page, "tasks": self.tasks[since : since + 10], "jobs": jobs}


def test_the_trace_with_which_the_browser_is_compared_is_what_is_written(tmp_path: Path) -> None:
    told = json.loads((Path(__file__).parents[3] / "web" / "trace.json").read_text())
    pages = {0: told["pages"][0], told["pages"][0]["next"]: told["pages"][1]}
    write_trace(tmp_path / "trace.json", pages.__getitem__)
    written = json.loads((tmp_path / "trace.json").read_text())
    check_trace(written["traceEvents"])
    assert written == told["trace"], "change tests/web/trace.json and web/static/trace_events.js, too"


def test_all_pages_are_in_the_file(tmp_path: Path) -> None:
    pages, path = Pages(25), tmp_path / "trace.json"
    path.write_text("an older one")
    summary = write_trace(path, pages.read)
    told = json.loads(path.read_text())
    check_trace(told["traceEvents"])
    assert len(slices_of_tasks(told["traceEvents"])) == 25
    assert told["otherData"] == {"cluster": "lab", "tasks": 25, "dropped": 0, "arrows": 25}
    assert pages.asked == [0, 10, 20]
    assert os.listdir(tmp_path) == ["trace.json"]
    assert str(summary) == (
        f"wrote 25 tasks on 1 slave to {path}. Open it in https://ui.perfetto.dev or chrome://tracing"
    )


def test_it_is_said_what_is_missing(tmp_path: Path) -> None:
    summary = write_trace(str(tmp_path / "trace.json"), Pages(1, dropped=1500).read)
    assert "wrote 1 task on 1 slave" in str(summary)
    assert "; 1,500 that ended earlier are not in the master's log any more." in str(summary)
    assert "which has no task: none has ended yet." in str(write_trace(tmp_path / "none.json", Pages(0).read))


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "trace.json"
    with pytest.raises(ConfigurationError, match=r"nowhere/trace.json cannot be written: No such file or directory"):
        write_trace(path, Pages(1).read)
    with pytest.raises(ConfigurationError, match="cannot be written: Is a directory"):
        write_trace(tmp_path, Pages(1).read)


def test_an_error_of_the_master_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text("an older one")

    def fails(since: int) -> Mapping[str, Any]:
        if since:
            raise MasterUnreachable("the master is gone")
        return Pages(25).read(0)

    with pytest.raises(MasterUnreachable, match="the master is gone"):
        write_trace(path, fails)
    assert path.read_text() == "an older one"
    assert os.listdir(tmp_path) == ["trace.json"]


def test_a_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_trace(pipe, Pages(3).read)
    reader.join()
    assert len(slices_of_tasks(json.loads(read[0])["traceEvents"])) == 3
    assert pipe.is_fifo()
