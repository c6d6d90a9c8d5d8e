"""Files without a name, which a slave and a worker share through their descriptors."""

import os


def make_anonymous_file(label: str, *, may_be_sealed: bool = False) -> int:
    """Make a file in memory, else in the folder for temporary files; return its descriptor, which exec closes.

    Args:
        label: shown by the system where it lists descriptors.
        may_be_sealed: whether seals may be added to it, where the system has them.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create(label, os.MFD_CLOEXEC | (os.MFD_ALLOW_SEALING if may_be_sealed else 0))
    import tempfile  # here, because a cold start pays for each import

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
