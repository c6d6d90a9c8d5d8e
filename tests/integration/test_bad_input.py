"""What bad input gets: a typed error, at once, that says what, which and what to do; and the cluster works afterwards.

What a notebook can do wrong is in test_notebook.py, what a shell can in test_cli.py, and what the control channel gets
in test_control.py.
"""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster
from concurrent_nb.errors import (
    AccessRefused,
    ConfigurationError,
    FunctionNotLoadable,
    MasterUnreachable,
    NotPicklable,
    PoisonTask,
    ProtocolError,
    RemoteError,
    ResultNotLoadable,
    ResultNotPicklable,
    TaskTimeout,
    VersionMismatch,
)
from concurrent_nb.ids import digest_of, new_job_id
from concurrent_nb.nodes.common import registration
from concurrent_nb.nodes.common.registration import Membership
from concurrent_nb.object_store import segments
from concurrent_nb.outcome import Status
from concurrent_nb.transport import connection_file, keys, tcp
from concurrent_nb.transport.compute import ComputeClient
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.transport.keys import KeyPair
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Envelope, encode
from concurrent_nb.wire.session import Session
from tests import fixtures, work
from tests.clusters import eventually, nothing_left_but_workers
from tests.serving import peer
from tests.work import PATIENCE_S

JOB = b"j" * 16


cluster = fixtures.shared_cluster(workers=2)


@pytest.fixture(scope="module")
def app(cluster: Cluster) -> ApplicationNode:
    return cluster.application()


@pytest.fixture(scope="module")
def info(cluster: Cluster) -> ConnectionFile:
    assert cluster.connection_file is not None
    return connection_file.read(cluster.connection_file)


@pytest.fixture(autouse=True)
def leaves_nothing_behind(cluster: Cluster) -> Iterator[None]:
    """Do as for every test, but know that workers which die are replaced; and see that the cluster is usable after."""
    with nothing_left_but_workers(cluster):
        yield
        assert list(cluster.application().map(work.square, range(20))) == [n * n for n in range(20)]


# ---------------------------------------------------------------------------------------------- tasks that kill workers


def close_all_descriptors() -> None:
    os.closerange(0, 1024)


def kill_my_group() -> None:
    os.killpg(0, signal.SIGKILL)


@pytest.mark.parametrize(
    ("function", "arguments", "how"),
    [
        pytest.param(work.exit_now, (3,), "ended with exit code 3", id="os._exit"),
        pytest.param(work.exit_now, (0,), "ended with exit code 0", id="os._exit(0)"),
        pytest.param(work.segfault, (), "died of SIGSEGV", id="segfault"),
        pytest.param(os.abort, (), "died of SIGABRT", id="abort"),
        pytest.param(kill_my_group, (), "died of SIGKILL", id="kill"),
        pytest.param(close_all_descriptors, (), "", id="all descriptors closed"),
    ],
)
def test_a_task_that_always_kills_its_worker_is_quarantined_and_its_neighbours_are_not(
    app: ApplicationNode, function: Callable[..., object], arguments: tuple[Any, ...], how: str
) -> None:
    neighbours = [app.submit(work.slow_square, n) for n in range(100)]
    poison = app.submit(function, *arguments)
    neighbours += [app.submit(work.slow_square, n) for n in range(100, 200)]
    error = poison.exception(PATIENCE_S)
    assert isinstance(error, PoisonTask)
    text = str(error)
    assert poison.task in text  # which
    assert "died, so it is not run again" in text  # what
    assert "Run it alone to find out why" in text  # what to do
    deaths = re.findall(r"^  (\d)\. (.*)$", text, re.MULTILINE)
    assert [number for number, _ in deaths] == ["1", "2", "3"]
    assert all(how in death and "worker " in death for _, death in deaths)
    assert error.slave
    assert [future.result(PATIENCE_S)[0] for future in neighbours] == [n * n for n in range(200)]


def test_a_task_whose_worker_is_killed_once_is_run_again(app: ApplicationNode, tmp_path: Path) -> None:
    future = app.submit(work.die_once, tmp_path / "marker")
    assert future.result(PATIENCE_S) == future.worker
    assert future.attempt == 2


@pytest.mark.parametrize("function", [work.spin, work.hold_the_gil], ids=["endless loop", "C code that holds the GIL"])
def test_a_task_that_listens_to_nobody_ends_at_its_limit(app: ApplicationNode, function: Callable[..., None]) -> None:
    job = app.start_job(function, [()], timeout_s=0.3)
    neighbours = [app.submit(work.square, n) for n in range(20)]
    error = job.futures[0].exception(PATIENCE_S)
    assert isinstance(error, TaskTimeout)
    assert job.futures[0].task in str(error)
    assert "0.3 s" in str(error)
    assert error.slave
    assert [future.result(PATIENCE_S) for future in neighbours] == [n * n for n in range(20)]


def test_a_task_that_listens_to_nobody_can_be_cancelled(app: ApplicationNode) -> None:
    job = app.start_job(work.spin, [()])
    eventually(lambda: job.counts().running == 1, "it runs")
    job.cancel()
    assert job.wait(PATIENCE_S)
    assert job.futures[0].cancelled()


SLOW_PACKAGE = """
import time
from pathlib import Path
from .part import *
first = Path(__file__).with_name("first")
if not first.exists():
    first.touch()
    time.sleep(60)
"""


def test_a_task_that_is_stopped_while_it_imports_spoils_no_worker(app: ApplicationNode, tmp_path: Path) -> None:
    (tmp_path / "slow_package").mkdir()
    (tmp_path / "slow_package" / "__init__.py").write_text(SLOW_PACKAGE)
    (tmp_path / "slow_package" / "part.py").write_text("__all__ = ['VALUE']\nVALUE = 7\n")

    def use(_: int) -> int:
        import sys

        if str(tmp_path) not in sys.path:
            sys.path.append(str(tmp_path))
        import slow_package  # type: ignore[import-not-found]

        return int(slow_package.part.VALUE)

    stopped = app.start_job(use, [(0,)], timeout_s=1.0)
    assert isinstance(stopped.futures[0].exception(PATIENCE_S), TaskTimeout)
    assert list(app.map(use, range(50))) == [7] * 50


# ------------------------------------------------------------------------------------------- what cannot travel or work


def test_an_argument_that_cannot_be_pickled(app: ApplicationNode, tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file:
        for argument, kind in (
            (threading.Lock(), "lock"),
            (file, "argument 1 is an open file"),
            (work.CannotGo(), "travel"),
        ):
            error = app.submit(work.echo, argument).exception(PATIENCE_S)
            assert isinstance(error, NotPicklable)
            assert "an argument of echo cannot be sent" in str(error)
            assert kind in str(error)
            with pytest.raises(NotPicklable, match="an argument of echo cannot be sent"):
                app.start_job(work.echo, [(1,), (argument,)])


def test_a_function_that_cannot_be_pickled(app: ApplicationNode) -> None:
    lock = threading.Lock()

    def locked() -> bool:
        return lock.locked()

    for error in (app.submit(locked).exception(PATIENCE_S), app.submit(lambda: app).exception(PATIENCE_S)):
        assert isinstance(error, NotPicklable)
    with pytest.raises(NotPicklable, match="lock"):
        app.start_job(locked, [()])


@pytest.mark.parametrize(
    ("function", "kind", "advice"),
    [
        pytest.param(work.make_generator, "generator", "return a list of its items instead", id="generator"),
        pytest.param(lambda: map(str, [lambda: 1, threading.Lock()]), "map", "list of its items", id="map"),
        pytest.param(threading.Lock, "lock", "return plain data", id="lock"),
        pytest.param(work.make_cannot_go, "CannotGo", "return plain data", id="__reduce__ raises"),
    ],
)
def test_a_result_that_cannot_be_pickled(
    app: ApplicationNode, function: Callable[[], object], kind: str, advice: str
) -> None:
    future = app.submit(function)
    error = future.exception(PATIENCE_S)
    assert isinstance(error, ResultNotPicklable)
    assert f"the task returned a {kind} that cannot be pickled" in str(error)
    assert advice in str(error)
    assert (error.task, error.slave, error.worker) == (future.task, future.slave, future.worker)


def nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


def test_a_result_that_is_nested_too_deeply(app: ApplicationNode) -> None:
    error = app.submit(nested, 100_000).exception(PATIENCE_S)
    assert isinstance(error, ResultNotPicklable)
    assert "recursion" in str(error)


def test_an_endless_recursion_is_the_tasks_own_error(app: ApplicationNode) -> None:
    def again(n: int) -> int:
        return again(n + 1) + 1

    assert isinstance(app.submit(again, 0).exception(PATIENCE_S), RecursionError)


def test_a_result_that_cannot_be_opened_here(app: ApplicationNode) -> None:
    error = app.submit(work.make_grenade).exception(PATIENCE_S)
    assert isinstance(error, ResultNotLoadable)
    assert "cannot be unpickled here: RuntimeError: opened" in str(error)
    assert isinstance(error.__cause__, RuntimeError)


def test_a_function_that_workers_cannot_import(
    app: ApplicationNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "only_here.py"
    file.write_text("def f(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here  # type: ignore[import-not-found]

    file.unlink()
    concurrent_nb.follow_modules(leave_out=["only_here"])
    error = app.submit(only_here.f).exception(PATIENCE_S)
    assert isinstance(error, FunctionNotLoadable)
    assert "No module named 'only_here'" in str(error)
    assert "the worker cannot load the task's function or arguments" in str(error)
    assert "module only_here was not found on host" in str(error)


def test_an_exception_that_cannot_be_pickled_is_told_in_words(app: ApplicationNode) -> None:
    error = app.submit(work.raise_unpicklable).exception(PATIENCE_S)
    assert isinstance(error, RemoteError)
    assert str(error) == "tests.work.Unpicklable: a lock, say"
    assert error.type_name == "tests.work.Unpicklable"
    assert "in raise_unpicklable" in str(error.__cause__)


class Silent(Exception):
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


def test_an_exception_that_cannot_even_be_shown(app: ApplicationNode) -> None:
    error = app.submit(work.raise_kind, Silent).exception(PATIENCE_S)
    assert type(error) is Silent
    assert "RuntimeError" in str(error.__cause__) or "Silent" in str(error.__cause__)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"timeout_s": 0}, "timeout_s is 0, it must be a number of seconds above 0"),
        ({"timeout_s": -1}, "timeout_s is -1"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"timeout_s": "abc"}, "timeout_s is 'abc'"),
        ({"timeout_s": True}, "timeout_s is True"),
        ({"retries": -1}, "retries is -1, it must be a whole number from 0"),
        ({"retries": 1.5}, "retries is 1.5"),
        ({"retries": 2**70}, "retries is 1180591620717411303424"),
    ],
)
def test_limits_that_make_no_sense_are_refused_before_anything_is_sent(
    app: ApplicationNode, limits: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        app.start_job(work.square, [(1,)], **limits)


@pytest.mark.parametrize("name", ["", "x" * 5_000_000, "line\nbreak \x1b[31m", "\udc80", "ünïcödé 🎉"])
def test_names_of_any_kind_do_no_harm(app: ApplicationNode, name: str) -> None:
    job = app.start_job(work.square, [(3,)], name=name)
    assert job.futures[0].result(PATIENCE_S) == 9


def test_a_flood_of_output_is_cut_and_the_task_goes_on(
    app: ApplicationNode, capsys: pytest.CaptureFixture[str]
) -> None:
    size = 30 * 1024 * 1024
    noisy, quiet = app.submit(work.flood, size), app.submit(work.square, 5)
    assert noisy.result(PATIENCE_S) == size
    assert quiet.result(PATIENCE_S) == 25
    written = capsys.readouterr().out
    assert 1024 * 1024 <= len(written) < 1024 * 1024 + 200
    assert written.endswith("\n[output cut at 1 MiB]\n")
    # The next task of the same workers has a limit of its own.
    list(app.map(work.say, ["after it"] * 4))
    assert capsys.readouterr().out == "after it\n" * 4


def spoil() -> None:
    """Leave as much behind as a careless task can."""
    import builtins
    import random
    import sys

    os.environ["SPOILED"] = "1"
    sys.stdout.close()
    sys.stdout = None
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (nobody will close it)
    os.chdir("/")
    random.seed(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.setrecursionlimit(10**6)
    builtins.spoiled = True  # type: ignore[attr-defined]
    os.close(1)
    os.umask(0o777)


def test_a_task_that_leaves_disorder_disturbs_no_later_one(
    app: ApplicationNode, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(app.map(_folder, range(20)))
    list(app.map(lambda _: spoil(), range(8), chunksize=1))  # what is put right is put right after a task
    capsys.readouterr()
    list(app.map(work.say, [f"line {n}" for n in range(8)]))
    assert sorted(capsys.readouterr().out.splitlines()) == [f"line {n}" for n in range(8)]
    assert set(app.map(_folder, range(20))) == before
    job = app.start_job(time.sleep, [(PATIENCE_S,)] * 2)
    eventually(lambda: job.counts().running == 2, "both run")
    job.cancel()
    assert job.wait(PATIENCE_S)


def _folder(_: int) -> str:
    return os.getcwd()


# ------------------------------------------------------------------------------------------------ strangers at the door


def register_raw(info: ConnectionFile, role: str, **changes: Any) -> dict[str, Any]:
    """Register over the control channel with any facts whatever."""
    facts: dict[str, Any] = {"key": keys.fresh().public.decode(), "versions": registration.versions(), "name": "x"}
    if role == "slave":
        facts |= {"slots": 1, "credit": 1}
    with ControlClient(info.endpoints, info.tokens[role]) as control:
        answer: dict[str, Any] = control.call(f"register_{role}", **{**facts, **changes})
        control.call(f"unregister_{role}", session=answer["session"], secret=answer["secret"])
    return answer


@contextlib.contextmanager
def joined(info: ConnectionFile, role: str, **facts: Any) -> Iterator[tuple[Membership, Session]]:
    """Be a node that speaks for itself."""
    membership = registration.register(info, role, keys.fresh(), name="stranger", **facts)
    try:
        yield membership, Session(membership.epoch, f"to_{role}")
    finally:
        membership.leave()


def say(membership: Membership, session: Session, *messages: m.AnyMessage) -> None:
    for message in messages:
        session.send(message)
    for frames in session.flush(time.monotonic()):
        membership.link.send(frames)


def farewell(membership: Membership, session: Session) -> str:
    """Give the reason with which the master ends the session."""
    deadline = time.monotonic() + PATIENCE_S
    while session.closed_by_peer is None:
        assert time.monotonic() < deadline
        membership.link.socket.poll(100)
        for frames in membership.link.receive():
            session.receive(frames, time.monotonic())
    return session.closed_by_peer


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x00" * 1000, id="zeros"),
        pytest.param(os.urandom(5000), id="garbage"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), id="TLS"),
        pytest.param(b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL".ljust(64, b"\0"), id="no encryption"),
    ],
)
def test_what_is_no_peer_is_cut_at_the_compute_port(app: ApplicationNode, info: ConnectionFile, data: bytes) -> None:
    port = int(register_raw(info, "client")["compute"].rpartition(":")[2])
    futures = [app.submit(work.slow_square, n) for n in range(200)]
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.settimeout(PATIENCE_S)
        stranger.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            while stranger.recv(4096):
                continue
    assert [future.result(PATIENCE_S)[0] for future in futures] == [n * n for n in range(200)]


def test_an_unknown_key_is_not_let_in(info: ConnectionFile) -> None:
    endpoint = register_raw(info, "client")["compute"]
    stranger = keys.fresh()
    link = ComputeClient(endpoint, b"s" * 16, info.master_key.encode(), stranger.public, stranger.secret)
    link.send([b"let me in"])
    assert link.monitor.poll(int(PATIENCE_S * 1000))
    assert link.disturbed()
    assert not link.socket.poll(200)
    link.close()


@pytest.mark.parametrize("flood", [1, 500])
def test_who_names_another_nodes_session_gets_nothing_and_ends_nothing(info: ConnectionFile, flood: int) -> None:
    mine = keys.fresh()
    with joined(info, "client") as (victim, victims), registered(info, mine) as endpoint:
        say(victim, victims, m.OpenJob(JOB, "", False, False))
        thief = ComputeClient(endpoint, victim.session_id, info.master_key.encode(), mine.public, mine.secret)
        for _ in range(flood):
            thief.send([b"what would end the session of who is allowed to send it"])
            thief.send(encode(Envelope(m.PROTOCOL_VERSION, info.epoch, 0, 0, [m.Bye("me too")])))
        # What is for the victim goes to the victim: it asks, and so is answered.
        task = m.Submit(JOB, b"f" * 32, None, 0, [m.TaskFrame(0, 0, b"x")])
        say(victim, victims, task)
        heard: list[m.AnyMessage] = []
        while not heard:
            assert victim.link.socket.poll(int(PATIENCE_S * 1000))
            for frames in victim.link.receive():
                heard += [item.message for item in victims.receive(frames, time.monotonic())]
        assert [type(message) for message in heard] == [m.Outcomes]
        assert not thief.socket.poll(300)
        thief.close()
        assert victim.still_known()


def test_who_speaks_for_a_session_that_is_over_is_told_so_over_its_own_connection(info: ConnectionFile) -> None:
    mine = keys.fresh()
    with joined(info, "client") as (bystander, others), registered(info, mine) as endpoint:
        say(bystander, others, m.OpenJob(JOB, "", False, False))
        link = ComputeClient(endpoint, b"o" * 16, info.master_key.encode(), mine.public, mine.secret)
        link.send(Session(info.epoch, "to_client").heartbeat())
        assert link.socket.poll(int(PATIENCE_S * 1000))
        session = Session(info.epoch, "to_client")
        for frames in link.receive():
            session.receive(frames, 0.0)
        assert session.closed_by_peer == "this session is over: register again"
        link.close()
        assert bystander.still_known()


@pytest.mark.skipif(not tcp.IS_AVAILABLE, reason="connections can be looked at on Linux alone")
def test_a_message_that_does_not_end_takes_no_memory_to_speak_of(app: ApplicationNode, info: ConnectionFile) -> None:
    master = psutil.Process(info.pid)
    peak_bytes = 0
    with joined(info, "client") as (node, session):
        node.link.send(session.heartbeat())
        assert node.link.socket.poll(int(PATIENCE_S * 1000))
        node.link.send([*session.heartbeat(), *[bytes(1 << 20)] * 2000])
        deadline = time.monotonic() + PATIENCE_S
        while not node.link.disturbed():
            assert time.monotonic() < deadline
            peak_bytes = max(peak_bytes, master.memory_info().rss)
            assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
    assert 0 < peak_bytes < 300 << 20


@contextlib.contextmanager
def registered(info: ConnectionFile, pair: KeyPair) -> Iterator[str]:
    """Have a client's key registered for a while; give the compute endpoint."""
    facts = {"key": pair.public.decode(), "versions": registration.versions(), "name": "x"}
    with ControlClient(info.endpoints, info.tokens["client"]) as control:
        answer = control.call("register_client", **facts)
        yield answer["compute"]
        control.call("unregister_client", session=answer["session"], secret=answer["secret"])


def test_a_wrong_token_is_refused(tmp_path: Path, info: ConnectionFile) -> None:
    told = json.loads((Path(os.environ["JUPYTER_RUNTIME_DIR"]) / f"concurrent_nb-{info.name}.json").read_text())
    path = tmp_path / "copy.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps({**told, "tokens": {"client": "w" * 43}}))
    with pytest.raises(AccessRefused, match="does not know the token: take it from"):
        concurrent_nb.connect(path)


def test_another_masters_key_is_refused(tmp_path: Path, info: ConnectionFile) -> None:
    told = json.loads((Path(os.environ["JUPYTER_RUNTIME_DIR"]) / f"concurrent_nb-{info.name}.json").read_text())
    path = tmp_path / "copy.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps({**told, "master_key": keys.fresh().public.decode()}))
    with pytest.raises(AccessRefused, match="has another key than the connection file"):
        concurrent_nb.connect(path)


def test_a_master_that_is_not_there_or_is_something_else(
    tmp_path: Path, info: ConnectionFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.loads((Path(os.environ["JUPYTER_RUNTIME_DIR"]) / f"concurrent_nb-{info.name}.json").read_text())
    path = tmp_path / "copy.json"
    path.touch(mode=0o600)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        gone = f"http://127.0.0.1:{unused.getsockname()[1]}"
    path.write_text(json.dumps({**told, "endpoints": [gone]}))
    with pytest.raises(MasterUnreachable, match=f"{gone}: Connection refused"):
        concurrent_nb.connect(path)
    with peer(lambda sock: sock.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")) as other:
        path.write_text(json.dumps({**told, "endpoints": [other]}))
        with pytest.raises(ProtocolError, match=other):
            concurrent_nb.connect(path)
    monkeypatch.setattr(registration, "CALL_TIMEOUT_S", 1.0)
    with peer(lambda sock: sock.recv(100_000) and sock.recv(1)) as mute:
        path.write_text(json.dumps({**told, "endpoints": [mute]}))
        with pytest.raises(MasterUnreachable, match="no answer in time"):
            concurrent_nb.connect(path)


@pytest.mark.parametrize("role", ["client", "slave"])
@pytest.mark.parametrize(
    ("what", "theirs"),
    [("protocol", m.PROTOCOL_VERSION + 1), ("protocol", None), ("python", "3.8"), ("cloudpickle", "1.6.0")],
)
def test_another_version_is_refused_with_both_named(info: ConnectionFile, role: str, what: str, theirs: object) -> None:
    ours = registration.versions()
    versions = {**ours, what: theirs}
    if theirs is None:
        del versions[what]
    with pytest.raises(VersionMismatch) as caught:
        register_raw(info, role, versions=versions)
    assert f"{role if role == 'slave' else 'application'} 'x' has {what} {theirs or 'none'}" in str(caught.value)
    assert f"the master has {ours[what]}" in str(caught.value)
    assert f"use an environment with {what} {ours[what]} on both sides" in str(caught.value)


def test_another_version_of_an_application_is_refused_where_it_connects(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.connection_file is not None
    monkeypatch.setattr(
        registration, "versions", lambda: {"protocol": m.PROTOCOL_VERSION, "python": "3.99", "cloudpickle": "3.1"}
    )
    with pytest.raises(VersionMismatch, match=r"has python 3\.99, the master has"):
        concurrent_nb.connect(cluster.connection_file)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"slots": 0}, "1 <= slots <= credit"),
        ({"slots": -1}, "1 <= slots <= credit"),
        ({"slots": 10**9, "credit": 10**9}, "1 <= slots <= credit"),
        ({"slots": 2, "credit": 1}, "1 <= slots <= credit"),
        ({"key": "short"}, "40 characters of z85"),
        ({"name": ""}, "1 to 100 printable characters"),
        ({"name": "x" * 101}, "1 to 100 printable characters"),
        ({"name": "\x1b[31mred"}, r"printable characters, not '\\x1b\[31mred'"),
        ({"name": "two\nlines"}, "printable characters"),
    ],
)
def test_a_slave_that_offers_nonsense_is_refused(info: ConnectionFile, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        register_raw(info, "slave", **changes)


def test_an_envelope_of_another_version_ends_its_session_with_both_named(info: ConnectionFile) -> None:
    with joined(info, "client") as (membership, session):
        membership.link.send(encode(Envelope(9, membership.epoch, 1, 0, [m.CloseJob(JOB)])))
        reason = farewell(membership, session)
        assert f"uses protocol 9, this node uses {m.PROTOCOL_VERSION}" in reason


FRAME = m.OutcomeFrame(0, 1, Status.OK, 0.0, 1, b"result")
PICKLED = b"\x80\x05N."
KNOWN = m.Function(digest_of(PICKLED), PICKLED)


@pytest.mark.parametrize(
    ("role", "messages"),
    [
        pytest.param("client", [m.Outcomes(JOB, "me", [FRAME])], id="a client that answers for tasks"),
        pytest.param("client", [m.Capacity(4, 4)], id="a client that offers workers"),
        pytest.param("client", [m.Returned([m.TaskRef(JOB, 0, 1)])], id="a client that gives tasks back"),
        pytest.param("client", [m.Assign(JOB, b"f" * 32, None, [])], id="a client that plays the master"),
        pytest.param("slave", [m.OpenJob(JOB, "", False, False)], id="a slave that opens a job"),
        pytest.param("slave", [m.Cancel(JOB, None)], id="a slave that cancels"),
        pytest.param("slave", [m.Capacity(-1, 4)], id="a slave with less than no room"),
        pytest.param(
            "client",
            [m.OpenJob(JOB, "", False, False), KNOWN, m.Submit(JOB, KNOWN.digest, -1.0, 0, [])],
            id="a time limit below nothing",
        ),
        pytest.param("client", [KNOWN, m.Submit(JOB, KNOWN.digest, None, 0, [])], id="tasks of a job that is not open"),
        pytest.param(
            "client",
            [m.OpenJob(JOB, "", False, False), m.Function(b"f" * 32, b"body")],
            id="a digest that is not right",
        ),
    ],
)
def test_a_node_that_oversteps_its_role_is_thrown_out(
    app: ApplicationNode, info: ConnectionFile, role: str, messages: list[m.AnyMessage]
) -> None:
    facts = {"slots": 1, "credit": 1} if role == "slave" else {}
    futures = [app.submit(work.slow_square, n) for n in range(100)]
    with joined(info, role, **facts) as (membership, session):
        say(membership, session, *messages)
        assert "protocol error" in farewell(membership, session)
        assert not membership.still_known()
    assert [future.result(PATIENCE_S)[0] for future in futures] == [n * n for n in range(100)]


@pytest.mark.parametrize("meddle", ["cancel", "open", "submit", "close"])
def test_one_user_cannot_touch_another_users_job(
    app: ApplicationNode, info: ConnectionFile, tmp_path: Path, meddle: str
) -> None:
    # Given a job of ours that runs, and somebody with a key of his own who knows its id
    job = app.start_job(work.start_and_wait, [(tmp_path / "started", tmp_path / "go")])
    work.wait_for(tmp_path / "started")
    with joined(info, "client") as (membership, session):
        what: dict[str, list[m.AnyMessage]] = {
            "cancel": [m.Cancel(job.id, None)],
            "close": [m.CloseJob(job.id)],
            "open": [m.OpenJob(job.id, "mine", False, False)],
            "submit": [
                m.OpenJob(new_job_id(), "mine", False, False),
                KNOWN,
                m.Submit(job.id, KNOWN.digest, None, 0, [m.TaskFrame(7, 0, b"args")]),
            ],
        }
        say(membership, session, *what[meddle])
        # Then he is thrown out, and the job goes on
        assert "belongs to another owner" in farewell(membership, session)
    (tmp_path / "go").touch()
    assert job.wait(PATIENCE_S)
    assert job.counts().done == 1


def test_bytes_that_are_no_message_end_the_session_of_who_sent_them(info: ConnectionFile) -> None:
    for frames in ([b""], [b"\xc1"], [os.urandom(200)], [b"\x95\x01", b"more"], [b"x"] * 1000):
        with joined(info, "client") as (membership, session):
            membership.link.send(frames)
            assert "protocol error" in farewell(membership, session)


def test_two_users_have_two_keys_and_work_side_by_side(cluster: Cluster, app: ApplicationNode) -> None:
    assert cluster.connection_file is not None
    with ApplicationNode(cluster.connection_file, keys.fresh(), "other") as other:
        mine = [app.submit(work.slow_square, n) for n in range(50)]
        theirs = [other.submit(work.slow_square, n) for n in range(50, 100)]
        assert [future.result(PATIENCE_S)[0] for future in mine + theirs] == [n * n for n in range(100)]
        names = {client["name"] for client in cluster.status()["clients"]}
        assert {"other", app.name} <= names


# -------------------------------------------------------------------------------------------------- rogues with a token


def test_what_used_to_end_the_master_ends_its_senders_session(info: ConnectionFile, app: ApplicationNode) -> None:
    """Each was one message of a client with the client's token, or of a slave."""
    handle = segments.create(1 << 40)  # it takes no memory
    segment = m.Segment(handle.segment, handle.pid, handle.fd, handle.size)
    behind, enormous = m.Slice(handle.segment, 1 << 40, 8, 1), m.Slice(handle.segment, 0, 1 << 39, 1)
    function = m.Function(digest_of(b"no pickle"), b"no pickle")
    opened = m.OpenJob(JOB, "", False, False)

    def submit(*sizes: m.Slice) -> m.Submit:
        return m.Submit(JOB, function.digest, None, 0, [m.TaskFrame(0, 0, b"", sizes)])

    messages: list[list[m.AnyMessage]] = [
        [m.Content(b"s" * 16, 0, 1, b"", ())],
        [m.Content(b"s" * 16, 0, 1, b"", (enormous,))],
        [m.ShareMemory(), segment, opened, function, submit(behind)],
        [m.ShareMemory(), segment, opened, function, submit(enormous), m.DropSegments([handle.segment])],
    ]
    with joined(info, "slave", slots=50, credit=100) as (far, hers):  # it shares no memory, as on another host
        say(far, hers, m.Capacity(50, 100))
        for said in messages:
            with joined(info, "client") as (membership, session):
                say(membership, session, *said)
                assert app.submit(work.square, 3).result(PATIENCE_S) == 9
        say(far, hers, m.Outcomes(JOB, "", [m.OutcomeFrame(0, 1, Status.OK, 0.1, 42, b"", (enormous,))]))
        say(far, hers, segment, m.Outcomes(JOB, "", [m.OutcomeFrame(0, 1, Status.OK, 0.1, 42, b"", (behind,))]))
        say(far, hers, m.Capacity(0, 0))
        assert app.submit(work.square, 3).result(PATIENCE_S) == 9
    os.close(handle.fd)


def test_whoever_knows_a_session_neither_ends_nor_keeps_it(info: ConnectionFile) -> None:
    with joined(info, "client") as (victim, victims):
        say(victim, victims, m.OpenJob(JOB, "", False, False))
        for role in ("client", "slave"):
            with ControlClient(info.endpoints, info.tokens[role]) as control:
                for secret in ("", "w" * 43):
                    known = {"session": victim.session_id.hex(), "secret": secret}
                    assert control.call(f"heartbeat_{role}", **known) is False
                    assert control.call(f"unregister_{role}", **known) is False
                    assert control.call("status", **known)["jobs"] == []
        register_raw(info, "client", replaces=victim.session_id.hex(), replaces_secret="w" * 43)
        assert victim.still_known()
        eventually(lambda: len(victim.status()["jobs"]) == 1, "its owner sees the job")
