"""The connections of a feed under attack: readers that do not read, that send garbage, that are too many.

The server runs in this process, over the core of a master, so that limits are short. After each test a valid reader is
still served.
"""

import asyncio
import contextlib
import functools
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from concurrent_nb.clock import ManualClock
from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.master import live_feed
from concurrent_nb.nodes.master.live_feed import LiveFeed
from concurrent_nb.rpc import Dispatcher, Registry, remote
from concurrent_nb.transport import connection_file, feed_handler, keys, tls
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_server import ConnectionLimits, ControlServer, WebPages
from concurrent_nb.transport.feed_handler import frame_of
from concurrent_nb.transport.web_sessions import SESSION_S, WebSessions, cookie_name
from concurrent_nb.wire import messages as m
from tests.clusters import eventually
from tests.feeds import Follower, RawSocket, following
from tests.serving import EVERYBODY, TOKENS, Sample, Serving, ask, looping
from tests.unit.nodes.master.bench import ALICE, KEYS, Bench

T = TypeVar("T")

#: short ones, so that a test of slowness is quick
LIMITS = ConnectionLimits(idle_s=1.0, body_s=1.0, answer_s=1.0, connections=40, readers_of_role=10)
COOKIE = "session=of a page"


class PingedSample(Sample):
    """The methods of a sample, and the one that every master has."""

    @remote(roles=EVERYBODY)
    def ping(self) -> str:
        return "pong"


class ServingFeed(Serving):
    """A server with a feed, and the master's core behind it."""

    bench: Bench
    feed: LiveFeed

    def reader(self, role: str = "admin", **options: Any) -> RawSocket:
        return RawSocket(self.port, {"Authorization": f"Bearer {TOKENS[role]}"}, **options)

    def in_loop(self, function: Callable[[], T]) -> T:
        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def serves(self) -> bool:
        """Return whether a valid reader gets its snapshot, and a valid client its answer."""
        with self.reader() as reader:
            reader.call("watch")
            return "result" in reader.answer() and reader.message()["method"] == "snapshot" and self.answers()


@pytest.fixture
def serving() -> Iterator[ServingFeed]:
    with serving_feed() as running:
        yield running
        assert running.serves()


@contextlib.contextmanager
def serving_feed(material: tls.TlsMaterial | None = None, sessions: WebSessions | None = None) -> Iterator[ServingFeed]:
    """Serve the feed of a master without nodes; see that all readers are forgotten in the end."""

    async def ask(question: Callable[[float], T]) -> T:
        await asyncio.sleep(0)
        return question(time.monotonic())

    def role_of_cookie(cookie: str) -> str | None:
        return "admin" if cookie == COOKIE else None

    bench, sample = Bench(), PingedSample()
    feed = LiveFeed(bench.core, "made up", 0.0, ask)
    tokens = {token: role for role, token in TOKENS.items()}
    server = ControlServer(
        Dispatcher(Registry(sample)),
        tokens,
        ["127.0.0.1"],
        tls=material,
        limits=LIMITS,
        watches=feed,
        pages=None if sessions is None else WebPages("made up", sessions, {}),
    )
    if sessions is None:
        server._context.role_of_cookie = role_of_cookie
    with looping() as loop:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        running = ServingFeed(server, sample, loop)
        running.bench, running.feed = bench, feed
        try:
            yield running
            eventually(lambda: not running.server._context.readers, "all readers are forgotten", 5.0)
            eventually(lambda: not feed._readers, "by the feed too", 5.0)
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
            asyncio.run_coroutine_threadsafe(feed.stop(), loop).result(10)


def open_jobs(serving: ServingFeed, count: int = 900) -> None:
    """Make the snapshot large."""
    jobs = [m.OpenJob(number.to_bytes(16, "big"), "x" * 200, False, False) for number in range(count)]

    def send() -> None:
        serving.bench.client(ALICE)
        serving.bench.send(ALICE, *jobs)

    serving.in_loop(send)


# ------------------------------------------------------------------------------------------------------ what is allowed


def test_a_watching_reader_is_not_idle(serving: ServingFeed) -> None:
    with serving.reader() as reader:
        reader.call("watch")
        assert reader.message()["result"] == {"interval_s": 0.25}
        assert reader.message()["method"] == "snapshot"
        began = time.monotonic()
        while time.monotonic() - began < 3 * LIMITS.idle_s:
            message = reader.message()
            assert message["method"] == "delta" and set(message["params"]) == {"epoch", "seq", "since", "time_s"}


def test_pings_are_answered_and_heartbeats_come_nevertheless(serving: ServingFeed) -> None:
    with serving.reader() as reader:
        reader.call("watch")
        reader.answer()
        reader.message()
        began = time.monotonic()
        heard = 0
        while time.monotonic() - began < 5:
            reader.call("ping")
            while "method" in (message := reader.message()):
                heard += 1
            assert message["result"] == "pong"
            time.sleep(0.1)
        assert heard >= 2


def test_watching_again_changes_where_it_begins(serving: ServingFeed) -> None:
    with serving.reader() as reader:
        reader.call("watch")
        reader.answer()
        epoch, seq = (reader.message()["params"][name] for name in ("epoch", "seq"))
        for since, kind in (([epoch, seq], "delta"), (None, "snapshot"), ([epoch + 1, seq], "snapshot")):
            reader.call("watch", since=since)
            reader.answer()
            assert reader.message()["method"] == kind


def test_a_page_shows_its_cookie_and_its_origin(serving: ServingFeed) -> None:
    origin = f"http://127.0.0.1:{serving.port}"
    for cookie, given, status in (
        (COOKIE, origin, 101),
        (COOKIE, None, 401),
        (COOKIE, "http://evil.example", 403),
        ("session=wrong", origin, 401),
    ):
        with RawSocket(serving.port, {"Cookie": cookie, "Origin": given}) as reader:
            assert reader.status == status
    with RawSocket(serving.port, {"Cookie": COOKIE, "Origin": origin, "Authorization": "Bearer wrong"}) as reader:
        assert reader.status == 401, "a wrong token is not made good by a cookie"


def test_a_feed_ends_with_the_login_that_gave_access_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    sessions = WebSessions(clock)
    monkeypatch.setattr(feed_handler, "SESSION_CHECK_S", 0.05)
    with serving_feed(sessions=sessions) as serving, contextlib.ExitStack() as readers:
        origin = f"http://127.0.0.1:{serving.port}"
        cookies = [f"{cookie_name(1)}={sessions.log_in(sessions.new_code('admin'))}" for _ in range(2)]
        first, again, second = (
            readers.enter_context(RawSocket(serving.port, {"Cookie": cookie, "Origin": origin}))
            for cookie in (cookies[0], cookies[0], cookies[1])
        )
        token = readers.enter_context(serving.reader())
        for reader in (first, again, second, token):
            reader.call("watch")
            reader.answer()
            assert reader.message()["method"] == "snapshot"
        refused = ask(serving, path="/logout", headers={"Authorization": None, "Cookie": "x=y", "Origin": origin})
        assert refused.status == 204
        left = ask(serving, path="/logout", headers={"Authorization": None, "Cookie": cookies[0], "Origin": origin})
        assert left.status == 204
        assert [first.close_code(), again.close_code()] == [1008, 1008]
        assert second.message()["method"] == "delta"
        clock.advance(SESSION_S)  # the other one expires
        assert second.close_code() == 1008
        assert token.message()["method"] == "delta"


def test_a_reader_of_nonsense_begins_again(serving: ServingFeed, tmp_path: Path) -> None:
    info = ConnectionFile(
        name="odd", endpoints=serving.endpoints, master_key=keys.fresh().public.decode(), tokens=TOKENS
    )
    nonsense = [
        b'{"jsonrpc":"2.0","method":"delta","params":{}}',
        b'{"jsonrpc":"2.0","method":"delta","params":[]}',
        b'{"jsonrpc":"2.0","method":"snapshot","params":{"stream":{"marks":"?"}}}',
        b"[1, 2",
        b"17",
    ]
    with following(connection_file.write(info, tmp_path / "odd.json")) as follower:
        for text in nonsense:
            follower.eventually(lambda state: state["name"] == "made up", "it has a snapshot", 20.0)
            before = len(follower.reasons)
            serving.in_loop(functools.partial(send_all, serving, text))
            eventually(functools.partial(has_begun_again, follower, before), "it begins again", 20.0)
            expected = ("the master has sent", "not a JSON-RPC answer", "a delta on state")
            assert follower.reasons[before].startswith(expected)


def send_all(serving: ServingFeed, text: bytes) -> None:
    for connection in serving.server._context.readers:
        connection.send(frame_of(text))


def has_begun_again(follower: Follower, before: int) -> bool:
    return len(follower.reasons) > before and follower.kinds[-1] != "lost"


def test_256_slaves_and_900_jobs_are_in_one_snapshot(serving: ServingFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [SessionId(number.to_bytes(16, "big")) for number in range(256)]
    for session in sessions:
        monkeypatch.setitem(KEYS, session, bytes(session))
    serving.in_loop(lambda: [serving.bench.slave(session) for session in sessions])
    open_jobs(serving)
    with serving.reader("client") as client, serving.reader() as admin:
        for reader, jobs in ((client, 0), (admin, 900)):
            reader.call("watch")
            reader.answer()
            state = reader.message()["params"]
            assert (len(state["slaves"]), len(state["jobs"]), state["totals"]["slots"]) == (256, jobs, 256)


def test_nothing_is_compressed(serving: ServingFeed) -> None:
    headers = {"Authorization": f"Bearer {TOKENS['admin']}", "Sec-WebSocket-Extensions": "permessage-deflate"}
    with RawSocket(serving.port, {**headers}) as reader:
        assert reader.status == 101 and "sec-websocket-extensions" not in reader.headers


def test_a_reader_accepts_only_the_certificate_of_the_connection_file(tmp_path: Path) -> None:
    material, other = tls.make_tls(["127.0.0.1"]), tls.make_tls(["127.0.0.1"])
    with serving_feed(material) as serving:
        paths: list[Path] = []
        for each in (material, other):
            info = ConnectionFile(
                name="far",
                endpoints=serving.endpoints,
                master_key=keys.fresh().public.decode(),
                tokens=TOKENS,
                certificate_pem=each.certificate_pem,
            )
            paths.append(connection_file.write(info, tmp_path / f"{len(paths)}.json"))
        with following(paths[0]) as right, following(paths[1]) as wrong:
            right.eventually(lambda state: state["name"] == "made up", "it has the snapshot")
            eventually(lambda: len(wrong.reasons) > 1, "the other one is refused", 10.0)
            assert "certificate is not accepted" in wrong.reasons[0]
            assert set(wrong.kinds) == {"lost"}


# --------------------------------------------------------------------------------------------------------- what is not


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"garbage", -32700),
        (b"", -32700),
        (b"[]", -32600),
        (b"[" * 40 + b"]" * 40, -32600),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "watch"}', -32600),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {}}]', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "add", "params": [1, 2]}', -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "stop_cluster", "params": {}}', -32601),
        (b'{"jsonrpc": "2.0", "method": "add", "params": [1, 2]}', -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "watch", "params": {"since": 5}}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "watch", "params": {"since": [1]}}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "watch", "params": {"sinc": null}}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "watch", "params": [1, 2, 3]}', -32602),
    ],
    ids=range(13),
)
@pytest.mark.parametrize("opcode", [1, 2], ids=["text", "binary"])
def test_garbage_is_answered_with_an_error_and_the_third_one_ends_it(
    serving: ServingFeed, text: bytes, code: int, opcode: int
) -> None:
    with serving.reader() as reader:
        for _ in range(3):
            reader.send(text, opcode)
            assert reader.answer()["error"]["code"] == code
        assert reader.close_code() == 1008


@pytest.mark.parametrize(
    ("frame", "codes"),
    [
        (b"\x81\xfe\x10\x01mask" + b" " * 4097, {1009, 0}),
        (b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xffmask", {1009, 0}),
        (b"\x81\x05hello", {0, 1002, 1008}),  # not masked: taken for what it is, which is no call
        (b"\x81\x82mask\xff\xff", {0, 1007}),  # no UTF-8
        (b"\xf1\x80mask", {0, 1002}),  # reserved bits
        (b"\x83\x80mask", {0, 1002}),  # an opcode that is none
        (b"\x89\xfe\x01\x00mask" + b" " * 256, {0, 1002}),  # too large a ping
        (b"\x80\x80mask", {0, 1002}),  # a continuation of nothing
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", {0, 1002}),
    ],
    ids=range(9),
)
def test_broken_frames_end_it(serving: ServingFeed, frame: bytes, codes: set[int]) -> None:
    with serving.reader() as reader:
        reader.socket.sendall(frame)
        assert reader.close_code() in codes


def test_one_who_never_asks_to_watch_is_cut(serving: ServingFeed) -> None:
    with serving.reader() as reader:
        began = time.monotonic()
        reader.call("ping")
        assert reader.close_code() == 1008
        assert time.monotonic() - began < LIMITS.answer_s + 5


def test_readers_of_one_role_have_a_limit_that_leaves_room_for_others(serving: ServingFeed) -> None:
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(serving.reader("client")) for _ in range(LIMITS.readers_of_role)]
        for reader in readers:
            reader.call("watch")
            assert "result" in reader.answer()
        with serving.reader("client") as refused:
            assert refused.status == 503
            error = json.loads(refused.body)["error"]
            assert (error["data"]["type"], "10 readers of role client watch" in error["message"]) == (
                "LimitExceeded",
                True,
            )
        assert serving.serves()
        for role in ("client", "slave", "admin"):
            with serving.client(role) as client:
                assert client.call("add", a=1) == 2
        readers[0].socket.shutdown(socket.SHUT_RDWR)
        eventually(lambda: len(serving.server._context.readers) < LIMITS.readers_of_role, "it has left", 5.0)
        with serving.reader("client") as again:
            assert again.status == 101


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the server wait for its readers early."""
    monkeypatch.setattr(feed_handler, "SEND_BUFFER_BYTES", 4096)


@contextlib.contextmanager
def slow_and_good(serving: ServingFeed) -> Iterator[RawSocket]:
    """Watch jobs with a reader that never reads, and with one that has read the snapshot; yield that one."""
    open_jobs(serving)
    with serving.reader(buffer_bytes=4096) as slow, serving.reader() as good:
        slow.call("watch")
        good.call("watch")
        assert "result" in good.answer() and good.message()["method"] == "snapshot"
        yield good


@pytest.mark.usefixtures("small_buffers")
def test_a_reader_that_never_reads_is_cut_and_others_are_served(
    serving: ServingFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_feed, "DRAINED_WITHIN_S", 1.0)
    with slow_and_good(serving) as good:
        began = time.monotonic()
        eventually(lambda: len(serving.server._context.readers) == 1, "the slow one is cut", 10.0)
        assert time.monotonic() - began > 0.5
        assert good.message()["method"] == "delta"


@pytest.mark.usefixtures("small_buffers")
def test_a_slow_reader_has_one_message_waiting_and_then_one_delta(serving: ServingFeed) -> None:
    open_jobs(serving)
    with serving.reader(buffer_bytes=4096) as slow:
        slow.call("watch")
        eventually(lambda: any(each.unsent for each in serving.server._context.readers), "it is behind", 5.0)
        (connection,) = serving.server._context.readers
        for _ in range(5):
            serving.in_loop(lambda: serving.bench.core.scheduler.event_log.add(0.0, "slave joined", "hello"))
            time.sleep(0.3)
            assert connection.unsent == 1
        assert "result" in slow.answer()
        assert slow.message()["method"] == "snapshot"
        delta = slow.message()
        assert len(delta["params"]["events"]) == 5


@pytest.mark.usefixtures("small_buffers")
def test_slow_readers_are_cut_early_when_they_hold_too_much(
    serving: ServingFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_feed, "HELD_BYTES_MAX", 100_000)
    with slow_and_good(serving):
        eventually(lambda: len(serving.server._context.readers) == 1, "the slow one is cut", 10.0)


@pytest.mark.usefixtures("small_buffers")
def test_a_reader_that_asks_and_reads_no_answer_is_cut(serving: ServingFeed) -> None:
    with serving.reader(buffer_bytes=4096) as reader:
        reader.call("watch")
        with contextlib.suppress(OSError):
            for _ in range(100_000):
                reader.call("ping")
        eventually(lambda: not serving.server._context.readers, "it is cut", 10.0)


def test_a_bad_tick_ends_the_connections_and_not_the_feed(
    serving: ServingFeed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving.reader() as reader:
        reader.call("watch")
        reader.answer()
        snapshot = reader.message()["params"]
        monkeypatch.setattr(serving.bench.core, "view", lambda *_: 1 / 0)
        assert reader.close_code() == 1011
    monkeypatch.undo()
    assert "the live feed has failed" in caplog.text
    with serving.reader() as reader:
        reader.call("watch", since=[snapshot["epoch"], snapshot["seq"]])
        reader.answer()
        assert reader.message()["method"] == "snapshot"
