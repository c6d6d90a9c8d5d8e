"""Whatever a network does to envelopes, both ends receive everything once and in order."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concurrent_nb.errors import ProtocolError
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import (
    ENVELOPE_BYTES_MAX,
    ENVELOPE_FRAMES_MAX,
    FRAME_BYTES,
    PART_BUFFERS,
    PART_BYTES,
    Buffer,
    Envelope,
    Received,
    encode,
)
from concurrent_nb.wire.session import (
    ACK_AFTER,
    ACK_AFTER_S,
    EARLY_BYTES,
    RESEND_AFTER_S,
    WINDOW,
    WINDOW_BYTES,
    Session,
)

JOB = b"j" * 16


def pair() -> tuple[Session, Session]:
    """A client and a master, as two ends of one link."""
    return Session(7, "to_client"), Session(7, "from_client")


def numbered(number: int) -> m.Cancel:
    return m.Cancel(JOB, [number])


def numbers(received: Sequence[Received]) -> list[int]:
    return [number for item in received for number in getattr(item.message, "indexes", ())]


def test_messages_arrive_and_need_one_envelope() -> None:
    client, master = pair()
    for number in range(5):
        client.send(numbered(number))
    (frames,) = client.flush(0.0)
    assert numbers(master.receive(frames, 0.0)) == [0, 1, 2, 3, 4]
    assert client.flush(0.0) == []


def test_an_answer_acknowledges_so_nothing_else_is_sent() -> None:
    client, master = pair()
    client.send(numbered(1), tag="one")
    master.receive(client.flush(0.0)[0], 0.0)
    master.send(m.Started("s", []))
    client.receive(master.flush(0.001)[0], 0.001)
    assert client.take_acked() == ["one"]
    assert client.take_acked() == []
    assert client.in_flight == 0
    assert master.flush(10.0) != []  # the answer itself was not acknowledged in time


def test_a_lone_message_is_acknowledged_a_little_later() -> None:
    client, master = pair()
    client.send(numbered(1))
    master.receive(client.flush(0.0)[0], 0.0)
    assert master.flush(ACK_AFTER_S / 2) == []
    assert master.next_deadline() == pytest.approx(ACK_AFTER_S)
    (ack,) = master.flush(ACK_AFTER_S)
    assert client.receive(ack, 0.1) == []
    assert client.in_flight == 0
    assert client.next_deadline() is None


def test_many_envelopes_are_acknowledged_at_once() -> None:
    client, master = pair()
    for number in range(ACK_AFTER):
        client.send(numbered(number))
        master.receive(client.flush(0.0)[0], 0.0)
    assert len(master.flush(0.0)) == 1


def test_what_stays_unacknowledged_is_sent_again_until_it_is() -> None:
    client, master = pair()
    client.send(numbered(1))
    client.flush(0.0)  # lost
    assert client.flush(RESEND_AFTER_S / 2) == []
    (again,) = client.flush(RESEND_AFTER_S)
    assert numbers(master.receive(again, 2.0)) == [1]
    assert master.receive(again, 2.0) == []  # a duplicate: handled once
    (ack,) = master.flush(2.0)
    client.receive(ack, 2.0)
    assert client.flush(100.0) == []


def test_after_silence_all_that_was_in_flight_is_sent_again_as_answers_come() -> None:
    client, master = pair()
    for number in range(10):
        client.send(numbered(number))
        client.flush(0.0)  # all lost
    got: list[int] = []
    now = RESEND_AFTER_S
    for _ in range(8):
        for frames in client.flush(now):
            got += numbers(master.receive(frames, now))
        for frames in master.flush(now + ACK_AFTER_S):
            client.receive(frames, now)
        now += ACK_AFTER_S
    assert got == list(range(10))


def test_what_overtakes_waits_for_its_predecessor() -> None:
    client, master = pair()
    envelopes = []
    for number in range(3):
        client.send(numbered(number))
        envelopes += client.flush(0.0)
    assert master.receive(envelopes[2], 0.0) == []
    assert master.receive(envelopes[1], 0.0) == []
    assert numbers(master.receive(envelopes[0], 0.0)) == [0, 1, 2]


def test_the_window_is_obeyed_and_what_waits_is_packed() -> None:
    client, master = pair()
    sent = []
    for number in range(WINDOW + 50):
        client.send(numbered(number))
        sent += client.flush(0.0)
    assert len(sent) == WINDOW
    assert client.backlog == 50
    for frames in sent:
        master.receive(frames, 0.0)
    client.receive(master.heartbeat(), 0.0)
    assert len(client.flush(0.0)) == 1  # the fifty in one envelope


def submit(*sizes: int) -> m.Submit:
    return m.Submit(JOB, b"f" * 32, None, 0, [m.TaskFrame(index, 0, b"", (size,)) for index, size in enumerate(sizes)])


def exchange(sender: Session, receiver: Session, now: float = 0.0) -> list[Received]:
    """Let one end send all that waits, in as many rounds as its window needs."""
    got: list[Received] = []
    while envelopes := sender.flush(now):
        for frames in envelopes:
            got += receiver.receive(frames, now)
        sender.receive(receiver.heartbeat(), now)
    return got


def test_large_arrays_keep_to_the_window_as_all_else() -> None:
    client, master = pair()
    huge = memoryview(bytes(range(256)) * (WINDOW_BYTES // 128))  # twice the window
    client.send(submit(huge.nbytes), [[huge]], tag="huge")
    client.send(numbered(1), tag="one")
    assert client.backlog_bytes > huge.nbytes
    envelopes = client.flush(0.0)
    assert sum(len(frame) for frames in envelopes for frame in frames[1:]) <= WINDOW_BYTES
    assert max(sum(map(len, frames)) for frames in envelopes) <= PART_BYTES + 1024
    for frames in envelopes:
        assert master.receive(frames, 0.0) == []
    assert master.held_bytes > WINDOW_BYTES - 2 * PART_BYTES
    client.receive(master.heartbeat(), 0.0)
    assert client.take_acked() == []
    whole, last = exchange(client, master)
    assert whole.message == submit(huge.nbytes)
    assert whole.buffers == [[huge]]
    assert last.message == numbered(1)
    assert client.take_acked() == ["huge", "one"]
    assert client.backlog_bytes == master.held_bytes == 0


@pytest.mark.parametrize("said_by", ["from_client", "from_slave", "to_client", "to_slave"])
def test_large_messages_travel_in_all_directions(said_by: str) -> None:
    speaker, hearer = Session(7, "to_client"), Session(7, said_by)
    data = bytes(PART_BYTES + 5)
    message: m.AnyMessage = m.Outcomes(JOB, "s", [m.OutcomeFrame(0, 1, 0, 0.0, 1, b"", (len(data),))])
    if said_by == "from_client":
        message = m.Content(b"s" * 16, 0, 1, b"", (len(data),))
    elif said_by == "to_slave":
        message = m.Function(b"d" * 32, b"", (len(data),))
    speaker.send(message, [[data]])
    (received,) = exchange(speaker, hearer)
    assert received == Received(message, [[data]])


@pytest.mark.parametrize(
    "sizes",
    [
        [PART_BYTES],
        [PART_BYTES + 1],
        [PART_BYTES, 1],
        [0, PART_BYTES, 0, 1],
        [3 * PART_BYTES, 0, FRAME_BYTES],
        [FRAME_BYTES + 1] * 9,
        [1] * (3 * PART_BUFFERS),
        [0] * (PART_BUFFERS + 1),
    ],
    ids=lambda sizes: f"{len(sizes)} of {sizes[0]}",
)
@pytest.mark.parametrize("together", [False, True], ids=["a task each", "one task"])
def test_buffers_of_any_size_and_number_arrive_as_they_were(sizes: list[int], together: bool) -> None:
    client, master = pair()
    buffers = [bytes([index % 251]) * size for index, size in enumerate(sizes)]
    if together:
        client.send(m.Submit(JOB, b"f" * 32, None, 0, [m.TaskFrame(0, 0, b"", tuple(sizes))]), [buffers])
    else:
        client.send(submit(*sizes), [[buffer] for buffer in buffers])
    client.send(numbered(1))
    *runs, last = exchange(client, master)
    assert [bytes(buffer) for run in runs for own in run.buffers for buffer in own] == buffers
    assert last.message == numbered(1)


def test_parts_that_are_lost_or_overtake_come_again_and_in_order() -> None:
    client, master = pair()
    data = random.Random(1).randbytes(5 * PART_BYTES)
    client.send(submit(len(data)), [[data]])
    envelopes = client.flush(0.0)
    assert len(envelopes) == 6
    got: list[Received] = []
    for at in (0, 3, 2, 5):  # two are lost
        got += master.receive(envelopes[at], 0.0)
    now = RESEND_AFTER_S
    for _ in range(5):
        for frames in client.flush(now):
            got += master.receive(frames, now)
        client.receive(master.heartbeat(), now)
        now += 8 * RESEND_AFTER_S
    assert got == [Received(submit(len(data)), [[data]])]


def test_early_envelopes_over_the_limit_are_dropped_and_come_again() -> None:
    client, master = pair()
    client.send(numbered(0))
    envelopes = client.flush(0.0)
    pieces = 3 * EARLY_BYTES // FRAME_BYTES
    for _ in range(pieces):
        client.send(submit(FRAME_BYTES), [[bytes(FRAME_BYTES)]])
        envelopes += client.flush(0.0)
    for frames in envelopes[1:]:
        assert master.receive(frames, 0.0) == []
    assert EARLY_BYTES - 2 * FRAME_BYTES < master.held_bytes <= EARLY_BYTES
    got, now = 0, RESEND_AFTER_S
    while client.in_flight and now < 1000.0:
        for frames in client.flush(now):
            got += len(master.receive(frames, now))
        client.receive(master.heartbeat(), now)
        now += 8 * RESEND_AFTER_S
    assert got == 1 + pieces
    assert master.held_bytes == 0


def test_what_is_over_the_limit_is_refused_before_any_of_it_comes_and_its_setting_named() -> None:
    client = Session(7, "to_client")
    master = Session(7, "from_client", object_max_bytes=8 * PART_BYTES, setting="MasterNode.held_bytes")
    client.send(submit(8 * PART_BYTES), [[bytes(8 * PART_BYTES)]])
    assert len(exchange(client, master)) == 1
    data = memoryview(bytes(8 * PART_BYTES + 1))
    client.send(submit(data.nbytes), [[data]])
    announcement, *_ = client.flush(0.0)
    with pytest.raises(ProtocolError, match=r"33,554,433 bytes is over the limit of 33,554,432.*MasterNode.held_bytes"):
        master.receive(announcement, 0.0)


def part_of(*sizes: int) -> Envelope:
    return Envelope(m.PROTOCOL_VERSION, 7, 2, 0, [m.Part(sizes)])


@pytest.mark.parametrize(
    ("envelope", "buffers"),
    [
        (part_of(FRAME_BYTES - 1), [bytes(FRAME_BYTES - 1)]),
        (part_of(3), [b"abc"]),
        (part_of(0), [b""]),
        (part_of(2 * FRAME_BYTES), [bytes(2 * FRAME_BYTES)]),
        (part_of(*[FRAME_BYTES] * 4, 2), [*[bytes(FRAME_BYTES)] * 4, b"ab"]),
        (part_of(*[FRAME_BYTES] * 4, 1, 0), [*[bytes(FRAME_BYTES)] * 4, b"a", b""]),
        (Envelope(m.PROTOCOL_VERSION, 7, 2, 0, [numbered(1)]), []),
        (Envelope(m.PROTOCOL_VERSION, 7, 2, 0, [submit(3)]), [b"abc"]),
        (Envelope(m.PROTOCOL_VERSION, 7, 2, 0, [submit(PART_BYTES + 1)]), []),
    ],
    ids=str,
)
def test_what_is_not_the_part_that_is_due_is_a_protocol_error(envelope: Envelope, buffers: list[bytes]) -> None:
    client, master = pair()
    client.send(submit(4 * FRAME_BYTES + 1), [[bytes(4 * FRAME_BYTES + 1)]])
    assert master.receive(client.flush(0.0)[0], 0.0) == []
    with pytest.raises(ProtocolError):
        master.receive(encode(envelope, buffers), 0.0)


def test_a_part_of_nothing_is_a_protocol_error() -> None:
    for early in (False, True):
        _, master = pair()
        first = encode(Envelope(m.PROTOCOL_VERSION, 7, 1, 0, [numbered(1)]), [])
        part = encode(Envelope(m.PROTOCOL_VERSION, 7, 2, 0, [m.Part((3,))]), [b"abc"])
        envelopes = [part, first] if early else [first, part]
        master.receive(envelopes[0], 0.0)
        with pytest.raises(ProtocolError, match="a part without a message before it"):
            master.receive(envelopes[1], 0.0)


@pytest.mark.parametrize("frames", [ENVELOPE_FRAMES_MAX + 1, ENVELOPE_BYTES_MAX // FRAME_BYTES + 1])
def test_an_envelope_that_is_too_large_is_a_protocol_error(frames: int) -> None:
    _, master = pair()
    size = 0 if frames > ENVELOPE_FRAMES_MAX else FRAME_BYTES
    runs = [submit(size) for _ in range(frames)]
    with pytest.raises(ProtocolError, match=f"an envelope of {frames + 1} frames and {frames * size} bytes"):
        master.receive(encode(Envelope(m.PROTOCOL_VERSION, 7, 1, 0, runs), [bytes(size)] * frames), 0.0)


def test_a_tag_comes_back_when_the_last_part_of_a_cut_message_is_acknowledged() -> None:
    client, master = pair()
    client.send(m.Cancel(JOB, list(range(100_000))), tag="all")
    first, *rest = client.flush(0.0)
    master.receive(first, 0.0)
    client.receive(master.heartbeat(), 0.0)
    assert client.take_acked() == ([] if rest else ["all"])
    for frames in rest:
        master.receive(frames, 0.0)
    client.receive(master.heartbeat(), 0.0)
    assert client.take_acked() == (["all"] if rest else [])


def test_bye_ends_a_session_and_stands_outside_of_the_stream() -> None:
    client, master = pair()
    assert client.receive(master.bye("enough"), 0.0) == []
    assert client.closed_by_peer == "enough"


@pytest.mark.parametrize("wrong", ["epoch", "ack", "outside", "far"])
def test_what_cannot_be_is_a_protocol_error(wrong: str) -> None:
    client, master = pair()
    if wrong == "epoch":
        frames = Session(8, "to_client").heartbeat()
    elif wrong == "ack":
        other = Session(7, "to_client")
        other._received_seq = 3
        frames = other.heartbeat()
    elif wrong == "outside":
        frames = client._bare([numbered(1)])
    else:
        client._last_seq = 1000
        client.send(numbered(1))
        (frames,) = client.flush(0.0)
    with pytest.raises(ProtocolError):
        master.receive(frames, 0.0)


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.integers(1, 120), st.floats(0.0, 0.5))
def test_over_a_bad_network_everything_arrives_once_and_in_order(seed: int, count: int, loss: float) -> None:
    dice = random.Random(seed)
    ends = pair()
    got: tuple[list[int], list[int]] = ([], [])
    underway: list[tuple[float, int, Sequence[Buffer]]] = []  # arrival, to whom, frames
    sent_counts = [0, 0]
    now = 0.0
    while (len(got[0]) < count or len(got[1]) < count) and now < 2000.0:
        for who in (0, 1):
            if sent_counts[who] < count and dice.random() < 0.5:
                ends[who].send(numbered(sent_counts[who]) if who == 0 else m.Started(str(sent_counts[who]), []))
                sent_counts[who] += 1
            for frames in ends[who].flush(now):
                for _ in range(dice.choice((1, 1, 1, 2))):
                    if dice.random() >= loss:
                        underway.append((now + dice.random() * 0.3, 1 - who, frames))
        now += 0.05
        for item in sorted((x for x in underway if x[0] <= now), key=lambda x: x[0]):
            underway.remove(item)
            for received in ends[item[1]].receive(item[2], now):
                message = received.message
                got[item[1]].append(int(message.slave) if isinstance(message, m.Started) else numbers([received])[0])
    assert got[0] == list(range(count))
    assert got[1] == list(range(count))
