import assert from "node:assert/strict";
import { test } from "node:test";

import { isRestored, jobsOfCells, outputsOf } from "../../concurrent_nb/web/static/cell_restore.js";

const job = (id, more = {}) =>
  /** @type {any} */ ({ id, name: "In[7]", notebook: "/srv/nb/a/x.ipynb", cell: "c1", opened_s: 10, ...more });

test("a cell has the newest of its jobs, and no job of another notebook", () => {
  const jobs = [
    job("1"),
    job("2", { opened_s: 12 }),
    job("3", { opened_s: 11 }),
    job("4", { notebook: "/srv/nb/b/x.ipynb", opened_s: 99 }),
    job("5", { cell: "c2" }),
    job("6", { cell: "" }),
  ];
  const found = jobsOfCells(jobs, "a/x.ipynb", "/srv/nb");
  assert.deepEqual(
    [...found].map(([cell, { id }]) => [cell, id]),
    [
      ["c1", "2"],
      ["c2", "5"],
    ],
  );
  assert.equal(jobsOfCells(jobs, "x.ipynb", "/srv/nb").size, 0);
});

const view = {
  text: "8 tasks in 3 s",
  view: { kind: "image", png: "AAAA", width: 4, height: 2, step: 1 },
  errors: {
    kinds: [{ type: "ValueError", message: "three", count: 2, tasks: [3, 4], text: "Traceback\nValueError: three" }],
  },
  outputs: [
    { type: "stream", name: "stdout", text: "[0] a\n" },
    { type: "stream", name: "stdout", text: "[1] \x1b[31mb\x1b[0m\x1b[2J\n" },
    { type: "display", data: { "text/html": "<i onclick=x>y", "text/plain": "y", "application/javascript": "x()" } },
    { type: "display", data: { "image/svg+xml": "<svg onload=x>", "image/png": "BBBB" } },
  ],
};

test("the last view becomes ordinary outputs, which contain nothing that runs", () => {
  const outputs = outputsOf(view, "aa", (html) => html.replace(/ on\w+=\w+/, ""));
  assert.deepEqual(outputs, [
    {
      output_type: "display_data",
      data: { "text/plain": "8 tasks in 3 s\n4 × 2 pixels" },
      metadata: { concurrent_nb: { job: "aa" } },
    },
    {
      output_type: "display_data",
      data: { "text/plain": "picture made by the tasks", "image/png": "AAAA" },
      metadata: {},
    },
    { output_type: "stream", name: "stdout", text: "[0] a\n[1] \x1b[31mb\x1b[0m\n" },
    { output_type: "display_data", data: { "text/plain": "y", "text/html": "<i>y" }, metadata: {} },
    { output_type: "display_data", data: { "image/png": "BBBB" }, metadata: {} },
    {
      output_type: "stream",
      name: "stderr",
      text: "ValueError: three (2 times: tasks 3, 4)\nTraceback\nValueError: three\n",
    },
  ]);
  assert.equal(isRestored(outputs, "aa"), true);
  assert.equal(isRestored(outputs, "bb"), false);
});

test("a table becomes a text in columns", () => {
  const table = {
    kind: "table",
    columns: ["task", "value"],
    right: [true, false],
    rows: [["0", "one"], 12, ["13", "x"]],
  };
  const [head] = outputsOf({ text: "14 tasks", view: table }, "aa", String);
  assert.equal(head.data["text/plain"], "14 tasks\ntask  value\n   0  one\n… 12 more\n  13  x");
});

test("a view of nonsense becomes at most one line", () => {
  for (const bad of [
    {},
    { text: 7, view: 7, errors: 7, outputs: 7 },
    { view: { kind: "constructor" }, outputs: [null] },
  ]) {
    const outputs = outputsOf(bad, "aa", String);
    assert.equal(outputs.length, 1);
    assert.ok(outputs[0].data["text/plain"].length < 20);
  }
});
