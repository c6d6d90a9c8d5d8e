import logging

import pytest

from concurrent_nb.components.core import Component, section_of
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.cluster import Cluster
from concurrent_nb.nodes.common import sections
from concurrent_nb.nodes.master.journal_components import JOURNALS
from concurrent_nb.nodes.master.process import MasterSettings
from concurrent_nb.nodes.master.strategy_components import BUILT_IN
from concurrent_nb.nodes.slave.process import SlaveSettings


def test_the_sections_are_those_of_the_components() -> None:
    of_master: list[type[Component]] = [MasterSettings, *BUILT_IN, *JOURNALS]
    assert tuple(map(section_of, of_master)) == sections.OF_MASTER
    assert (section_of(SlaveSettings),) == sections.OF_SLAVE


@pytest.mark.parametrize(
    ("name", "meant"),
    [("MasterNod", "MasterNode"), ("masternode", "MasterNode"), ("WorkerNode", "SlaveNode"), ("Slaves", "SlaveNode")],
)
def test_a_section_that_does_not_exist_is_refused_with_the_one_that_was_meant(name: str, meant: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"no section '{name}'.*did you mean {meant}\?.*PushBest, .*SlaveNode"
    ):
        Cluster(config={name: {"x": 1}})


def test_a_section_of_another_node_is_refused_where_it_has_no_effect() -> None:
    with pytest.raises(ConfigurationError, match=r"'SlaveNode' has no effect on this node: .* MasterNode"):
        sections.check_sections(["SlaveNode"], sections.OF_MASTER)
    sections.check_sections(sections.OF_ALL)


def test_in_a_file_only_a_typing_error_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sections.check_sections_of_files([*sections.OF_ALL, "Mandelbrot"])
    assert ["Mandelbrot" in record.message for record in caplog.records] == [True]
    with pytest.raises(ConfigurationError, match=r"configuration file: .*'SlavNode'.*did you mean SlaveNode\?"):
        sections.check_sections_of_files(["SlavNode"])
