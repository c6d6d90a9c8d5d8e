"""The frame: how the parts of a node find each other and how a user sets them up.

Layer 1: imports `errors` only, does no I/O. Every node and every plug-in is built on it.

Reading order: `core` (an interface, who implements it, who asks for it), then `config` (what a component can be told).
"""
