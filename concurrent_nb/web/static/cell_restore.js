// @ts-check
// Shows a job in its cell when the page was opened after the job had begun, so that its outputs never reached the page;
// at the end of the job they become ordinary outputs of the cell, which the notebook keeps.
// A cell that has run in this page, or that another page writes, is left alone.

import { pathBelow } from "./cluster_session.js";
import { element, setText } from "./dom.js";
import { FeedModel } from "./feed_model.js";
import {
  JobView,
  ViewRequests,
  base64Of,
  errorTasks,
  imageLine,
  outputBlocks,
  searchLine,
  tableRows,
} from "./job_view.js";
import { fillBar, jobLine, progressBar } from "./panels.js";
import { visible, visibleLines } from "./text.js";

/** @typedef {import("./client.js").Connection} Connection */
/** @typedef {import("./client.js").JupyterClusters} JupyterClusters */
/** @typedef {import("./dom.js").Translate} Translate */
/** @typedef {import("./feed_model.js").Job} Job */
/**
 * @typedef {{clusters: JupyterClusters, root: string, translate: Translate,
 *   sanitize: (html: string) => string}} RestoreOptions root: the folder that the server shows
 */

/** key of the mark in the metadata of the first output that was written here */
const MARK = "concurrent_nb";
/** a page that loses its kernel and finds it again looks at the clusters at most this often */
const LOOK_EVERY_MS = 15_000;
/** a cluster that sends nothing within this time is left out */
const FIRST_WITHIN_MS = 15_000;
/** the last view of a job may be a little later than its end; without its kernel there is none */
const LAST_WITHIN_S = 20;
/** a cluster that does not answer for this time has ended, and with it its jobs */
const LOST_WITHIN_MS = 60_000;

/** @param {any} outputs of a cell, as saved @param {string} job @returns {boolean} whether they were written here */
export const isRestored = (outputs, job) =>
  outputs.some((/** @type {any} */ one) => one?.metadata?.[MARK]?.job === job);

/**
 * Find the newest job of each cell of a notebook.
 * @param {Iterable<Job>} jobs @param {string} path of the notebook, below `root` @param {string} root
 * @returns {Map<string, Job>} by the id of the cell
 */
export function jobsOfCells(jobs, path, root) {
  /** @type {Map<string, Job>} */
  const found = new Map();
  for (const job of jobs) {
    if (!job.cell || pathBelow(job.notebook, root) !== path) continue;
    if ((found.get(job.cell)?.opened_s ?? -Infinity) < job.opened_s) found.set(job.cell, job);
  }
  return found;
}

/** @param {any} view of kind "table" @returns {string} in columns */
function textTable(view) {
  /** @type {string[]} */
  const names = [view.columns ?? []].flat().map((name) => visible(name, 40));
  const rows = [names, ...tableRows(view)];
  const length = (/** @type {string[] | string} */ row, /** @type {number} */ at) =>
    Array.isArray(row) ? (row[at] ?? "").length : 0;
  const widths = names.map((_, at) => Math.max(...rows.map((row) => length(row, at))));
  const pad = (/** @type {string} */ cell, /** @type {number} */ at) =>
    view.right?.[at] === true ? cell.padStart(widths[at] ?? 0) : cell.padEnd(widths[at] ?? 0);
  return rows.map((row) => (Array.isArray(row) ? row.map(pad).join("  ").trimEnd() : row)).join("\n");
}

/**
 * Make the outputs of a cell of the last view of its job, as notebooks keep them. They contain nothing that would run:
 * what is written into a cell that the user trusts is trusted, but a view may be of somebody else.
 * @param {any} view @param {string} job its id @param {(html: string) => string} sanitize @returns {any[]}
 */
export function outputsOf(view, job, sanitize) {
  const results = view.view && typeof view.view === "object" ? view.view : {};
  const lines = new Map(Object.entries({ image: imageLine, search: searchLine, table: textTable }));
  const line = lines.get(results.kind)?.(results);
  const png = results.kind === "image" ? base64Of(results.png) : "";
  const display = (/** @type {Record<string, string>} */ data, metadata = {}) => ({
    output_type: "display_data",
    data,
    metadata,
  });
  const head = [
    display({ "text/plain": [visible(view.text, 400), line].filter(Boolean).join("\n") }, { [MARK]: { job } }),
  ];
  if (png) head.push(display({ "text/plain": "picture made by the tasks", "image/png": png }));
  const outputs = outputBlocks(view.outputs, true).map((block) => {
    if ("text" in block) return { output_type: "stream", name: block.name, text: block.text };
    const { data } = block;
    const html = [data["text/html"] ?? ""].flat().join("");
    const kept = {
      ...(data["text/plain"] === undefined ? {} : { "text/plain": visibleLines([data["text/plain"]].flat().join("")) }),
      ...(html ? { "text/html": sanitize(html) } : {}),
      ...Object.fromEntries(
        ["image/png", "image/jpeg"].map((type) => [type, base64Of(data[type])]).filter(([, packed]) => packed),
      ),
    };
    return display(kept);
  });
  const errors = (Array.isArray(view.errors?.kinds) ? view.errors.kinds : [])
    .slice(0, 20)
    .map((/** @type {any} */ kind) => {
      const trace = visibleLines(kind?.text).trimEnd();
      const name = [visible(kind?.type), visible(kind?.message)].filter(Boolean).join(": ");
      return `${name} (${errorTasks(kind)})\n${trace}${trace ? "\n" : ""}`;
    });
  if (errors.length) outputs.push({ output_type: "stream", name: "stderr", text: errors.join("\n") });
  return [...head, ...outputs];
}

/** A cell with a job that this page did not see begin. */
class RestoredCell {
  /**
   * @param {CellRestorer} home @param {any} panel @param {any} cell its model @param {Connection} master
   * @param {Job} job
   */
  constructor(home, panel, cell, master, job) {
    const { translate } = home.options;
    this.home = home;
    this.panel = panel;
    this.cell = cell;
    this.job = job;
    /** @type {any} */
    this.last = null;
    this.isDone = false;
    this.view = new JobView(translate);
    this.requests = new ViewRequests(
      (one, since) => master.call("job_view", { job: one.id, since }),
      (view) => this.#take(view),
    );
    this.bar = progressBar(translate("Progress"));
    this.line = element("p", "cnb-muted");
    const title = translate("This page was opened after the job of this cell had begun");
    const attributes = { role: "region", "aria-label": translate("Job of this cell"), title };
    this.node = element("div", "cnb cnb-cell", [this.bar, this.line, this.view.element], attributes);
    this.changed = () => this.end(); // another page with the same document has received its outputs
    cell.outputs.changed.connect(this.changed);
  }

  /** @param {FeedModel} feed @param {Job | undefined} newest of this cell, if the cluster still lists one */
  update(feed, newest) {
    if (newest && newest.id !== this.job.id) {
      // A cell may start one job after the other.
      this.last = null;
      this.view.clear();
    }
    const job = (this.job = newest ?? this.job);
    const { requests } = this;
    if (newest) requests.poll(newest, performance.now());
    const now_s = feed.now_s(Date.now() / 1000);
    const isLate = job.ended_s !== null && now_s - job.ended_s > LAST_WITHIN_S && requests.isAnswered;
    if (this.last?.is_over || isLate || !newest) this.finish();
    else {
      this.node.classList.remove("is-lost");
      fillBar(this.bar, job);
      setText(this.line, jobLine(job, now_s, this.home.options.translate));
      this.#place();
    }
  }

  lose() {
    this.node.classList.add("is-lost");
    setText(this.line, this.home.options.translate("connection lost, trying again"));
  }

  /** @param {any} view */
  #take(view) {
    this.last = view;
    this.view.show(view);
    this.#place();
  }

  /** Show it in the place of the outputs; the notebook makes the elements of a cell when the cell is scrolled to. */
  #place() {
    const widget = this.panel.content.widgets.find((/** @type {any} */ one) => one.model === this.cell);
    if (!widget) this.end();
    else if (this.last && !this.isDone && !widget.isPlaceholder?.() && this.node.parentNode !== widget.node) {
      widget.node.append(this.node);
      widget.node.classList.add("cnb-is-restored");
    }
  }

  finish() {
    const { cell, job, last } = this;
    const { sanitize, translate } = this.home.options;
    this.end();
    if (!last || isRestored(cell.outputs.toJSON(), job.id)) return;
    const text =
      last.is_over === true ? last.text : translate("%1 · seen last, its kernel has ended", visible(last.text));
    const number = /^In\[(\d+)\]$/.exec(job.name);
    cell.outputs.fromJSON(outputsOf({ ...last, text }, job.id, sanitize));
    if (number) cell.executionCount = Number(number[1]);
  }

  end() {
    this.isDone = true;
    this.cell.outputs?.changed.disconnect(this.changed);
    this.node.parentElement?.classList.remove("cnb-is-restored");
    this.node.remove();
  }
}

/** Follows the feed of a cluster, as long as it has jobs of open notebooks that the page did not see begin. */
class ClusterWatch {
  /** @param {CellRestorer} home @param {string} name */
  constructor(home, name) {
    this.home = home;
    this.name = name;
    this.master = home.options.clusters.connect(name);
    this.feed = new FeedModel({ marks: 2000 });
    /** @type {Set<any>} panels of notebooks whose cells have not been looked at */
    this.unseen = new Set();
    /** @type {RestoredCell[]} */
    this.cells = [];
    this.isLive = true;
    this.timer = setTimeout(() => this.feed.since ?? this.end(), FIRST_WITHIN_MS);
    this.unwatch = this.master.watch({
      since: () => this.feed.since,
      message: (method, params) => {
        const isFollowing = this.feed.apply(method, params, Date.now() / 1000);
        if (isFollowing) this.#update();
        return isFollowing;
      },
      state: (state) => this.#follow(state === "live"),
    });
  }

  /** @param {boolean} isLive */
  #follow(isLive) {
    if (!this.feed.since || isLive === this.isLive) return;
    this.isLive = isLive;
    clearTimeout(this.timer);
    if (isLive) return;
    for (const cell of this.cells) cell.lose();
    this.timer = setTimeout(() => {
      for (const cell of this.cells) cell.finish();
      this.end();
    }, LOST_WITHIN_MS);
  }

  #update() {
    const { home, feed } = this;
    const paths = new Map(this.cells.map(({ panel }) => [panel, home.pathOf(panel)]));
    for (const panel of this.unseen) paths.set(panel, home.pathOf(panel));
    for (const [panel, path] of paths) {
      const jobs = jobsOfCells(feed.jobs.values(), path, home.options.root);
      if (this.unseen.delete(panel)) this.cells.push(...this.#find(panel, jobs));
      for (const cell of this.cells) if (cell.panel === panel) cell.update(feed, jobs.get(cell.cell.id));
    }
    this.cells = this.cells.filter((cell) => !cell.isDone);
    if (!this.cells.length) this.end();
  }

  /** @param {any} panel @param {Map<string, Job>} jobs by cell @returns {RestoredCell[]} */
  #find(panel, jobs) {
    const { home, feed } = this;
    const saved_s = Date.parse(panel.context.contentsModel?.last_modified) / 1000;
    const found = [];
    for (const { model } of panel.content.widgets) {
      const job = model.type === "code" ? jobs.get(model.id) : undefined;
      if (!job || home.own.has(model) || home.cells.get(model)?.isDone === false) continue;
      if (isRestored(model.outputs.toJSON(), job.id)) continue;
      // What was saved after the end of a job is as its user wants it. The master is on the machine of the server.
      if (job.ended_s !== null && !(job.view_version && saved_s < feed.hostTime_s(job.ended_s))) continue;
      const cell = new RestoredCell(home, panel, model, this.master, job);
      home.cells.set(model, cell);
      found.push(cell);
    }
    return found;
  }

  /** @param {any} panel of a notebook that is closed */
  leave(panel) {
    this.unseen.delete(panel);
    for (const cell of this.cells) if (cell.panel === panel) cell.end();
    this.cells = this.cells.filter((cell) => !cell.isDone);
    if (!this.cells.length && !this.unseen.size) this.end();
  }

  end() {
    clearTimeout(this.timer);
    // The first message may come before `watch` returns.
    queueMicrotask(() => this.unwatch());
    for (const cell of this.cells) cell.end();
    if (this.home.watches.get(this.name) === this) this.home.watches.delete(this.name);
  }
}

/** Looks, when a notebook is opened, for jobs of its cells on the clusters of this machine. */
export class CellRestorer {
  /** @param {RestoreOptions} options */
  constructor(options) {
    this.options = options;
    /** @type {WeakSet<object>} models of cells that have run here: this page gets their outputs itself */
    this.own = new WeakSet();
    /** @type {WeakMap<object, RestoredCell>} */
    this.cells = new WeakMap();
    /** @type {Map<string, ClusterWatch>} by the name of the cluster */
    this.watches = new Map();
  }

  /** @param {any} panel @returns {string} the path of its notebook below the folder of the server */
  pathOf(panel) {
    return panel.context.localPath ?? panel.context.path.replace(/^\w+:/, "");
  }

  /** @param {any} panel of a notebook */
  async open(panel) {
    await panel.context.ready;
    await panel.revealed;
    panel.disposed.connect(() => [...this.watches.values()].forEach((watch) => watch.leave(panel)));
    // Jobs that began while this page was cut off are like those that began before it was opened.
    let looked_ms = performance.now();
    panel.sessionContext.connectionStatusChanged.connect((/** @type {any} */ _, /** @type {string} */ status) => {
      if (status !== "connected" || performance.now() - looked_ms < LOOK_EVERY_MS) return;
      looked_ms = performance.now();
      void this.#look(panel);
    });
    await this.#look(panel);
  }

  /** @param {any} panel */
  async #look(panel) {
    // A cluster that does not answer, or a server without our extension: the notebook is as it was saved.
    const clusters = await this.options.clusters.list().catch(() => []);
    for (const { name, isAlive } of clusters) {
      if (!isAlive || panel.isDisposed) continue;
      const watch = this.watches.get(name) ?? new ClusterWatch(this, name);
      this.watches.set(name, watch);
      watch.unseen.add(panel);
    }
  }

  /** @param {any} cell the model of a cell that runs here now, or whose outputs the user has cleared */
  claim(cell) {
    this.own.add(cell);
    this.cells.get(cell)?.end();
  }
}
