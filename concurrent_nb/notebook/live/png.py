"""Write PNG files with the standard library.

Used by `job_page` and `picture`. The browser decodes them, so that a saved notebook needs neither scripts nor numpy.
"""

import base64
import struct
import zlib
from typing import Final

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def palette_png(width: int, height: int, indexes: bytes, palette: bytes, alpha: bytes = b"") -> bytes:
    """Encode a picture of one byte per pixel.

    Args:
        palette: red, green, blue of each index.
        alpha: opacity of the first indexes; the others are opaque.
    """
    extra = [(b"PLTE", palette)]
    if alpha:
        extra.append((b"tRNS", alpha))
    return _png(width, height, 3, width, indexes, extra)


def rgba_png(width: int, height: int, pixels: bytes) -> bytes:
    """Encode a picture of four bytes per pixel: red, green, blue, opacity."""
    return _png(width, height, 6, 4 * width, pixels, [])


def data_uri(png: bytes) -> str:
    """Return a data URI that contains a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _png(width: int, height: int, kind: int, stride: int, data: bytes, extra: list[tuple[bytes, bytes]]) -> bytes:
    if len(data) != stride * height:
        raise ValueError(f"{len(data)} bytes do not fit a picture of {width} x {height}")
    rows = b"".join(b"\0" + data[at : at + stride] for at in range(0, len(data), stride))
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b"")]
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
