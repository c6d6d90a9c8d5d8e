"""What a master keeps of detached jobs, as one line of text. Pure."""

from collections.abc import Mapping
from typing import Any

from concurrent_nb.telemetry.amounts import bytes_text, seconds_text


def detached_line(detached: Mapping[str, Any]) -> str:
    """Return a line for `detached` in an answer of the master's method `status`.

    >>> limits = {"unattended_jobs_s": 0.0, "detached_results_s": 86400.0, "detached_results_bytes": 256_000_000}
    >>> detached_line({**limits, "jobs": 2, "kept_bytes": 3_100_000})
    '2 detached jobs with 3.1 MB; kept for 24 h after their end, 256 MB of each user; others end with their application'
    """
    number, unattended_s = detached["jobs"], detached["unattended_jobs_s"]
    others = (
        f"others go on for {seconds_text(unattended_s)} when their application was killed"
        if unattended_s
        else "others end with their application"
    )
    return (
        f"{number:,} detached job{'s' * (number != 1)} with {bytes_text(detached['kept_bytes'])}; kept for "
        f"{seconds_text(detached['detached_results_s'])} after their end, "
        f"{bytes_text(detached['detached_results_bytes'])} of each user; {others}"
    )
