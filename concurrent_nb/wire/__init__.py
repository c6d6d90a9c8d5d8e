"""The wire, pure: the messages between nodes, and sessions that deliver them once and in order. See PROTOCOL.md.

Bytes in, bytes out; no sockets, threads or clock. Read messages, then codec, then session.
"""
