"""The end of what a cell has shown: in order, bounded, and with a count of what is left out."""

import json

import msgspec
import pytest

from concurrent_nb.notebook.output_tail import DISPLAYS, DISPLAYS_BYTES, LABEL_CHARACTERS, TEXT_BYTES, OutputTail

ROOM = 10_000_000


def stream(text: str, name: str = "stdout") -> dict[str, str]:
    return {"type": "stream", "name": name, "text": text}


def shown(**data: str) -> dict[str, object]:
    return {"type": "display", "data": {f"text/{kind}": text for kind, text in data.items()}, "metadata": {}}


def test_texts_and_displays_stay_in_order() -> None:
    tail = OutputTail()
    assert tail.parts(ROOM) == ([], 0)
    tail.add_text("stdout", "one\n")
    tail.add_text("stdout", "two\n")
    tail.add_text("stderr", "oh\n")
    tail.add_display({"text/plain": "a figure", "text/html": "<b>"}, "task 3 · n = 3")
    tail.add_text("stdout", "three\n")
    expected = [
        stream("one\ntwo\n"),
        stream("oh\n", "stderr"),
        shown(plain="task 3 · n = 3"),
        shown(plain="a figure", html="<b>"),
        stream("three\n"),
    ]
    assert tail.parts(ROOM) == (expected, 0)
    assert tail.parts(ROOM) == (expected, 0), "reading changes nothing"


def test_each_addition_is_a_version() -> None:
    tail = OutputTail()
    versions = {tail.version}
    tail.add_text("stdout", "x")
    versions.add(tail.version)
    tail.add_display({"text/plain": "y"})
    versions.add(tail.version)
    assert len(versions) == 3


@pytest.mark.parametrize("line", ["a line of output\n", "é" * 40 + "\n"])
def test_the_newest_text_is_kept(line: str) -> None:
    tail = OutputTail()
    size = len(line.encode())
    count = 3 * TEXT_BYTES // size
    for _ in range(count):
        tail.add_text("stdout", line)
    tail.add_text("stdout", "the last")
    (output,), dropped = tail.parts(ROOM)
    assert output["text"].endswith(line + "the last")
    kept = len(output["text"].encode())
    assert TEXT_BYTES - 10_000 < kept <= TEXT_BYTES
    assert kept + dropped == count * size + len("the last")


def test_of_one_large_text_the_end_is_kept() -> None:
    tail = OutputTail()
    tail.add_text("stderr", "x" * 1_000_000 + "the end")
    (output,), dropped = tail.parts(ROOM)
    assert output["text"].endswith("xthe end")
    assert len(output["text"]) + dropped == 1_000_007


def test_text_does_not_push_out_displays_nor_they_text() -> None:
    tail = OutputTail()
    tail.add_text("stdout", "first\n")
    for number in range(DISPLAYS + 3):
        tail.add_display({"text/plain": str(number)})
    outputs, dropped = tail.parts(ROOM)
    assert outputs == [stream("first\n"), *[shown(plain=str(number)) for number in range(3, DISPLAYS + 3)]]
    assert dropped > 0
    tail.add_text("stdout", "x" * TEXT_BYTES)
    kinds = [output["type"] for output in tail.parts(ROOM)[0]]
    assert kinds == ["display"] * DISPLAYS + ["stream"]


def test_displays_are_bounded_together() -> None:
    tail = OutputTail()
    for letter in "abcd":
        tail.add_display({"image/png": letter * (DISPLAYS_BYTES // 3)}, f"task {letter}")
    outputs, dropped = tail.parts(ROOM)
    assert [output["data"].get("image/png", "")[:1] for output in outputs] == ["", "c", "", "d"]
    assert dropped >= 2 * (DISPLAYS_BYTES // 3)


def test_a_display_that_is_too_large_is_named() -> None:
    tail = OutputTail()
    tail.add_display({"text/plain": "small"})
    tail.add_display({"image/png": "x" * (DISPLAYS_BYTES + 1), "text/plain": "<Figure>"})
    outputs, dropped = tail.parts(ROOM)
    assert outputs[0] == shown(plain="small")
    assert "image/png, text/plain: " in outputs[1]["data"]["text/plain"]
    assert "too large to be shown here" in outputs[1]["data"]["text/plain"]
    assert dropped > DISPLAYS_BYTES


def test_a_label_is_bounded() -> None:
    tail = OutputTail()
    tail.add_display({"text/plain": "x"}, "n" * 100_000)
    assert len(tail.parts(ROOM)[0][0]["data"]["text/plain"]) == LABEL_CHARACTERS


@pytest.mark.parametrize("limit_bytes", [0, 50, 1000, 20_000, 100_000, 250_000])
def test_the_json_of_the_outputs_keeps_to_the_limit(limit_bytes: int) -> None:
    """Also where most characters are escaped."""
    tail = OutputTail()
    for number in range(300):
        tail.add_text("stdout" if number % 3 else "stderr", f'\x1b[31m"{number}"\x1b[0m\n' * 40)
        if number % 50 == 0:
            tail.add_display({"image/svg+xml": '<a b="c">\n' * 2000}, f"task {number}")
    outputs, dropped = tail.parts(limit_bytes)
    assert len(msgspec.json.encode(outputs)) <= max(2, limit_bytes)
    assert dropped > 0
    if limit_bytes >= 20_000:
        assert outputs
        assert json.dumps(outputs[-1])


def test_lone_surrogates_can_be_sent() -> None:
    tail = OutputTail()
    tail.add_text("stdout", "\ud800!")
    tail.add_display({"text/plain": "\udcff"}, "\udfff")
    assert msgspec.json.encode(tail.parts(ROOM)[0])
