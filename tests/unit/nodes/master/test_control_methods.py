"""Who may call which method, and what a client has to prove."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import pytest

from concurrent_nb.components.core import ComponentManager
from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.master.control_methods import ControlMethods
from concurrent_nb.nodes.master.journal_components import JOURNALS
from concurrent_nb.nodes.master.metrics_source import MetricsSource
from concurrent_nb.nodes.master.process import MasterSettings
from concurrent_nb.nodes.master.strategy_components import BUILT_IN
from concurrent_nb.nodes.master.waiting_callers import WaitingCallers
from concurrent_nb.rpc import Caller, Dispatcher, Registry
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.jsonrpc import MAX_BODY_BYTES, MAX_VIEW_BYTES, encode_call
from tests.unit.nodes.master.bench import ALICE, BOB, EAST, JOB, KEYS, Bench, function

T = TypeVar("T")

#: roles that may call each method, with parameters that are valid for an admin
METHODS: dict[str, tuple[set[str], dict[str, Any]]] = {
    "cancel_job": ({"admin", "client"}, {"job": JOB.hex()}),
    "cancel_task": ({"admin", "client"}, {"job": JOB.hex(), "index": 9}),
    "stack_sample": ({"admin", "client"}, {"job": JOB.hex(), "index": 0}),
    "drain_slave": ({"admin"}, {"slave": "east"}),
    "trace": ({"admin", "client"}, {"job": JOB.hex()}),
    "share_view": ({"admin", "client"}, {"job": JOB.hex(), "view": {"format": 1}}),
    "job_view": ({"admin", "client"}, {"job": JOB.hex()}),
    "config": ({"admin"}, {}),
    "set_config": ({"admin"}, {"item": "MasterNode.clients", "value": 10}),
    "set_log_level": ({"admin"}, {"level": "WARNING"}),
    "totals": ({"admin", "client"}, {}),
}
#: those for which a client must have a session
OF_OWNERS = ("cancel_job", "cancel_task", "stack_sample", "trace", "share_view", "job_view")


class Control:
    """The control channel of a master on a bench."""

    def __init__(self) -> None:
        self.bench = bench = Bench()
        for session, secret in ((ALICE, "alice's secret"), (BOB, "bob's secret")):
            bench.core.add_client(session, KEYS[session], "somebody", 0.0, secret=secret)
            bench.ends[session] = bench.ends.get(session) or _end()
            bench.send(session)
        bench.slave(EAST)
        tasks = [m.TaskFrame(index, 0, b"arguments") for index in range(10)]
        bench.send(
            ALICE, m.OpenJob(JOB, "job", False, False), function(), m.Submit(JOB, function().digest, None, 0, tasks)
        )
        manager = ComponentManager()
        manager.load([MasterSettings, *BUILT_IN, *JOURNALS])
        self.stacks = WaitingCallers(bench.core.stacks)
        methods = ControlMethods("lab", bench.core, manager.get(MasterSettings), self.ask, self.stacks)
        self.dispatcher = Dispatcher(Registry(methods, MetricsSource(bench.core, self.ask, self.status)))

    async def ask(self, question: Callable[[float], T], /) -> T:
        answer = question(self.bench.now)
        for message in self.bench.sent_to(EAST):
            if isinstance(message, m.SampleStack):
                self.bench.send(EAST, m.StackSampled(message.request, 42, 1.5, "  File", ""))
        self.stacks.settle()
        return answer

    async def status(self) -> dict[str, Any]:
        return self.bench.core.status(self.bench.now, sees_all=True)

    def call(self, role: str, method: str, **params: Any) -> dict[str, Any]:
        """Return the result, or the error."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        answer = asyncio.run(self.dispatcher.dispatch(body, Caller(role, "127.0.0.1", "127.0.0.1")))
        told: dict[str, Any] = json.loads(answer or b"")
        return told


def _end() -> Any:
    from concurrent_nb.wire.session import Session

    return Session(7, "to_client")


@pytest.fixture
def control() -> Iterator[Control]:
    logger = logging.getLogger("concurrent_nb")
    before = logger.level
    yield Control()
    logger.setLevel(before)  # `set_log_level` has changed it, for all later tests


def credentials(session: SessionId, secret: str) -> dict[str, str]:
    return {"session": session.hex(), "secret": secret}


def error_of(answer: dict[str, Any]) -> tuple[str, str]:
    return answer["error"]["data"]["type"], answer["error"]["message"]


def test_these_are_all_methods(control: Control) -> None:
    assert {*control.dispatcher.registry.names()} - {"api"} == METHODS.keys()


@pytest.mark.parametrize("method", METHODS)
def test_an_admin_may_call_each(control: Control, method: str) -> None:
    assert "result" in control.call("admin", method, **METHODS[method][1])


@pytest.mark.parametrize("role", ["client", "slave", "", "root"])
@pytest.mark.parametrize("method", METHODS)
def test_other_roles_are_refused(control: Control, method: str, role: str) -> None:
    roles, params = METHODS[method]
    if role in roles:
        return
    kind, text = error_of(control.call(role, method, **params))
    assert kind == "AccessRefused"
    assert f"{method} needs a token of role" in text


@pytest.mark.parametrize("method", OF_OWNERS)
@pytest.mark.parametrize(
    "given",
    [
        {},
        credentials(ALICE, ""),
        credentials(ALICE, "bob's secret"),
        credentials(EAST, ""),
        {"session": "no hexadecimal", "secret": "alice's secret"},
        {"session": ALICE.hex().upper() + "00", "secret": "alice's secret"},
    ],
)
def test_a_client_must_prove_its_session(control: Control, method: str, given: dict[str, str]) -> None:
    kind, text = error_of(control.call("client", method, **METHODS[method][1], **given))
    assert kind == "AccessRefused"
    assert "session of its own" in text


@pytest.mark.parametrize("method", OF_OWNERS)
def test_a_client_may_do_it_with_its_own_job_only(control: Control, method: str) -> None:
    params = METHODS[method][1]
    kind, text = error_of(control.call("client", method, **params, **credentials(BOB, "bob's secret")))
    assert kind == "ConfigurationError"
    assert JOB.hex() in text
    assert "result" in control.call("client", method, **params, **credentials(ALICE, "alice's secret"))


@pytest.mark.parametrize("job", ["x", "", "ab", JOB.hex() + "00", "\x00" * 32, "é" * 32])
@pytest.mark.parametrize("method", ["cancel_job", "stack_sample", "trace", "share_view", "job_view"])
def test_an_id_that_is_none_is_named(control: Control, method: str, job: str) -> None:
    if method == "trace" and not job:
        return  # all jobs
    more = {"index": 0} if method == "stack_sample" else {}
    kind, text = error_of(control.call("admin", method, job=job, **more))
    assert kind == "ConfigurationError"
    assert "is not the id of a job, which has 32 hexadecimal digits" in text


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("set_log_level", {"level": "LOUD"}),
        ("cancel_task", {"job": JOB.hex(), "index": "first"}),
        ("stack_sample", {"job": JOB.hex(), "index": "first"}),
        ("trace", {"job": JOB.hex(), "since": 1.5}),
        ("set_config", {"item": "MasterNode.clients", "value": {"a": 1}}),
        ("drain_slave", {"slave": None}),
        ("share_view", {"job": JOB.hex(), "view": [1, 2]}),
        ("share_view", {"job": JOB.hex(), "view": "text"}),
        ("job_view", {"job": JOB.hex(), "since": "latest"}),
        ("job_view", {"job": JOB.hex(), "since": None}),
    ],
)
def test_arguments_of_another_type_are_refused(control: Control, method: str, params: dict[str, Any]) -> None:
    assert control.call("admin", method, **params)["error"]["code"] == -32602


@pytest.mark.parametrize("since", [-5, 10**18])
def test_a_page_from_a_number_that_is_none(control: Control, since: int) -> None:
    assert control.call("admin", "trace", since=since)["result"]["tasks"] == []


def test_a_stack_has_its_place(control: Control) -> None:
    sample = control.call("admin", "stack_sample", job=JOB.hex(), index=0)["result"]
    assert sample == {"slave": "east", "worker": 42, "seconds": 1.5, "stack": "  File"}
    kind, text = error_of(control.call("admin", "stack_sample", job=JOB.hex(), index=10))
    assert kind == "StackUnavailable" and "no task 10 at the master" in text


def test_totals_count_each_task_once(control: Control) -> None:
    bench = control.bench
    frames = [m.OutcomeFrame(index, 1, 0, 0.5, 42, b"value") for index in range(2)]
    bench.send(EAST, m.Outcomes(JOB, "east", frames[:1]))
    assert control.call("client", "totals")["result"]["ended"]["ok"] == 1
    bench.send(EAST, m.Outcomes(JOB, "east", frames[1:]))
    totals = control.call("admin", "totals")["result"]
    assert (totals["ended"]["ok"], totals["run_s"], totals["out_bytes"]) == (2, 1.0, 10)


def test_a_view_is_shared_and_read(control: Control) -> None:
    alice = credentials(ALICE, "alice's secret")
    share, read = partial(control.call, "client", "share_view"), partial(control.call, "admin", "job_view")
    view = {"format": 1, "text": "\x1b[31m\u202e", "errors": {"kinds": [], "more": 0}}
    assert share(job=JOB.hex(), view=None, **alice)["result"] == {"wanted": False}
    assert read(job=JOB.hex())["result"] == {"version": 0, "view": None}
    assert share(job=JOB.hex(), view=view, **alice)["result"] == {"wanted": True}
    answer = read(job=JOB.hex())["result"]
    assert answer["view"] == view
    assert answer["version"] > 0
    assert read(job=JOB.hex(), since=answer["version"])["result"] == {"version": answer["version"], "view": None}
    assert share(job=JOB.hex(), **alice)["result"] == {"wanted": True}
    assert read(job=JOB.hex())["result"] == answer, "null changes nothing"
    control.bench.now += 15.5
    assert share(job=JOB.hex(), view=view, **alice)["result"] == {"wanted": False}
    again = read(job=JOB.hex(), since=answer["version"])["result"]
    assert again["view"] == view
    assert again["version"] > answer["version"]


def test_a_view_that_is_too_large_is_refused_with_its_size(control: Control) -> None:
    overhead = len('{"text":""}')
    share = partial(control.call, "admin", "share_view", job=JOB.hex())
    assert "result" in share(view={"text": "x" * (MAX_VIEW_BYTES - overhead)})
    kind, text = error_of(share(view={"text": "x" * (MAX_VIEW_BYTES - overhead + 1)}))
    assert kind == "ConfigurationError"
    assert "has 1,000,001 bytes of JSON and may have 1,000,000" in text
    kept = control.call("admin", "job_view", job=JOB.hex())["result"]["view"]
    assert len(kept["text"]) == MAX_VIEW_BYTES - overhead, "the one before stays"


def test_the_largest_view_fits_a_call() -> None:
    """With ids, session, secret and the call around it."""
    params = {"job": JOB.hex(), "view": {"text": "x" * MAX_VIEW_BYTES}, **credentials(ALICE, "s" * 64)}
    assert len(encode_call("share_view", params, 2**63 - 1)) < MAX_BODY_BYTES
