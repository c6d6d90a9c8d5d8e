"""What a worker of another engine is given to run a slave."""

import pickle

from concurrent_nb.nodes.launchers.held_slaves import SealedStart
from concurrent_nb.nodes.launchers.launcher import SlaveStart


def test_what_an_engine_may_log_of_an_argument_is_no_secret() -> None:
    sealed = SealedStart(SlaveStart("dask-1", "a secret", "another secret", "text"))
    arrived = pickle.loads(pickle.dumps(sealed))
    assert repr(arrived) == "<start of slave dask-1>"
    assert arrived.start == sealed.start
