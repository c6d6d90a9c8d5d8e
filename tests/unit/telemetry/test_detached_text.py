"""What a master keeps of detached jobs, as a line."""

from concurrent_nb.telemetry.detached_text import detached_line

LIMITS = {"detached_results_s": 86400.0, "detached_results_bytes": 256_000_000, "jobs": 1, "kept_bytes": 0}


def test_the_line_names_what_becomes_of_jobs_without_their_application() -> None:
    ends = detached_line({**LIMITS, "unattended_jobs_s": 0.0})
    goes_on = detached_line({**LIMITS, "unattended_jobs_s": 7200.0})
    kept = "1 detached job with 0 bytes; kept for 24 h after their end, 256 MB of each user; "
    assert ends == f"{kept}others end with their application"
    assert goes_on == f"{kept}others go on for 2 h when their application was killed"
