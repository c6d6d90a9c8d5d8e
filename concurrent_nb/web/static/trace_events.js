// @ts-check
// Traces in Chrome's trace event format, from pages of the master's method `trace`. Pure; the same file as
// concurrent_nb/telemetry/trace_format.py writes, which explains it. tests/web/trace_events.test.js compares both.

/** @typedef {Record<string, any>} TraceEvent */
/** @typedef {{name: string, process: number, tid: number, first_us: number, last_us: number, tasks: number}} JobRow */

/** tasks that have an arrow, the first ones */
const ARROWS_MAX = 10_000;
/** jobs that have a row in their application */
const JOB_ROWS_MAX = 500;
const MARK_US = 10;
const MARKS = 10_000;
const MASTER = 1;
const STATUSES = [
  "ok",
  "hit",
  "error",
  "cancelled",
  "timeout",
  "died",
  "poison",
  "not_picklable",
  "not_loadable",
  "refused",
  "taken_back",
  "dependency_failed",
  "input_gone",
  "kept",
];
const SUCCESSES = 2;

/** @param {number} value @param {number} digits */
const rounded = (value, digits) => {
  const scale = 10 ** digits;
  return Math.round(value * scale) / scale;
};
/** @param {any} seconds @returns {number} microseconds */
const micros = (seconds) => rounded(Number(seconds) * 1e6, 3);

export class TraceEvents {
  /** @param {string} cluster @param {string} [host] @param {number} [pid] of its master */
  constructor(cluster, host = "", pid = 0) {
    this.tasks = 0;
    this.arrows = 0;
    this.master = `master of ${cluster}${pid ? ` (${host}, process ${pid})` : ""}`;
    /** @type {TraceEvent[]} */
    this.events = [];
    /** @type {Map<string, number>} */
    this.processes = new Map();
    /** @type {Map<string, number>} */
    this.rows = new Map();
    /** @type {Map<string, {name: string, until_us: number}[]>} */
    this.lanes = new Map();
    /** @type {Map<string, JobRow>} */
    this.jobs = new Map();
    /** @type {Map<string, [string, string, number][]>} edges of jobs by function: source, target, how many */
    this.graphs = new Map();
    /** @type {Set<string>} */
    this.marks = new Set();
  }

  /** @param {any} page of tasks */
  add(page) {
    for (const [job, label] of Object.entries(page.jobs)) if (label.graph?.length) this.graphs.set(job, label.graph);
    for (const task of page.tasks) {
      this.tasks += 1;
      this.#task(task, page.jobs[task.job] ?? {});
    }
  }

  /** Add the rows of the jobs; to be called once, after the last page. */
  close() {
    for (const [job, row] of this.jobs) {
      const start = Math.floor(row.first_us) - 1;
      const edges = this.graphs.get(job);
      const args = { job, tasks: row.tasks, ...(edges ? { graph: edgesOf(edges) } : {}) };
      this.#slice(row.name || job.slice(0, 8), "job", row.process, row.tid, start, row.last_us + 1 - start, args);
    }
  }

  /** @param {any} task @param {any} job */
  #task(task, job) {
    const [accepted, assigned, reported, done, ended] = ["accepted", "assigned", "started", "finished", "ended"].map(
      (at) => micros(task[`${at}_s`]),
    );
    const row = this.#job(task.job, job, accepted, ended);
    const args = argumentsOf(task, job.needs?.[task.function] ?? []);
    const master = this.#process(this.master, MASTER);
    if (!task.slave) {
      const tid = this.#row(master, "ended without a slave");
      this.events.push({ name: task.function, cat: "task", ph: "i", s: "t", ts: ended, pid: master, tid, args });
      return;
    }
    const slave = this.#process(`slave ${task.slave}`);
    const [lane, started, finished] = this.#place(slave, task, reported, done, ended);
    const tid = this.#row(slave, lane);
    const category = task.status < SUCCESSES ? "task" : "task,failed";
    this.#slice(task.function, category, slave, tid, started, finished - started, args);
    if (this.arrows >= ARROWS_MAX) return;
    this.arrows += 1;
    /** @type {[number, number, number][]} */
    const stops = row ? [[row.process, row.tid, accepted]] : [];
    stops.push([master, this.#mark(master, `to ${task.slave}`, assigned, "assign"), assigned]);
    stops.push([slave, this.#mark(slave, "tasks in", started, "start"), started]);
    stops.push([slave, tid, started]);
    stops.push([slave, this.#mark(slave, "results out", ended, "report"), ended]);
    stops.push([master, this.#mark(master, `from ${task.slave}`, ended, "result"), ended]);
    if (row) stops.push([row.process, row.tid, ended]);
    stops.forEach(([pid, at, ts], number) => {
      const ph = number === 0 ? "s" : number === stops.length - 1 ? "f" : "t";
      const flow = { name: "task", cat: "flow", ph, id: task.number + 1, ts, pid, tid: at };
      this.events.push(ph === "f" ? { ...flow, bp: "e" } : flow);
    });
  }

  /** @param {string} id @param {any} label @param {number} accepted @param {number} ended @returns {JobRow | null} */
  #job(id, label, accepted, ended) {
    let row = this.jobs.get(id);
    if (!row) {
      if (this.jobs.size >= JOB_ROWS_MAX) return null;
      const name = label.name ?? "";
      const process = this.#process(`application ${label.application || "(left)"}`);
      const tid = this.#row(process, `${name} (${id.slice(0, 8)})`.trim());
      row = { name, process, tid, first_us: accepted, last_us: ended, tasks: 0 };
      this.jobs.set(id, row);
    }
    row.tasks += 1;
    row.first_us = Math.min(row.first_us, accepted);
    row.last_us = Math.max(row.last_us, ended);
    return row;
  }

  /**
   * @param {number} slave @param {any} task @param {number} started @param {number} finished @param {number} ended
   * @returns {[string, number, number]} row, and times there: slices of a row may not overlap
   */
  #place(slave, task, started, finished, ended) {
    const { worker } = task;
    const key = `${slave}/${worker}`;
    const lanes = this.lanes.get(key) ?? [];
    this.lanes.set(key, lanes);
    let free = lanes.find((lane) => lane.until_us <= started);
    if (!free && lanes.length && !task.in_thread && lanes[0].until_us <= ended) {
      free = lanes[0];
      finished = Math.min(free.until_us + finished - started, ended);
      started = free.until_us;
    }
    if (!free) {
      const number = lanes.length ? ` (${lanes.length + 1})` : "";
      free = { name: worker ? `worker ${worker}${number}` : `in no worker${number}`, until_us: 0 };
      lanes.push(free);
    }
    free.until_us = finished;
    return [free.name, started, finished];
  }

  /** @param {number} process @param {string} row @param {number} at @param {string} name @returns {number} the row */
  #mark(process, row, at, name) {
    const tid = this.#row(process, row);
    const start = Math.floor(at / MARK_US) * MARK_US;
    const key = `${process}/${tid}/${start}`;
    if (!this.marks.has(key)) {
      if (this.marks.size >= MARKS) this.marks.clear();
      this.marks.add(key);
      this.#slice(name, "message", process, tid, start, MARK_US);
    }
    return tid;
  }

  /** @param {string} name @param {number} [number] */
  #process(name, number = 0) {
    let known = this.processes.get(name);
    if (known === undefined) {
      known = number || this.processes.size + MASTER + 1;
      this.processes.set(name, known);
      this.#metadata("process_name", known, 0, { name });
      const order = name.startsWith("application ") ? 0 : known === MASTER ? 1 : 2;
      this.#metadata("process_sort_index", known, 0, { sort_index: order });
    }
    return known;
  }

  /** @param {number} process @param {string} name */
  #row(process, name) {
    const key = `${process}/${name}`;
    let known = this.rows.get(key);
    if (known === undefined) {
      known = this.rows.size + 1;
      this.rows.set(key, known);
      this.#metadata("thread_name", process, known, { name });
      this.#metadata("thread_sort_index", process, known, { sort_index: known });
    }
    return known;
  }

  /**
   * @param {string} name @param {string} cat @param {number} pid @param {number} tid @param {number} ts
   * @param {number} length @param {any} [args]
   */
  #slice(name, cat, pid, tid, ts, length, args = undefined) {
    const event = { name, cat, ph: "X", ts, dur: rounded(length, 3), pid, tid };
    this.events.push(args === undefined ? event : { ...event, args });
  }

  /** @param {string} name @param {number} pid @param {number} tid @param {any} args */
  #metadata(name, pid, tid, args) {
    this.events.push({ name, ph: "M", ts: 0, pid, tid, args });
  }
}

/** @param {[string, string, number][]} edges @returns {Record<string, number>} */
function edgesOf(edges) {
  /** @type {Record<string, number>} */
  const counts = {};
  for (const [source, target, count] of edges) {
    const pair = `${source} -> ${target}`;
    counts[pair] = (counts[pair] ?? 0) + count;
  }
  return counts;
}

/** @param {any} task @param {string[]} needs functions of whose tasks its function needs results */
function argumentsOf(task, needs) {
  return {
    ...(needs.length ? { function_needs: needs.join(", ") } : {}),
    task: `${task.job.slice(0, 8)}/${task.index}`,
    attempt: task.attempt,
    status: STATUSES[task.status] ?? `status ${task.status}`,
    waited_s: rounded(task.started_s - task.accepted_s, 6),
    run_s: rounded(task.finished_s - task.started_s, 6),
    cpu_s: rounded(task.cpu_s, 6),
    peak_bytes: task.peak_bytes,
    in_bytes: task.in_bytes,
    out_bytes: task.out_bytes,
  };
}

/**
 * Read all pages of the tasks of a job, and make the text of a trace file of them.
 * @param {(method: string, params: Record<string, unknown>) => Promise<any>} call of the master
 * @param {string} job id @returns {Promise<{text: string, tasks: number, dropped: number, cluster: string}>}
 *   dropped: tasks that the master has not kept
 */
export async function readTrace(call, job) {
  let page = await call("trace", { job, since: 0 });
  const trace = new TraceEvents(String(page.name), String(page.host ?? ""), Number(page.pid) || 0);
  /** @type {string[]} */
  const parts = [];
  for (;;) {
    trace.add(page);
    if (page.next === null) trace.close();
    // As text at once: a hundred thousand tasks are 40 MB of it, and several times that as objects.
    for (const event of trace.events) parts.push(JSON.stringify(event));
    trace.events = [];
    if (page.next === null) break;
    page = await call("trace", { job, since: page.next });
  }
  const { tasks, arrows } = trace;
  const dropped = Number(page.dropped) || 0;
  const graph = trace.graphs.size ? { graph: edgesOf([...trace.graphs.values()].flat()) } : {};
  const other = JSON.stringify({ cluster: page.name, tasks, dropped, arrows, ...graph });
  const text = `{"displayTimeUnit": "ms", "traceEvents": [\n${parts.join(",\n")}\n], "otherData": ${other}}\n`;
  return { text, tasks, dropped, cluster: String(page.name) };
}
