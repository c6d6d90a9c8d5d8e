"""User code, called in our threads: everything that it raises is logged and goes no further."""

import logging
import threading
from collections.abc import Iterator

import pytest

from concurrent_nb import foreign

EVERYTHING = [ValueError("no"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(), MemoryError()]


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit("not even this")

    __repr__ = __str__


class Broken(logging.Handler):
    """A handler that raises, and does not hand it to `handleError`."""

    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit("the handler is broken")


@pytest.fixture
def log() -> foreign.Log:
    return foreign.Log("tests.foreign")


@pytest.fixture
def broken_handler(log: foreign.Log) -> Iterator[None]:
    handler = Broken()
    log.logger.addHandler(handler)
    yield
    log.logger.removeHandler(handler)


def in_a_thread(function: object, *args: object) -> None:
    """Run something in a thread, as ours are."""
    thread = threading.Thread(target=function, args=args)  # type: ignore[arg-type]
    thread.start()
    thread.join()


@pytest.mark.parametrize("error", [*EVERYTHING, Unspeakable()], ids=lambda error: type(error).__name__)
def test_every_exception_is_logged_and_returned(
    error: BaseException, log: foreign.Log, caplog: pytest.LogCaptureFixture
) -> None:
    def raises(what: object) -> None:
        assert what == "argument"
        raise error

    got: list[object] = []
    in_a_thread(lambda: got.append(foreign.call(log, "it has raised", raises, "argument")))
    assert got == [error]
    assert [record.message for record in caplog.records] == ["it has raised"]


def test_a_call_without_an_exception_logs_nothing(log: foreign.Log, caplog: pytest.LogCaptureFixture) -> None:
    got: list[int] = []
    foreign.guarded(log, "it has raised", got.append)(5)
    assert got == [5] and not caplog.records


def test_the_stop_button_passes_in_the_main_thread_only(log: foreign.Log) -> None:
    def pressed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        foreign.call(log, "it has raised", pressed)
    ended: list[object] = []
    in_a_thread(lambda: ended.append(foreign.call(log, "it has raised", pressed)))
    assert isinstance(ended[0], KeyboardInterrupt)


def test_an_exception_is_described_whatever_its_own_code_does() -> None:
    assert foreign.describe(ValueError("no")) == "ValueError: no"
    assert foreign.describe(ValueError()) == "ValueError"
    assert foreign.describe(Unspeakable()) == "Unspeakable: <its __str__ raised SystemExit>"


@pytest.mark.usefixtures("broken_handler")
def test_a_handler_that_raises_ends_nothing_and_its_message_is_not_lost(
    log: foreign.Log, capfd: pytest.CaptureFixture[str]
) -> None:
    log.warning("%s is %s", "water", "wet")
    foreign.call(log, "it has raised", [].pop)
    output = capfd.readouterr().err
    assert "has raised an exception for the message: %s is %s" in output
    assert "has raised an exception for the message: it has raised" in output
    assert "SystemExit: the handler is broken" in output


def test_a_record_names_the_callers_line(log: foreign.Log, caplog: pytest.LogCaptureFixture) -> None:
    log.warning("here")
    assert caplog.records[0].filename == "test_foreign.py"
