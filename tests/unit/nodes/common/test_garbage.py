"""Garbage in processes that run nothing but a node."""

import gc

from concurrent_nb.nodes.common.garbage import YOUNG_MAX, search_rarely


def test_present_objects_are_excluded_and_later_garbage_is_still_found() -> None:
    before = gc.get_threshold()
    try:
        search_rarely()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() == (YOUNG_MAX, *before[1:])
        assert gc.isenabled()
        cycle: list[object] = []
        cycle.append(cycle)
        del cycle
        assert gc.collect() >= 1
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
