"""Testing your own code.

A task function is an ordinary function: a call runs it in this process, without a cluster. Most tests need no more.

    >>> import concurrent_nb
    >>> @concurrent_nb.task
    ... def square(x):
    ...     return x * x
    >>> square(3)
    9

In a notebook, `%%concurrent_task --local` runs the tasks of a cell in the notebook's own process, where a debugger
stops in them.

What must be tested on a cluster (whether arguments and results travel, what a task does in a process of its own) needs
one worker. A cluster starts within a second, so one for all tests is enough. As a fixture of pytest:

    @pytest.fixture(scope="session")
    def cluster():
        with concurrent_nb.Cluster(workers=1) as cluster:
            yield cluster

    def test_square(cluster):
        assert cluster.application().submit(square, 3).result(timeout=60) == 9

Give every `result` a timeout, so that a test fails where it would wait for ever. An exception of a task is raised by
`result` with its own type, as if the function had been called here.

    >>> with concurrent_nb.Cluster(workers=1) as cluster:
    ...     app = cluster.application()
    ...     app.submit(square, 3).result(timeout=60)
    ...     app.submit(square, None).exception(timeout=60)
    9
    TypeError("unsupported operand type(s) for *: 'NoneType' and 'NoneType'")

`SlowLink` delays what an application and its cluster send to each other. With it a test on one machine shows whether
code waits for each task in turn, which costs little here and a lot over a network:

    >>> import tempfile, time
    >>> from concurrent_nb.testing import SlowLink
    >>> with (
    ...     concurrent_nb.Cluster(workers=1) as cluster,
    ...     tempfile.TemporaryDirectory() as folder,
    ...     SlowLink(delay_s=0.05) as link,
    ...     concurrent_nb.connect(link.connection_file(cluster.connection_file, f"{folder}/far.json")) as app,
    ... ):
    ...     app.submit(square, 0).result(timeout=60)
    ...     began = time.monotonic()
    ...     futures = [app.submit(square, x) for x in range(100)]
    ...     squares = [future.result(timeout=60) for future in futures]
    ...     took_s = time.monotonic() - began
    0
    >>> 0.1 <= took_s < 100 * 0.1
    True
"""

from concurrent_nb.testing.slow_link import SlowLink

__all__ = ["SlowLink"]
