import assert from "node:assert/strict";
import { test } from "node:test";

import { MarkRing } from "../../concurrent_nb/web/static/feed_model.js";
import {
  FAILED_COLOUR,
  FUNCTION_COLOURS,
  LaneTable,
  TRANSFER_COLOUR,
  WAITING_COLOUR,
  coloursOf,
  markAt,
  paintMarks,
  pixel,
  splitLane,
  statusWord,
  summarize,
  summarizeLanes,
  tickStep,
} from "../../concurrent_nb/web/static/stream_paint.js";

const COLOURS = Uint32Array.from([pixel("#0072b2"), pixel("#e69f00")]);
const ringOf = (...marks) => {
  const ring = new MarkRing(2000);
  for (const mark of marks) ring.add(...mark);
  return ring;
};
const view = { from_s: 0, to_s: 10, width: 10, failedOnly: false, withWaiting: false };
const paint = (ring, more = {}, running = [], rowOf = Int32Array.from([0, 1])) => {
  const pixels = new Uint32Array(20);
  const painted = paintMarks(pixels, rowOf, 2, ring, COLOURS, { ...view, ...more }, running, 10);
  return { painted, rows: [[...pixels.subarray(0, 10)], [...pixels.subarray(10)]] };
};

test("a mark is a run of pixels in the row of its lane", () => {
  const { painted, rows } = paint(ringOf([0, 0, 0, 2, 3, 0], [1, 1, 0, 8, 5, 0], [7, 0, 0, 1, 1, 0]));
  assert.equal(painted, 2);
  assert.deepEqual(
    rows[0].map((one) => one === COLOURS[0]),
    [false, false, true, true, true, false, false, false, false, false],
  );
  assert.deepEqual(
    rows[1].map((one) => one === COLOURS[1]),
    [...Array(8).fill(false), true, true],
  );
});

test("a short mark has a pixel, and what is outside has none", () => {
  const { rows } = paint(ringOf([0, 0, 0, 4, 0.001, 0], [0, 0, 0, -3, 1, 0], [0, 0, 0, 11, 1, 0]));
  assert.equal(rows[0].filter(Boolean).length, 1);
  assert.equal(rows[0][4], COLOURS[0]);
});

test("failures are painted over all others, and alone if asked for", () => {
  const ring = ringOf([0, 0, 2, 4, 0.001, 0], [0, 0, 0, 3, 4, 0]);
  assert.equal(paint(ring).rows[0][4], pixel(FAILED_COLOUR));
  const alone = paint(ring, { failedOnly: true }).rows[0];
  assert.equal(alone[4], pixel(FAILED_COLOUR));
  assert.ok(alone[3] >>> 24 < 0x40);
});

test("waiting is shown where the worker was free as well", () => {
  const { rows } = paint(ringOf([0, 0, 0, 0, 3, 0], [0, 0, 0, 6, 2, 5]), { withWaiting: true });
  assert.deepEqual(rows[0].slice(0, 3), Array(3).fill(COLOURS[0]));
  assert.deepEqual(rows[0].slice(3, 6), Array(3).fill(rows[0][3]));
  assert.notEqual(rows[0][3], 0);
  assert.equal(rows[0][9], 0);
});

test("the way to the worker has a colour of its own, after the waiting", () => {
  const { rows } = paint(ringOf([0, 0, 0, 6, 2, 5, 2]), { withWaiting: true });
  assert.deepEqual(rows[0].slice(1, 4), Array(3).fill(pixel(WAITING_COLOUR, 90)));
  assert.deepEqual(rows[0].slice(4, 6), Array(2).fill(pixel(TRANSFER_COLOUR, 190)));
  // Nonsense of a slave does not paint over what is there.
  const behind = paint(ringOf([0, 0, 0, 0, 5, 0], [0, 0, 0, 6, 2, 3, 1e9]), { withWaiting: true }).rows[0];
  assert.deepEqual(behind.slice(0, 5), Array(5).fill(COLOURS[0]));
  assert.equal(behind[5], pixel(TRANSFER_COLOUR, 190));
});

test("a running task is drawn from its start until now", () => {
  const { rows } = paint(ringOf(), {}, [{ row: 1, start_s: 4, colour: COLOURS[0] }]);
  assert.deepEqual(rows[1].map(Boolean), [false, false, false, false, true, true, true, true, true, true]);
});

test("colours follow names, and two functions share none while there are free ones", () => {
  assert.deepEqual(coloursOf(["f", "g"]).slice(0, 1), coloursOf(["f"]));
  const many = coloursOf(Array.from({ length: FUNCTION_COLOURS.length }, (_, at) => `f${at}`));
  assert.equal(new Set(many).size, FUNCTION_COLOURS.length);
  assert.equal(coloursOf(Array.from({ length: 20 }, (_, at) => `f${at}`)).length, 20);
});

test("a running task is on the lane of its worker, or on a row of its own until one of that worker has ended", () => {
  const table = new LaneTable();
  const ring = ringOf([0, 0, 0, 0, 5, 0], [1, 0, 0, 0, 9, 0]);
  table.follow(ring);
  const lanes = ["s/3", "s/12", "other/3"];
  const task = (worker, slave = "s") => ({ job: "j", index: worker, slave, started_s: 9.5, worker });
  const running = [task(12), task(7), task(0), task(12, "odd/name")];
  const placed = table.place(running, lanes);
  assert.deepEqual(
    placed.map(({ task: { worker }, place }) => [worker, place]),
    [
      [12, 1],
      [7, -8],
      [0, -1],
      [12, -13],
    ],
  );
  assert.deepEqual(
    table.rows(lanes, placed, 0, 30).map((row) => [row.slave, row.worker, row.lane, row.extra]),
    [
      ["odd/name", "12", -1, 13],
      ["s", "3", 0, 0],
      ["s", "7", -1, 8],
      ["s", "12", 1, 0],
      ["s", "", -1, 1],
    ],
  );
  const grown = [...lanes, "s/7"]; // its first task has ended
  assert.deepEqual(table.place([task(7)], grown)[0].place, 3);
  ring.clear();
  table.follow(ring);
  assert.deepEqual(table.rows(grown, [], 0, 30), []);
});

test("a name with slashes is still a name", () => {
  assert.deepEqual(splitLane("a/b/12"), ["a/b", "12"]);
  assert.deepEqual(splitLane("odd"), ["odd", ""]);
});

test("the mark under the pointer, or near it", () => {
  const ring = ringOf([0, 0, 0, 2, 1, 0], [1, 0, 0, 2, 1, 0], [0, 0, 0, 5, 1, 0]);
  assert.equal(markAt(ring, 0, 2.5, 0.1), 0);
  assert.equal(markAt(ring, 1, 2.5, 0.1), 1);
  assert.equal(markAt(ring, 0, 4.95, 0.1), 2);
  assert.equal(markAt(ring, 0, 4, 0.1), -1);
});

test("quartiles of each function, the one with most time first", () => {
  const marks = [];
  for (let at = 1; at <= 101; at += 1) marks.push([0, 0, 0, at / 100, at / 1000, 0]);
  marks.push([0, 1, 2, 1, 50, 0], [0, 0, 3, 1, 0, 0]);
  const [first, second] = summarize(ringOf(...marks), 0, 10);
  assert.deepEqual([first.fn, first.count, first.failed], [1, 1, 1]);
  assert.equal(second.count, 101);
  for (const [value, wanted] of [
    [second.min_s, 0.001],
    [second.q1_s, 0.026],
    [second.median_s, 0.051],
    [second.q3_s, 0.076],
    [second.max_s, 0.101],
  ]) {
    assert.ok(Math.abs(value - wanted) < 1e-6);
  }
  assert.deepEqual(summarize(ringOf(...marks), 100, 110), []);
});

test("busy time of a lane counts within the time only", () => {
  const lanes = summarizeLanes(ringOf([0, 0, 0, -5, 10, 0], [0, 0, 5, 8, 10, 0]), 0, 10);
  assert.deepEqual(lanes.get(0), { count: 2, failed: 1, busy_s: 7, longest_s: 10 });
});

test("ticks have steps that people count in", () => {
  assert.equal(tickStep(60, 6), 10);
  assert.equal(tickStep(600, 6), 120);
  assert.equal(tickStep(0.01, 6), 0.002);
});

test("every status has a word", () => {
  assert.equal(statusWord(5), "worker died");
  assert.equal(statusWord(77), "status 77");
});

test("100,000 marks are painted in a few frames of time", () => {
  const ring = new MarkRing(100_000);
  for (let at = 0; at < 100_000; at += 1) {
    ring.add(at % 64, at % 2, at % 500 === 0 ? 2 : 0, Math.floor(at / 64) * 0.05, 0.045, 0.001);
  }
  const pixels = new Uint32Array(1200 * 64);
  const rowOf = Int32Array.from({ length: 64 }, (_, at) => at);
  const begun = process.cpuUsage();
  for (let at = 0; at < 10; at += 1) {
    paintMarks(pixels, rowOf, 64, ring, COLOURS, { ...view, to_s: 80, width: 1200, withWaiting: true }, [], 80);
  }
  const { user } = process.cpuUsage(begun);
  assert.ok(user / 10 < 200_000, `${user / 10} us a frame`); // about 10,000 on a free machine
});
