"""A task and results that it needs, as one body."""

import pytest

from concurrent_nb.errors import ProtocolError
from concurrent_nb.wire.bound_tasks import ResultParts, Results, bind, unbind
from concurrent_nb.wire.messages import Slice

JOB, OTHER = b"j" * 16, b"o" * 16
SLICE = Slice(b"s" * 16, 0, 5, 1)


def test_a_task_comes_out_as_it_went_in() -> None:
    # Given a task with a buffer, a small result, one whose pickle is its first buffer, and one in shared memory
    results = [
        ResultParts(JOB, 3, b"small", (), ()),
        ResultParts(JOB, 4, b"", (4, 2), [b"long", b"!!"]),
        ResultParts(OTHER, 3, b"", (SLICE,), ()),
    ]
    # When they are bound, and the master's part is bound around what the application has given
    body, sizes, buffers = bind(1, b"call", (3,), [b"abc"], results[:2])
    body, sizes, buffers = bind(5, body, sizes, buffers, results[2:])
    # Then sizes and buffers are in order, and everything is found again
    assert (sizes, buffers) == ((3, 4, 2, SLICE), [b"abc", b"long", b"!!"])
    found: Results = {}
    kind, body_out, parts = unbind(body, [b"abc", b"long", b"!!", b"there"], found)
    assert kind == 5
    kind, body_out, parts = unbind(body_out, parts, found)
    assert (kind, body_out, parts) == (1, b"call", [b"abc"])
    assert found == {
        (JOB, 3): (b"small", []),
        (JOB, 4): (b"long", [b"!!"]),
        (OTHER, 3): (b"there", []),
    }


def test_a_long_body_is_the_first_buffer() -> None:
    body, _, _ = bind(0, b"", (9,), [b"arguments"], [])
    assert unbind(body, [b"arguments"], {}) == (0, b"arguments", [])


@pytest.mark.parametrize("body", [b"", b"nonsense", bind(0, b"x", (1,), [b"a"], [])[0]])
def test_what_does_not_fit_together_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="a bound task"):
        unbind(body, [b"one", b"two"], {})
