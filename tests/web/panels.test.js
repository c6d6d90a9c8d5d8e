import assert from "node:assert/strict";
import { test } from "node:test";

import { plain } from "../../concurrent_nb/web/static/dom.js";
import { barShares, jobLine, jobState, printsLine, seenRows } from "../../concurrent_nb/web/static/panels.js";

test("only rows that are seen have elements", () => {
  assert.deepEqual(seenRows(0, 400, 50, 1000), [0, 12]);
  assert.deepEqual(seenRows(5000, 400, 50, 1000), [96, 112]);
  assert.deepEqual(seenRows(49_900, 400, 50, 1000), [994, 1000]);
  assert.deepEqual(seenRows(90_000, 400, 50, 3), [3, 3]);
  assert.deepEqual(seenRows(0, 400, 50, 0), [0, 0]);
});

const job = { state: "running", tasks: 10, done: 4, failed: 1, cancelled: 0, rate: 2, opened_s: 0, ended_s: null };

test("a job in a line", () => {
  assert.equal(jobLine(/** @type {any} */ (job), 12, plain), "4 of 10 · 1 failed · 2/s · 12.0 s, about 3 s left");
  assert.equal(
    jobLine(/** @type {any} */ ({ ...job, state: "ended", ended_s: 5, done: 10, failed: 0, cancelled: 6 }), 12, plain),
    "10 of 10 · 6 cancelled · 5.0 s",
  );
});

test("how a job has ended", () => {
  assert.deepEqual(
    [
      job,
      { ...job, state: "ended" },
      { ...job, state: "ended", failed: 0 },
      { ...job, state: "ended", failed: 0, cancelled: 1 },
      { ...job, state: "ended", failed: 1, cancelled: 1, is_cancelled: false },
      { ...job, state: "ended", failed: 1, cancelled: 1, is_cancelled: true },
      { ...job, state: "ended", failed: 1, cancelled: 0, is_cancelled: true },
    ].map(jobState),
    ["running", "failed", "done", "cancelled", "failed", "cancelled", "failed"],
  );
});

test("a bar has a part for each end", () => {
  const shares = (more) => barShares(/** @type {any} */ ({ ...job, assigned: 2, ...more }));
  assert.deepEqual(shares({}), [0.3, 0.1, 0, 0.2]);
  assert.deepEqual(shares({ done: 10, cancelled: 6, assigned: 0 }), [0.3, 0.1, 0.6, 0]);
  assert.deepEqual(shares({ tasks: 0, done: 0, failed: 0, assigned: 0 }), [0, 0, 0, 0]);
});

test("placeholders of texts", () => {
  assert.equal(plain("%1 of %2", 3, "x"), "3 of x");
  assert.equal(plain("%3", 1), "%3");
});

test("where the prints of a job are that shares no view", () => {
  const line = (/** @type {object} */ more, now_s = 12) =>
    printsLine(/** @type {any} */ ({ ...job, view_version: 0, notebook: "", client: "", ...more }), now_s, plain);
  assert.equal(line({ view_version: 3 }), "");
  assert.equal(line({}, 1), "");
  assert.notEqual(line({ ended_s: 1 }), "");
  assert.match(line({ notebook: "work/fit.ipynb" }), /is in fit\.ipynb: below the cell that started it/);
  assert.match(line({ client: "fit.py (pid 7)" }), /in the program that started it, fit\.py \(pid 7\):/);
  assert.match(line({}), /in the program that started it\.$/);
});
