"""Graphs of tasks, made up for the web page: one that goes on for ever, and one that has ended."""

from typing import Any, Final

from tests.browser.made_up_views import EVIL

#: name of each function, number of its tasks, and the share of the time in which it begins and ends
_FUNCTIONS: Final = (
    ("load", 240, 0.0, 0.45),
    ("clean", 240, 0.05, 0.6),
    ("features", 240, 0.15, 0.75),
    ("train_fold", 60, 0.3, 0.85),
    ("score", 60, 0.4, 0.95),
    ("add", 35, 0.5, 1.0),
)
_EDGES: Final = ((0, 1, 240), (1, 2, 240), (2, 3, 1200), (3, 3, 48), (3, 4, 60), (0, 4, 60), (4, 5, 60), (5, 5, 34))
_OVER: Final = (("read_page", 300), ("count_words", 300), ("merge", 43))
#: seconds after which the first one begins again
CYCLE_S: Final = 90.0


def graphs_at(now_s: float, *, is_evil: bool) -> dict[str, dict[str, Any]]:
    """Return the graphs of the feed at a time, in seconds; if it is evil, with a name that no page may run."""
    share = (now_s % CYCLE_S) / CYCLE_S * 0.6 + 0.35  # so that something is always under way
    functions = []
    for number, (name, tasks, begin, end) in enumerate(_FUNCTIONS):
        ended = int(tasks * min(1.0, max(0.0, (share - begin) / (end - begin))))
        failed = min(ended, 3) if name == "score" else 0
        running = min(tasks - ended, 6 if ended else 0)
        ready = min(tasks - ended - running, 20) if number == 0 or ended else 0
        blocked = tasks - ended - running - ready
        shown = EVIL if is_evil and number == 2 else name
        functions.append([shown, tasks, blocked, ready, running, ended - failed, failed, 0])
    edges = [list(edge) for edge in _EDGES]
    over = [[name, tasks, 0, 0, 0, tasks, 0, 0] for name, tasks in _OVER]
    return {
        "7": {
            "id": "7", "client": "demo.ipynb (pid 4711)", "mine": True, "functions": functions, "edges": edges,
            "other_edges": 0, "began_s": now_s - now_s % CYCLE_S, "ended_s": None,
        },
        "6": {
            "id": "6", "client": "words.py (pid 4242)", "mine": False, "functions": over,
            "edges": [[0, 1, 300], [1, 2, 300], [2, 2, 42]], "other_edges": 0, "began_s": 1.0, "ended_s": 31.0,
        },
    }  # fmt: skip
