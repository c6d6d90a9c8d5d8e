"""A batch in the worker: where it ends, what it tells of each item, and whose is what was printed and noted."""

import io
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.outcome import Hit, Status
from concurrent_nb.shipping.runtime import call_chunks, job_batches, notes
from concurrent_nb.shipping.runtime.call_chunks import BatchTerms, ChunkResults
from concurrent_nb.shipping.runtime.job_batches import MarkedStream, MarkReader, mark
from concurrent_nb.wire.codec import decode_error

SECRET = "key"


def ticks(step_s: float = 1.0) -> Callable[[], float]:
    """Give a clock that goes on by a step whenever somebody looks."""
    now = iter(range(1_000_000))
    return lambda: next(now) * step_s


def ran(
    function: Callable[..., Any], items: int, *, until: bool = False, stop: bool = False, most_s: float | None = None
) -> Any:
    """Send a batch of numbers, and run it; return its rows, seconds, and whether it was cut, perhaps in a Hit."""
    body = call_chunks.dumps_calls([(n,) for n in range(items)], range(items), BatchTerms(until, stop, most_s, SECRET))
    args, (numbers, *terms) = pickle.loads(body)
    results = job_batches.run(function, args, numbers, BatchTerms(*terms), clock=ticks())
    return Hit(received(results.value)) if isinstance(results, Hit) else received(results)


def received(results: Any) -> tuple[list[Any], list[float], bool]:
    """Return rows, seconds, and whether the batch was cut, as an application gets them."""
    items, seconds, is_cut = pickle.loads(job_batches.dumps_results(results)[0])
    return ChunkResults(*items).rows(), seconds, is_cut


def raises_at(position: int, kind: type[BaseException] = ValueError) -> Callable[[int], int]:
    def function(n: int) -> int:
        if n == position:
            raise kind(n)
        return n * n

    return function


def test_each_item_has_its_answer_and_its_time() -> None:
    assert ran(lambda n: n * n, 3) == ([0, 1, 4], [1.0, 1.0, 1.0], False)


def test_items_without_arguments_are_items_too() -> None:
    args, (numbers, *terms) = pickle.loads(
        call_chunks.dumps_calls([(), ()], range(2), BatchTerms(False, False, None, SECRET))
    )
    ran = job_batches.run(lambda: 5, args, numbers, BatchTerms(*terms))
    assert received(ran)[0] == [5, 5]


def test_an_item_that_fails_ends_the_batch_only_if_it_is_to() -> None:
    answers, _, is_cut = ran(raises_at(1), 4)
    assert (answers[0], answers[2:], is_cut) == (0, [4, 9], False)
    answers, seconds, is_cut = ran(raises_at(1), 4, stop=True)
    assert (len(answers), len(seconds), is_cut) == (2, 2, False)
    status, report = answers[1]
    assert status == Status.ERROR
    assert "job_batches.py" not in decode_error(report).traceback.replace("test_job_batches.py", "")


def test_a_hit_is_the_last_if_it_is_to_be() -> None:
    def search(n: int) -> object:
        return Hit(n) if n == 2 else n

    found = ran(search, 5, until=True)
    assert type(found) is Hit
    value: Any = found.value
    first, second, hit = value[0]
    assert (first, second, pickle.loads(hit.body)) == (0, 1, 2)
    answers, _, _ = ran(search, 5)
    assert len(answers) == 5


def test_no_item_is_begun_after_its_time_but_the_first_always_is() -> None:
    answers, _, is_cut = ran(lambda n: n, 10, most_s=2.5)
    assert (answers, is_cut) == ([0, 1], False)
    answers, _, _ = ran(lambda n: n, 10, most_s=0.0)
    assert answers == [0]


def test_an_interrupt_loses_no_answer_and_says_how_long_the_stopped_one_ran() -> None:
    answers, seconds, is_cut = ran(raises_at(2, KeyboardInterrupt), 5)
    assert (answers, seconds, is_cut) == ([0, 1], [1.0, 1.0, 1.0], True)


def test_a_slow_batch_tells_how_items_have_ended() -> None:
    data = bytearray()

    def give(n: int) -> object:
        return {2: b"x" * job_batches.PROGRESS_BYTES_MAX}.get(n, n)

    notes.SINK.open(data.extend)
    try:
        ran(give, 5)  # each takes a second
    finally:
        notes.SINK.close()
    told = [note for note in notes.NoteReader().feed(bytes(data)) if isinstance(note, notes.ItemEnded)]
    assert [(note.position, note.read()) for note in told] == [
        (0, (([0], {}, {}), [1.0])),
        (1, (([1], {}, {}), [1.0])),
    ]


@contextmanager
def standard_streams() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Put others in the place of the standard streams."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err = io.StringIO(), io.StringIO()
    try:
        yield out, err
    finally:
        sys.stdout, sys.stderr = before


def test_what_items_print_is_theirs() -> None:
    kept = []

    def talk(n: int) -> None:
        kept.append(sys.stdout)
        if n != 2:
            sys.stdout.write(f"out {n}\n")
            sys.stdout.write(f"more {n}\n")
        if n == 3:
            sys.stderr.writelines(["err ", "3"])

    with standard_streams() as (out, err):
        ran(talk, 4)
        assert (sys.stdout, sys.stderr) == (out, err)
    told = [(0, "out 0\nmore 0\n"), (1, "out 1\nmore 1\n"), (3, "out 3\nmore 3\n")]
    assert MarkReader(SECRET).feed(out.getvalue()) == told
    assert MarkReader(SECRET).feed(err.getvalue()) == [(3, "err 3")]
    print("later", file=kept[0])  # by whoever has kept the stream
    assert out.getvalue().endswith("later\n")
    assert out.getvalue().count(SECRET) == 3


def test_what_is_written_past_the_stream_is_the_next_item_s_after_one_that_has_printed() -> None:
    def talk(n: int) -> None:
        out.write(f"past {n}\n")
        if n != 1:
            sys.stdout.write(f"own {n}\n")

    with standard_streams() as (out, _):
        ran(talk, 3)
    told = [(0, "past 0\nown 0\n"), (1, "past 1\npast 2\n"), (2, "own 2\n")]
    assert MarkReader(SECRET).feed(out.getvalue()) == told


def test_a_stream_of_the_item_s_own_is_left_to_who_cleans_up() -> None:
    own = io.StringIO()

    def take_over(n: int) -> None:
        sys.stdout = own
        sys.stdout.write(f"{n}\n")

    with standard_streams():
        ran(take_over, 2)
        assert sys.stdout is own
    assert own.getvalue() == "0\n1\n"


def test_notes_say_whose_they_are() -> None:
    data = bytearray()

    def say(n: int) -> None:
        notes.report(n / 4, "first")
        notes.report(n / 4, "too soon, and yet the last")
        notes.publish(n)

    notes.SINK.open(data.extend)
    try:
        ran(say, 2)
    finally:
        notes.SINK.close()
    told = [note for note in notes.NoteReader().feed(bytes(data)) if not isinstance(note, notes.ItemEnded)]
    assert len(told) % 2 == 0
    of = [note.position for note in told[::2] if isinstance(note, notes.Item)]
    assert [of[at // 2] for at, note in enumerate(told) if isinstance(note, notes.Publication)] == [0, 1]
    last = told[-1]
    assert isinstance(last, notes.ProgressReport)
    assert (of[-1], last.fraction) == (1, 0.25)
    assert notes.SINK.item is None


texts = st.text(st.sampled_from("ab\n\x1ekey:01"), max_size=12)


@given(st.lists(st.tuples(st.integers(0, 12), texts), max_size=8), st.data())
def test_marks_are_found_however_the_text_is_cut(written: list[tuple[int, str]], data: st.DataObject) -> None:
    secret = "d41d8c"  # which nothing that is written holds
    stream = io.StringIO()
    position = 0
    marked = MarkedStream(stream, secret, lambda: position)
    for position, text in written:  # noqa: B007  (the stream asks for it)
        marked.write(text)
    whole = stream.getvalue()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    reader = MarkReader(secret)
    found = [piece for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) for piece in reader.feed(whole[a:b])]
    found += reader.feed("|")  # whatever is held may go on
    expected = "".join(f"{at}{sign}" for at, text in written for sign in text)
    assert "".join(f"{at}{sign}" for at, text in found for sign in text)[: len(expected)] == expected


def test_what_only_looks_like_a_mark_is_text() -> None:
    reader = MarkReader(SECRET)
    text = "\x1ekey:x\x1e \x1eother:3\x1e \x1e"
    assert reader.feed(text) == [(0, text[:-1])]
    assert reader.feed("key:") == []
    assert reader.feed("1 end") == [(0, "\x1ekey:1 end")]
    assert reader.feed(mark(SECRET, 4) + mark(SECRET, 5) + "five") == [(5, "five")]
