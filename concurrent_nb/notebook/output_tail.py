"""The end of what a cell's Printer has shown, for those who see the job elsewhere: bounded, in order.

`cell_output` adds to it, in the thread that shows; `live.job_document` reads it in another one.
"""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import msgspec

from concurrent_nb.shipping.serialization.sizes import format_bytes

#: most bytes of text (UTF-8) that are kept
TEXT_BYTES: Final = 200_000
#: most displays that are kept, and most bytes of all of them
DISPLAYS: Final = 8
DISPLAYS_BYTES: Final = 300_000
#: most characters of a label
LABEL_CHARACTERS: Final = 500
#: text is dropped in pieces of this many characters
_PIECE: Final = 4096

#: an output as readers get it: {"type": "stream", "name", "text"} or {"type": "display", "data", "metadata"}
Output = dict[str, Any]


@dataclass(slots=True)
class _Piece:
    """Text of a stream, or a display with its label."""

    size_bytes: int
    stream: str = ""  #: "" for a display
    text: str = ""
    displays: tuple[dict[str, str], ...] = ()


class OutputTail:
    """The newest texts and displays. May be used from any thread."""

    def __init__(self) -> None:
        self.version = 0  #: incremented when something is added
        self._pieces: deque[_Piece] = deque()
        self._text_bytes = 0
        self._displays = 0
        self._displays_bytes = 0
        self._dropped_bytes = 0
        self._lock = threading.Lock()

    def add_text(self, stream: str, text: str) -> None:
        """Add what was written to a stream, "stdout" or "stderr"."""
        with self._lock:
            self.version += 1
            if len(text) > TEXT_BYTES:
                self._dropped_bytes += _encodable(text[:-TEXT_BYTES])[1]
                text = text[-TEXT_BYTES:]
            for at in range(0, len(text), _PIECE):
                self._add_piece(stream, *_encodable(text[at : at + _PIECE]))
            while self._text_bytes > TEXT_BYTES:
                oldest = next(number for number, piece in enumerate(self._pieces) if piece.stream)
                self._text_bytes -= self._drop(oldest)

    def add_display(self, data: Mapping[str, str], label: str | None = None) -> None:
        """Add a display, and the label that was shown above it. One that is too large is only named."""
        encodable = {kind: _encodable(content) for kind, content in data.items()}
        size_bytes = sum(len(kind) + size for kind, (_, size) in encodable.items())
        shown = {kind: content for kind, (content, _) in encodable.items()}
        with self._lock:
            self.version += 1
            if size_bytes > DISPLAYS_BYTES:
                self._dropped_bytes += size_bytes
                kinds = ", ".join(sorted(data))[:200]
                shown = {"text/plain": f"({kinds}: {format_bytes(size_bytes)}, too large to be shown here)"}
                size_bytes = len(shown["text/plain"])
            displays = (shown,) if label is None else ({"text/plain": _encodable(label[:LABEL_CHARACTERS])[0]}, shown)
            self._pieces.append(_Piece(size_bytes, displays=displays))
            self._displays += 1
            self._displays_bytes += size_bytes
            while self._displays > DISPLAYS or self._displays_bytes > DISPLAYS_BYTES:
                oldest = next(number for number, piece in enumerate(self._pieces) if not piece.stream)
                self._displays_bytes -= self._drop(oldest)
                self._displays -= 1

    def parts(self, limit_bytes: int) -> tuple[list[Output], int]:
        """Return the newest outputs that take at most `limit_bytes` of JSON, and how many bytes were dropped so far."""
        outputs: list[Output] = []
        texts: list[str] = []  # of the output that is the last so far, the newest first
        used_bytes = 0
        with self._lock:
            dropped_bytes = self._dropped_bytes
            for number in range(len(self._pieces) - 1, -1, -1):
                piece = self._pieces[number]
                added = _outputs_of(piece)
                used_bytes += len(msgspec.json.encode(added))
                if used_bytes > limit_bytes:
                    dropped_bytes += sum(each.size_bytes for each in islice(self._pieces, number + 1))
                    break
                if piece.stream and outputs and outputs[-1].get("name") == piece.stream:
                    texts.append(piece.text)
                    continue
                _join(outputs, texts)
                texts = [piece.text]
                outputs += reversed(added)
        _join(outputs, texts)
        outputs.reverse()
        return outputs, dropped_bytes

    def _add_piece(self, stream: str, text: str, size_bytes: int) -> None:
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.stream == stream and len(last.text) + len(text) <= _PIECE:
            last.text += text
            last.size_bytes += size_bytes
        else:
            self._pieces.append(_Piece(size_bytes, stream, text))
        self._text_bytes += size_bytes

    def _drop(self, number: int) -> int:
        """Drop a piece; return its size."""
        size_bytes = self._pieces[number].size_bytes
        del self._pieces[number]
        self._dropped_bytes += size_bytes
        return size_bytes


def _outputs_of(piece: _Piece) -> list[Output]:
    if piece.stream:
        return [{"type": "stream", "name": piece.stream, "text": piece.text}]
    return [{"type": "display", "data": data, "metadata": {}} for data in piece.displays]


def _join(outputs: list[Output], texts: list[str]) -> None:
    """Give the last output the whole text of its stream."""
    if len(texts) > 1:
        outputs[-1]["text"] = "".join(reversed(texts))


def _encodable(text: str) -> tuple[str, int]:
    """Return a text without lone surrogates, which JSON cannot carry, and its bytes in UTF-8."""
    if text.isascii():
        return text, len(text)
    encoded = text.encode("utf-8", "replace")
    return encoded.decode(), len(encoded)
