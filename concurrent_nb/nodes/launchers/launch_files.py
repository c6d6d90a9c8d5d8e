"""Files that a launcher writes for its slaves, in a folder of its own that only its owner can read.

A disk that is full or away for the moment is no fault of the configuration, so what fails here is tried again.
"""

import tempfile
from pathlib import Path

from concurrent_nb.errors import ConfigurationError, LaunchFailed
from concurrent_nb.transport import private_files


def make_folder_for_slaves(parent: Path) -> Path:
    """Return a new folder in `parent`, which is made if there is none. Raises LaunchFailed."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="concurrent_nb-launch-", dir=parent))
    except OSError as error:
        raise LaunchFailed(f"no files for slaves can be written to {parent}: {error.strerror or error}") from None


def write_for_slave(path: Path, text: str) -> None:
    """Write a file that only its owner can read. Raises LaunchFailed."""
    try:
        private_files.replace_private(path, text.encode() + b"\n")
    except ConfigurationError as error:
        raise LaunchFailed(str(error)) from None
