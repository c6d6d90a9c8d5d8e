import assert from "node:assert/strict";
import { test } from "node:test";

import {
  FeedModel,
  MarkRing,
  Samples,
  decodeBase64,
  elapsed_s,
  hasJoined,
  hostFigures,
  left_s,
  progressOf,
  sortJobs,
  whereIs,
} from "../../concurrent_nb/web/static/feed_model.js";

const WALL_S = 1_800_000_000;

/** @param {number[][]} marks lane, function, status, start, run, wait, shipped */
export function packed(marks) {
  const data = Buffer.alloc(28 * marks.length);
  marks.forEach(([lane, fn, status, start, run, wait, shipped = 0], at) => {
    data.writeUInt16LE(lane, 28 * at);
    data.writeUInt16LE(fn, 28 * at + 2);
    data.writeUInt8(status, 28 * at + 4);
    data.writeDoubleLE(start, 28 * at + 8);
    data.writeFloatLE(run, 28 * at + 16);
    data.writeFloatLE(wait, 28 * at + 20);
    data.writeFloatLE(shipped, 28 * at + 24);
  });
  return data.toString("base64");
}

const job = (id, more = {}) => ({
  id,
  name: "f",
  client: "c",
  mine: true,
  state: "running",
  tasks: 10,
  done: 0,
  failed: 0,
  cancelled: 0,
  assigned: 2,
  opened_s: 90,
  ended_s: null,
  notebook: "",
  cell: "",
  in_bytes: 0,
  out_bytes: 0,
  run_s: 0,
  ...more,
});
const snapshot = (more = {}) => ({
  epoch: 7,
  seq: 1,
  time_s: 100,
  name: "demo",
  uptime_s: 50,
  totals: { waiting: 3, assigned: 2, done: 4, failed: 1, slots: 8, busy: 2, in_bytes: 10, out_bytes: 20 },
  slaves: {
    s1: {
      name: "s1",
      host: "h",
      cores: 4,
      slots: 4,
      busy: 2,
      load: 1.5,
      memory_used_bytes: 5,
      memory_total_bytes: 9,
      state: "active",
    },
  },
  jobs: { aa: job("aa") },
  stream: { lanes: ["s1/10"], functions: ["f"], first: 0, skipped: 0, marks: packed([[0, 0, 0, 95, 1, 0.5]]) },
  running: [["aa", 3, "s1", 99, 42]],
  events: [{ number: 0, at_s: 98, kind: "slave joined", text: "s1", slave: "s1", job: "" }],
  ...more,
});
const delta = (seq, time_s, more = {}) => ({ epoch: 7, seq, since: seq - 1, time_s, ...more });
const begun = (more = {}) => {
  const model = new FeedModel();
  assert.ok(model.apply("snapshot", snapshot(more), WALL_S));
  return model;
};

test("a snapshot is the whole state", () => {
  const model = begun();
  assert.deepEqual(model.since, [7, 1]);
  assert.equal(model.name, "demo");
  assert.equal(model.slaves.get("s1")?.busy, 2);
  assert.equal(model.jobs.get("aa")?.tasks, 10);
  assert.deepEqual(model.running, [{ job: "aa", index: 3, slave: "s1", started_s: 99, worker: 42 }]);
  assert.equal(model.marks.size, 1);
  assert.equal(model.events[0].wall_s, WALL_S - 2);
  assert.equal(model.totals.kept, 0);
});

test("a delta changes what it names and nothing else", () => {
  const model = begun();
  const { versions } = model;
  const before = { ...versions };
  assert.ok(
    model.apply(
      "delta",
      delta(2, 101, {
        jobs: { aa: { ...job("aa"), done: 5 }, bb: job("bb") },
        gone: { slaves: ["s1", "never"], jobs: [] },
      }),
      WALL_S + 1,
    ),
  );
  assert.equal(model.jobs.get("aa")?.done, 5);
  assert.deepEqual([...model.jobs.keys()], ["aa", "bb"]);
  assert.equal(model.slaves.size, 0);
  assert.equal(model.running.length, 1);
  assert.equal(versions.events, before.events);
  assert.equal(versions.marks, before.marks);
  assert.ok(versions.jobs > before.jobs);
});

test("gone comes before entities, so a slave that comes back in one delta stays", () => {
  const model = begun();
  model.apply(
    "delta",
    delta(2, 101, { gone: { slaves: ["s1"], jobs: [] }, slaves: { s1: { name: "s1", slots: 1 } } }),
    WALL_S + 1,
  );
  assert.equal(model.slaves.get("s1")?.slots, 1);
});

test("a heartbeat moves time only", () => {
  const model = begun();
  assert.ok(model.apply("delta", { epoch: 7, seq: 1, since: 1, time_s: 102 }, WALL_S + 2));
  assert.equal(model.now_s(WALL_S + 2), 102);
  assert.equal(model.uptimeAt_s(WALL_S + 2), 52);
  assert.equal(model.samples.size, 2);
});

test("a delta that does not follow is refused", () => {
  const model = begun();
  assert.equal(model.apply("delta", { ...delta(9, 101), since: 8 }, WALL_S), false);
  assert.equal(model.apply("delta", { ...delta(2, 101), epoch: 8 }, WALL_S), false);
  assert.equal(new FeedModel().apply("delta", delta(2, 101), WALL_S), false);
  assert.deepEqual(model.since, [7, 1]);
});

test("a snapshot of another epoch replaces everything, and the charts have a gap", () => {
  const model = begun();
  model.apply("snapshot", snapshot({ epoch: 8, time_s: 3, jobs: {}, stream: undefined, events: [] }), WALL_S + 9);
  assert.equal(model.jobs.size, 0);
  assert.equal(model.marks.size, 0);
  assert.deepEqual(model.lanes, []);
  assert.deepEqual(model.samples.columns.done, [4, null, 4]);
  assert.equal(model.now_s(WALL_S + 9), 3);
});

test("nonsense is neither applied nor thrown at the page", () => {
  const model = begun();
  for (const message of [null, 7, "text", [], {}, { seq: "x" }, { seq: 2, time_s: Infinity }]) {
    assert.equal(model.apply("delta", message, WALL_S), false);
  }
  const odd = delta(2, 101, {
    totals: { done: "many", busy: -0, evil: 3 },
    slaves: { __proto__: null, x: 7, y: null },
    jobs: { z: { tasks: {}, name: ["<b>"], ended_s: "x" } },
    gone: 5,
    running: [7, ["a"], ["aa", 0, "s1", NaN]],
    events: [{}, null, { number: "x" }],
    stream: { lanes: 7, functions: [{}], marks: "%%%", first: "x" },
  });
  assert.ok(model.apply("delta", odd, WALL_S + 1));
  assert.equal(model.totals.done, 0);
  assert.equal("evil" in model.totals, false);
  assert.equal(model.jobs.get("z")?.name, "");
  assert.deepEqual(model.running, []);
  assert.equal(model.slaves.get("x")?.slots, 0);
  assert.ok(
    model.apply(
      "delta",
      JSON.parse(
        '{"epoch":7,"seq":3,"since":2,"time_s":102,"slaves":{"__proto__":{"slots":3},"constructor":{"slots":4}}}',
      ),
      WALL_S + 2,
    ),
  );
  assert.equal(model.slaves.get("__proto__")?.slots, 3);
});

test("marks that came already are left out, and those that were left out are counted", () => {
  const model = begun();
  const three = [
    [0, 0, 0, 95, 1, 0.5],
    [0, 0, 2, 96, 1, 0],
    [0, 0, 0, 97, 1, 0],
  ];
  model.apply("delta", delta(2, 101, { stream: { first: 0, skipped: 0, marks: packed(three) } }), WALL_S + 1);
  assert.equal(model.marks.size, 3);
  assert.deepEqual([...model.marks.start.subarray(0, 3)], [95, 96, 97]);
  model.apply(
    "delta",
    delta(3, 102, { stream: { first: 3, skipped: 5, marks: packed([[0, 0, 0, 98, 1, 0]]) } }),
    WALL_S + 2,
  );
  assert.equal(model.skipped, 5);
  assert.equal(model.nextMark, 9);
  model.apply(
    "delta",
    delta(4, 103, {
      stream: {
        first: 9,
        skipped: 0,
        marks: packed([
          [0, 0, 0, NaN, 1, 0],
          [0, 0, 0, 99, -1, NaN],
        ]),
      },
    }),
    WALL_S + 3,
  );
  assert.equal(model.marks.size, 5);
  assert.equal(model.marks.run[4], 0);
});

test("events are numbered: none is shown twice", () => {
  const model = begun();
  const event = (number) => ({ number, at_s: 99, kind: "worker died", text: "", slave: "", job: "" });
  model.apply("delta", delta(2, 101, { events: [event(0), event(1)] }), WALL_S + 1);
  model.apply("delta", delta(3, 102, { events: [event(1), event(2)] }), WALL_S + 2);
  assert.deepEqual(
    model.events.map((one) => one.number),
    [0, 1, 2],
  );
});

test("the least delay of messages gives the time, so late ones do not move it", () => {
  const model = begun();
  model.apply("delta", delta(2, 101), WALL_S + 1.4);
  assert.ok(Math.abs(model.offset_s - (WALL_S - 100)) < 0.01);
  model.apply("delta", delta(3, 102), WALL_S + 1.9);
  assert.ok(Math.abs(model.now_s(WALL_S + 1.9) - 102) < 1e-6);
  model.apply("delta", delta(4, 103), WALL_S + 30); // a machine that slept
  assert.equal(model.now_s(WALL_S + 30), 103);
});

test("times in the clock of the master's machine do not depend on the delay of messages", () => {
  for (const late_s of [0, 30]) {
    const model = new FeedModel();
    model.apply("snapshot", snapshot({ epoch: 1_790_000_000_500 }), WALL_S + late_s);
    assert.equal(model.hostTime_s(120), 1_790_000_070.5);
  }
});

test("rates are those of the last second", () => {
  const model = begun();
  for (let at = 1; at <= 8; at += 1) {
    model.apply(
      "delta",
      delta(1 + at, 100 + at / 4, { totals: { done: 4 + 25 * at, out_bytes: 20 + 1000 * at } }),
      WALL_S + at / 4,
    );
  }
  assert.equal(Math.round(model.samples.last("done_rate")), 100);
  assert.equal(Math.round(model.samples.last("out_rate")), 4000);
  assert.equal(model.samples.columns.done_rate[0], null);
});

test("samples of ten minutes are kept, and a long silence is a gap", () => {
  const samples = new Samples(600);
  const totals = new FeedModel().totals;
  for (let at = 0; at < 4000; at += 1) samples.add(at, totals, []);
  assert.ok(samples.size >= 600 && samples.size <= 665, String(samples.size));
  samples.add(4100, totals, []);
  assert.equal(samples.columns.busy.at(-2), null);
  assert.equal(samples.columns.busy.at(-1), 0);
  samples.add(4000, totals, []);
  assert.equal(samples.columns.wall_s.at(-1), 4100);
});

test("hosts count once, however many slaves they have", () => {
  const slave = (host, load) => ({ host, load, cores: 8, memory_used_bytes: 5, memory_total_bytes: 10 });
  const figures = hostFigures(/** @type {any} */ ([slave("a", 2), slave("a", 3), slave("b", 1)]));
  assert.deepEqual(figures, { load: 4, cores: 16, memory_used_bytes: 10, memory_total_bytes: 20 });
});

test("a ring keeps the newest marks, and finds those of a time", () => {
  const ring = new MarkRing(4000);
  for (let at = 0; at < 10_500; at += 1) ring.add(at % 7, 0, 0, at, 0.5, 0);
  assert.ok(ring.size > 3000 && ring.size <= 4000, String(ring.size));
  assert.equal(ring.begin, 7000);
  const seen = [];
  for (const [from, to] of ring.ranges(8200, 8300)) {
    for (let slot = from; slot < to; slot += 1) seen.push(ring.start[slot]);
  }
  assert.equal(seen[0], 8000);
  assert.equal(seen.length, 1000);
  assert.deepEqual(ring.ranges(0, 6000), []);
  const all = ring.ranges(0, 1e9).flatMap(([from, to]) => [...ring.start.subarray(from, to)]);
  assert.deepEqual(
    all,
    [...all].sort((a, b) => a - b),
  );
  assert.equal(all.length, ring.size);
  assert.throws(() => new MarkRing(1500), RangeError);
});

test("a job has a share, a pace and what is left", () => {
  const model = begun();
  model.apply("delta", delta(2, 102, { jobs: { aa: job("aa", { done: 4 }) } }), WALL_S + 2);
  const running = /** @type {any} */ (model.jobs.get("aa"));
  assert.equal(progressOf(running), 0.4);
  assert.equal(running.rate, 2);
  assert.equal(left_s(running), 3);
  assert.equal(elapsed_s(running, 102), 12);
  assert.equal(left_s({ ...running, state: "ended" }), null);
  assert.equal(progressOf({ ...running, tasks: 0, state: "ended" }), 1);
  assert.equal(elapsed_s({ ...running, ended_s: 95 }, 500), 5);
});

test("running jobs come first, then the newest", () => {
  const jobs = [
    job("a", { state: "ended", ended_s: 95 }),
    job("b", { state: "waiting" }),
    job("c", { opened_s: 80 }),
    job("d"),
    job("e", { state: "odd" }),
  ];
  assert.deepEqual(
    sortJobs(/** @type {any} */ (jobs)).map((one) => one.id),
    ["d", "c", "b", "e", "a"],
  );
});

test("what is no base64 is empty", () => {
  assert.equal(decodeBase64("***").byteLength, 0);
  assert.equal(decodeBase64("AAAA").byteLength, 3);
});

test("a slave is where its host is, and what has started it there", () => {
  const where = (host, place) => whereIs(/** @type {any} */ ({ host, place }));
  assert.equal(where("n1", ""), "n1");
  assert.equal(where("", "Slurm job 17: PENDING (Resources)"), "Slurm job 17: PENDING (Resources)");
  assert.equal(where("n1", "Slurm job 17 on n1"), "Slurm job 17 on n1");
  assert.equal(where("alpha", "SSH host alpha (tunnel)"), "SSH host alpha (tunnel)");
  assert.equal(where("n1", "Slurm job 17 on n12"), "n1 · Slurm job 17 on n12");
});

test("slaves that have not joined are not counted as slaves", () => {
  const model = new FeedModel();
  const slaves = { a: { state: "active" }, b: { state: "queued" }, c: { state: "starting" }, d: { state: "draining" } };
  model.apply("snapshot", { epoch: 1, seq: 1, time_s: 1, slaves }, 1);
  assert.equal(model.joined, 2);
  assert.deepEqual(
    [...model.slaves.values()].filter(hasJoined).map((slave) => slave.name),
    ["a", "d"],
  );
});
