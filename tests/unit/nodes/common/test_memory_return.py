"""What was freed goes back to the system."""

import ctypes
import sys

import pytest

from concurrent_nb.nodes.common.memory_return import TRIM_BYTES_MIN, find_allocator, resident_bytes


@pytest.mark.skipif(find_allocator() is None, reason="the allocator cannot be asked")
def test_what_was_freed_goes_back_and_only_if_it_is_much() -> None:
    allocator = find_allocator()
    assert allocator is not None
    allocator.trim_if_worthwhile()
    assert not allocator.trim_if_worthwhile()
    blocks = [ctypes.create_string_buffer(60_000) for _ in range(2000)]  # 120 MB, in pieces that are not mapped
    last = ctypes.create_string_buffer(60_000)  # above them, so that the allocator cannot shrink by itself
    before = resident_bytes()
    allocator.trim_if_worthwhile()
    del blocks
    assert allocator.trim_if_worthwhile()
    assert resident_bytes() < before - 10 * TRIM_BYTES_MIN
    assert not allocator.trim_if_worthwhile()
    del last


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert find_allocator() is None
