"""Compatibility of binaries: the tag of the machine that a binary was built for, compared with this machine's."""

import functools
import hashlib
import json
import platform
import sys
import sysconfig
from dataclasses import astuple, dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

#: flags in /proc/cpuinfo that each level of x86-64 needs
_FEATURES: Final = {
    2: {"cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2"},
    3: {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"},
    4: {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}


@dataclass(frozen=True)
class Tag:
    """The kind of machine that a binary was built for."""

    python: str  #: implementation and version, as "cpython-311"
    suffix: str  #: of extension modules, which names the ABI
    platform: str  #: as "linux-x86_64"
    libc: str  #: its name
    libc_version: tuple[int, ...]
    numpy: str  #: major version that it was compiled against; "" if it was not

    def fits(self, local: "Tag") -> bool:
        """Return whether a binary of this tag can be loaded where the tag is `local`."""
        same = (self.python, self.suffix, self.platform, self.libc) == (
            local.python,
            local.suffix,
            local.platform,
            local.libc,
        )
        # A binary needs nothing that its libc did not have, and later versions have it, too.
        return same and self.libc_version <= local.libc_version and self.numpy in ("", local.numpy)

    def digest(self) -> str:
        """Return a short name for files."""
        return hashlib.sha256(json.dumps(astuple(self)).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        version = ".".join(map(str, self.libc_version))
        numpy = f", numpy {self.numpy}" if self.numpy else ""
        return f"{self.python}, {self.platform}, {self.libc} {version}{numpy}"


@functools.cache
def _local_tag(with_numpy: bool) -> Tag:
    libc, version = platform.libc_ver()
    return Tag(
        sys.implementation.cache_tag or sys.implementation.name,
        str(sysconfig.get_config_var("EXT_SUFFIX")),
        sysconfig.get_platform(),
        libc or sys.platform,
        tuple(int(part) for part in version.split(".") if part.isdigit()),
        (version_of("numpy") or "none").partition(".")[0] if with_numpy else "",
    )


def local_tag(with_numpy: bool) -> Tag:
    """Return the tag of this machine and this Python.

    Args:
        with_numpy: for code that uses numpy's C API.
    """
    return _local_tag(with_numpy)


def version_of(package: str) -> str | None:
    """Return the version of an installed package without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def local_cpu_level(cpuinfo: Path = Path("/proc/cpuinfo")) -> int:
    """Return the level of x86-64 of this processor; 1 where it is unknown, 0 on other architectures."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return 0
    try:
        line = next(line for line in cpuinfo.read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return 1
    features = set(line.split())
    level = 1
    while level + 1 in _FEATURES and _FEATURES[level + 1] <= features:
        level += 1
    return level
