"""What an application has submitted and got back: the checker of the soak. Keeps nothing of tasks that are over."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from concurrent_nb.errors import PoisonTask

#: most violations that are kept
VIOLATIONS_MAX: Final = 20


@dataclass
class History:
    """Each accepted task is answered once, with the right value; exactly the poison tasks are quarantined."""

    submitted: int = 0
    ended: Counter[str] = field(default_factory=Counter)  #: tasks by kind
    violations: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # futures end in another thread
    _open: dict[int, tuple[str, object]] = field(default_factory=dict)  # kind and expected value, by number

    def begin(self, kind: str, expected: object) -> int:
        """Note that a task was accepted; return its number. Of a poison task, PoisonTask is expected."""
        with self._lock:
            self.submitted += 1
            self._open[self.submitted] = kind, expected
            return self.submitted

    def end(self, number: int, value: object, error: BaseException | None) -> None:
        """Note how a task has ended."""
        with self._lock:
            known = self._open.pop(number, None)
            if known is not None:
                self.ended[known[0]] += 1
        if known is None:
            self._violate(f"task {number} has ended twice, or was never accepted: {value!r:.100}, {error!r:.300}")
            return
        kind, expected = known
        if expected is PoisonTask:
            if not isinstance(error, PoisonTask):
                self._violate(f"poison task {number} ended with {value!r:.100}, {error!r:.300}")
        elif error is not None or value != expected:
            self._violate(f"task {number} ({kind}) ended with {value!r:.100}, {error!r:.300}, not {expected!r:.100}")

    @property
    def open(self) -> int:
        """The number of tasks without an answer."""
        return len(self._open)

    def close(self) -> None:
        """Note that nothing more will be answered: what is open is lost."""
        for number, (kind, _) in self._open.items():
            self._violate(f"task {number} ({kind}) was never answered")

    def _violate(self, text: str) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(text)
