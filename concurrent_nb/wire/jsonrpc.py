"""JSON-RPC 2.0 of the control channel: bytes to calls, answers to bytes, errors to error objects and back.

The dispatcher (rpc/) uses the master's half, the control client (transport/) the other. Both halves are total: for any
bytes, `parse` returns calls and refusals, and `read_answer` returns a result or raises an error of this package.
Nothing here looks up a method or checks a role. The specification: https://www.jsonrpc.org/specification
"""

import json
import re
from typing import Annotated, Any, Final, Literal, NoReturn

import msgspec
from msgspec import UNSET, UnsetType

from concurrent_nb import errors
from concurrent_nb.errors import ClusterError, ConcurrentError, ProtocolError

#: the version of the methods on the control channel, a part of their path
API_VERSION: Final = 1
API_PATH: Final = f"/api/{API_VERSION}"
#: a master's answer at PING_PATH, without a token: a client checks it before it sends its token
PING_PATH: Final = "/ping"
PONG: Final = b"pong"

#: longest body that a master accepts
MAX_BODY_BYTES: Final = 1024 * 1024
#: most bytes of JSON of the view of a job (`share_view`), which must fit into a body
MAX_VIEW_BYTES: Final = 1_000_000
#: longest answer of a master to one body
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
#: deepest nesting of arrays and objects, with the batch and the call
MAX_DEPTH: Final = 32
#: most calls in one batch
MAX_BATCH: Final = 100
#: most characters of a fault's text that are kept, as some of it may come from the peer
MAX_FAULT_CHARS: Final = 2000

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
#: one of the classes in errors.py, which `data.type` names
CONCURRENT_ERROR: Final = -32000

#: replaces a character that is not printable
_UNPRINTABLE: Final = "\N{REPLACEMENT CHARACTER}"

#: the names that a method may have
METHOD_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")

#: 64 bits, because many JSON libraries change larger numbers
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | str | None


class Caller(msgspec.Struct, frozen=True):
    """The caller of a method, as far as the channel knows. A method may take it as its first parameter."""

    role: str  #: the role of the caller's token
    local_host: str = ""  #: our address at which the call arrived
    remote_host: str = ""  #: the caller's address


class Call(msgspec.Struct, frozen=True):
    """A well-formed call; its method may not exist."""

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
    """The content of one body: calls, and for each malformed call the answer that refuses it."""

    items: list[Call | Answer]
    batch: bool  #: the answers are sent as an array


class RpcError(ProtocolError):
    """A call that cannot be executed; `fault` is the error object for the caller."""

    def __init__(self, code: int, message: str, data: Any = UNSET) -> None:
        super().__init__(message)
        self.fault = Fault(code, message, data)


class _RequestObject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call as in the specification."""

    jsonrpc: Literal["2.0"]
    method: str
    params: list[Any] | dict[str, Any] = {}
    id: Id | UnsetType = UNSET


# ------------------------------------------------------------------------------------------------- the master's half


def parse(body: bytes) -> Request:
    """Parse a body. Never raises: an error becomes an answer that describes it."""
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
    """Encode answers. Returns None if there is nothing to send, because all calls were notifications."""
    if not answers:
        return None
    return msgspec.json.encode(answers if batch else answers[0])


def _call_or_refusal(value: Any) -> Call | Answer:
    try:
        envelope = msgspec.convert(value, _RequestObject)
    except msgspec.ValidationError as error:
        return Answer(id=_id_of(value), error=Fault(INVALID_REQUEST, f"not a JSON-RPC 2.0 call: {clipped(str(error))}"))
    if envelope.id is UNSET:
        return Call(envelope.method, envelope.params, None, wants_answer=False)
    return Call(envelope.method, envelope.params, envelope.id, wants_answer=True)


def _id_of(value: Any) -> int | str | None:
    """Return the id of a malformed call, so that the caller knows which of its calls it was; None without one."""
    try:
        return msgspec.convert(value["id"], Id) if isinstance(value, dict) and "id" in value else None
    except msgspec.ValidationError:
        return None


def _strict_json(body: bytes) -> Any:
    """Decode JSON. Raises RpcError for NaN, lone surrogates, a BOM, overflowing numbers, duplicate keys, and depth."""
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
    """Parse once more, because the fast parser silently keeps the last of two equal keys."""

    def unique(pairs: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in pairs}) < len(pairs):
            raise RpcError(INVALID_REQUEST, "an object has the same key twice")

    # Numbers are not converted: their values do not matter here, and long ones take time.
    json.loads(body, object_pairs_hook=unique, parse_int=len, parse_float=len)


# ------------------------------------------------------------------------------------------------- the client's half


def encode_call(method: str, params: dict[str, Any], id: int) -> bytes:
    """Encode a call with named parameters. Raises TypeError for a parameter that JSON cannot represent."""
    return msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params, "id": id})


def read_answer(body: bytes, id: int) -> Any:
    """Return the result of call `id`, or raise its error with the same class as in the master.

    Raises ProtocolError if the body is not an answer to that call.
    """
    try:
        answer = msgspec.json.decode(body, type=Answer)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not a JSON-RPC answer: {clipped(str(error))}") from None
    if (answer.result is UNSET) == (answer.error is UNSET):
        raise ProtocolError("not a JSON-RPC answer: it needs a result or an error, and not both")
    # An error may lack the id, if the peer could not read that far.
    if answer.id != id and (answer.error is UNSET or answer.id is not None):
        raise ProtocolError(f"the answer belongs to call {clipped(repr(answer.id))}, not to call {id}")
    if answer.error is not UNSET:
        raise_fault(answer.error)
    return answer.result


# ------------------------------------------------------------------------------------------------------------ errors


def fault_of(error: ConcurrentError) -> Fault:
    """Return an error as an error object: its class, its text, and its attributes that are numbers or strings."""
    if isinstance(error, RpcError):
        return error.fault
    kind = next(cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _CLASSES)
    attributes = {key: value for key, value in vars(error).items() if isinstance(value, int | float)}
    texts = {key: printable(value) for key, value in vars(error).items() if isinstance(value, str)}
    return Fault(CONCURRENT_ERROR, printable(str(error)), {**attributes, **texts, "type": kind})


def raise_fault(fault: Fault) -> NoReturn:
    """Raise the error that an error object describes, with its original class."""
    message = printable(fault.message)
    data = fault.data if isinstance(fault.data, dict) else {}
    if fault.code == INTERNAL_ERROR:
        raise ClusterError(message)
    if fault.code != CONCURRENT_ERROR:
        raise ProtocolError(f"{message} (JSON-RPC error {fault.code})")
    error = _CLASSES.get(str(data.get("type")), ConcurrentError)(message)
    for key, value in data.items():
        # Only attributes that the class has, with the same type: a peer must not add others.
        if type(vars(error).get(key)) is type(value):
            setattr(error, key, value)
    raise error


def printable(text: str) -> str:
    """Clip a text and replace unprintable characters, which could control terminals or break encoders."""
    return "".join(char if char.isprintable() or char in "\n\t" else _UNPRINTABLE for char in clipped(text))


def clipped(text: str, limit_chars: int = MAX_FAULT_CHARS) -> str:
    """Shorten a text whose sender may have made it arbitrarily long."""
    return text if len(text) <= limit_chars else text[:limit_chars] + "..."


_CLASSES: Final[dict[str, type[ConcurrentError]]] = {
    name: cls for name, cls in vars(errors).items() if isinstance(cls, type) and issubclass(cls, ConcurrentError)
}
