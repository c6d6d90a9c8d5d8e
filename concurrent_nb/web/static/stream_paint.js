// @ts-check
// The task stream as pixels: one row of pixels for each worker. Pure; ten times as fast as a rectangle for each task.

import { STATUS_WORDS, isFailure } from "./feed_model.js";

/** @typedef {import('./feed_model.js').MarkRing} MarkRing */
/** @typedef {import('./feed_model.js').RunningTask} RunningTask */

/**
 * colours of functions: those of Okabe and Ito that also colour-blind people tell apart, without the one of failures
 */
export const FUNCTION_COLOURS = [
  "#0072b2",
  "#e69f00",
  "#009e73",
  "#cc79a7",
  "#56b4e9",
  "#a99a00",
  "#7b5cd6",
  "#8c6d46",
];
export const FAILED_COLOUR = "#d13b2e";
export const FAILED_STRIPE = "#5c0f08";
export const WAITING_COLOUR = "#9aa0a8";
export const TRANSFER_COLOUR = "#5f7390";
export const CANCELLED_COLOUR = "#8a8fa0";

/** @param {string} text @returns {number} FNV-1a */
export function hash(text) {
  let value = 0x811c9dc5;
  for (let at = 0; at < text.length; at += 1) value = Math.imul(value ^ text.charCodeAt(at), 0x01000193) >>> 0;
  return (value ^ (value >>> 15)) >>> 0;
}

/**
 * Give each function the colour of its name's hash; if another one of the list has it already, the next free one.
 * @param {string[]} functions in the order in which the master has met them @returns {string[]}
 */
export function coloursOf(functions) {
  const taken = new Set();
  return functions.map((name) => {
    if (taken.size === FUNCTION_COLOURS.length) taken.clear();
    let at = hash(name) % FUNCTION_COLOURS.length;
    while (taken.has(at)) at = (at + 1) % FUNCTION_COLOURS.length;
    taken.add(at);
    return FUNCTION_COLOURS[at];
  });
}

/**
 * @param {string} colour `#rrggbb`
 * @param {number} [alpha]
 * @returns {number} as ImageData has it on little-endian machines
 */
export function pixel(colour, alpha = 255) {
  const rgb = parseInt(colour.slice(1), 16);
  return ((alpha << 24) | ((rgb & 0xff) << 16) | (rgb & 0xff00) | (rgb >> 16)) >>> 0;
}

/**
 * @typedef {{lane: number, slave: string, worker: string, extra: number}} Row
 *   `lane`: -1 for a worker that runs a task and has not ended one yet; `extra` numbers such rows of a slave
 */

/** @param {string} lane `slave/pid` @returns {[string, string]} */
export function splitLane(lane) {
  const at = lane.lastIndexOf("/");
  return at < 0 ? [lane, ""] : [lane.slice(0, at), lane.slice(at + 1)];
}

/** Remembers when lanes were used, and finds those of running tasks. */
export class LaneTable {
  constructor() {
    /** @type {number[]} */
    this.first_s = [];
    /** @type {number[]} */
    this.last_s = [];
    this.seen = 0;
    this.generation = 0;
    /** @type {string[]} */
    this.lanes = [];
    /** @type {Map<string, number>} */
    this.numbers = new Map();
  }

  /** @param {MarkRing} ring */
  follow(ring) {
    if (this.generation !== ring.generation) {
      this.generation = ring.generation;
      this.first_s = [];
      this.last_s = [];
      this.seen = 0;
    }
    for (let number = Math.max(this.seen, ring.begin); number < ring.end; number += 1) {
      const slot = number % ring.capacity;
      const lane = ring.lane[slot];
      const start = ring.start[slot];
      const end = start + ring.run[slot];
      if (!(start >= this.first_s[lane])) this.first_s[lane] = start;
      if (!(end <= this.last_s[lane])) this.last_s[lane] = end;
    }
    this.seen = ring.end;
  }

  /**
   * Place running tasks: on the lane of their worker, or below 0, on a row of its own, if no task of it has ended yet.
   * @param {RunningTask[]} running @param {string[]} lanes @returns {{task: RunningTask, place: number}[]}
   */
  place(running, lanes) {
    if (this.lanes !== lanes) {
      this.lanes = lanes;
      this.numbers = new Map(lanes.map((lane, number) => [lane, number]));
    }
    return running.map((task) => ({
      task,
      place: this.numbers.get(`${task.slave}/${task.worker}`) ?? -1 - task.worker,
    }));
  }

  /**
   * Give the rows of a time, by slave and worker: lanes that were used in it, and those of running tasks.
   * @param {string[]} lanes @param {{task: RunningTask, place: number}[]} placed @param {number} from_s
   * @param {number} to_s @returns {Row[]}
   */
  rows(lanes, placed, from_s, to_s) {
    const used = new Set();
    lanes.forEach((_, lane) => {
      if (this.last_s[lane] >= from_s && this.first_s[lane] <= to_s) used.add(lane);
    });
    /** @type {Map<string, Row>} */
    const extra = new Map();
    for (const { task, place } of placed) {
      if (task.started_s > to_s) continue;
      if (place >= 0) used.add(place);
      else {
        const worker = task.worker ? String(task.worker) : "";
        extra.set(`${task.slave}/${place}`, { lane: -1, slave: task.slave, worker, extra: -place });
      }
    }
    const rows = [...used].map((lane) => {
      const [slave, worker] = splitLane(lanes[lane] ?? "");
      return { lane, slave, worker, extra: 0 };
    });
    return [...rows, ...extra.values()].sort((a, b) =>
      a.slave === b.slave
        ? Number(a.worker || Infinity) - Number(b.worker || Infinity) || a.lane - b.lane
        : a.slave < b.slave
          ? -1
          : 1,
    );
  }
}

/**
 * @typedef {{from_s: number, to_s: number, width: number, failedOnly: boolean, withWaiting: boolean}} View
 */

const FAILED = pixel(FAILED_COLOUR);
const STRIPE = pixel(FAILED_STRIPE);
const WAITING = pixel(WAITING_COLOUR, 90);
const TRANSFER = pixel(TRANSFER_COLOUR, 190);
const CANCELLED = pixel(CANCELLED_COLOUR, 170);
const FADED = 0x2affffff;

/**
 * Paint all marks of a view. Pixels without a mark are transparent. Failures are painted last and two pixels wide at
 * least, with stripes: they are seen among thousands of others, and without colours.
 * @param {Uint32Array} pixels one row of `view.width` for each row @param {Int32Array} rowOf row of each lane, or -1
 * @param {number} rows @param {MarkRing} ring @param {Uint32Array} colours of the functions @param {View} view
 * @param {{row: number, start_s: number, colour: number}[]} running @param {number} now_s
 * @returns {number} marks painted
 */
export function paintMarks(pixels, rowOf, rows, ring, colours, view, running, now_s) {
  const { from_s, to_s, width } = view;
  const scale = width / (to_s - from_s);
  pixels.fill(0, 0, width * rows);
  const { lane, fn, status, start, run, wait, shipped } = ring;
  const free = new Float64Array(rows).fill(-Infinity);
  /** @type {number[]} */
  const failed = [];
  let painted = 0;
  for (const [first, end] of ring.ranges(from_s, to_s)) {
    for (let slot = first; slot < end; slot += 1) {
      const row = rowOf[lane[slot]];
      if (!(row >= 0)) continue;
      const began = start[slot];
      const ended = began + run[slot];
      let from = ((began - from_s) * scale) | 0;
      let to = ((ended - from_s) * scale) | 0;
      if (view.withWaiting && wait[slot] > 0) {
        // Tasks wait side by side, but a row has room for one: the time for which the worker was free as well.
        const waited = Math.max(began - wait[slot], free[row]);
        let a = ((waited - from_s) * scale) | 0;
        const b = Math.min(from, width);
        if (a < 0) a = 0;
        if (b > a && !view.failedOnly) {
          // After its assignment it was on the way: in messages, and in front of its worker.
          const sent = ((began - shipped[slot] - from_s) * scale) | 0;
          const c = sent < a ? a : sent > b ? b : sent;
          if (c > a) pixels.fill(WAITING, row * width + a, row * width + c);
          if (b > c) pixels.fill(TRANSFER, row * width + c, row * width + b);
        }
      }
      free[row] = ended;
      if (to < 0 || from >= width) continue;
      const code = status[slot];
      if (code > 1 && code !== 3) {
        failed.push(slot);
        continue;
      }
      if (from < 0) from = 0;
      if (to <= from) to = from + 1;
      if (to > width) to = width;
      const colour = code === 3 ? CANCELLED : (colours[fn[slot]] ?? CANCELLED);
      pixels.fill(view.failedOnly ? (colour & FADED) >>> 0 : colour, row * width + from, row * width + to);
      painted += 1;
    }
  }
  for (const { row, start_s, colour } of running) {
    const from = Math.max(0, Math.floor((start_s - from_s) * scale));
    const to = Math.min(width, Math.max(from + 1, Math.ceil((now_s - from_s) * scale)));
    if (from >= width) continue;
    // Stripes that stand on the time axis, so they move with it.
    const phase = Math.floor(start_s * scale);
    const light = ((colour & 0xffffff) | 0x99000000) >>> 0;
    const at = row * width;
    for (let x = from; x < to; x += 1) {
      const stripe = (x + Math.floor(from_s * scale) - phase) % 8 < 4 ? colour : light;
      pixels[at + x] = view.failedOnly ? (stripe & FADED) >>> 0 : stripe;
    }
  }
  for (const slot of failed) {
    const row = rowOf[lane[slot]];
    const from = Math.max(0, ((start[slot] - from_s) * scale) | 0);
    const to = Math.min(width, Math.max(from + 2, ((start[slot] + run[slot] - from_s) * scale) | 0));
    for (let x = from; x < to; x += 1) pixels[row * width + x] = (x - from) % 6 < 4 ? FAILED : STRIPE;
    painted += 1;
  }
  return painted;
}

/**
 * Find the mark of a lane at a time, or the nearest one within a tolerance.
 * @param {MarkRing} ring @param {number} lane @param {number} at_s @param {number} within_s
 * @returns {number} slot, or -1
 */
export function markAt(ring, lane, at_s, within_s) {
  let best = -1;
  let nearest = within_s;
  for (const [first, end] of ring.ranges(at_s - within_s, at_s + within_s)) {
    for (let slot = first; slot < end; slot += 1) {
      if (ring.lane[slot] !== lane) continue;
      const began = ring.start[slot];
      const ended = began + ring.run[slot];
      const distance = at_s < began ? began - at_s : at_s > ended ? at_s - ended : 0;
      if (distance < nearest || (distance === 0 && nearest === 0)) {
        nearest = distance;
        best = slot;
      }
    }
  }
  return best;
}

/**
 * @typedef {{fn: number, count: number, failed: number, total_s: number, min_s: number, q1_s: number, median_s: number,
 *   q3_s: number, max_s: number}} FunctionRow
 */

/**
 * Sum up the marks of a time by function, those that used most time first. Quartiles of more than 20,000 marks are
 * those of an even sample.
 * @param {MarkRing} ring @param {number} from_s @param {number} to_s @returns {FunctionRow[]}
 */
export function summarize(ring, from_s, to_s) {
  const ranges = ring.ranges(from_s, to_s);
  const total = ranges.reduce((sum, [first, end]) => sum + end - first, 0);
  const step = Math.max(1, Math.ceil(total / 20_000));
  /** @type {Map<number, {row: FunctionRow, times: number[]}>} */
  const groups = new Map();
  for (const [first, end] of ranges) {
    for (let slot = first; slot < end; slot += 1) {
      if (ring.status[slot] === 3) continue; // it was stopped: its time would mean nothing
      const began = ring.start[slot];
      const run = ring.run[slot];
      if (began > to_s || began + run < from_s) continue;
      const fn = ring.fn[slot];
      let group = groups.get(fn);
      if (!group) {
        const row = { fn, count: 0, failed: 0, total_s: 0, min_s: Infinity, q1_s: 0, median_s: 0, q3_s: 0, max_s: 0 };
        groups.set(fn, (group = { row, times: [] }));
      }
      const { row } = group;
      if (row.count % step === 0) group.times.push(run);
      row.count += 1;
      row.total_s += run;
      if (isFailure(ring.status[slot])) row.failed += 1;
      if (run < row.min_s) row.min_s = run;
      if (run > row.max_s) row.max_s = run;
    }
  }
  return [...groups.values()]
    .map(({ row, times }) => {
      const sorted = Float64Array.from(times).sort();
      const at = (/** @type {number} */ share) => sorted[Math.round((sorted.length - 1) * share)];
      return { ...row, q1_s: at(0.25), median_s: at(0.5), q3_s: at(0.75) };
    })
    .sort((a, b) => b.total_s - a.total_s);
}

/**
 * Sum up the marks of a time by lane, for those who read instead of look.
 * @param {MarkRing} ring @param {number} from_s @param {number} to_s
 * @returns {Map<number, {count: number, failed: number, busy_s: number, longest_s: number}>}
 */
export function summarizeLanes(ring, from_s, to_s) {
  const found = new Map();
  for (const [first, end] of ring.ranges(from_s, to_s)) {
    for (let slot = first; slot < end; slot += 1) {
      const began = ring.start[slot];
      const run = ring.run[slot];
      if (began > to_s || began + run < from_s) continue;
      let row = found.get(ring.lane[slot]);
      if (!row) found.set(ring.lane[slot], (row = { count: 0, failed: 0, busy_s: 0, longest_s: 0 }));
      row.count += 1;
      row.busy_s += Math.min(began + run, to_s) - Math.max(began, from_s);
      if (isFailure(ring.status[slot])) row.failed += 1;
      if (run > row.longest_s) row.longest_s = run;
    }
  }
  return found;
}

/**
 * @param {number} span_s
 * @param {number} most
 * @returns {number} a step of 1, 2 or 5, or of clock times, for at most so many ticks
 */
export function tickStep(span_s, most) {
  const least = span_s / Math.max(1, most);
  for (const step of [
    1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600,
  ]) {
    if (step >= least) return step;
  }
  return 900;
}

/** @param {number} status @returns {string} */
export function statusWord(status) {
  return STATUS_WORDS[status] ?? `status ${status}`;
}
