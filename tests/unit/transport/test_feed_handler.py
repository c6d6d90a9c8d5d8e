"""Frames of the feed, as RFC 6455 has them."""

import pytest

from concurrent_nb.transport.feed_handler import frame_of


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_message_is_one_text_frame_without_a_mask(size: int, head: bytes) -> None:
    assert frame_of(b"x" * size) == head + b"x" * size
