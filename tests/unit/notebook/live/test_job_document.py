"""The document of a job: what is in it, and that it fits."""

import base64
import json
import re
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concurrent_nb.wire
from concurrent_nb.api import TaskNote
from concurrent_nb.clock import ManualClock
from concurrent_nb.notebook.live.job_document import PNG_CHARACTERS, JobDocument
from concurrent_nb.notebook.live.picture import Picture, Still
from concurrent_nb.notebook.live.views import ImageView, SearchView, TableView, View
from concurrent_nb.notebook.output_tail import OutputTail
from concurrent_nb.shipping.runtime.notes import ProgressReport
from concurrent_nb.wire.jsonrpc import MAX_VIEW_BYTES
from tests.made_up_jobs import MadeUpJob

PROTOCOL = (Path(concurrent_nb.wire.__file__).parent / "PROTOCOL.md").read_text()


class Shown:
    """A made-up job, with the document of what is shown of it."""

    def __init__(self, tasks: int, view: View | None = None) -> None:
        self.it = MadeUpJob(tasks, view)
        self.clock = ManualClock()
        self.tail = OutputTail()
        self.document = JobDocument(self.it.job, self.it.model, threading.Lock(), 0.0, self.tail, self.clock)

    def read(self) -> Any:
        encoded = self.document.encode()
        assert len(encoded) <= MAX_VIEW_BYTES
        return json.loads(encoded)


def size_of(png: str) -> tuple[int, int]:
    data = base64.b64decode(png)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def noise(rows: int, columns: int, colours: bool = False) -> "np.ndarray[Any, Any]":
    shape = (rows, columns, 3) if colours else (rows, columns)
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def test_it_is_as_the_protocol_describes_it() -> None:
    (example,) = re.findall(r'```json\n(\{"format".*?\})\n```', PROTOCOL, re.DOTALL)
    told = json.loads(example)
    shown = Shown(5, ImageView(5, None))
    it = shown.it
    for index in range(5):
        it.model.update([it.start(index, 0.0)], [TaskNote(index, ProgressReport(0.5, "half"))])
    it.model.update([it.end(0, [1, 2]), it.end(1, ValueError("no")), it.end(4, ValueError("no"))], [])
    shown.tail.add_text("stdout", "[3] hello\n")
    shown.tail.add_display({"text/plain": "a figure"})
    read = shown.read()
    assert list(read) == list(told)
    assert read["errors"]["kinds"][0].keys() == told["errors"]["kinds"][0].keys()
    assert read["errors"]["kinds"][0]["count"] == 2
    assert read["bars"].keys() == told["bars"].keys()
    assert [len(bar) for bar in told["bars"]["bars"]] == [len(read["bars"]["bars"][0])]
    assert read["view"].keys() == told["view"].keys()
    assert [output.keys() for output in read["outputs"]] == [output.keys() for output in told["outputs"]]
    assert (read["format"], read["is_over"], read["dropped_bytes"]) == (1, False, 0)
    assert read["text"] == "[--------------------] 0/5 tasks"


@pytest.mark.parametrize("view", [SearchView(3, str), TableView(["n"], lambda index: [index])])
def test_other_views_are_as_in_the_cell(view: View) -> None:
    shown = Shown(3, view)
    shown.it.model.update([shown.it.end(0, 7), shown.it.end(1, KeyError("k"))], [])
    assert shown.read()["view"] == json.loads(json.dumps(shown.it.model.view_parts()))


def test_a_job_without_a_view_has_none() -> None:
    assert Shown(1).read()["view"] is None


def test_a_view_that_fails_is_left_out() -> None:
    class Broken(SearchView):
        def parts(self, states: bytearray) -> dict[str, Any]:
            raise RuntimeError("broken")

    shown = Shown(1, Broken(1, str))
    shown.tail.add_text("stdout", "still here")
    read = shown.read()
    assert read["view"] is None
    assert read["outputs"][0]["text"] == "still here"


def test_the_picture_is_a_png_and_is_encoded_when_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(3, ImageView(3, None))
    assert shown.read()["view"]["png"] == ""
    stills: list[Picture] = []
    still = Picture.still

    def counted(picture: Picture) -> Still | None:
        stills.append(picture)
        return still(picture)

    monkeypatch.setattr(Picture, "still", counted)
    shown.it.model.update([shown.it.end(0, [1, 2])], [])
    first = shown.read()["view"]
    assert size_of(first["png"]) == (3, 2)
    shown.tail.add_text("stdout", "a print is no new picture")
    assert shown.read()["view"] == first
    assert len(stills) == 1
    shown.it.model.update([shown.it.end(1, [3, 4])], [])
    assert shown.read()["view"]["png"] != first["png"]
    assert len(stills) == 2


def test_what_the_browser_of_the_cell_gets_does_not_change() -> None:
    """A still takes no changes away, and sets no range for later ones."""
    pictures = Picture(4), Picture(4)
    for picture in pictures:
        picture.add(0, [0, 10])
        picture.take()
        picture.add(1, [100, 50])
    assert pictures[0].still() is not None
    assert pictures[0].take() == pictures[1].take()


@pytest.mark.parametrize("colours", [False, True])
def test_a_large_picture_is_drawn_smaller(colours: bool) -> None:
    shown = Shown(1, ImageView(1, None))
    shown.it.model.update([shown.it.end(0, noise(2000, 1500, colours))], [])
    read = shown.read()["view"]
    assert PNG_CHARACTERS / 4 < len(read["png"]) <= PNG_CHARACTERS
    assert (read["width"], read["height"]) == (1500, 2000)
    width, height = size_of(read["png"])
    assert (width, height) == (-(-1500 // read["step"]), -(-2000 // read["step"]))
    assert read["step"] > 1


def test_the_pixels_of_a_smaller_picture_are_those_of_the_whole() -> None:
    picture = Picture(1)
    picture.add(0, np.arange(12.0).reshape(3, 4))
    still = picture.still()
    assert still is not None
    rows = zlib.decompress(re.findall(rb"IDAT(.*)....\x00\x00\x00\x00IEND", still.png(2), re.DOTALL)[0])
    assert [rows[0:3], rows[3:6]] == [b"\x00\x01\x2f", b"\x00\xba\xe8"]


def test_everything_at_once_fits() -> None:
    shown = Shown(400, ImageView(400, None))
    it = shown.it
    it.job.label = lambda index: "\u00e9" * 10_000
    ends = [it.end(0, noise(900, 900))]
    for index in range(1, 400):
        error = type(f"E{'x' * index}", (ValueError,), {})
        ends.append(it.end(index, error('"' * 100_000)))
    it.model._traceback = lambda future: '"\x1b[31m\n' * 10_000
    it.model.update(ends, [TaskNote(index, ProgressReport(0.1, '"' * 200)) for index in range(400)])
    for _ in range(10):
        shown.tail.add_display({"image/svg+xml": '"' * 290_000}, '"' * 1000)
        shown.tail.add_text("stderr", '"\x1b[0m' * 100_000)
    read = shown.read()
    assert read["dropped_bytes"] > 0
    assert len(read["errors"]["kinds"]) == 12
    assert read["view"]["png"]
    assert read["outputs"][-1]["text"].endswith('"\x1b[0m')


def test_the_time_that_passes_is_no_change_but_all_else_is() -> None:
    shown = Shown(2, ImageView(2, None))
    document, it = shown.document, shown.it
    versions = [document.version]

    def has_changed() -> bool:
        versions.append(document.version)
        return versions[-1] != versions[-2]

    shown.clock.advance(5)
    assert not has_changed()
    shown.tail.add_text("stdout", "x")
    assert has_changed()
    it.model.update([it.start(0, 1.0)], [])
    assert has_changed()
    it.model.update([], [TaskNote(0, ProgressReport(0.5, ""))])
    assert has_changed()
    it.model.update([it.end(0, ValueError("no"))], [])
    assert has_changed()
    document.summarize("2 tasks in 5 s")
    assert has_changed()
    document.finish()
    assert has_changed()
    assert not has_changed()


def test_the_summary_comes_before_the_end() -> None:
    """Prints may still follow the summary, so the document is final only when the display says so."""
    shown = Shown(1)
    shown.document.summarize("1 task\nin 5 s")
    read = shown.read()
    assert (read["text"], read["is_over"]) == ("1 task\\nin 5 s", False)
    shown.document.finish()
    assert shown.read()["is_over"] is True
