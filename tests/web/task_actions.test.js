import assert from "node:assert/strict";
import { test } from "node:test";

import { taskActions } from "../../concurrent_nb/web/static/task_actions.js";

const JOB = /** @type {any} */ ({ id: "ab" });

test("a task is cancelled, and its stack is shown, by the methods of the master", async () => {
  const asked = [];
  const answers = { cancel_task: 1, stack_sample: { slave: "east", worker: 7, seconds: 1.5, stack: "<f>\n  <g>" } };
  const actions = taskActions(async (method, params) => {
    asked.push([method, params]);
    return answers[method];
  });
  assert.deepEqual(
    actions.map((action) => action.label),
    ["Stack", "Cancel"],
  );
  const [stack, cancel] = actions;
  assert.equal(await stack.run(JOB, 3), "slave east, process 7, after 1.5 s\n<f>\n  <g>");
  assert.equal(await cancel.run(JOB, 4), undefined);
  assert.deepEqual(asked, [
    ["stack_sample", { job: "ab", index: 3 }],
    ["cancel_task", { job: "ab", index: 4 }],
  ]);
});

test("a refusal of the master is handed on", async () => {
  const [, cancel] = taskActions(async () => {
    throw new Error("it has ended");
  });
  await assert.rejects(cancel.run(JOB, 0), /it has ended/);
});
