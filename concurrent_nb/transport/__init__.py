"""How nodes reach each other, and how they know that it is really them. Layer 3: mechanisms.

The control channel is JSON-RPC over HTTP: `control_server` on the master's asyncio loop, `control_client` everywhere
else, `tls` between machines. `connection_file` is how one finds a cluster, `keys` is who one is, and `private_files` is
the one door to files that only their owner may read. Imports wire and the words below it, no other mechanism, and none
of the nodes that put it to use.
"""
