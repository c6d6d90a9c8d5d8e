"""The examples in `concurrent_nb.testing` do what they show."""

import doctest

from concurrent_nb import testing
from concurrent_nb.testing import slow_link


def test_the_examples_run() -> None:
    # Their functions are a user's, who defines them in a program of their own.
    examples = doctest.DocTestFinder().find(testing, globs={"__name__": "__main__"})
    results = [doctest.DocTestRunner().run(example) for example in examples]
    assert sum(result.attempted for result in results) >= 6
    assert not any(result.failed for result in results)


def test_a_slow_link_is_what_users_import() -> None:
    assert testing.__all__ == ["SlowLink"]
    assert testing.SlowLink is slow_link.SlowLink
