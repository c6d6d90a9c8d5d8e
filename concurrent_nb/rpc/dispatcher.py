"""From the bytes of a call to the bytes of its answer: parse, find, check the role, check the arguments, run, answer.

A transport passes the received body with its caller, and sends the returned body. The caller gets a ConcurrentError
with its class. For any other exception the caller gets "internal error" and a number; the log gets the number and the
traceback.
"""

import inspect
import logging
import secrets

import msgspec

from concurrent_nb.errors import AccessRefused, ConcurrentError, TooLarge
from concurrent_nb.rpc.registry import Method, Registry
from concurrent_nb.wire import jsonrpc
from concurrent_nb.wire.jsonrpc import Answer, Call, Caller, Fault, RpcError

log = logging.getLogger(__name__)


class Dispatcher:
    """Calls the methods of a registry; the calls of a batch run one after another."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    async def dispatch(self, body: bytes, caller: Caller) -> bytes | None:
        """Carry out the calls in a body, and return the body of the answers: None if no call expects one."""
        request = jsonrpc.parse(body)
        answers: list[Answer | None] = []
        left_bytes = jsonrpc.MAX_ANSWER_BYTES
        for item in request.items:
            answer = await self._answer(item, caller, left_bytes)
            answers.append(answer)
            if answer is not None and isinstance(answer.result, msgspec.Raw):
                left_bytes -= len(memoryview(answer.result))
        return jsonrpc.encode_answers([answer for answer in answers if answer is not None], request.batch)

    async def _answer(self, item: Call | Answer, caller: Caller, left_bytes: int) -> Answer | None:
        """Answer one call; without room for an answer it is not carried out."""
        if isinstance(item, Answer):
            return item
        try:
            if left_bytes <= 0:
                raise _too_large("the answers of this batch have", "it was not carried out: send smaller batches")
            result = await self._run(item, caller)
            if (size_bytes := len(memoryview(result))) > left_bytes:
                raise _too_large(f"an answer of {size_bytes} bytes has, with those before it,", "it is left out")
        except ConcurrentError as error:
            answer = Answer(id=item.id, error=jsonrpc.fault_of(error))
        except Exception as error:  # noqa: BLE001  (a boundary: no traceback is sent, and one failed call stops no others)
            answer = Answer(id=item.id, error=_incident(item, error))
        else:
            answer = Answer(id=item.id, result=result)
        return answer if item.wants_answer else None

    async def _run(self, call: Call, caller: Caller) -> msgspec.Raw:
        method = self._allowed(call, caller)
        arguments = method.arguments(call.params)
        first = (caller,) if method.wants_caller else ()
        result = method.function(*first, **arguments)
        if inspect.isawaitable(result):
            result = await result
        # Encoded here, so that a result which JSON cannot represent is an error of its call, not of the batch.
        return msgspec.Raw(msgspec.json.encode(result))

    def _allowed(self, call: Call, caller: Caller) -> Method:
        method = self.registry.find(call.method)
        if method is None:
            name = call.method if jsonrpc.METHOD_NAME.fullmatch(call.method) else "of that name"
            raise RpcError(jsonrpc.METHOD_NOT_FOUND, f"there is no method {name}; `api` lists all methods")
        if caller.role not in method.roles:
            log.info("refused %s to a caller with role %s at %s", method.name, caller.role, caller.remote_host)
            roles = " or ".join(sorted(method.roles))
            raise AccessRefused(f"{method.name} needs a token of role {roles}; this one is of role {caller.role}")
        return method


def _too_large(what: str, so: str) -> TooLarge:
    limit_bytes = jsonrpc.MAX_ANSWER_BYTES
    return TooLarge(f"{what} more than {limit_bytes} bytes (MAX_ANSWER_BYTES); {so}", limit_bytes=limit_bytes)


def _incident(call: Call, error: Exception) -> Fault:
    incident = secrets.token_hex(4)
    log.error("internal error %s in method %s", incident, call.method, exc_info=error)
    message = f"internal error {incident} in method {call.method}: the log of the node that ran it has the details"
    return Fault(jsonrpc.INTERNAL_ERROR, message, {"incident": incident})
