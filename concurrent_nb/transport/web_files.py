"""The files of the web page: read once, when the master starts, and served by name from memory.

Only the files that were there then are served, so no path of a request reaches the file system. Our own scripts are
served, and installed for JupyterLab (setup.py), without comments and indentation, so that browsers load less.
"""

import hashlib
import re
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
#: in a script: a comment that shares no line with code
_COMMENT: Final = re.compile(r"^[ \t]*(?:/\*\*(?:[^*]|\*(?!/))*\*/|//.*)[ \t]*$", re.MULTILINE)
_INDENTATION: Final = re.compile(r"^[ \t]+", re.MULTILINE)


def is_own_script(path: Path) -> bool:
    """Return whether it is one of our own scripts. Vendored ones are small already."""
    return path.suffix == ".js" and path.parent.name != "vendor"


def shortened(script: str) -> str:
    """Return a script without indentation and without the comments that share no line with code.

    Lines keep their numbers, which the browser's console names. No text in our scripts goes over several lines.
    """
    return _INDENTATION.sub("", _COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), script))


class WebFile(NamedTuple):
    """The content of a file."""

    data: bytes
    mime_type: str
    etag: str  #: changes with the content

    @classmethod
    def of(cls, path: Path) -> "WebFile":
        """Read a file."""
        data = path.read_bytes()
        if is_own_script(path):
            data = shortened(data.decode()).encode()
        return cls(data, MIME_TYPES[path.suffix], f'"{hashlib.sha256(data).hexdigest()[:32]}"')


def read_files(folder: Path) -> dict[str, WebFile]:
    """Return the files below a folder by their name below it, with "/" between folders; none if it does not exist."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in MIME_TYPES and path.is_file())
    return {path.relative_to(folder).as_posix(): WebFile.of(path) for path in paths}
