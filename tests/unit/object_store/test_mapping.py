"""Private mappings: writes are visible only there, and can be undone."""

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest

from concurrent_nb.object_store import mapping
from concurrent_nb.object_store.segments import is_available

pytestmark = pytest.mark.skipif(not is_available(), reason="this system has no anonymous files in memory")

SIZES = [1, 4096, 65536, 65537, 3 * 1024 * 1024]


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.memfd_create("test")
    os.pwrite(fd, np.arange(4 * 1024 * 1024 // 8, dtype="u8").tobytes(), 0)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("offset", [0, mmap.ALLOCATIONGRANULARITY])
def test_a_change_is_undone_and_not_visible_to_others(fd: int, size: int, offset: int) -> None:
    original = os.pread(fd, size, offset)
    mapped, other = (mapping.map_private(fd, offset, size) for _ in range(2))
    view = memoryview(mapped).cast("B")
    restorer = mapping.Restorer([other, mapped])
    for at in (0, size // 2, size - 1):
        view[at] ^= 255
        assert bytes(view) != original and bytes(memoryview(other)) == original == os.pread(fd, size, offset)
        restorer.restore()
        assert bytes(view) == original
    restorer.restore()
    view[0] ^= 255  # a page that was read before, and so needs no new memory but a copy
    restorer.restore()
    assert bytes(view) == original


def test_pages_that_were_only_read_stay(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = mapping.map_private(fd, 0, 4 * 1024 * 1024)
    restorer = mapping.Restorer([mapped])
    assert np.frombuffer(mapped, dtype="u8").sum() > 0
    advised: list[int] = []

    def note(address: int, size: int, advice: int) -> int:
        advised.append(size)
        return 0

    monkeypatch.setattr(mapping._libc, "madvise", note)
    restorer.restore()
    assert not advised
    np.frombuffer(mapped, dtype="u8")[-1] = 5
    restorer.restore()
    assert advised == [4 * 1024 * 1024]


def test_without_a_report_of_written_pages_everything_is_restored(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = mapping.map_private(fd, 0, 65536)
    view = memoryview(mapped).cast("B")
    restorer = mapping.Restorer([mapped])

    def refuse(*args: object) -> int:
        raise PermissionError

    view[0] = 255
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        restorer.restore()
    assert bytes(view) == os.pread(fd, 65536, 0)
