"""What tasks print, on its way to streams that take it, block, or raise."""

import io
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from concurrent_nb.nodes.application.task_output import HELD_MOST, PIECE, OutputThread


class Blocked(io.StringIO):
    """A stream whose reader does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.began = threading.Event()

    def write(self, text: str) -> int:
        self.began.set()
        self.gate.wait()
        return super().write(text)


class OnlyWrites:
    """Has no flush, no encoding."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def write(self, text: str) -> None:
        self.written.append(text)


class Raises:
    """Raises something at each write, and is no hashable object either."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.times = 0

    def __eq__(self, other: object) -> bool:
        raise AssertionError("streams are compared by identity")

    def write(self, text: str) -> None:
        self.times += 1
        raise self.error


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Callable[..., OutputThread]:
    def made(**options: Any) -> OutputThread:
        output = OutputThread("test", **options)
        request.addfinalizer(output.join)
        request.addfinalizer(output.close)
        return output

    return made


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def test_pieces_come_out_in_order_and_before_settle_returns(
    make: Callable[..., OutputThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, stream = make(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    for number in range(1000):
        output.write(1 + number % 2, f"{number},")
    output.write(1, "x" * (3 * PIECE + 1))
    output.settle()
    assert stream.getvalue() == "".join(f"{number}," for number in range(1000)) + "x" * (3 * PIECE + 1)


def test_a_call_keeps_its_place_among_the_pieces(
    make: Callable[..., OutputThread], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    output, stream = make(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    output.write(1, "before ")
    output.call(lambda: stream.write("shown "), 6)
    output.call(lambda: sys.exit(3), 0)
    output.write(1, "after")
    output.settle()
    assert stream.getvalue() == "before shown after"
    assert [record.message for record in caplog.records] == ["showing what a task displays has raised"]


@pytest.mark.parametrize(
    "stream",
    [
        closed(),
        Raises(BrokenPipeError(32, "Broken pipe")),
        Raises(SystemExit(3)),
        Raises(KeyboardInterrupt()),
        object(),
    ],
    ids=["closed", "broken pipe", "SystemExit", "KeyboardInterrupt", "no write"],
)
def test_what_cannot_be_written_is_dropped_with_one_warning(
    stream: Any, make: Callable[..., OutputThread], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    output, good = make(), io.StringIO()
    for _ in range(3):
        monkeypatch.setattr(sys, "stdout", stream)
        output.write(1, "lost")
        output.settle()
        monkeypatch.setattr(sys, "stdout", good)
        output.write(1, "kept ")
        output.settle()
    assert good.getvalue() == "kept kept kept "
    (record,) = caplog.records
    assert "standard output cannot be written, and is dropped: sys.stdout" in record.message


def test_each_stream_is_complained_of_once(
    make: Callable[..., OutputThread], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    output = make()
    for stream in (closed(), closed()):
        monkeypatch.setattr(sys, "stderr", stream)
        for _ in range(2):
            output.write(2, "lost")
            output.settle()
    assert len(caplog.records) == 2 and "sys.stderr (StringIO)" in caplog.records[0].message


def test_a_process_without_streams_prints_nothing(
    make: Callable[..., OutputThread], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    output = make()
    monkeypatch.setattr(sys, "stdout", None)
    output.write(1, "nowhere")
    output.settle()
    assert not caplog.records


def test_a_stream_with_nothing_but_write_is_enough(
    make: Callable[..., OutputThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, stream = make(), OnlyWrites()
    monkeypatch.setattr(sys, "stdout", stream)
    output.write(1, "text")
    output.settle()
    assert stream.written == ["text"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_an_encoding_that_cannot_say_a_character_replaces_it(
    encoding: str, make: Callable[..., OutputThread], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    output, raw = make(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    output.write(1, "snow ☃ man")
    output.settle()
    assert raw.getvalue() == b"snow ? man" and not caplog.records


def test_a_stream_without_a_reader_delays_nothing_and_loses_nothing(
    make: Callable[..., OutputThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    drained = threading.Event()
    output, stream = make(settle_s=0.01, drained=drained.set), Blocked()
    monkeypatch.setattr(sys, "stdout", stream)
    output.write(1, "first ")
    stream.began.wait()
    assert not output.settle()  # it returns, or the test hangs
    output.overtake()
    for number in range(100):
        output.write(1, f"{number} ")
        assert output.settle()
    assert not drained.is_set()
    stream.gate.set()
    drained.wait()
    output.write(1, "last")
    assert output.settle()
    assert stream.getvalue() == "first " + "".join(f"{number} " for number in range(100)) + "last"


def test_what_waits_is_bounded_and_omissions_are_reported(
    make: Callable[..., OutputThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, stream = make(settle_s=0.01, held_most=1000), Blocked()
    monkeypatch.setattr(sys, "stdout", stream)
    output.write(1, "a" * 600)
    stream.began.wait()
    output.write(1, "b" * 300)
    for _ in range(10):
        output.write(1, "c" * 200)
    output.write(1, "d" * 50)
    stream.gate.set()
    output.join()
    note = "[2,000 characters of output are left out here: the stream was not read for too long]"
    assert stream.getvalue() == "a" * 600 + "b" * 300 + f"\n{note}\n" + "d" * 50


def test_omissions_at_the_end_are_reported(make: Callable[..., OutputThread], monkeypatch: pytest.MonkeyPatch) -> None:
    output, stream = make(settle_s=0.01, held_most=10), Blocked()
    monkeypatch.setattr(sys, "stdout", stream)
    output.write(1, "a" * 10)
    stream.began.wait()
    output.write(1, "b")
    stream.gate.set()
    output.close()
    output.join()
    assert stream.getvalue().endswith(
        "[1 characters of output are left out here: the stream was not read for too long]\n"
    )


def test_a_single_piece_may_be_larger_than_all_that_may_wait(
    make: Callable[..., OutputThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, stream = make(held_most=10), io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    output.write(1, "x" * 100)
    output.settle()
    assert stream.getvalue() == "x" * 100 and HELD_MOST > 100
