"""What the methods of a master refuse, for every method that there is: the attacks are made of `api`'s description.

A new method is attacked without a change here, unless a parameter has a new name: then it needs a value in GOOD.
"""

import http.client
import json
import re
import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from concurrent_nb import ApplicationNode, Cluster
from concurrent_nb.nodes.common.registration import versions
from concurrent_nb.transport import connection_file, keys
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.transport.feed_handler import WatchParams
from concurrent_nb.wire.jsonrpc import MAX_FAULT_CHARS
from tests import fixtures, work
from tests.feeds import RawSocket
from tests.work import PATIENCE_S

cluster = fixtures.shared_cluster(workers=1)
app = fixtures.app
leaves_nothing_behind = fixtures.leaves_nothing_behind

ROLES = ("admin", "client", "slave")
#: longest text of an error, with the mark that it was clipped
MESSAGE_CHARS = MAX_FAULT_CHARS + 3
#: calls of these with good parameters would end the cluster, or what it has
FATAL = {"stop_cluster", "restart_workers"}
#: for each parameter a value that is right, so that another parameter is what a call is refused for; the keys and
#: versions of nodes, but no slave, session or job that there is
GOOD: dict[str, Any] = {
    "begun": None,
    "comes_back": False,
    "cores": 1,
    "credit": 2,
    "host": "",
    "index": 0,
    "item": "MasterNode.clients",
    "job": "0" * 32,
    "key": keys.fresh().public.decode(),
    "launched": [],
    "least": 1,
    "level": "WARNING",
    "memory": None,
    "most": 2,
    "name": "of-a-test",
    "now": False,
    "parent_index": 0,
    "parent_job": "",
    "pid": 0,
    "replaces": "",
    "replaces_secret": "",
    "sample": True,
    "secret": "x" * 43,
    "session": "0" * 32,
    "since": 0,
    "slave": "nobody",
    "slaves": 1,
    "slots": 1,
    "unattended": False,
    "value": 1000,
    "versions": versions(),
    "view": {"format": 1},
    "workers": 1,
}
#: values of every type of JSON
VALUES: list[Any] = [None, True, 7, 1.5, "text", [], {}, [1], {"a": 1}, [None]]
#: values that have a type and no sense: out of bounds, too long, markup, paths, control characters
ODD: list[Any] = [
    -1, 0, 2**31, 2**63 - 1, 2**64, -(2**63), 10**30, -1.0, 1e308, -1e308,
    "", "x" * 100_000, "0" * 33, "\0", "zz" * 16, "<script>alert(1)</script>", "../../etc/passwd", "\u202egnp",
    "\x1b[2J", ["\0"], ["x" * 1000] * 100, [None] * 1000, {"": None}, {"x" * 1000: {"a": []}},
]  # fmt: skip


@pytest.fixture(scope="module")
def info(cluster: Cluster) -> ConnectionFile:
    assert cluster.connection_file is not None
    return connection_file.read(cluster.connection_file)


@pytest.fixture(scope="module")
def methods(info: ConnectionFile) -> dict[str, Any]:
    with ControlClient(info.endpoints, info.tokens["admin"]) as admin:
        found: dict[str, Any] = admin.call("api")["methods"]
    named = {name for method in found.values() for name in method["params"]}
    assert named <= GOOD.keys(), f"give a right value for {sorted(named - GOOD.keys())}"
    return found


@pytest.fixture
def channel(info: ConnectionFile) -> Iterator["Channel"]:
    """Call methods; in the end the cluster has no other client or slave than before, and still works."""
    channel = Channel(info)
    before = channel.nodes()
    yield channel
    channel.unregister()
    assert channel.nodes() == before
    channel.connection.close()


class Channel:
    """Calls methods over HTTP, with any token."""

    def __init__(self, info: ConnectionFile) -> None:
        self.tokens = info.tokens
        self.port = int(info.endpoints[0].rpartition(":")[2])
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        self.sessions: list[tuple[str, dict[str, str]]] = []

    def call(self, token: str | None, method: str, params: Any) -> tuple[int, dict[str, Any]]:
        """Return status and answer."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        self.connection.request("POST", "/api/1", body, {**headers, "Content-Type": "application/json"})
        response = self.connection.getresponse()
        text = response.read()
        if response.status != 200:
            self.connection.close()  # as the master does: it has not read the body
        answer: dict[str, Any] = json.loads(text)
        if method.startswith("register_") and "result" in answer:
            own = {name: answer["result"][name] for name in ("session", "secret")}
            self.sessions.append((f"un{method}", own))
        assert len(text) < 5000 or "result" in answer, f"{method} answers with {len(text)} bytes"
        return response.status, answer

    def refused(self, token: str, method: str, params: Any) -> dict[str, Any]:
        """Return the error."""
        status, answer = self.call(token, method, params)
        assert status == 200 and "error" in answer, (method, str(params)[:200], answer)
        error: dict[str, Any] = answer["error"]
        check_error(method, error)
        return error

    def nodes(self) -> tuple[int, int]:
        """Return how many clients and slaves there are."""
        _, answer = self.call(self.tokens["admin"], "status", {})
        return len(answer["result"]["clients"]), len(answer["result"]["slaves"])

    def unregister(self) -> None:
        for method, own in self.sessions:
            _, answer = self.call(self.tokens["admin"], method, own)
            assert answer["result"] is True
        self.sessions.clear()


def check_error(method: str, error: dict[str, Any]) -> None:
    """Fail for an error that is a fault of the master, or that is not fit to be shown."""
    assert error["code"] in (-32000, -32602), (method, error)
    assert error["message"].isprintable() and len(error["message"]) <= MESSAGE_CHARS


def allowed(method: dict[str, Any]) -> str:
    """Return the most powerful role that may call a method."""
    return next(role for role in ROLES if role in method["roles"])


def fits(value: Any, parameter: dict[str, Any]) -> bool:
    """Tell whether a value is of the type of a parameter, which is text like `list[Any] | None`."""
    try:
        msgspec.convert(value, eval(parameter["type"], dict(vars(typing))))
    except msgspec.ValidationError:
        return False
    return True


def good(method: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return right parameters, but for `changes`."""
    return {**{name: GOOD[name] for name in method["params"]}, **changes}


# ------------------------------------------------------------------------------------------------------- over HTTP


def test_only_tokens_of_its_roles_call_a_method(channel: Channel, methods: dict[str, Any]) -> None:
    for name, method in methods.items():
        params = good(method)
        for token in (None, "x" * 43, channel.tokens["admin"][:-1], channel.tokens["admin"] + "x"):
            status, answer = channel.call(token, name, params)
            assert (status, answer["error"]["data"]["type"]) == (401, "AccessRefused"), name
        for role in set(ROLES) - set(method["roles"]):
            error = channel.refused(channel.tokens[role], name, params)
            assert error["data"]["type"] == "AccessRefused", name
            assert f"this one is of role {role}" in error["message"]


def test_a_parameter_that_is_missing_unknown_or_of_another_type_is_named(
    channel: Channel, methods: dict[str, Any]
) -> None:
    for name, method in methods.items():
        token = channel.tokens[allowed(method)]
        parameters = method["params"]
        wrong: list[tuple[str, Any]] = [("unknown", good(method, unknown=1)), ("a\0\u202e<b>" + "x" * 1000, None)]
        for parameter, described in parameters.items():
            wrong += [(parameter, good(method, **{parameter: value})) for value in VALUES if not fits(value, described)]
            if described["required"]:
                wrong.append((parameter, {key: GOOD[key] for key in parameters if key != parameter}))
        for parameter, params in wrong:
            error = channel.refused(token, name, good(method, **{parameter: 1}) if params is None else params)
            assert error["code"] == -32602, (name, params, error)
            assert error["data"]["parameter"][:60] == parameter[:60] or "\0" in parameter
        error = channel.refused(token, name, [None] * (len(parameters) + 1))
        assert error["code"] == -32602 and "parameters" in error["message"], name


def test_odd_values_are_refused_in_words_or_do_no_harm(
    channel: Channel, methods: dict[str, Any], app: ApplicationNode
) -> None:
    for name, method in methods.items():
        if name in FATAL:
            continue
        token = channel.tokens[allowed(method)]
        for parameter, described in method["params"].items():
            for value in (value for value in ODD if fits(value, described)):
                _, answer = channel.call(token, name, good(method, **{parameter: value}))
                if "error" in answer:
                    check_error(name, answer["error"])
            channel.unregister()
    channel.call(channel.tokens["admin"], "set_config", {"item": "MasterNode.clients", "value": GOOD["value"]})
    assert app.submit(work.square, 3).result(PATIENCE_S) == 9


def test_no_setting_takes_nonsense(channel: Channel) -> None:
    admin = channel.tokens["admin"]
    _, answer = channel.call(admin, "config", {})
    for item, setting in answer["result"].items():
        for value in ("\0", -(2**70), -1e300, ["\0"], [], "x" * 10_000):
            error = channel.refused(admin, "set_config", {"item": item, "value": value})
            assert error["data"]["type"] == "ConfigurationError", (item, value, error)
            assert item.partition(".")[2] in error["message"], error
        assert setting == channel.call(admin, "config", {})[1]["result"][item]


def test_a_session_counts_with_its_own_secret_only(
    channel: Channel, methods: dict[str, Any], app: ApplicationNode, cluster: Cluster
) -> None:
    """A client has no session, another one's, or one of a slave; its job is another one's."""
    assert cluster.connection_file is not None
    job = app.start_job(work.square, [(1,)], name="not yours")
    job.results()
    victim = app._client_thread.member.credentials
    with ApplicationNode(cluster.connection_file, keys.fresh(), "thief") as thief:
        own = thief._client_thread.member.credentials
        foreign = [
            {},
            {"session": victim["session"]},
            {"secret": victim["secret"]},
            {"session": victim["session"], "secret": own["secret"]},
            {"session": own["session"], "secret": victim["secret"]},
            {"session": own["session"].upper() + "00", "secret": own["secret"]},
            {"session": "no hex", "secret": own["secret"]},
        ]
        for name, method in methods.items():
            if not {"session", "secret"} <= method["params"].keys() or "client" not in method["roles"]:
                continue
            for credentials in foreign:
                params = good(method) | {"session": "", "secret": ""} | credentials
                if "job" in params:
                    params["job"] = job.id.hex()
                _, answer = channel.call(channel.tokens["client"], name, params)
                if "error" in answer:
                    assert answer["error"]["data"]["type"] == "AccessRefused", (name, credentials, answer)
                else:
                    assert name == "status" or answer["result"] is False, (name, credentials, answer)
                    assert "not yours" not in json.dumps(answer)
            if "job" in method["params"]:
                answers = []
                for which in (job.id.hex(), "0" * 32):
                    _, answer = channel.call(channel.tokens["client"], name, good(method) | own | {"job": which})
                    answers.append(json.dumps(answer).replace(which, "JOB"))
                assert answers[0] == answers[1], "another one's job is like none"
        assert thief.submit(work.square, 2).result(PATIENCE_S) == 4
    assert app.submit(work.square, 2).result(PATIENCE_S) == 4


# --------------------------------------------------------------------------------------------------- over the feed


def answers_of(channel: Channel, role: str, calls: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Send calls to the feed, no more than it takes from one reader, and return the answers."""
    answers = []
    for at in range(0, len(calls), 2):
        with RawSocket(channel.port, {"Authorization": f"Bearer {channel.tokens[role]}"}) as reader:
            for method, params in calls[at : at + 2]:
                text = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
                reader.send(text.encode())
                answers.append(reader.answer())
    return answers


@pytest.mark.parametrize("role", ["admin", "client"])
def test_no_method_of_the_control_channel_is_called_through_the_feed(
    channel: Channel, methods: dict[str, Any], role: str
) -> None:
    calls = [(name, good(method)) for name, method in methods.items() if name != "ping"]
    for answer, (name, _) in zip(answers_of(channel, role, calls), calls, strict=True):
        assert answer["error"]["code"] == -32601, (name, answer)


def test_what_a_reader_of_the_feed_sends_is_checked(channel: Channel) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(WatchParams)}
    calls: list[tuple[str, Any]] = [("watch", {"unknown": 1}), ("watch", [None] * (len(fields) + 1))]
    for name, kind in fields.items():
        described = {"type": re.sub(r"<class '(\w+)'>", r"\1", str(kind)).replace("typing.", "")}
        calls += [("watch", {name: value}) for value in VALUES if not fits(value, described)]
    for answer, (_, params) in zip(answers_of(channel, "client", calls), calls, strict=True):
        assert answer["error"]["code"] == -32602, (params, answer)
        check_error("watch", answer["error"])
    odd = [{"since": [epoch, seq]} for epoch in (-1, 2**64, 10**30) for seq in (-1, 2**64, 0)]
    for answer in answers_of(channel, "client", [("watch", params) for params in odd]):
        assert answer.get("result") or answer["error"]["code"] == -32602, answer
    strange = [("watch", {"session": text, "secret": text}) for text in ("x" * 1900, "\0", "<script>", "zz" * 16)]
    for answer in answers_of(channel, "client", strange):
        assert answer["error"]["data"]["type"] == "AccessRefused"
