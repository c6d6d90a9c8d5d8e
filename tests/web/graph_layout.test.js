import assert from "node:assert/strict";
import { test } from "node:test";

import { FeedModel } from "../../concurrent_nb/web/static/feed_model.js";
import {
  NODE_HEIGHT,
  graphLine,
  graphOf,
  layOut,
  ranksOf,
  sortGraphs,
  sumOf,
} from "../../concurrent_nb/web/static/graph_layout.js";
import { plain } from "../../concurrent_nb/web/static/dom.js";
import { functionLine, neededBy } from "../../concurrent_nb/web/static/graph_panel.js";

const raw = {
  client: "fit.ipynb",
  mine: true,
  functions: [
    ["load", 10, 0, 0, 0, 10, 0, 0],
    ["clean", 10, 3, 1, 2, 4, 0, 0],
    ["add", 9, 9, 0, 0, 0, 0, 0],
  ],
  edges: [
    [0, 1, 10],
    [1, 2, 10],
    [2, 2, 8],
  ],
  other_edges: 0,
  began_s: 5,
  ended_s: null,
};
const graph = graphOf(raw, "3");

test("a graph of the feed", () => {
  assert.deepEqual(graph.functions[1], {
    name: "clean",
    tasks: 10,
    blocked: 3,
    waiting: 1,
    running: 2,
    done: 4,
    failed: 0,
    cancelled: 0,
  });
  assert.equal(graph.edges.length, 3);
  assert.deepEqual([graph.id, graph.client, graph.mine, graph.ended_s], ["3", "fit.ipynb", true, null]);
  assert.equal(graphLine(graph), "load 10/10 → clean 4/10 → add 0/9");
  assert.equal(graphLine(graph, false), "load → clean → add");
  assert.deepEqual([sumOf(graph, "tasks"), sumOf(graph, "done")], [29, 14]);
});

test("what is malformed is left out", () => {
  const odd = {
    functions: [["f", "x", -1, NaN], 7, null],
    edges: [[0, 9, 1], [0, -1, 1], [0, 1], 5, [1, 0, 2], [0.5, 1, 1]],
  };
  const made = graphOf(odd, "1");
  assert.deepEqual(
    made.functions.map(({ name, tasks }) => [name, tasks]),
    [
      ["f", 0],
      ["", 0],
      ["", 0],
    ],
  );
  assert.deepEqual(made.edges, [[1, 0, 2]]);
  assert.deepEqual(graphOf({}, "1").functions, []);
  assert.equal(graphLine(graphOf({}, "1")), "");
});

test("columns are as in telemetry/graph_text.py", () => {
  // each edge as two digits: from, to
  const ranks = (/** @type {number} */ count, /** @type {string} */ edges) =>
    ranksOf(count, /** @type {any} */ (edges.split(" ").map((edge) => [+edge[0], +edge[1], 1])));
  assert.deepEqual(ranks(3, "01 10 12 22"), [0, 1, 2]);
  assert.deepEqual(ranks(4, "01 02 13 23 03"), [0, 1, 1, 2]);
  assert.deepEqual(ranksOf(0, []), []);
  const chain = Array.from({ length: 100 }, (_, at) => [at, at + 1, 1]);
  assert.deepEqual(
    ranksOf(101, /** @type {any} */ ([...chain, [100, 0, 1]])),
    Array.from({ length: 101 }, (_, at) => at),
  );
});

/** @param {import('../../concurrent_nb/web/static/graph_layout.js').Drawing} drawing */
function check({ width, height, nodeWidth, nodes }) {
  for (const [at, { x, y }] of nodes.entries()) {
    assert.ok(x >= 0 && x + nodeWidth <= width && y >= 0 && y + NODE_HEIGHT <= height, `${at} is outside`);
    for (const other of nodes.slice(at + 1)) {
      const apart = Math.abs(x - other.x) >= nodeWidth || Math.abs(y - other.y) >= NODE_HEIGHT;
      assert.ok(apart, "boxes overlap");
    }
  }
}

test("results travel from left to right, and boxes do not overlap", () => {
  const drawing = layOut(3, graph.edges);
  check(drawing);
  const [load, clean, add] = drawing.nodes;
  assert.ok(load.x + drawing.nodeWidth < clean.x && clean.x + drawing.nodeWidth < add.x);
  const [first, , loop] = drawing.edges;
  assert.ok(first.path.startsWith(`M${load.x + drawing.nodeWidth} ${load.y + NODE_HEIGHT / 2}`));
  assert.ok(first.path.endsWith(`${clean.x} ${clean.y + NODE_HEIGHT / 2}`));
  assert.ok(load.x + drawing.nodeWidth < first.x && first.x < clean.x);
  assert.ok(add.x < loop.x && loop.x < add.x + drawing.nodeWidth && loop.y < add.y && loop.y >= 0);
});

test("boxes and gaps have the room that there is, and at least what they need", () => {
  const widths = [0, 1000, Infinity].map((room) => {
    const drawing = layOut(3, graph.edges, room);
    check(drawing);
    assert.ok(room < 600 || drawing.width <= Math.max(room, 600));
    return drawing.nodeWidth;
  });
  assert.deepEqual(widths, [150, 200, 200]);
  const chain = /** @type {any} */ ([0, 1, 2, 3, 4].map((at) => [at, at + 1, 1]));
  const { width, nodeWidth } = layOut(6, chain, 1300);
  assert.ok(width <= 1300 && width > 1280 && nodeWidth > 150);
});

test("an edge over several columns passes beside the boxes between", () => {
  const drawing = layOut(3, [
    [0, 1, 1],
    [1, 2, 1],
    [0, 2, 1],
  ]);
  check(drawing);
  const [, between] = drawing.nodes;
  const passed = drawing.edges[2].path.match(/L(\d+) (\d+)/);
  const y = Number(passed?.[2]);
  assert.ok(y < between.y || y > between.y + NODE_HEIGHT);
});

test("functions that need each other have two edges, apart", () => {
  const drawing = layOut(2, [
    [0, 1, 4],
    [1, 0, 3],
  ]);
  check(drawing);
  const [there, back] = drawing.edges;
  assert.notEqual(there.path, back.path);
  assert.ok(Math.abs(there.y - back.y) >= 12);
});

test("edges do not cross if columns can be ordered", () => {
  const drawing = layOut(4, [
    [0, 3, 1],
    [1, 2, 1],
  ]);
  const [a, b, c, d] = drawing.nodes;
  assert.equal(a.y < b.y, d.y < c.y);
});

test("the largest graph has a place for everything", () => {
  const edges = Array.from({ length: 500 }, (_, at) => [at % 101, (at * 7 + 3) % 101, 1]);
  const drawing = layOut(101, /** @type {any} */ (edges));
  assert.equal(drawing.edges.length, 500);
  assert.ok(drawing.edges.every(({ path, head, x, y }) => !/NaN|undefined/.test(`${path}${head}${x}${y}`)));
  check(drawing);
});

test("a function in words", () => {
  assert.equal(functionLine(graph.functions[0], plain), "done");
  assert.equal(functionLine(graph.functions[1], plain), "2 running · 3 blocked · 1 waiting");
  const bad = graphOf({ functions: [["f", 4, 0, 0, 0, 1, 2, 1]] }, "1");
  assert.equal(functionLine(bad.functions[0], plain), "2 failed · 1 cancelled");
  assert.equal(neededBy(graph, 2, plain), "clean (10), itself (8)");
  assert.equal(neededBy(graph, 0, plain), "");
});

test("graphs come, change and go", () => {
  const model = new FeedModel();
  const state = { epoch: 1, seq: 1, time_s: 1, graphs: { 3: raw }, stream: {} };
  model.apply("snapshot", state, 100);
  assert.equal(model.graphs.get("3")?.functions.length, 3);
  const before = model.versions.graphs;
  model.apply("delta", { seq: 2, since: 1, time_s: 2 }, 101);
  assert.equal(model.versions.graphs, before);
  const over = { ...raw, ended_s: 3 };
  model.apply("delta", { seq: 3, since: 2, time_s: 3, graphs: { 3: over, 4: { ...raw, began_s: 7 }, 2: raw } }, 102);
  assert.deepEqual(
    sortGraphs(model.graphs.values()).map(({ id }) => id),
    ["4", "2", "3"],
  );
  model.apply("delta", { seq: 4, since: 3, time_s: 4, gone: { graphs: ["3", "9"] } }, 103);
  assert.deepEqual([...model.graphs.keys()], ["2", "4"]);
  model.apply("snapshot", { ...state, seq: 5, graphs: undefined }, 104);
  assert.equal(model.graphs.size, 0);
});
