"""When a process that dies again and again is not started any more. Pure: time is an argument."""

from collections import deque


class RestartLimit:
    """Decides when to give up: after more than `deaths` deaths within `within_s` seconds."""

    def __init__(self, deaths: int = 5, within_s: float = 10.0) -> None:
        self.deaths = deaths
        self.within_s = within_s
        self._times: deque[float] = deque()

    def died(self, now: float) -> bool:
        """Count a death at a time; return whether that was one too many."""
        self._times.append(now)
        while self._times[0] <= now - self.within_s:
            self._times.popleft()
        return len(self._times) > self.deaths

    def worked(self) -> None:
        """Forget all deaths: a process has done its work, so the environment is not broken."""
        self._times.clear()
