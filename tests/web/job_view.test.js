import assert from "node:assert/strict";
import { test } from "node:test";

import {
  ViewRequests,
  base64Of,
  errorTasks,
  imageLine,
  outputBlocks,
  pictureUri,
  searchLine,
  tableRows,
} from "../../concurrent_nb/web/static/job_view.js";

class Master {
  constructor() {
    this.asked = [];
    this.shown = [];
    this.requests = new ViewRequests(
      (job, since) => {
        this.asked.push([job.id, since]);
        return new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
      },
      (view) => this.shown.push(view),
    );
  }

  poll(view_version, now_ms, id = "a") {
    this.requests.poll(/** @type {any} */ ({ id, view_version }), now_ms);
  }

  async answer(version, view) {
    this.resolve({ version, view });
    await new Promise(setImmediate);
  }
}

test("a view is asked for when the feed has a new version, and every few seconds, one at a time", async () => {
  const master = new Master();
  master.poll(0, 0);
  master.poll(4, 1000);
  assert.deepEqual(master.asked, [["a", 0]]);
  await master.answer(4, { text: "first" });
  master.poll(4, 2000);
  assert.equal(master.asked.length, 1);
  master.poll(9, 2100);
  await master.answer(9, { text: "second" });
  master.poll(9, 6000);
  assert.equal(master.asked.length, 2);
  master.poll(9, 7200);
  assert.deepEqual(master.asked.slice(1), [
    ["a", 4],
    ["a", 9],
  ]);
  await master.answer(9, null);
  assert.deepEqual(
    master.shown.map((view) => view.text),
    ["first", "second"],
  );
});

test("the view of the end is the last that is asked for, unless there is a newer one", async () => {
  const master = new Master();
  master.poll(1, 0);
  await master.answer(1, { is_over: true });
  master.poll(1, 60_000);
  assert.equal(master.asked.length, 1);
  master.poll(2, 60_000);
  assert.equal(master.asked.length, 2);
});

test("an answer about another job is dropped, and a refusal is not repeated at once", async () => {
  const master = new Master();
  master.poll(1, 0);
  const { resolve } = master;
  master.poll(1, 10, "b");
  resolve({ version: 1, view: { text: "of a" } });
  await new Promise(setImmediate);
  assert.deepEqual(master.shown, []);
  master.reject(new Error("no such job"));
  await new Promise(setImmediate);
  master.poll(1, 5000, "b");
  assert.equal(master.asked.length, 2);
  master.poll(1, 16_000, "b");
  assert.equal(master.asked.length, 3);
});

test("results in words", () => {
  assert.equal(errorTasks({ count: 12, tasks: [1, 5, 9, 11, 14] }), "12 times: tasks 1, 5, 9, 11, 14 and 7 more");
  assert.equal(errorTasks({ count: 1, tasks: [3] }), "task 3");
  assert.equal(errorTasks(null), "task ");
  const search = { searched: 10, tasks: 4000, failed: 2 };
  assert.equal(searchLine(search), "no hit yet · 10 of 4,000 searched · 2 failed");
  assert.equal(searchLine({ ...search, failed: 0, over: true }), "not found · 10 of 4,000 searched");
  assert.equal(
    searchLine({ ...search, failed: 0, hit: { index: 7, label: "n = 7", value: "'<b>'" } }),
    "hit: '<b>' · task 7 (n = 7) · 10 of 4,000 searched",
  );
  const image = { width: 1536, height: 1024, step: 2, range: ["0", "20"], odd: 3, first_odd: "task 7: no numbers" };
  const line = "1,536 × 1,024 pixels · shown at 1:2 · values 0 to 20 · 3 not drawn; task 7: no numbers";
  assert.equal(imageLine(image), line);
  assert.equal(imageLine({ width: 3, height: 2, step: 1, range: ["7", "7"] }), "3 × 2 pixels · all values 7");
  assert.deepEqual(tableRows({ rows: [["0", "x\u202e"], 9, 0, null] }), [["0", "x<U+202E>"], "… 9 more", "…", "…"]);
});

test("prints of one stream are one text, displays stay between them", () => {
  const stream = (name, text) => ({ type: "stream", name, text });
  const display = { type: "display", data: { "text/plain": "x" } };
  const blocks = outputBlocks([
    stream("stdout", "a\n"),
    stream("stdout", "10 %\r20 %\n\x1b[31mred\x1b[0m\x1b[2J\n"),
    stream("stderr", "w\n"),
    display,
    stream("stdout", "b\n"),
    null,
    { type: "stream", text: 7 },
  ]);
  assert.deepEqual(blocks, [
    { name: "stdout", text: "a\n20 %\nred\n" },
    { name: "stderr", text: "w\n" },
    { data: display.data },
    { name: "stdout", text: "b\n" },
  ]);
  assert.deepEqual(outputBlocks([stream("stdout", "\x1b[31mred\x1b[0m\x1b[2J")], true), [
    { name: "stdout", text: "\x1b[31mred\x1b[0m" },
  ]);
  assert.deepEqual(outputBlocks("no list"), []);
});

test("of too much output the newest is kept", () => {
  const text = `${"x".repeat(3_000_000)}\n${"y".repeat(1_000_000)}\nend\n`;
  const [block] = outputBlocks([{ type: "stream", name: "stdout", text }]);
  assert.match(block.text, /^y{2000}…\nend\n$/);
  const picture = { type: "display", data: { "image/png": "A".repeat(1_000_000) } };
  assert.equal(outputBlocks([picture, picture, picture]).length, 1);
});

test("pictures are data and nothing else", () => {
  assert.equal(base64Of("iVBO\nRw=="), "iVBORw==");
  for (const bad of ["javascript:alert(1)", "", null, "A".repeat(2_000_000)]) assert.equal(base64Of(bad), "");
  assert.equal(pictureUri({ "image/jpeg": "AAAA", "text/plain": "x" }), "data:image/jpeg;base64,AAAA");
  assert.equal(pictureUri({ "image/png": "x:y", "text/html": "<b>" }), "");
  assert.equal(
    pictureUri({ "image/svg+xml": '<svg onload="x()">\ud800' }),
    "data:image/svg+xml,%3Csvg%20onload%3D%22x()%22%3E",
  );
});
