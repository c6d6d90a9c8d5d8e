"""Components: how the parts of a node find each other, and how a user configures them.

The layer "components": imports `errors` only, does no I/O. Every node and every plug-in is built on it.

Reading order: `core` (interfaces, components, extension points), then `config` (config items of components).
"""
