"""One way to call: methods marked `@remote`, a registry of them, a dispatcher from bytes to bytes.

The layer "calls": imports wire and the base modules, and no transport, so any transport of bytes may carry calls.
Reading order: remote, registry, dispatcher.
"""

from concurrent_nb.rpc.dispatcher import Dispatcher
from concurrent_nb.rpc.registry import Registry
from concurrent_nb.rpc.remote import remote
from concurrent_nb.wire.jsonrpc import Caller

__all__ = ["Caller", "Dispatcher", "Registry", "remote"]
