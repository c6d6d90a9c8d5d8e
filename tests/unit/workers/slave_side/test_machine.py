"""How many cores a process may use: its affinity and the quotas of its control groups, read from trees of files."""

from pathlib import Path

import pytest

from concurrent_nb.workers.slave_side import machine
from concurrent_nb.workers.slave_side.launchers import environment
from concurrent_nb.workers.slave_side.machine import cores, quota_cores

V2 = "36 29 0:31 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
V1_GROUPS = "9:name=systemd:/\n4:memory:/elsewhere\n2:cpu,cpuacct:{}\n0::/\n"


def tree(root: Path, mountinfo: str, groups: str, files: dict[str, str]) -> Path:
    """Lay down a tree of files, as /proc and /sys have them."""
    for name, text in {"proc/self/mountinfo": mountinfo, "proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v1(folder: str, quota: str, period: str = "100000") -> dict[str, str]:
    top = f"sys/fs/cgroup/cpu,cpuacct{folder}"
    return {f"{top}/cpu.cfs_quota_us": f"{quota}\n", f"{top}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000\n", 1.5),
        ("50000 100000", 0.5),
        ("400000 200000\n", 2.0),
        ("300000\n", 3.0),  # the period that the kernel has if none is set
        ("max 100000\n", None),
        ("max\n", None),
        ("", None),
        ("nonsense\n", None),
        ("-1 100000\n", None),
        ("0 100000\n", None),
        ("100000 0\n", None),
        ("100000 much\n", None),
        ("1e5 100000\n", None),
        ("\0\xff", None),
    ],
)
def test_a_quota_of_version_2(tmp_path: Path, text: str, allowed: float | None) -> None:
    files = {"sys/fs/cgroup/mine/cpu.max": text}
    assert quota_cores(tree(tmp_path, V2, "0::/mine\n", files)) == allowed


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        (v1("/mine", "200000"), 2.0),
        (v1("/mine", "50000", "200000"), 0.25),
        (v1("/mine", "-1"), None),
        (v1("/mine", "nonsense"), None),
        (v1("/mine", "100000", ""), 1.0),
        (v1("", "100000"), 1.0),
        (v1("/mine", "300000") | v1("", "100000"), 1.0),
        (v1("/mine", "100000") | v1("", "300000"), 1.0),
        (v1("/mine", "100000") | v1("", "-1"), 1.0),
        ({}, None),
    ],
)
def test_a_quota_of_version_1(tmp_path: Path, files: dict[str, str], allowed: float | None) -> None:
    assert quota_cores(tree(tmp_path, V1, V1_GROUPS.format("/mine"), files)) == allowed


def test_the_smallest_quota_of_the_groups_around_wins(tmp_path: Path) -> None:
    top = "sys/fs/cgroup"
    files = {f"{top}/a/cpu.max": "200000 100000", f"{top}/a/b/cpu.max": "max 100000", f"{top}/a/b/c/cpu.max": "5 1"}
    assert quota_cores(tree(tmp_path, V2, "0::/a/b/c\n", files)) == 2.0
    (tmp_path / top / "a/cpu.max").write_text("max 100000")
    assert quota_cores(tmp_path) == 5.0


def test_both_versions_at_once_as_systemd_can_mount_them(tmp_path: Path) -> None:
    mounts = V1 + "41 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    files = v1("/mine", "300000") | {"sys/fs/cgroup/unified/other/cpu.max": "200000 100000"}
    assert quota_cores(tree(tmp_path, mounts, V1_GROUPS.format("/mine").replace("0::/", "0::/other"), files)) == 2.0


@pytest.mark.parametrize("group", ["/docker/abc", "/../../system.slice/docker-abc.scope", "/"])
def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path, group: str) -> None:
    """The path of its group does not exist, or leads out of the mount."""
    files = {"sys/fs/cgroup/cpu.max": "100000 100000", "sys/fs/outside": ""}
    assert quota_cores(tree(tmp_path, V2, f"0::{group}\n", files)) == 1.0


def test_a_part_of_the_groups_is_mounted(tmp_path: Path) -> None:
    mounts = V1.replace("0:29 / /sys", "0:29 /docker/abc /sys")
    files = v1("", "400000") | v1("/inner", "200000")
    assert quota_cores(tree(tmp_path, mounts, V1_GROUPS.format("/docker/abc/inner"), files)) == 2.0


def test_folders_with_spaces(tmp_path: Path) -> None:
    mounts = "36 29 0:31 / /sys/my\\040groups rw - cgroup2 cgroup2 rw\n"
    assert quota_cores(tree(tmp_path, mounts, "0::/\n", {"sys/my groups/cpu.max": "100000 100000"})) == 1.0


@pytest.mark.parametrize(
    ("mountinfo", "groups"),
    [("", "0::/mine\n"), (V2, ""), ("garbage\n - \n1 2 3", ":::\n0\n0::relative\n\n"), ("\0", "\0")],
)
def test_what_cannot_be_read_sets_no_limit(tmp_path: Path, mountinfo: str, groups: str) -> None:
    assert quota_cores(tree(tmp_path, mountinfo, groups, {"sys/fs/cgroup/mine/cpu.max": "100000 100000"})) is None


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert quota_cores(tmp_path) is None


@pytest.mark.parametrize(
    ("allowed", "quota", "number"), [(64, 2.0, 2), (64, 2.5, 3), (64, 0.2, 1), (2, 8.0, 2), (3, None, 3), (1, 0.01, 1)]
)
def test_affinity_and_quota_both_limit(
    allowed: int, quota: float | None, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(machine.CPU_COUNT_VARIABLE, raising=False)
    monkeypatch.setattr(machine, "allowed_cores", lambda: allowed)
    monkeypatch.setattr(machine, "quota_cores", lambda root: quota)
    assert cores() == number


@pytest.mark.parametrize(("setting", "number"), [("3", 3), ("0", 2), ("", 2), ("default", 2), ("-1", 2)])
def test_what_the_user_has_set_wins(setting: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(machine.CPU_COUNT_VARIABLE, setting)
    monkeypatch.setattr(machine, "allowed_cores", lambda: 64)
    monkeypatch.setattr(machine, "quota_cores", lambda root: 2.0)
    assert cores() == number


def test_this_machine_has_a_load_and_memory() -> None:
    load = machine.host_load()
    assert 0 < load.memory_used_bytes < load.memory_total_bytes
    assert load.load is None or load.load >= 0


def test_libraries_of_all_kinds_share_the_cores_out() -> None:
    env = environment(2, 8, {"HOME": "/home/me"})
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"):
        assert env[name] == "4"
    for name in ("NUMBA_NUM_THREADS", "NUMEXPR_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        assert env[name] == "4"
    assert env["HOME"] == "/home/me"


def test_what_the_user_has_said_of_threads_wins() -> None:
    env = environment(4, 4, {"POLARS_MAX_THREADS": "3", "MKL_NUM_THREADS": "7"})
    assert (env["POLARS_MAX_THREADS"], env["MKL_NUM_THREADS"], env["OMP_NUM_THREADS"]) == ("3", "7", "1")


def test_who_sets_the_threads_of_openmp_sets_those_of_libraries_that_follow_it() -> None:
    env = environment(4, 4, {"OMP_NUM_THREADS": "2"})
    assert env["OMP_NUM_THREADS"] == "2"
    assert not {"OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "BLIS_NUM_THREADS"} & env.keys()
    assert env["RAYON_NUM_THREADS"] == "1"
