"""How many cores and how much memory this process may use, and how busy the machine is.

On Linux, two things may limit the cores of a process: its affinity (taskset, cpusets, SLURM) and the CPU quota of a
control group (`docker run --cpus 2`, Kubernetes, systemd), in version 1 or 2 of their file system. Both count. A part
of a core counts as a core (1.5 -> 2), as in loky and the JVM: with less, some of the quota would stay unused. Elsewhere
only the affinity counts, if the system has one.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from concurrent_nb.wire.messages import HostLoad

#: sets the number of cores of Python 3.13 and later; here it counts with every version, and overrides the rest
CPU_COUNT_VARIABLE: Final = "PYTHON_CPU_COUNT"


def cores() -> int:
    """Return how many cores this process may use, at least 1."""
    setting = os.environ.get(CPU_COUNT_VARIABLE, "")
    if setting.isdecimal() and int(setting) > 0:
        return int(setting)
    quota = quota_cores(Path("/"))
    return max(1, allowed_cores() if quota is None else min(allowed_cores(), math.ceil(quota)))


def allowed_cores() -> int:
    """Return on how many cores this process may run, whatever its quota is."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Return the memory of this machine; 16 GiB if the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 16 << 30


def host_load() -> HostLoad:
    """Measure how busy this machine is."""
    import psutil  # here, because only slaves need it, and later than their start

    memory = psutil.virtual_memory()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return HostLoad(load, memory.total - memory.available, memory.total)


def quota_cores(root: Path) -> float | None:
    """Return how many cores' time the control groups of this process allow; None if they set no limit.

    The smallest quota of the process's group and all groups around it counts. A missing or invalid file sets no limit.

    Args:
        root: of the file system: `/`, or a folder in tests.
    """
    quotas = [quota for group in _groups(root) if (quota := _quota_of(group)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of the groups that limit this process's CPU time: its own, then those around it."""
    of_process = dict(_groups_of_process(root))
    for mount_root, mount_point, version in _mounts(root):
        if version not in of_process:
            continue
        here = root / mount_point.relative_to("/")
        try:
            inside = of_process[version].relative_to(mount_root)
        except ValueError:  # in a container the mount shows less than all groups: its top is that of the process
            inside = PurePosixPath()
        if ".." not in inside.parts:
            for group in (inside, *inside.parents):
                yield here / group
        else:
            yield here


def _groups_of_process(root: Path) -> Iterator[tuple[int, PurePosixPath]]:
    """Yield each version of control groups, and this process's group in it."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not path.startswith("/"):
            continue
        if number == "0" and not controllers:
            yield 2, PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            yield 1, PurePosixPath(path)


def _mounts(root: Path) -> Iterator[tuple[PurePosixPath, PurePosixPath, int]]:
    """Yield the mounts of the groups' file systems: the group, the folder, and the version."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or not fields[4].startswith("/"):
            continue
        place = PurePosixPath(_unescaped(fields[3])), PurePosixPath(_unescaped(fields[4]))
        if kind[0] == "cgroup2":
            yield *place, 2
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            yield *place, 1


def _quota_of(group: Path) -> float | None:
    """Return how many cores' time one group allows; None if it sets no limit."""
    if (text := _read(group / "cpu.max")) or not (group / "cpu.cfs_quota_us").exists():
        quota, _, period = text.strip().partition(" ")
    else:
        quota, period = _read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip()
    # No limit is "max" in version 2 and -1 in version 1, and neither is a number of digits.
    if not (quota.isdecimal() and (period or "100000").isdecimal()):
        return None
    parts, whole = int(quota), int(period or "100000")
    return parts / whole if parts > 0 and whole > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _unescaped(text: str) -> str:
    """Undo how mountinfo writes spaces and the like."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
