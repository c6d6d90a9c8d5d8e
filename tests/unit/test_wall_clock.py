"""F25: nothing that waits looks at the wall clock, which may jump; who reads it says why that does no harm."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2] / "concurrent_nb"
READS = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\.(now|today|utcnow)\(")

#: modules that may read it, each with its reason
MAY_READ = {
    "cli/dashboard.py": "ages of files, which have times of that clock",
    "nodes/application/client_thread.py": "notices that the machine has slept: compared with the monotonic clock",
    "nodes/launchers/ssh_probe.py": "sent to this host, which tells the user when the clocks differ",
    "nodes/launchers/ssh_session.py": "compared with that of the other host, for its user",
    "nodes/master/process.py": "the epoch of a master; a former one's, if known, is exceeded in any case",
    "notebook/live/live_display.py": "shown to the user",
    "shipping/compiled/cache.py": "ages of files",
    "shipping/environment/loader.py": "ages of files",
    "transport/tls.py": "validity of a certificate, back-dated by a day",
}


def test_only_these_modules_read_the_wall_clock() -> None:
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if READS.search(path.read_text(encoding="utf-8"))
    }
    assert readers == MAY_READ.keys(), "a deadline takes `clock.monotonic`; else name the module here, with its reason"
