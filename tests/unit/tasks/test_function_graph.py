"""The graph folded by function: it counts each task once, is bounded, and begins anew after a rest."""

from concurrent_nb.outcome import Status
from concurrent_nb.tasks.function_graph import (
    FUNCTIONS_MAX,
    OTHER,
    OVER_MAX,
    PAIRS_MAX,
    REST_S,
    FunctionGraph,
    FunctionGraphs,
    count_edges,
)


def a_graph() -> FunctionGraph:
    return FunctionGraph(0, "alice", 1.0)


def test_a_node_counts_its_tasks_by_state() -> None:
    graph = a_graph()
    load, clean = graph.node("load"), graph.node("clean")
    for status in (None, None, None, Status.OK, Status.HIT, Status.ERROR, Status.DEPENDENCY_FAILED, Status.CANCELLED):
        load.add(status)
    clean.add(None)
    clean.blocked += 1
    graph.connect(load, clean, 3)
    graph.connect(load, clean, 1)
    assert graph.unfinished == 4
    assert graph.describe({load: 1}) == {
        "functions": [["load", 8, 0, 2, 1, 2, 2, 1], ["clean", 1, 1, 0, 0, 0, 0, 0]],
        "edges": [[0, 1, 4]],
        "other_edges": 0,
        "began_s": 1.0,
        "ended_s": None,
    }
    for status in (Status.OK, Status.TIMEOUT, Status.OK):
        load.end(status, 5.0)
    clean.blocked -= 1
    clean.remove(6.0)
    assert graph.describe({}) == {
        "functions": [["load", 8, 0, 0, 0, 4, 3, 1], ["clean", 0, 0, 0, 0, 0, 0, 0]],
        "edges": [[0, 1, 4]],
        "other_edges": 0,
        "began_s": 1.0,
        "ended_s": 6.0,
    }


def test_further_functions_and_pairs_are_summed() -> None:
    graph = a_graph()
    nodes = [graph.node(f"f{number}") for number in range(FUNCTIONS_MAX + 50)]
    assert len(graph.nodes) == FUNCTIONS_MAX + 1
    assert {node.name for node in nodes[FUNCTIONS_MAX:]} == {OTHER}
    assert graph.node("f0") is nodes[0]
    for source in nodes[:40]:
        for target in nodes[:40]:
            graph.connect(source, target, 2)
    assert len(graph.edges) == PAIRS_MAX
    assert sum(graph.edges.values()) + graph.other_edges == 2 * 40 * 40
    graph.connect(nodes[0], nodes[1], 1)  # a known pair still counts as such
    assert graph.edges[nodes[0], nodes[1]] == 3


def test_the_edges_of_a_job_are_summed_beyond_a_number() -> None:
    edges: dict[tuple[str, str], int] = {}
    for number in range(PAIRS_MAX + 10):
        count_edges(edges, f"f{number}", "g", 2)
    count_edges(edges, "f0", "g", 5)
    assert len(edges) == PAIRS_MAX + 1
    assert (edges["f0", "g"], edges[OTHER, OTHER]) == (7, 20)


def test_a_graph_is_over_after_a_rest_and_not_before() -> None:
    graphs = FunctionGraphs()
    graph = graphs.of("alice", 0.0)
    graph.node("load").add(None)
    assert graphs.of("alice", 1000.0) is graph  # a task is unfinished
    assert graphs.of("bob", 1000.0) is not graph
    graph.node("load").end(Status.OK, 1000.0)
    assert graphs.of("alice", 1000.0 + REST_S) is graph
    after = graphs.of("alice", 1001.0 + REST_S)
    assert after is not graph
    assert not after.nodes
    assert [each.owner for each in graphs] == ["bob", "alice"]
    assert len({each.number for each in (*graphs, graph)}) == 3


def test_few_graphs_of_owners_that_have_left_are_kept() -> None:
    graphs = FunctionGraphs()
    busy = graphs.of("busy", 0.0)
    busy.node("load").add(None)
    for number in range(OVER_MAX + 20):
        graphs.of(f"owner {number}", 10.0 * number)
    assert len(list(graphs)) == OVER_MAX
    assert busy in graphs
