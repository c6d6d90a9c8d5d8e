"""What a link sends about shared memory: announcements or contents, each once and never in vain."""

from collections.abc import Iterator, Sequence

import pytest

from concurrent_nb.nodes.common.shared_memory_link import (
    AnnouncedSegments,
    MergedSegments,
    NullSegmentReader,
    ReceivedContents,
)
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle, is_available
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.tasks.shared_objects import object_id, objects_of
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import decode, joined, slices_of
from concurrent_nb.wire.session import Session

pytestmark = pytest.mark.skipif(not is_available(), reason="this system has no anonymous files in memory")

DATA = bytes(range(256)) * 400


class Having:
    """What the peer of a link has got, and not forgotten."""

    def __init__(self) -> None:
        self.objects: list[bytes] = []

    def changed(self, sent: Sequence[m.Slice], gone: Sequence[bytes]) -> None:
        for each in gone:
            self.objects.remove(each)
        self.objects += map(name_of, sent)


def name_of(slice_: m.Slice) -> bytes:
    return object_id(slice_.segment, slice_.offset, slice_.serial)


class Link:
    """Our end of a link, and what its peer receives."""

    def __init__(self, store: ObjectStore, *, shares: bool) -> None:
        self.session = Session(1, "to_client")
        self.having = Having()
        self.announced = AnnouncedSegments(
            self.session, MergedSegments(NullSegmentReader(), store), shares, self.having.changed
        )

    def sent_messages(self) -> list[tuple[m.AnyMessage, list[bytes]]]:
        received = []
        for frames in self.session.flush(0.0):
            for item in decode(frames, "from_client")[1]:
                received.append((item.message, [bytes(buffer) for own in item.buffers for buffer in own]))
        return received


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    store = ObjectStore()
    yield store
    store.close()


def placed(store: ObjectStore, data: bytes = DATA) -> m.Slice:
    slice_ = store.put(memoryview(data))
    assert slice_ is not None
    return slice_


def test_a_segment_is_announced_once_to_a_peer_on_this_host(store: ObjectStore) -> None:
    link, slice_ = Link(store, shares=True), placed(store)
    for _ in range(3):
        assert link.announced.outgoing((slice_, 3), [b"abc"], once=True) == ((slice_, 3), [b"abc"])
    ((message, _),) = link.sent_messages()
    assert isinstance(message, m.Segment) and store.handle(slice_.segment) == SegmentHandle(
        message.segment, message.pid, message.fd, message.size
    )
    assert link.announced.dropped([slice_.segment, b"another"])
    assert [message for message, _ in link.sent_messages()] == [m.DropSegments([slice_.segment])]
    assert not link.announced.dropped([slice_.segment])


def test_a_peer_on_another_host_gets_what_many_tasks_need_once(store: ObjectStore) -> None:
    link, slice_ = Link(store, shares=False), placed(store)
    for _ in range(3):
        assert link.announced.outgoing((slice_,), (), once=True) == ((slice_,), ())
    assert link.sent_messages() == [
        (m.Content(slice_.segment, slice_.offset, slice_.serial, b"", (len(DATA),)), [DATA])
    ]
    store.release([slice_], clean=True)
    anew = placed(store, DATA[::-1])
    assert (anew.segment, anew.offset) == (slice_.segment, slice_.offset)
    link.announced.outgoing((anew,), (), once=True)
    ((message, buffers),) = link.sent_messages()
    assert isinstance(message, m.Content) and message.serial == anew.serial and buffers == [DATA[::-1]]


def test_what_a_peer_on_another_host_has_is_known_until_it_is_gone(store: ObjectStore) -> None:
    link, one, two = Link(store, shares=False), placed(store), placed(store, DATA * 50)
    for _ in range(2):
        link.announced.outgoing((one, 3, two), [b"abc"], once=True)
    assert link.having.objects == [name_of(one), name_of(two)]
    store.release([one], clean=True)
    anew = placed(store, DATA[::-1])
    assert (anew.segment, anew.offset) == (one.segment, one.offset)
    link.announced.outgoing((anew,), (), once=True)
    assert link.having.objects == [name_of(two), name_of(anew)]
    link.announced.dropped([two.segment, b"another"])
    assert link.having.objects == [name_of(anew)]


def test_a_peer_on_this_host_has_nothing_of_its_own(store: ObjectStore) -> None:
    link = Link(store, shares=True)
    link.announced.outgoing((placed(store),), (), once=True)
    assert link.having.objects == []


def test_objects_are_what_lies_in_shared_memory_each_once() -> None:
    one, two = m.Slice(b"s", 0, 70_000, 1), m.Slice(b"s", 70_000, 80_000, 2)
    assert objects_of((one, 5, two, one)) == ((name_of(one), 70_000), (name_of(two), 80_000))
    later = [m.Slice(b"s", 0, 70_000, 3), m.Slice(b"s", 1, 70_000, 1), m.Slice(b"t", 0, 70_000, 1)]
    assert len({name_of(slice_) for slice_ in (one, two, *later)}) == 5


def test_segments_are_announced_to_a_peer_that_turns_out_to_be_on_this_host(store: ObjectStore) -> None:
    link, slice_ = Link(store, shares=False), placed(store)
    link.announced.outgoing((slice_,), (), once=True)
    link.announced.share(True)
    link.announced.outgoing((slice_,), (), once=True)
    assert [type(message) for message, _ in link.sent_messages()] == [m.Content, m.Segment]


def test_results_travel_to_a_peer_on_another_host(store: ObjectStore) -> None:
    link, slice_ = Link(store, shares=False), placed(store)
    assert link.announced.outgoing((2, slice_), [b"ab"]) == ((2, len(DATA)), [b"ab", DATA])
    assert link.sent_messages() == []


@pytest.mark.parametrize("has_store", [True, False])
def test_a_received_content_is_here(store: ObjectStore, has_store: bool) -> None:
    contents = ReceivedContents(store if has_store else None)
    theirs = m.Slice(b"t" * 16, 4096, len(DATA), 7)
    contents.took(m.Content(theirs.segment, theirs.offset, 7, b"", (len(DATA),)), [DATA])
    sizes, buffers = contents.translated((3, theirs), [b"abc"])
    assert bool(slices_of(sizes)) == has_store
    assert [bytes(part) for part in joined(sizes, buffers, store.read)] == [b"abc", DATA]
    stale = m.Slice(theirs.segment, theirs.offset, len(DATA), 6)
    assert contents.translated((stale,), ()) == ((stale,), ())  # its earlier content is unknown
    contents.drop([theirs.segment])
    assert contents.translated((theirs,), ()) == ((theirs,), ())


def test_a_new_content_takes_the_place_of_the_old_one(store: ObjectStore) -> None:
    contents = ReceivedContents(store)
    for serial in range(1, 20):
        contents.took(m.Content(b"t" * 16, 0, serial, b"", (len(DATA),)), [DATA])
    theirs = m.Slice(b"t" * 16, 0, len(DATA), 19)
    assert bytes(joined(*contents.translated((theirs,), ()), store.read)[0]) == DATA


def test_a_node_without_shared_memory_raises() -> None:
    reader = NullSegmentReader()
    with pytest.raises(CannotOpen, match="shares no memory"):
        reader.read(m.Slice(b"x" * 16, 0, 1, 1))
    with pytest.raises(CannotOpen, match="shares no memory"):
        reader.add(SegmentHandle(b"x" * 16, 1, 1, 1))
