// @ts-check
// The state of a cluster, from the messages of a master's feed. Pure: time is an argument, nothing is drawn or fetched.

import { graphOf } from "./graph_layout.js";
import { finite } from "./text.js";

/**
 * @typedef {{name: string, host: string, place: string, pid: number, cores: number, slots: number, busy: number,
 *   in_flight: number, done: number, state: string, load: number, memory_used_bytes: number,
 *   memory_total_bytes: number,
 *   since_s: number}} Slave
 * @typedef {{id: string, name: string, client: string, mine: boolean, state: string, tasks: number, done: number,
 *   failed: number, cancelled: number, is_cancelled: boolean, assigned: number, opened_s: number,
 *   ended_s: number | null, notebook: string, cell: string, in_bytes: number, out_bytes: number, run_s: number,
 *   rate: number, view_version: number}} Job
 *   `done`: tasks that have ended in any way; `rate`: those per second, lately; `view_version`: 0 if none was shared;
 *   `is_cancelled`: the whole job was cancelled, not only some tasks
 * @typedef {{number: number, wall_s: number, at_s: number, kind: string, text: string, slave: string,
 *   job: string}} ClusterEvent
 * @typedef {{job: string, index: number, slave: string, started_s: number, worker: number}} RunningTask
 *   `worker`: its pid; 0 if that is unknown
 * @typedef {{waiting: number, assigned: number, kept: number, done: number, failed: number, cancelled: number,
 *   slots: number, busy: number, in_bytes: number, out_bytes: number, clients: number, measured: number,
 *   other_jobs: number}} Totals
 */

/** the last statuses of a task: numbers of `concurrent_nb.outcome.Status` */
export const STATUS_WORDS = [
  "done",
  "hit",
  "failed",
  "cancelled",
  "timed out",
  "worker died",
  "quarantined",
  "result not picklable",
  "not loadable",
  "refused",
];
const [OK, HIT, CANCELLED] = [0, 1, 3];

/** @param {number} status @returns {boolean} */
export function isFailure(status) {
  return status !== OK && status !== HIT && status !== CANCELLED;
}

export const KEEP_S = 600;
export const MARKS_KEPT = 200_000;
const EVENTS_KEPT = 500;
const BLOCK = 1000;
const MARK_BYTES = 28;
/** a rate is measured over at least this time, so that four samples a second do not flicker */
const RATE_OVER_S = 1;
/** at the beginning, one over less than this would mean nothing */
const RATE_FROM_S = 0.7;
/** the master sends a heartbeat every two seconds: a longer silence is a gap in the charts */
const GAP_S = 6;

/** The last tasks that ended, in typed arrays; full blocks of the oldest ones make room for new ones. */
export class MarkRing {
  /** @param {number} [capacity] a multiple of 1,000 */
  constructor(capacity = MARKS_KEPT) {
    if (capacity % BLOCK || capacity < 2 * BLOCK) {
      throw new RangeError(`${capacity} is no multiple of ${BLOCK} from 2000 on`);
    }
    this.capacity = capacity;
    this.lane = new Uint16Array(capacity);
    this.fn = new Uint16Array(capacity);
    this.status = new Uint8Array(capacity);
    this.start = new Float64Array(capacity);
    this.run = new Float32Array(capacity);
    this.wait = new Float32Array(capacity);
    this.shipped = new Float32Array(capacity);
    this.blockFrom = new Float64Array(capacity / BLOCK);
    this.blockTo = new Float64Array(capacity / BLOCK);
    /** how often it was emptied */
    this.generation = 0;
    /** the number of marks added since, and of those that are gone */
    this.end = 0;
    this.begin = 0;
    this.latest_s = -Infinity;
  }

  clear() {
    this.generation += 1;
    this.end = 0;
    this.begin = 0;
    this.latest_s = -Infinity;
  }

  get size() {
    return this.end - this.begin;
  }

  /**
   * @param {number} lane @param {number} fn @param {number} status @param {number} start @param {number} run
   * @param {number} wait before its start @param {number} [shipped] of that, since it was assigned to its slave
   */
  add(lane, fn, status, start, run, wait, shipped = 0) {
    const slot = this.end % this.capacity;
    const block = (slot / BLOCK) | 0;
    if (slot % BLOCK === 0) {
      this.begin = Math.max(this.begin, this.end - this.capacity + BLOCK);
      this.blockFrom[block] = Infinity;
      this.blockTo[block] = -Infinity;
    }
    this.lane[slot] = lane;
    this.fn[slot] = fn;
    this.status[slot] = status;
    this.start[slot] = start;
    this.run[slot] = run;
    this.wait[slot] = wait;
    this.shipped[slot] = shipped;
    const ended = start + run;
    if (start - wait < this.blockFrom[block]) this.blockFrom[block] = start - wait;
    if (ended > this.blockTo[block]) this.blockTo[block] = ended;
    if (ended > this.latest_s) this.latest_s = ended;
    this.end += 1;
  }

  /**
   * Give the slots, in order of their ends, that hold all marks of a time: pairs of first and last + 1.
   * @param {number} from_s @param {number} to_s
   * @returns {[number, number][]}
   */
  ranges(from_s, to_s) {
    /** @type {[number, number][]} */
    const found = [];
    for (let number = this.begin; number < this.end; ) {
      const slot = number % this.capacity;
      const block = (slot / BLOCK) | 0;
      const taken = Math.min(BLOCK - (slot % BLOCK), this.end - number);
      if (this.blockFrom[block] <= to_s && this.blockTo[block] >= from_s) {
        const last = found[found.length - 1];
        if (last && last[1] === slot) last[1] = slot + taken;
        else found.push([slot, slot + taken]);
      }
      number += taken;
    }
    return found;
  }
}

const COLUMNS = /** @type {const} */ ([
  "wall_s",
  "done",
  "failed",
  "in_bytes",
  "out_bytes",
  "done_rate",
  "failed_rate",
  "in_rate",
  "out_rate",
  "waiting",
  "assigned",
  "busy",
  "slots",
  "load",
  "cores",
  "memory_used_bytes",
  "memory_total_bytes",
]);
/** @typedef {typeof COLUMNS[number]} Column */

/** What the charts show: one column for each figure, over the last ten minutes. `null` is a gap. */
export class Samples {
  /** @param {number} [keep_s] */
  constructor(keep_s = KEEP_S) {
    this.keep_s = keep_s;
    /** @type {Record<Column, (number | null)[]>} */
    this.columns = /** @type {any} */ (Object.fromEntries(COLUMNS.map((name) => [name, []])));
  }

  get size() {
    return this.columns.wall_s.length;
  }

  /** @param {Column} name @returns {number} the newest value, or 0 */
  last(name) {
    return this.columns[name].at(-1) ?? 0;
  }

  /** Add a gap: what follows has nothing to do with what was before. */
  cut() {
    const wall_s = this.columns.wall_s.at(-1);
    if (wall_s === undefined || this.columns.done.at(-1) === null) return;
    for (const name of COLUMNS) {
      this.columns[name].push(name === "wall_s" ? /** @type {number} */ (wall_s) + 1e-3 : null);
    }
  }

  /** @param {number} wall_s @param {Totals} totals @param {Iterable<Slave>} slaves */
  add(wall_s, totals, slaves) {
    const { columns } = this;
    const before = columns.wall_s.at(-1) ?? -Infinity;
    if (wall_s <= /** @type {number} */ (before)) return;
    if (wall_s - /** @type {number} */ (before) > GAP_S) this.cut();
    let earlier = this.size - 1;
    while (earlier > 0 && columns.done[earlier] !== null && wall_s - finite(columns.wall_s[earlier]) < RATE_OVER_S) {
      earlier -= 1;
    }
    if (earlier >= 0 && columns.done[earlier] === null) earlier += 1;
    const elapsed = earlier >= 0 && earlier < this.size ? wall_s - finite(columns.wall_s[earlier]) : 0;
    const rate = (/** @type {'done' | 'failed' | 'in_bytes' | 'out_bytes'} */ name) =>
      elapsed >= RATE_FROM_S ? Math.max(0, totals[name] - finite(columns[name][earlier])) / elapsed : null;
    const hosts = hostFigures(slaves);
    /** @type {Record<Column, number | null>} */
    const row = {
      wall_s,
      ...hosts,
      done: totals.done,
      failed: totals.failed,
      in_bytes: totals.in_bytes,
      out_bytes: totals.out_bytes,
      done_rate: rate("done"),
      failed_rate: rate("failed"),
      in_rate: rate("in_bytes"),
      out_rate: rate("out_bytes"),
      waiting: totals.waiting,
      assigned: totals.assigned,
      busy: totals.busy,
      slots: totals.slots,
    };
    for (const name of COLUMNS) columns[name].push(row[name]);
    this.#forget(wall_s - this.keep_s);
  }

  /** @param {number} wall_s */
  #forget(wall_s) {
    const times = this.columns.wall_s;
    let old = 0;
    while (old < times.length && finite(times[old]) < wall_s) old += 1;
    // In portions: moving the rest at each sample would cost more than it saves.
    if (old >= 64) for (const name of COLUMNS) this.columns[name].splice(0, old);
  }
}

/**
 * Add up load and memory over hosts: slaves of one host report the same figures.
 * @param {Iterable<Slave>} slaves
 */
export function hostFigures(slaves) {
  /** @type {Map<string, {load: number, cores: number, memory_used_bytes: number, memory_total_bytes: number}>} */
  const hosts = new Map();
  for (const slave of slaves) {
    const host = hosts.get(slave.host);
    hosts.set(slave.host, {
      load: Math.max(slave.load, host?.load ?? 0),
      cores: Math.max(slave.cores, host?.cores ?? 0),
      memory_used_bytes: Math.max(slave.memory_used_bytes, host?.memory_used_bytes ?? 0),
      memory_total_bytes: Math.max(slave.memory_total_bytes, host?.memory_total_bytes ?? 0),
    });
  }
  const sum = { load: 0, cores: 0, memory_used_bytes: 0, memory_total_bytes: 0 };
  for (const host of hosts.values()) {
    sum.load += host.load;
    sum.cores += host.cores;
    sum.memory_used_bytes += host.memory_used_bytes;
    sum.memory_total_bytes += host.memory_total_bytes;
  }
  return sum;
}

const text = (/** @type {unknown} */ value) => (typeof value === "string" ? value : "");
const record = (/** @type {unknown} */ value) =>
  /** @type {Record<string, any>} */ (value && typeof value === "object" && !Array.isArray(value) ? value : {});
const list = (/** @type {unknown} */ value) => /** @type {any[]} */ (Array.isArray(value) ? value : []);

/** @param {Record<string, any>} raw @param {string} name @param {Slave} [before] @returns {Slave} */
function slaveOf(raw, name, before) {
  const all = { ...before, ...raw };
  return {
    name,
    host: text(all.host),
    place: text(all.place),
    pid: finite(all.pid),
    cores: finite(all.cores),
    slots: finite(all.slots),
    busy: finite(all.busy),
    in_flight: finite(all.in_flight),
    done: finite(all.done),
    state: text(all.state),
    load: finite(all.load),
    memory_used_bytes: finite(all.memory_used_bytes),
    memory_total_bytes: finite(all.memory_total_bytes),
    since_s: finite(all.since_s),
  };
}

/** @param {Record<string, any>} raw @param {string} id @param {Job} [before] @returns {Job} */
function jobOf(raw, id, before) {
  const all = { ...before, ...raw };
  return {
    id,
    name: text(all.name),
    client: text(all.client),
    mine: all.mine === true,
    state: text(all.state),
    tasks: finite(all.tasks),
    done: finite(all.done),
    failed: finite(all.failed),
    cancelled: finite(all.cancelled),
    is_cancelled: all.is_cancelled === true,
    assigned: finite(all.assigned),
    opened_s: finite(all.opened_s),
    ended_s: typeof all.ended_s === "number" ? finite(all.ended_s) : null,
    notebook: text(all.notebook),
    cell: text(all.cell),
    in_bytes: finite(all.in_bytes),
    out_bytes: finite(all.out_bytes),
    run_s: finite(all.run_s),
    view_version: finite(all.view_version),
    rate: before?.rate ?? 0,
  };
}

/** @param {Slave} slave @returns {boolean} whether it has joined: a launcher starts others, or waits for a machine */
export const hasJoined = ({ state }) => state !== "queued" && state !== "starting";

/** @param {Slave} slave @returns {string} its host, and what started it there: the host once, if both name it */
export function whereIs({ host, place }) {
  return place.split(/[\s(),:/]+/).includes(host) ? place : [host, place].filter(Boolean).join(" · ");
}

/** @returns {Totals} */
const noTotals = () => ({
  waiting: 0,
  assigned: 0,
  kept: 0,
  done: 0,
  failed: 0,
  cancelled: 0,
  slots: 0,
  busy: 0,
  in_bytes: 0,
  out_bytes: 0,
  clients: 0,
  measured: 0,
  other_jobs: 0,
});

/** A cluster as its master's feed describes it. */
export class FeedModel {
  /** @param {{keep_s?: number, marks?: number}} [limits] */
  constructor(limits = {}) {
    /** @type {number | null} null: no message yet */
    this.epoch = null;
    this.seq = 0;
    this.time_s = 0;
    /** the uptime in the snapshot, and when that was sent */
    this.uptime_s = 0;
    this.begun_s = 0;
    this.name = "";
    this.totals = noTotals();
    /** @type {Map<string, Slave>} */
    this.slaves = new Map();
    /** @type {Map<string, Job>} */
    this.jobs = new Map();
    /** @type {Map<string, import('./graph_layout.js').TaskGraph>} */
    this.graphs = new Map();
    /** @type {RunningTask[]} */
    this.running = [];
    /** @type {ClusterEvent[]} */
    this.events = [];
    /** @type {string[]} */
    this.lanes = [];
    /** @type {string[]} */
    this.functions = [];
    this.marks = new MarkRing(limits.marks);
    this.samples = new Samples(limits.keep_s);
    /** marks that the master left out because too many tasks ended */
    this.skipped = 0;
    this.nextMark = 0;
    /** add to a time of the master to get seconds since 1970 in this browser's clock */
    this.offset_s = 0;
    /** how often each part has changed, for views that redraw only what is new */
    this.versions = { totals: 0, slaves: 0, jobs: 0, graphs: 0, running: 0, events: 0, marks: 0 };
  }

  /** how many slaves have joined */
  get joined() {
    return [...this.slaves.values()].filter(hasJoined).length;
  }

  /** @type {Map<string, {at_s: number, done: number}>} */
  #paces = new Map();

  /** @returns {[number, number] | null} what `watch` takes as `since` */
  get since() {
    return this.epoch === null ? null : [this.epoch, this.seq];
  }

  /** @param {number} wall_s now, in seconds since 1970 @returns {number} how long the master has run */
  uptimeAt_s(wall_s) {
    return this.epoch === null ? 0 : this.uptime_s + Math.max(0, this.now_s(wall_s) - this.begun_s);
  }

  /** @param {number} wall_s now, in seconds since 1970 @returns {number} now in the master's clock */
  now_s(wall_s) {
    return wall_s - this.offset_s;
  }

  /**
   * The time in the clock of the master's machine, whatever delay messages have: its epoch is when it began.
   * @param {number} at_s in the master's clock @returns {number} in seconds since 1970
   */
  hostTime_s(at_s) {
    return finite(this.epoch) / 1000 + this.uptime_s + at_s - this.begun_s;
  }

  /**
   * Apply a message. A delta that does not follow what is known changes nothing.
   * @param {unknown} method @param {unknown} parameters @param {number} wall_s now, in seconds since 1970
   * @returns {boolean} whether it was applied; otherwise watch again with `since`
   */
  apply(method, parameters, wall_s) {
    const state = record(parameters);
    if (!Number.isFinite(state.seq) || !Number.isFinite(state.time_s)) return false;
    if (method === "snapshot") this.#begin(state);
    else if (method !== "delta" || this.epoch === null) return false;
    else if ((state.epoch ?? this.epoch) !== this.epoch || (state.since ?? this.seq) > this.seq) return false;
    this.seq = state.seq;
    this.time_s = state.time_s;
    this.#follow(wall_s);
    if (typeof state.uptime_s === "number") this.uptime_s = finite(state.uptime_s);
    if (typeof state.name === "string") this.name = state.name;
    if (state.totals) this.#setTotals(record(state.totals));
    this.#setSlaves(record(state.slaves), list(record(state.gone).slaves));
    this.#setJobs(record(state.jobs), list(record(state.gone).jobs));
    this.#setGraphs(record(state.graphs), list(record(state.gone).graphs));
    if (Array.isArray(state.running)) this.#setRunning(state.running);
    if (state.stream) this.#addMarks(record(state.stream));
    if (state.events) this.#addEvents(list(state.events));
    this.samples.add(this.time_s + this.offset_s, this.totals, this.slaves.values());
    return true;
  }

  /**
   * A snapshot has all that is known; numbers and tables of what was before mean nothing any more.
   * @param {Record<string, any>} state
   */
  #begin(state) {
    if (state.epoch !== this.epoch) {
      this.offset_s = Infinity;
      this.#paces.clear();
      this.samples.cut();
    }
    this.epoch = finite(state.epoch);
    this.begun_s = state.time_s;
    this.totals = noTotals();
    this.slaves.clear();
    this.jobs.clear();
    this.graphs.clear();
    this.running = [];
    this.marks.clear();
    this.nextMark = 0;
    this.skipped = 0;
    this.lanes = [];
    this.functions = [];
    this.events = [];
    for (const part of /** @type {(keyof FeedModel['versions'])[]} */ (Object.keys(this.versions))) {
      this.versions[part] += 1;
    }
  }

  /** Follow the least delay of messages, so that times do not jump with each late one. @param {number} wall_s */
  #follow(wall_s) {
    const seen = wall_s - this.time_s;
    if (seen < this.offset_s || seen > this.offset_s + 5) this.offset_s = seen;
    else this.offset_s = Math.min(seen, this.offset_s + 0.005);
  }

  /** @param {Record<string, any>} totals */
  #setTotals(totals) {
    for (const name of /** @type {(keyof Totals)[]} */ (Object.keys(this.totals))) {
      if (name in totals) this.totals[name] = finite(totals[name]);
    }
    this.versions.totals += 1;
  }

  /** @param {Record<string, any>} slaves @param {any[]} gone */
  #setSlaves(slaves, gone) {
    const entries = Object.entries(slaves);
    for (const name of gone) this.slaves.delete(name);
    for (const [name, raw] of entries) this.slaves.set(name, slaveOf(record(raw), name, this.slaves.get(name)));
    if (entries.length || gone.length) this.versions.slaves += 1;
  }

  /** @param {Record<string, any>} jobs @param {any[]} gone */
  #setJobs(jobs, gone) {
    const entries = Object.entries(jobs);
    for (const id of gone) {
      this.jobs.delete(id);
      this.#paces.delete(id);
    }
    for (const [id, raw] of entries) {
      const job = jobOf(record(raw), id, this.jobs.get(id));
      const pace = this.#paces.get(id);
      if (!pace) this.#paces.set(id, { at_s: this.time_s, done: job.done });
      else if (this.time_s - pace.at_s >= RATE_OVER_S) {
        const rate = Math.max(0, job.done - pace.done) / (this.time_s - pace.at_s);
        job.rate = job.rate ? 0.6 * job.rate + 0.4 * rate : rate;
        this.#paces.set(id, { at_s: this.time_s, done: job.done });
      }
      this.jobs.set(id, job);
    }
    if (entries.length || gone.length) this.versions.jobs += 1;
  }

  /** @param {Record<string, any>} graphs @param {any[]} gone */
  #setGraphs(graphs, gone) {
    const entries = Object.entries(graphs);
    for (const id of gone) this.graphs.delete(id);
    for (const [id, raw] of entries) this.graphs.set(id, graphOf(record(raw), id));
    if (entries.length || gone.length) this.versions.graphs += 1;
  }

  /** @param {any[]} running */
  #setRunning(running) {
    this.running = running
      .filter((task) => Array.isArray(task) && Number.isFinite(task[3]))
      .map(([job, index, slave, started_s, worker]) => ({
        job: text(job),
        index: finite(index),
        slave: text(slave),
        started_s,
        worker: Number.isInteger(worker) && worker > 0 ? worker : 0,
      }));
    this.versions.running += 1;
  }

  /** @param {Record<string, any>} stream */
  #addMarks(stream) {
    // Both tables only grow, and they come whole.
    if (Array.isArray(stream.lanes)) this.lanes = stream.lanes.map(text);
    if (Array.isArray(stream.functions)) this.functions = stream.functions.map(text);
    const data = decodeBase64(text(stream.marks));
    const marks = Math.floor(data.byteLength / MARK_BYTES);
    const skipped = finite(stream.skipped);
    const first = finite(stream.first);
    // A sample has no numbers of its own; one that begins before the next mark has been seen.
    const known = skipped ? (first < this.nextMark ? marks : 0) : Math.max(0, this.nextMark - first);
    for (let at = known; at < marks; at += 1) {
      const from = at * MARK_BYTES;
      const start = data.getFloat64(from + 8, true);
      if (!Number.isFinite(start)) continue;
      const run = Math.max(0, finite(data.getFloat32(from + 16, true)));
      const wait = Math.max(0, finite(data.getFloat32(from + 20, true)));
      const shipped = Math.min(wait, Math.max(0, finite(data.getFloat32(from + 24, true))));
      this.marks.add(
        data.getUint16(from, true),
        data.getUint16(from + 2, true),
        data.getUint8(from + 4),
        start,
        run,
        wait,
        shipped,
      );
    }
    this.nextMark = Math.max(this.nextMark, first + marks + skipped);
    this.skipped += known < marks || !marks ? skipped : 0;
    if (known < marks) this.versions.marks += 1;
  }

  /** @param {any[]} events */
  #addEvents(events) {
    const known = this.events.at(-1)?.number ?? -1;
    for (const raw of events) {
      const event = record(raw);
      if (!Number.isFinite(event.number) || event.number <= known) continue;
      const at_s = finite(event.at_s);
      this.events.push({
        number: event.number,
        at_s,
        wall_s: at_s + this.offset_s,
        kind: text(event.kind),
        text: text(event.text),
        slave: text(event.slave),
        job: text(event.job),
      });
    }
    if (this.events.length > EVENTS_KEPT) this.events.splice(0, this.events.length - EVENTS_KEPT);
    this.versions.events += 1;
  }
}

/** @param {string} encoded @returns {DataView} empty if it is no base64 */
export function decodeBase64(encoded) {
  let binary = "";
  try {
    binary = atob(encoded);
  } catch {
    // What a reader cannot decode it leaves out, as everything else that is malformed.
  }
  const data = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at += 1) data[at] = binary.charCodeAt(at);
  return new DataView(data.buffer);
}

/** @param {Job} job @returns {number} the share of its tasks that have ended, 0 to 1 */
export function progressOf(job) {
  return job.tasks > 0 ? Math.min(1, job.done / job.tasks) : job.state === "ended" ? 1 : 0;
}

/** @param {Job} job @param {number} now_s @returns {number} how long it has run, or ran */
export function elapsed_s(job, now_s) {
  return Math.max(0, (job.ended_s ?? now_s) - job.opened_s);
}

/** @param {Job} job @returns {number | null} seconds until its last known task ends, at its pace */
export function left_s(job) {
  if (job.state !== "running" || job.rate <= 0 || job.done >= job.tasks) return null;
  return (job.tasks - job.done) / job.rate;
}

/**
 * Put jobs into the order of lists: those that run, then those that wait, the newest first.
 * @param {Iterable<Job>} jobs @returns {Job[]}
 */
export function sortJobs(jobs) {
  const rank = (/** @type {Job} */ job) => ({ running: 0, stopping: 0, waiting: 1, idle: 2, ended: 3 })[job.state] ?? 2;
  return [...jobs].sort(
    (a, b) => rank(a) - rank(b) || (b.ended_s ?? b.opened_s) - (a.ended_s ?? a.opened_s) || (a.id < b.id ? -1 : 1),
  );
}
