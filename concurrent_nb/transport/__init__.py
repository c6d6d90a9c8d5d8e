"""How nodes connect to each other and authenticate: mechanisms.

The compute channel is ZeroMQ with CURVE (`compute`). The control channel is JSON-RPC over HTTP: `control_server` on the
master's asyncio loop, `control_client` in all other processes, `tls` between machines. `connection_file` locates a
cluster, `keys` has CURVE keys and tokens, and `private_files` is the only module that reads and writes files which only
their owner may read. Imports wire and the layers below it, no other mechanism, and no nodes.
"""
