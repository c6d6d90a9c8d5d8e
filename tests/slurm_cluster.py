"""A real Slurm of two nodes, n1 and n2, on this machine: its own daemons, ports and folders, without systemd.

Needs Debian's packages slurmctld, slurmd, slurm-client and munge, and root, because slurmd starts jobs for users.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

#: what must be on the path of root
COMMANDS = ("slurmctld", "slurmd", "sbatch", "squeue", "munged")
START_S = 20.0
CORES_PER_NODE = 4

CONFIGURATION = """\
ClusterName=cnbtest
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort={port}
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
KillWait=2
InactiveLimit=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs={cores} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs={cores} State=UNKNOWN
PartitionName=short Nodes=n1,n2 Default=YES MaxTime=60 DefaultTime=10 State=UP LLN=YES
PartitionName=one Nodes=n1 MaxTime=60 DefaultTime=1 State=UP
"""


def missing() -> str:
    """Say why there can be no Slurm here; "" if there can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "Slurm's daemons need root"
    absent = [each for each in COMMANDS if shutil.which(each) is None and not Path("/usr/sbin", each).exists()]
    if absent:
        return f"Slurm is not installed: {', '.join(absent)}"
    try:
        pwd.getpwnam("munge")
    except KeyError:
        return "there is no user munge"
    return ""


@contextlib.contextmanager
def slurm_cluster() -> Iterator[Path]:
    """Run Slurm with two idle nodes; give the path of slurm.conf, for SLURM_CONF. Ends all its processes."""
    folder = Path(tempfile.mkdtemp(prefix="cnb-slurm-", dir="/tmp"))  # munge refuses folders that others may write
    folder.chmod(0o755)
    configuration = folder / "slurm.conf"
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        port, port1, port2 = free_ports(3)
        host = socket.gethostname().partition(".")[0]
        configuration.write_text(
            CONFIGURATION.format(host=host, folder=folder, port=port, port1=port1, port2=port2, cores=CORES_PER_NODE)
        )
        for each in ("state", "spool-n1", "spool-n2"):
            (folder / each).mkdir()
        daemons.append(start_munge(folder))
        environment = {**os.environ, "SLURM_CONF": str(configuration), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        for words in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]):
            daemons.append(
                subprocess.Popen(
                    [*words, "-f", str(configuration)],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        await_idle_nodes(environment, folder)
        yield configuration
    finally:
        for daemon in reversed(daemons):  # slurmd before its controller
            daemon.terminate()
        for daemon in reversed(daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        end_steps(folder)
        shutil.rmtree(folder, ignore_errors=True)


def start_munge(folder: Path) -> "subprocess.Popen[bytes]":
    """Start the daemon by which Slurm's processes know their users, with a key and a socket of its own."""
    user = pwd.getpwnam("munge")
    private = folder / "munge"
    private.mkdir(mode=0o700)
    key = private / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for path in (private, key):
        os.chown(path, user.pw_uid, user.pw_gid)
    public = folder / "munge.socket"
    # The socket is in a folder of munge's own, and everybody may enter the folder.
    os.chown(folder, user.pw_uid, user.pw_gid)
    return subprocess.Popen(
        [
            *("munged", "--foreground", "--force", "--key-file", str(key), "--socket", str(public)),
            *(
                "--pid-file",
                str(private / "pid"),
                "--log-file",
                str(private / "log"),
                "--seed-file",
                str(private / "seed"),
            ),
        ],
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        env={"PATH": "/usr/sbin:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def await_idle_nodes(environment: dict[str, str], folder: Path) -> None:
    """Wait until both nodes are idle. Raises AssertionError with the logs if that takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        words = ["sinfo", "--noheader", "--Node", "--format=%N %t"]
        said = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=START_S, check=False)
        if {"n1 idle", "n2 idle"} <= {line.strip() for line in said.stdout.splitlines()}:
            return
        time.sleep(0.1)
    logs = "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in folder.glob("*.log"))
    raise AssertionError(f"Slurm's nodes are not idle after {START_S:g} s: {said.stdout}{said.stderr}\n{logs}")


def end_steps(folder: Path) -> None:
    """End the processes of Slurm that run on without slurmd: those that watch a job."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                environment = (entry / "environ").read_bytes()
                if f"SLURM_CONF={folder}/slurm.conf".encode() in environment.split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    """Give ports on which nobody listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
