"""The message for what is too large for the memory of the master."""


def too_large(what: str, size_bytes: int, limit_bytes: int, setting: str = "bytes_per_client") -> str:
    """Return why something may not be sent through the master."""
    return (
        f"{what} has {size_bytes:,} bytes, and what travels through the master's memory may have {limit_bytes:,}: "
        f"raise MasterNode.{setting}, or run the nodes on one host, where large buffers lie in shared memory"
    )
