"""JSON-RPC 2.0 as the control channel speaks it: bytes to calls, answers to bytes, errors to error objects and back.

The dispatcher (rpc/) uses the master's half, the control client (transport/) the other. Both halves are total: whatever
bytes come, `parse` gives calls and refusals, and `read_answer` gives a result or raises one of our own errors. Nothing
here looks up a method or checks a role. The specification: https://www.jsonrpc.org/specification
"""

import json
import re
from typing import Annotated, Any, Final, Literal, NoReturn

import msgspec
from msgspec import UNSET, UnsetType

from concurrent_nb import errors
from concurrent_nb.errors import ClusterError, ConcurrentError, ProtocolError

#: the version of the methods on the control channel, part of the path that they are served under
API_VERSION: Final = 1
API_PATH: Final = f"/api/{API_VERSION}"
#: what a master answers to anybody at PING_PATH, so that a client knows where it is before it shows its token
PING_PATH: Final = "/ping"
PONG: Final = b"pong"

#: what a master reads of one body
MAX_BODY_BYTES: Final = 1024 * 1024
#: what a master answers to one body
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
#: how deep arrays and objects may be nested, the batch and the call included
MAX_DEPTH: Final = 32
#: calls in one batch
MAX_BATCH: Final = 100
#: how much of a fault's text is kept; some of it may have come from the peer
MAX_FAULT_CHARS: Final = 2000

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
#: one of the classes in errors.py, which `data.type` names
CONCURRENT_ERROR: Final = -32000

#: stands for a character that is not shown
_UNPRINTABLE: Final = "\N{REPLACEMENT CHARACTER}"

#: what a method may be called
METHOD_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")

#: 64 bits, because a larger number comes back from many JSON libraries as another one
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | str | None


class Caller(msgspec.Struct, frozen=True):
    """Who calls a method, as far as the channel knows. A method that wants it has it as its first parameter."""

    role: str  #: the role of the token that was shown
    local_host: str = ""  #: our address that the call came in on
    remote_host: str = ""  #: the caller's address


class Call(msgspec.Struct, frozen=True):
    """A well-formed call. Whether there is such a method is not known here."""

    method: str
    params: list[Any] | dict[str, Any]
    id: int | str | None
    wants_answer: bool  #: False for a notification


class Fault(msgspec.Struct, frozen=True):
    """The error object of an answer."""

    code: int
    message: str
    data: Any = UNSET


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer: either a result or an error is set."""

    jsonrpc: Literal["2.0"] = "2.0"
    id: Id
    result: Any = UNSET
    error: Fault | UnsetType = UNSET


class Request(msgspec.Struct, frozen=True):
    """What came in one body: calls, and at the place of each malformed one the answer that refuses it."""

    items: list[Call | Answer]
    batch: bool  #: the answers travel as an array


class RpcError(ProtocolError):
    """A call that cannot be carried out as it stands; `fault` is what the caller is told."""

    def __init__(self, code: int, message: str, data: Any = UNSET) -> None:
        super().__init__(message)
        self.fault = Fault(code, message, data)


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call as the specification writes it."""

    jsonrpc: Literal["2.0"]
    method: str
    params: list[Any] | dict[str, Any] = {}
    id: Id | UnsetType = UNSET


# ------------------------------------------------------------------------------------------------- the master's half


def parse(body: bytes) -> Request:
    """Read a body. Never raises: what is wrong comes back as the answer that says so."""
    try:
        value = _strict_json(body)
        if not isinstance(value, list):
            return Request([_call_or_refusal(value)], batch=False)
        if not 0 < len(value) <= MAX_BATCH:
            raise RpcError(INVALID_REQUEST, f"a batch holds 1 to {MAX_BATCH} calls, this one has {len(value)}")
        return Request([_call_or_refusal(item) for item in value], batch=True)
    except RpcError as error:
        return Request([Answer(id=None, error=error.fault)], batch=False)


def encode_answers(answers: list[Answer], batch: bool) -> bytes | None:
    """Write answers. None means that there is nothing to send: all calls were notifications."""
    if not answers:
        return None
    return msgspec.json.encode(answers if batch else answers[0])


def _call_or_refusal(value: Any) -> Call | Answer:
    try:
        envelope = msgspec.convert(value, _Envelope)
    except msgspec.ValidationError as error:
        return Answer(id=_id_of(value), error=Fault(INVALID_REQUEST, f"not a JSON-RPC 2.0 call: {clipped(str(error))}"))
    if envelope.id is UNSET:
        return Call(envelope.method, envelope.params, None, wants_answer=False)
    return Call(envelope.method, envelope.params, envelope.id, wants_answer=True)


def _id_of(value: Any) -> int | str | None:
    """Find the id of a malformed call, so that its caller knows which of its calls it was."""
    try:
        return msgspec.convert(value["id"], Id) if isinstance(value, dict) and "id" in value else None
    except msgspec.ValidationError:
        return None


def _strict_json(body: bytes) -> Any:
    """Decode JSON, without what the grammar forbids (NaN, lone surrogates, a BOM), what overflows, and equal keys."""
    if len(body) > MAX_BODY_BYTES:
        raise RpcError(INVALID_REQUEST, f"the body has {len(body)} bytes, the limit is {MAX_BODY_BYTES}")
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise RpcError(INVALID_REQUEST, f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise RpcError(PARSE_ERROR, f"not JSON: {clipped(str(error))}") from None
    if _is_deeper_than(MAX_DEPTH, value):
        raise RpcError(INVALID_REQUEST, f"nested deeper than {MAX_DEPTH} levels")
    _refuse_duplicate_keys(body)
    return value


def _is_deeper_than(limit: int, value: Any) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [item for item in level if isinstance(item, (list, dict))]
        if not level:
            return False
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return True


def _refuse_duplicate_keys(body: bytes) -> None:
    """Parse once more, because the fast parser keeps the last of two equal keys and says nothing."""

    def unique(pairs: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in pairs}) < len(pairs):
            raise RpcError(INVALID_REQUEST, "an object has the same key twice")

    # Numbers are left unread: their values do not matter here, and reading long ones takes time.
    json.loads(body, object_pairs_hook=unique, parse_int=len, parse_float=len)


# ------------------------------------------------------------------------------------------------- the client's half


def encode_call(method: str, params: dict[str, Any], id: int) -> bytes:
    """Write a call with named parameters. Raises TypeError for a parameter that JSON cannot hold."""
    return msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params, "id": id})


def read_answer(body: bytes, id: int) -> Any:
    """Read the answer to call `id`: gives its result, or raises its error as the class that it is here.

    ProtocolError: this is no answer to that call.
    """
    try:
        answer = msgspec.json.decode(body, type=Answer)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not a JSON-RPC answer: {clipped(str(error))}") from None
    if (answer.result is UNSET) == (answer.error is UNSET):
        raise ProtocolError("not a JSON-RPC answer: it needs a result or an error, and not both")
    # An error may lack the id, where the peer could not read that far.
    if answer.id != id and (answer.error is UNSET or answer.id is not None):
        raise ProtocolError(f"the answer belongs to call {clipped(repr(answer.id))}, not to call {id}")
    if answer.error is not UNSET:
        raise_fault(answer.error)
    return answer.result


# ------------------------------------------------------------------------------------------------------------ errors


def fault_of(error: ConcurrentError) -> Fault:
    """Write one of our errors as an error object: its class, its text, and its attributes where they are plain."""
    if isinstance(error, RpcError):
        return error.fault
    kind = next(cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _CLASSES)
    attributes = {key: value for key, value in vars(error).items() if isinstance(value, int | float)}
    texts = {key: printable(value) for key, value in vars(error).items() if isinstance(value, str)}
    return Fault(CONCURRENT_ERROR, printable(str(error)), {**attributes, **texts, "type": kind})


def raise_fault(fault: Fault) -> NoReturn:
    """Raise an error object that came in as the error that it was where it came from."""
    message = printable(fault.message)
    data = fault.data if isinstance(fault.data, dict) else {}
    if fault.code == INTERNAL_ERROR:
        raise ClusterError(message)
    if fault.code != CONCURRENT_ERROR:
        raise ProtocolError(f"{message} (JSON-RPC error {fault.code})")
    error = _CLASSES.get(str(data.get("type")), ConcurrentError)(message)
    for key, value in data.items():
        # Only what the class has by itself, and of the same type: a peer adds nothing to our objects.
        if type(vars(error).get(key)) is type(value):
            setattr(error, key, value)
    raise error


def printable(text: str) -> str:
    """Clip a text and take out what is no text: control characters write over terminals, surrogates break encoders."""
    return "".join(char if char.isprintable() or char in "\n\t" else _UNPRINTABLE for char in clipped(text))


def clipped(text: str, limit_chars: int = MAX_FAULT_CHARS) -> str:
    """Cut a text that may be as long as its sender likes."""
    return text if len(text) <= limit_chars else text[:limit_chars] + "..."


_CLASSES: Final[dict[str, type[ConcurrentError]]] = {
    name: cls for name, cls in vars(errors).items() if isinstance(cls, type) and issubclass(cls, ConcurrentError)
}
