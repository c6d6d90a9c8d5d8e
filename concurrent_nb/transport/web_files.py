"""The files of the web page: read once, when the master starts, and served by name from memory.

Only the files that were there then are served, so no path of a request reaches the file system.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

#: ending of a file to its MIME type; other files are not served
MIME_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        ".css": "text/css; charset=utf-8",
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".json": "application/json",
        ".png": "image/png",
        ".svg": "image/svg+xml",
        ".txt": "text/plain; charset=utf-8",
        ".woff2": "font/woff2",
    }
)
#: the file that is served at /
PAGE: Final = "page.html"


class WebFile(NamedTuple):
    """The content of a file."""

    data: bytes
    mime_type: str
    etag: str  #: changes with the content

    @classmethod
    def of(cls, path: Path) -> "WebFile":
        """Read a file."""
        data = path.read_bytes()
        return cls(data, MIME_TYPES[path.suffix], f'"{hashlib.sha256(data).hexdigest()[:32]}"')


def read_files(folder: Path) -> dict[str, WebFile]:
    """Return the files below a folder by their name below it, with "/" between folders; none if it does not exist."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in MIME_TYPES and path.is_file())
    return {path.relative_to(folder).as_posix(): WebFile.of(path) for path in paths}
