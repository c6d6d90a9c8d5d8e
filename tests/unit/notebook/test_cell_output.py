"""What tasks print is shown as it comes, cleaned and marked."""

import io
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.api import OutputPiece, TaskDisplay
from concurrent_nb.clock import ManualClock
from concurrent_nb.notebook import cell_output
from concurrent_nb.notebook.cell_output import HOLD_S, LINE_CHARACTERS, Printer, clean
from concurrent_nb.shipping.runtime.notes import Display


def shown(pieces: list[tuple[int, int, str]], tagged: bool = True) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    printer = Printer(tagged, out, err)
    for piece in pieces:
        printer.show([piece])
    printer.flush()
    return out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x1b[38;2;1;2;3mtrue\x1b[m", "\x1b[38;2;1;2;3mtrue\x1b[m"),
        ("10%\r20%\r", "10%\r20%\r"),
        ("a\x1b[2Jb\x1b[1;1Hc\x1b[?25ld\x1b[Ae", "abcde"),
        ("a\x1b]0;title\x07b\x1b]8;;http://x\x1b\\c", "abc"),
        ("a\x1bPdevice\x1b\\b\x1b_apc\x1b\\c", "abc"),
        ("a\x1bcb\x1b7c\x1b(Bd", "abcd"),
        ("a\x00b\x07c\x08d\x0be\x0cf\x7fg\x9bh", "abcdefgh"),
        ("é 漢 🎉 \u202e", "é 漢 🎉 "),
        ("a\u202ab\u202bc\u202cd\u202de\u2066f\u2067g\u2068h\u2069i", "abcdefghi"),
        ("\u05e9\u05dc\u05d5\u05dd \u200f\u200e \u061c\u0639", "\u05e9\u05dc\u05d5\u05dd \u200f\u200e \u061c\u0639"),
        ("\x1b[8mhidden\x1b[0m \x1b[1;8;31mred\x1b[08m", "hidden\x1b[0m \x1b[1;31mred"),
        ("\x1b[38;5;8mgrey \x1b[48;2;8;8;8;8mblack \x1b[38;5m", "\x1b[38;5;8mgrey \x1b[48;2;8;8;8mblack \x1b[38;5m"),
        ("\x1b[28mshown \x1b[18m", "\x1b[28mshown \x1b[18m"),
    ],
)
def test_only_colours_and_returns_are_left_of_control_sequences(text: str, left: str) -> None:
    assert clean(text) == left


@given(st.text(alphabet="ab;0m1[]()\x1b\x07\\\r\n\t\x00\x9b?", max_size=40))
def test_nothing_that_moves_the_cursor_gets_through(text: str) -> None:
    left = clean(text)
    for sequence in left.split("\x1b")[1:]:
        assert sequence.startswith("[")
        assert sequence.lstrip("[0123456789;:").startswith("m")
    assert not set("\x00\x07\x9b") & set(left)


def test_lines_are_marked_with_their_task() -> None:
    assert shown([(0, 1, "a\nb\n"), (12, 1, "c\n"), (3, 2, "bad\n")]) == ("[0] a\n[0] b\n[12] c\n", "[3] bad\n")


def test_a_line_in_pieces_is_one_line() -> None:
    pieces = [(0, 1, "he"), (1, 1, "x\n"), (0, 1, "llo\nwor"), (0, 1, "ld")]
    assert shown(pieces)[0] == "[1] x\n[0] hello\n[0] world\n"


def test_the_unfinished_line_of_a_task_that_has_ended_is_shown() -> None:
    out = io.StringIO()
    printer = Printer(True, out)
    printer.show([(0, 1, "a"), (1, 1, "b")])
    printer.finish([0])
    assert out.getvalue() == "[0] a\n"


def test_a_task_that_has_ended_needs_no_newline() -> None:
    job: Any = SimpleNamespace(futures=[Future(), Future()])
    ended: Future[None] = Future()
    ended.set_result(None)
    out = io.StringIO()
    printer = Printer(True, out)
    pieces = [OutputPiece(1, 1, "c"), OutputPiece(1, 1, "b"), OutputPiece(0, 1, "a")]
    job.take_output = lambda: [pieces.pop()]
    while pieces:
        printer.take(job)
        job.futures[0] = ended
    assert out.getvalue() == "[0] a\n"


def test_a_return_keeps_the_mark() -> None:
    assert shown([(4, 1, "10%\r20%\r\n")])[0] == "[4] 10%\r[4] 20%\n"


def test_a_colour_ends_with_its_line() -> None:
    assert shown([(0, 1, "\x1b[31mred\nplain\n")])[0] == "[0] \x1b[31mred\x1b[0m\n[0] plain\n"


def test_a_very_long_line_is_shown_in_pieces() -> None:
    out = shown([(0, 1, "x" * (LINE_CHARACTERS + 1)), (0, 1, "y\n")])[0]
    assert out == f"[0] {'x' * (LINE_CHARACTERS + 1)}\n[0] y\n"


def test_the_output_of_a_single_task_is_shown_as_it_is() -> None:
    assert shown([(0, 1, "10%\r"), (0, 1, "20%"), (0, 2, "bad\n")], tagged=False) == ("10%\r20%", "bad\n")


def test_a_sequence_that_comes_in_two_pieces_is_one() -> None:
    for tagged in (False, True):
        out = shown([(0, 1, "a\x1b[2"), (0, 1, "Jb\x1b]0;ti"), (0, 1, "tle\x07c\n")], tagged)[0]
        assert out.endswith("abc\n")


def test_a_sequence_that_never_ends_is_dropped_at_the_end() -> None:
    assert shown([(0, 1, "a\x1b]0;title")], tagged=False)[0] == "a"


def test_colours_of_a_single_task_are_ended() -> None:
    assert shown([(0, 1, "\x1b[31mred\n")], tagged=False)[0] == "\x1b[31mred\n\x1b[0m"
    assert shown([(0, 1, "\x1b[31mred\x1b[0m\n")], tagged=False)[0] == "\x1b[31mred\x1b[0m\n"


@given(st.text(max_size=60), st.data())
def test_pieces_make_no_difference(text: str, data: Any) -> None:
    text = text.replace("\x1b", "")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    for tagged in (False, True):
        assert shown([(0, 1, p) for p in pieces], tagged) == shown([(0, 1, text)], tagged)


def test_displays_are_labelled_and_in_the_order_of_their_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    displayed: list[Any] = []
    monkeypatch.setattr(cell_output, "display", lambda data, **options: displayed.append(data))
    clock = ManualClock()
    pieces: list[TaskDisplay] = []
    job: Any = SimpleNamespace(futures=[Future() for _ in range(5)], label=lambda index: f"k = {index}")
    job.take_output = lambda: [pieces.pop(0) for _ in range(len(pieces))]
    printer = Printer(True, io.StringIO(), io.StringIO(), clock)

    def shows(index: int) -> None:
        pieces.append(TaskDisplay(index, Display({"image/png": f"picture {index}"}, {})))

    def pictures() -> list[str]:
        return [data["image/png"][-1] for data in displayed if "image/png" in data]

    shows(1)
    shows(3)
    printer.take(job)
    assert pictures() == []
    shows(0)
    printer.take(job)
    assert pictures() == ["0"]  # it runs, and all before it have ended
    job.futures[0].set_result(1)
    printer.take(job)
    assert pictures() == ["0", "1"]
    assert displayed[2]["text/plain"] == "task 1 \N{MIDDLE DOT} k = 1"
    assert "text/html" in displayed[2]
    clock.advance(HOLD_S)
    printer.take(job)
    assert pictures() == ["0", "1", "3"]  # the wait for earlier tasks is limited
    shows(4)
    shows(2)
    printer.take(job)
    printer.flush()
    assert pictures() == ["0", "1", "3", "2", "4"]
    kept = [next(iter(output["data"].values())) for output in printer.tail.parts(10_000)[0]]
    assert kept[:4] == ["task 0 \N{MIDDLE DOT} k = 0", "picture 0", "task 1 \N{MIDDLE DOT} k = 1", "picture 1"]


def test_what_was_written_is_kept_for_others_as_it_was_shown() -> None:
    printer = Printer(True, io.StringIO(), io.StringIO())
    printer.show([(3, 1, "\x1b[2J\x1b[31mred\n"), (1, 2, "no end")])
    printer.flush()
    outputs, _ = printer.tail.parts(10_000)
    assert [(output["name"], output["text"]) for output in outputs] == [
        ("stdout", "[3] \x1b[31mred\x1b[0m\n"),
        ("stderr", "[1] no end\n"),
    ]
