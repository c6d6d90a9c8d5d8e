import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { TraceEvents, readTrace } from "../../concurrent_nb/web/static/trace_events.js";

// tests/unit/nodes/common/test_trace_file.py checks that Python writes this trace of these pages.
const { pages, trace } = JSON.parse(readFileSync(new URL("trace.json", import.meta.url), "utf8"));

test("the browser writes the trace that Python writes", async () => {
  /** @type {unknown[]} */
  const asked = [];
  const call = async (method, params) => {
    asked.push([method, params]);
    return pages[asked.length - 1];
  };
  const { text, tasks, dropped, cluster } = await readTrace(call, "ab");
  assert.deepEqual(asked, [
    ["trace", { job: "ab", since: 0 }],
    ["trace", { job: "ab", since: 7 }],
  ]);
  assert.deepEqual([tasks, dropped, cluster], [12, 2, "lab"]);
  const { traceEvents, ...rest } = JSON.parse(text);
  const { traceEvents: expected, ...others } = trace;
  assert.deepEqual(rest, others);
  assert.equal(traceEvents.length, expected.length);
  traceEvents.forEach((event, at) => {
    for (const name of ["ts", "dur"]) {
      // Halves of a nanosecond are rounded in another way.
      if (name in event && Math.abs(event[name] - expected[at][name]) < 0.0015) event[name] = expected[at][name];
    }
    assert.deepEqual(event, expected[at]);
  });
});

test("only the first tasks have arrows, and only the first jobs rows", () => {
  const events = new TraceEvents("lab");
  const [task] = pages[0].tasks;
  const tasks = Array.from({ length: 10_001 }, (_, number) => ({
    ...task,
    number,
    job: `${number % 600}`.padStart(32),
  }));
  events.add({ tasks, jobs: {} });
  assert.equal(events.arrows, 10_000);
  assert.equal(events.jobs.size, 500);
  const slices = events.events.filter((event) => event.cat === "task");
  assert.equal(slices.length, 10_001);
});

test("an error of the master ends the reading", async () => {
  await assert.rejects(
    readTrace(async () => {
      throw new Error("it has no such job");
    }, "ab"),
    /no such job/,
  );
});
