"""Notes: what they cost, what they carry, and what arrives of a stream that comes in pieces."""

import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.errors import ProtocolError, TooLarge
from concurrent_nb.shipping.runtime import notes
from concurrent_nb.shipping.runtime.notes import (
    Display,
    Note,
    NoteReader,
    NoteSink,
    ProgressReport,
    Publication,
    TaskStatistics,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Listener:
    """A sink that somebody listens to."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.sink = NoteSink(self.clock)
        self.sent: list[bytes] = []
        self.sink.open(self.sent.append)

    def heard(self) -> list[Note]:
        return NoteReader().feed(b"".join(self.sent))


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """Be a task."""
    listener = Listener()
    monkeypatch.setattr(notes._ThreadSink, "sink", listener.sink)
    yield listener
    listener.sink.close()


def test_a_thread_that_has_its_own_sink_shares_no_notes(heard: Listener) -> None:
    mine: list[bytes] = []
    seen: list[bool] = []

    def run_tasks() -> None:
        notes.use_thread_sink()
        seen.extend([notes.sink().is_open, notes.shares_process()])
        notes.sink().open(mine.append)
        notes.report(0.5, "mine")

    thread = threading.Thread(target=run_tasks)
    thread.start()
    thread.join()
    notes.report(0.25, "ours")
    assert seen == [False, True]
    assert NoteReader().feed(b"".join(mine)) == [ProgressReport(0.5, "mine")]
    assert heard.heard() == [ProgressReport(0.25, "ours")]
    assert not notes.shares_process()


# --------------------------------------------------------------------------------------------------------- reports


def test_a_report_says_how_far_and_what(heard: Listener) -> None:
    notes.report(0.25, "reading")
    assert heard.heard() == [ProgressReport(0.25, "reading")]


def test_reports_that_come_too_fast_are_left_out_but_for_the_last(heard: Listener) -> None:
    for step in range(1000):
        heard.clock.now += 0.001
        notes.report(step / 1000, str(step))
    heard.sink.close()
    said = heard.heard()
    assert said[0] == ProgressReport(0.0, "0")
    assert said[-1] == ProgressReport(0.999, "999")
    assert 15 <= len(said) <= 22


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_fraction_is_from_0_to_1(heard: Listener, fraction: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        notes.report(fraction)


def test_a_report_needs_no_fraction_and_its_text_is_cut(heard: Listener) -> None:
    notes.report(text="x" * 1000)
    assert heard.heard() == [ProgressReport(None, "x" * notes.TEXT_MAX)]


def test_outside_of_a_task_nobody_listens() -> None:
    notes.report(0.5)
    notes.publish(object)


# ---------------------------------------------------------------------------------------------- partial results


def test_what_is_published_is_opened_when_it_is_asked_for(heard: Listener) -> None:
    notes.publish({"rows": [1, 2]})
    [note] = heard.heard()
    assert isinstance(note, Publication)
    assert note.value == {"rows": [1, 2]}


def test_arrays_travel_and_may_be_written_to(heard: Listener) -> None:
    import numpy as np

    notes.publish(np.arange(100_000))
    [note] = heard.heard()
    assert isinstance(note, Publication)
    value = note.value
    value[0] = 7
    assert value.sum() == 7 + sum(range(100_000))


def test_a_task_cannot_publish_without_end(heard: Listener) -> None:
    megabyte = bytes(1 << 20)
    for _ in range(15):
        notes.publish(megabyte)
    with pytest.raises(TooLarge, match="16 MiB: publish less, or return it"):
        notes.publish(megabyte)
    assert len(heard.sent) == 15


def test_many_small_notes_count_too(heard: Listener) -> None:
    at_most = notes.LIMIT_BYTES // notes.OVERHEAD_BYTES

    def publish_much() -> None:
        for _ in range(at_most):
            notes.publish(None)

    with pytest.raises(TooLarge):
        publish_much()


# -------------------------------------------------------------------------------------------------------- pictures


class Rich:
    def __init__(self, **given: Any) -> None:
        for name, value in given.items():
            setattr(self, f"_repr_{name}_", lambda value=value: value)

    def __repr__(self) -> str:
        return "rich"


@pytest.mark.parametrize(
    ("thing", "data"),
    [
        pytest.param(3, {"text/plain": "3"}, id="plain"),
        pytest.param(Rich(html="<b>1</b>"), {"text/html": "<b>1</b>", "text/plain": "rich"}, id="html"),
        pytest.param(Rich(png=b"\x89PNG"), {"image/png": "iVBORw==", "text/plain": "rich"}, id="png in base64"),
        pytest.param(Rich(html=None), {"text/plain": "rich"}, id="one that declines"),
        pytest.param(Rich(mimebundle={"text/plain": "p", "a/b": {"c": 1}}), {"text/plain": "p", "a/b": '{"c":1}'}),
        pytest.param(Rich(mimebundle=({"a/b": "x"}, {"m": 1})), {"a/b": "x", "text/plain": "rich"}, id="and metadata"),
        pytest.param(Rich, {"text/plain": repr(Rich)}, id="a class is no instance"),
    ],
)
def test_a_thing_is_asked_how_it_looks(heard: Listener, thing: Any, data: dict[str, str]) -> None:
    notes.display(thing)
    [note] = heard.heard()
    assert isinstance(note, Display)
    assert note.data == data


def test_a_representation_that_fails_is_told_of(heard: Listener, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def _repr_html_(self) -> str:
            raise RuntimeError("no colour")

        def __repr__(self) -> str:
            raise RuntimeError("no name")

    notes.display(Broken())
    [note] = heard.heard()
    assert isinstance(note, Display)
    assert note.data == {"text/plain": "<a Broken whose repr() raised RuntimeError: no name>"}
    assert "_repr_html_ of a Broken raised RuntimeError: no colour" in capsys.readouterr().err


def test_a_figure_is_a_picture(heard: Listener) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    notes.display(figure)
    [note] = heard.heard()
    assert isinstance(note, Display)
    assert note.data["image/png"].startswith("iVBORw0KGgo")


# -------------------------------------------------------------------------------------------------------- the stream


def statistics(name: str = "rows", count: int = 1, bins: Any = None) -> bytes:
    """A record of a statistic, as a task might forge it."""
    return notes._record(TaskStatistics([(name, (count, 1.0, 1.0, 1.0, bins or {40_000: 1}))]))


_said = st.lists(st.builds(ProgressReport, st.none() | st.floats(0, 1), st.text(max_size=20)), max_size=8)


@given(_said, st.lists(st.integers(1, 9), max_size=40))
def test_a_stream_may_be_cut_anywhere(said: list[ProgressReport], cuts: list[int]) -> None:
    data = b"".join(notes._record(note) for note in said)
    reader, heard, at = NoteReader(), [], 0
    for size in [*cuts, len(data) + 1]:
        heard += reader.feed(data[at : at + size])
        at += size
    assert heard == said


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(struct.pack("<I", notes.LIMIT_BYTES + 1), id="too long"),
        pytest.param(struct.pack("<I", 3) + b"abc", id="no note"),
        pytest.param(struct.pack("<I", 1) + b"\xc1", id="no msgpack"),
        pytest.param(statistics("x" * 201), id="the name of a statistic is too long"),
        pytest.param(statistics(count=0), id="a statistic of nothing"),
        pytest.param(statistics(bins={10**9: 1}), id="a bin that no number has"),
        pytest.param(statistics(bins={"x": 1}), id="a bin that is no number"),
    ],
)
def test_what_is_no_note_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="note of a task"):
        NoteReader().feed(data)


def test_what_is_updated_is_shown_once_more(heard: Listener) -> None:
    handle = notes.display("first", display_id=True)
    assert handle is not None
    handle.update("second")
    assert notes.display("third") is None
    notes.clear_output(wait=True)
    shown = [note.data["text/plain"] for note in heard.heard() if isinstance(note, Display)]
    assert shown == ["'first'", "'second'", "'third'"]
