"""The wire, pure: what nodes say to each other, and how a link keeps its promises. PROTOCOL.md is the contract.

Layer 2: bytes in, bytes out; no socket, no thread, no clock of its own. Read messages, then codec, then session.
"""
