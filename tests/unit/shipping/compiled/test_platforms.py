"""What fits where."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from concurrent_nb.shipping.compiled.platforms import Tag, local_cpu_level, local_tag, version_of

TAG = Tag("cpython-311", ".so", "linux-x86_64", "glibc", (2, 31), "2")


def test_a_binary_fits_where_it_was_built_and_where_the_libc_is_newer() -> None:
    assert TAG.fits(TAG)
    assert TAG.fits(dataclasses.replace(TAG, libc_version=(2, 36)))
    assert not TAG.fits(dataclasses.replace(TAG, libc_version=(2, 28)))


@pytest.mark.parametrize(
    "other",
    [{"python": "cpython-312"}, {"suffix": ".x.so"}, {"platform": "linux-aarch64"}, {"libc": "musl"}, {"numpy": "1"}],
)
def test_a_binary_fits_nowhere_else(other: dict[str, Any]) -> None:
    assert not TAG.fits(dataclasses.replace(TAG, **other))
    assert TAG.digest() != dataclasses.replace(TAG, **other).digest()


def test_without_numpy_in_it_numpy_does_not_matter() -> None:
    assert dataclasses.replace(TAG, numpy="").fits(TAG)
    assert local_tag(True).numpy == (version_of("numpy") or "none").split(".")[0]
    assert local_tag(False).numpy == ""
    assert local_tag(False).fits(local_tag(True))


def test_a_tag_reads_as_words() -> None:
    assert str(TAG) == "cpython-311, linux-x86_64, glibc 2.31, numpy 2"


def test_what_is_not_installed_has_no_version() -> None:
    assert version_of("no-such-package-anywhere") is None


@pytest.mark.parametrize(
    ("features", "level"),
    [
        ("fpu sse2", 1),
        ("cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2", 2),
        ("cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2 avx avx2 bmi1 bmi2 f16c fma abm movbe", 3),
        ("avx avx2 bmi1 bmi2 f16c fma abm movbe", 1),
    ],
)
def test_the_level_of_a_processor(features: str, level: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t: {features}\n")
    assert local_cpu_level(tmp_path / "cpuinfo") == level


def test_the_level_is_the_lowest_where_it_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert local_cpu_level(tmp_path / "nothing") == 1
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert local_cpu_level(tmp_path / "nowhere") == 0
