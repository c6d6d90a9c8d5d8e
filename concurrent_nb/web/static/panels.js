// @ts-check
// Lists of slaves, jobs and events, and the detail of a job. They make elements for the rows that are seen only.

import { button, element, plain, setAttribute, setForeign, setText } from "./dom.js";
import { elapsed_s, hasJoined, hostFigures, left_s, progressOf, sortJobs, whereIs } from "./feed_model.js";
import { JobView, ViewRequests } from "./job_view.js";
import { MeasuredValues } from "./measured_values.js";
import { RunningTasks } from "./running_tasks.js";
import { bytes, clock, count, duration, figure, finite, percent, visible } from "./text.js";

/** @typedef {import('./feed_model.js').FeedModel} FeedModel */
/** @typedef {import('./feed_model.js').Job} Job */
/** @typedef {import('./feed_model.js').Slave} Slave */
/** @typedef {import('./dom.js').Translate} Translate */
/**
 * @typedef {{
 *   cancelJob?: (job: Job) => void, goToCell?: (job: Job) => void, showJob?: (job: Job) => void,
 *   drainSlave?: (slave: Slave) => void, restartSlave?: (slave: Slave) => void,
 * }} Actions what a face can do; a button is there for each
 */
/** @typedef {{translate?: Translate, actions?: Actions, now?: () => number, isNarrow?: boolean}} Options */

/** @param {number} seconds @returns {string} a guess, so without fractions */
const timeLeft = (seconds) => (seconds < 60 ? `${Math.max(1, Math.round(seconds))} s` : duration(seconds));
/** @param {string} path @returns {string} */
const fileName = (path) => path.replace(/^.*[/\\]/, "");
/** how long the first view of a job may take */
const VIEW_COMES_S = 3;
const wallNow = () => Date.now() / 1000;

/**
 * Decide which rows of a list have elements.
 * @param {number} top scrolled @param {number} height seen @param {number} row height of one @param {number} rows all
 * @param {number} [more] rows beyond the edges @returns {[number, number]} first and last + 1
 */
export function seenRows(top, height, row, rows, more = 4) {
  const first = Math.max(0, Math.min(rows, Math.floor(top / row) - more));
  return [first, Math.max(first, Math.min(rows, Math.ceil((top + height) / row) + more))];
}

/**
 * A list that scrolls, of rows of one height.
 * @template T
 */
export class RowList {
  /**
   * @param {{label: string, row_px: number, most_px: number, key: (item: T) => string, make: (item: T) => HTMLElement,
   *   fill: (row: HTMLElement, item: T) => void, empty: string}} options
   */
  constructor(options) {
    this.options = options;
    /** @type {T[]} */
    this.items = [];
    /** @type {Map<string, HTMLElement>} */
    this.made = new Map();
    this.space = element("div", "cnb-list-space", "", { role: "list", "aria-label": options.label });
    this.empty = element("p", "cnb-muted cnb-empty", options.empty);
    this.element = element("div", "cnb-list", [this.space, this.empty], {
      tabindex: "0",
      role: "group",
      "aria-label": options.label,
    });
    this.element.style.maxHeight = `${options.most_px}px`;
    this.element.addEventListener("scroll", () => this.#show(), { passive: true });
    this.observer = new ResizeObserver(() => this.#show());
    this.observer.observe(this.element);
  }

  /** @param {T[]} items in their order */
  set(items) {
    this.items = items;
    this.empty.hidden = items.length > 0;
    this.space.hidden = !items.length;
    const height = `${items.length * this.options.row_px}px`;
    if (this.space.style.height !== height) this.space.style.height = height;
    this.#show();
  }

  #show() {
    const { row_px, key, make, fill } = this.options;
    const [first, end] = seenRows(
      this.element.scrollTop,
      this.element.clientHeight || this.options.most_px,
      row_px,
      this.items.length,
    );
    const wanted = new Set();
    for (let at = first; at < end; at += 1) {
      const item = this.items[at];
      const name = key(item);
      wanted.add(name);
      let row = this.made.get(name);
      if (!row) {
        row = make(item);
        row.classList.add("cnb-row");
        row.setAttribute("role", "listitem");
        row.style.height = `${row_px}px`;
        this.made.set(name, row);
        this.space.append(row);
      }
      const top = `translateY(${at * row_px}px)`;
      if (row.style.transform !== top) row.style.transform = top;
      setAttribute(row, "aria-posinset", String(at + 1));
      setAttribute(row, "aria-setsize", String(this.items.length));
      fill(row, item);
    }
    for (const [name, row] of this.made) {
      // A row that has the focus stays, or the keyboard would be lost with it.
      if (wanted.has(name) || (row.contains(document.activeElement) && this.items.some((item) => key(item) === name))) {
        continue;
      }
      row.remove();
      this.made.delete(name);
    }
  }

  dispose() {
    this.observer.disconnect();
    this.element.remove();
  }
}

/**
 * Find an element of a row that was made with this class.
 * @param {HTMLElement} row
 * @param {string} name
 * @returns {HTMLElement}
 */
const part = (row, name) => /** @type {HTMLElement} */ (row.getElementsByClassName(name)[0]);

const BAR_PARTS = ["done", "failed", "cancelled", "running"];

/** A bar of what is done, failed, cancelled and running. @param {string} label */
export function progressBar(label) {
  const parts = BAR_PARTS.map((name) => element("div", `cnb-progress-${name}`));
  return element("div", "cnb-progress", parts, {
    role: "progressbar",
    "aria-label": label,
    "aria-valuemin": "0",
    "aria-valuemax": "100",
  });
}

/** @param {Job} job @returns {number[]} shares of its tasks: done, failed, cancelled, running */
export function barShares(job) {
  const all = Math.max(1, job.tasks, job.done);
  const failed = Math.min(job.failed, job.done);
  const cancelled = Math.min(job.cancelled, job.done - failed);
  return [job.done - failed - cancelled, failed, cancelled, Math.min(job.assigned, all - job.done)].map((n) => n / all);
}

/** @param {HTMLElement} bar @param {Job} job */
export function fillBar(bar, job) {
  barShares(job).forEach((share, at) => {
    const width = `${(Math.max(0, share) * 100).toFixed(2)}%`;
    const { style } = /** @type {HTMLElement} */ (bar.children[at]);
    if (style.width === width) return;
    style.width = width;
    style.minWidth = share > 0 ? "2px" : "0";
  });
  setAttribute(bar, "aria-valuenow", String(Math.floor(progressOf(job) * 100)));
}

const STATE_CLASS = {
  running: "is-running",
  stopping: "is-bad",
  waiting: "is-waiting",
  idle: "is-waiting",
  ended: "is-done",
};

/** @param {Job} job @returns {string} its state as people say it */
export function jobState(job) {
  if (job.state !== "ended") return job.state || "unknown";
  if (job.failed && !(job.is_cancelled && job.cancelled)) return "failed";
  return job.cancelled ? "cancelled" : "done";
}

/** @param {Job} job @param {number} now_s @param {Translate} t @returns {string} */
export function jobLine(job, now_s, t) {
  const parts = [t("%1 of %2", count(job.done), count(job.tasks))];
  if (job.failed) parts.push(t("%1 failed", count(job.failed)));
  if (job.cancelled) parts.push(t("%1 cancelled", count(job.cancelled)));
  const left = left_s(job);
  if (job.state === "running" && job.rate > 0) parts.push(t("%1/s", figure(job.rate)));
  parts.push(
    left === null
      ? duration(elapsed_s(job, now_s))
      : t("%1, about %2 left", duration(elapsed_s(job, now_s)), timeLeft(left)),
  );
  return parts.join(" · ");
}

/**
 * Say where the prints of a job are that shares no view, as those of `f.map` and `app.submit`: its owner has them.
 * @param {Job} job @param {number} now_s @param {Translate} t
 * @returns {string} '' while the view may still come, or is there
 */
export function printsLine(job, now_s, t) {
  if (job.view_version || now_s - job.opened_s < VIEW_COMES_S) return "";
  if (job.notebook) {
    const where = visible(fileName(job.notebook), 80);
    return t("What its tasks print is in %1: below the cell that started it, or in the job's take_output().", where);
  }
  const where = visible(job.client, 80);
  return where
    ? t(
        "What its tasks print is in the program that started it, %1: in its output, or in the job's take_output().",
        where,
      )
    : t("What its tasks print is in the program that started it.");
}

export class JobsPanel {
  /** @param {FeedModel} model @param {Options & {most_px?: number, row_px?: number}} [options] */
  constructor(model, options = {}) {
    this.model = model;
    this.t = options.translate ?? plain;
    this.now = options.now ?? wallNow;
    this.actions = options.actions ?? {};
    /** @type {Set<string>} jobs whose end was asked for */
    this.stopping = new Set();
    this.list = new RowList({
      label: this.t("Jobs"),
      row_px: options.row_px ?? 64,
      most_px: options.most_px ?? 448,
      key: (/** @type {Job} */ job) => job.id,
      make: (job) => this.#make(job),
      fill: (row, job) => this.#fill(row, job),
      empty: this.t("No job of the last ten minutes."),
    });
    this.element = this.list.element;
  }

  update() {
    this.list.set(sortJobs(this.model.jobs.values()));
  }

  /** @param {string} id @returns {Job | undefined} */
  #job(id) {
    return this.model.jobs.get(id);
  }

  /** @param {Job} job */
  #make({ id }) {
    const { t, actions } = this;
    const act = (/** @type {((job: Job) => void) | undefined} */ action) => () => {
      const job = this.#job(id);
      if (job) action?.(job);
    };
    const name = actions.showJob
      ? button("", act(actions.showJob), "cnb-link cnb-clip cnb-job-name")
      : element("span", "cnb-clip cnb-job-name");
    const buttons = [];
    if (actions.goToCell) {
      buttons.push(
        button(t("Cell"), act(actions.goToCell), "cnb-small cnb-go", t("Go to the cell that started this job")),
      );
    }
    if (actions.cancelJob) {
      buttons.push(
        button(t("Cancel"), act(actions.cancelJob), "cnb-small cnb-cancel", t("Cancel the tasks that have not ended")),
      );
    }
    return element("div", "cnb-job", [
      element("div", "cnb-job-head", [element("span", "cnb-state"), name, element("span", "cnb-actions", buttons)]),
      progressBar(t("Progress")),
      element("div", "cnb-job-line cnb-muted", [
        element("span", "cnb-clip cnb-job-text"),
        element("span", "cnb-clip cnb-job-client"),
      ]),
    ]);
  }

  /** @param {HTMLElement} row @param {Job} job */
  #fill(row, job) {
    const { t } = this;
    const state = jobState(job);
    const badge = part(row, "cnb-state");
    setText(badge, t(state));
    setAttribute(
      badge,
      "class",
      `cnb-state ${state === "failed" ? "is-bad" : state === "cancelled" ? "is-waiting" : (STATE_CLASS[/** @type {keyof typeof STATE_CLASS} */ (job.state)] ?? "")}`,
    );
    setForeign(part(row, "cnb-job-name"), job.name || job.id.slice(0, 8));
    fillBar(part(row, "cnb-progress"), job);
    setAttribute(part(row, "cnb-progress"), "aria-label", t("Progress of %1", visible(job.name, 60)));
    setText(part(row, "cnb-job-text"), jobLine(job, this.model.now_s(this.now()), t));
    setForeign(part(row, "cnb-job-client"), [fileName(job.notebook), job.client].filter(Boolean).join(" · "));
    const go = part(row, "cnb-go");
    if (go) go.hidden = !job.cell;
    const cancel = part(row, "cnb-cancel");
    if (cancel) cancel.hidden = job.state === "ended" || (job.state === "idle" && job.done >= job.tasks);
  }

  dispose() {
    this.list.dispose();
  }
}

export class SlavesPanel {
  /** @param {FeedModel} model @param {Options & {most_px?: number, row_px?: number}} [options] */
  constructor(model, options = {}) {
    this.model = model;
    this.t = options.translate ?? plain;
    this.now = options.now ?? wallNow;
    this.actions = options.actions ?? {};
    this.list = new RowList({
      label: this.t("Slaves"),
      row_px: options.row_px ?? 72,
      most_px: options.most_px ?? 360,
      key: (/** @type {Slave} */ slave) => slave.name,
      make: (slave) => this.#make(slave),
      fill: (row, slave) => this.#fill(row, slave),
      empty: this.t("No slave: tasks wait until one joins."),
    });
    this.element = this.list.element;
  }

  update() {
    this.list.set([...this.model.slaves.values()].sort((a, b) => (a.name < b.name ? -1 : 1)));
  }

  /** @param {Slave} slave */
  #make({ name }) {
    const { actions, t } = this;
    const act = (/** @type {((slave: Slave) => void) | undefined} */ action) => () => {
      const slave = this.model.slaves.get(name);
      if (slave) action?.(slave);
    };
    const buttons = [];
    if (actions.restartSlave) {
      const hint = t("Another slave takes its place; it ends when its own tasks have ended");
      buttons.push(button(t("Restart"), act(actions.restartSlave), "cnb-small cnb-restart", hint));
    }
    if (actions.drainSlave) {
      const hint = t("No new tasks; it ends when its own have ended");
      buttons.push(button(t("Drain"), act(actions.drainSlave), "cnb-small cnb-drain", hint));
    }
    return element("div", "cnb-slave", [
      element("div", "cnb-job-head", [
        element("span", "cnb-state"),
        element("span", "cnb-clip cnb-slave-name"),
        element("span", "cnb-slots", "", { role: "img" }),
        element("span", "cnb-actions", buttons),
      ]),
      element("div", "cnb-job-line cnb-muted", [
        element("span", "cnb-clip cnb-slave-text"),
        element("span", "cnb-clip cnb-slave-host"),
      ]),
    ]);
  }

  /** @param {HTMLElement} row @param {Slave} slave */
  #fill(row, slave) {
    const { t } = this;
    const badge = part(row, "cnb-state");
    setText(badge, t(slave.state || "unknown"));
    setAttribute(
      badge,
      "class",
      `cnb-state ${slave.state === "active" ? "is-done" : slave.state === "suspected" ? "is-bad" : "is-waiting"}`,
    );
    setForeign(part(row, "cnb-slave-name"), slave.name);
    fillSlots(part(row, "cnb-slots"), slave, t);
    const memory = slave.memory_total_bytes
      ? t("memory %1", percent(slave.memory_used_bytes / slave.memory_total_bytes))
      : "";
    const load = slave.load ? t("load %1", figure(slave.load)) : "";
    setText(
      part(row, "cnb-slave-text"),
      hasJoined(slave)
        ? [t("%1 of %2 busy", slave.busy, slave.slots), t("%1 done", count(slave.done)), load, memory]
            .filter(Boolean)
            .join(" · ")
        : t("has not joined yet"),
    );
    setForeign(part(row, "cnb-slave-host"), whereIs(slave));
    for (const name of ["cnb-drain", "cnb-restart"]) {
      const one = part(row, name);
      if (one) one.hidden = slave.state === "draining" || !hasJoined(slave);
    }
  }

  dispose() {
    this.list.dispose();
  }
}

/** A small square for each slot, up to 32. @param {HTMLElement} place @param {Slave} slave @param {Translate} t */
function fillSlots(place, slave, t) {
  const shown = Math.min(32, Math.max(0, Math.floor(slave.slots)));
  const busy = slave.slots > 0 ? Math.round((slave.busy / slave.slots) * shown) : 0;
  while (place.children.length > shown) place.lastChild?.remove();
  while (place.children.length < shown) place.append(element("i"));
  for (let at = 0; at < shown; at += 1) setAttribute(place.children[at], "class", at < busy ? "is-busy" : "");
  setAttribute(place, "aria-label", t("%1 of %2 busy", slave.busy, slave.slots));
}

export class EventsPanel {
  /** @param {FeedModel} model @param {Options & {most_px?: number, row_px?: number}} [options] */
  constructor(model, options = {}) {
    this.model = model;
    this.t = options.translate ?? plain;
    this.list = new RowList({
      label: this.t("Events"),
      row_px: options.row_px ?? 28,
      most_px: options.most_px ?? 280,
      key: (/** @type {import('./feed_model.js').ClusterEvent} */ event) => String(event.number),
      make: () =>
        element("div", "cnb-event", [
          element("span", "cnb-muted cnb-time"),
          element("span", "cnb-event-kind"),
          element("span", "cnb-clip cnb-event-text"),
        ]),
      fill: (row, event) => {
        setText(part(row, "cnb-time"), clock(event.wall_s));
        const kind = part(row, "cnb-event-kind");
        setText(kind, visible(event.kind, 40));
        kind.classList.toggle("cnb-bad", /died|lost|failed|quarantined|killed/.test(event.kind));
        setForeign(part(row, "cnb-event-text"), event.text, 300);
      },
      empty: this.t("Nothing has happened yet."),
    });
    this.element = this.list.element;
  }

  update() {
    this.list.set([...this.model.events].reverse());
  }

  dispose() {
    this.list.dispose();
  }
}

/** The figures of the whole cluster, as tiles. */
export class Overview {
  /** @param {FeedModel} model @param {Options} [options] */
  constructor(model, options = {}) {
    this.model = model;
    this.t = options.translate ?? plain;
    this.now = options.now ?? wallNow;
    const tile = (/** @type {string} */ label) => {
      const value = element("span", "cnb-tile-value", "–");
      const more = element("span", "cnb-tile-more cnb-muted");
      return {
        value,
        more,
        root: element("div", "cnb-tile", [element("span", "cnb-tile-label", this.t(label)), value, more]),
      };
    };
    this.tiles = {
      rate: tile("Tasks/s"),
      slots: tile("Busy slots"),
      waiting: tile("Waiting"),
      done: tile("Ended"),
      failed: tile("Failed"),
      load: tile("CPU load"),
      memory: tile("Memory"),
    };
    this.element = element(
      "div",
      "cnb-tiles",
      Object.values(this.tiles).map((one) => one.root),
    );
  }

  update() {
    const { model, t, tiles } = this;
    const { totals } = model;
    const hosts = hostFigures(model.slaves.values());
    const set = (/** @type {keyof Overview['tiles']} */ name, /** @type {string} */ value, more = "") => {
      setText(tiles[name].value, value);
      setText(tiles[name].more, more);
    };
    set(
      "rate",
      figure(model.samples.last("done_rate")),
      `${bytes(model.samples.last("in_rate") + model.samples.last("out_rate"))}/s`,
    );
    set(
      "slots",
      `${count(totals.busy)} / ${count(totals.slots)}`,
      model.joined === 1 ? t("1 slave") : t("%1 slaves", count(model.joined)),
    );
    set("waiting", count(totals.waiting), t("%1 assigned", count(totals.assigned)));
    set(
      "done",
      count(totals.done),
      totals.cancelled
        ? t("%1 cancelled", count(totals.cancelled))
        : t("up %1", duration(model.uptimeAt_s(this.now()))),
    );
    set("failed", count(totals.failed), totals.done ? percent(totals.failed / totals.done) : "");
    tiles.failed.value.classList.toggle("cnb-bad", totals.failed > 0);
    set("load", figure(hosts.load), t("of %1 cores", count(hosts.cores)));
    set(
      "memory",
      bytes(hosts.memory_used_bytes),
      hosts.memory_total_bytes ? t("of %1", bytes(hosts.memory_total_bytes)) : "",
    );
  }
}

/** One job: what its cell shows, its running tasks, its figures, and what the master's statistics add. */
export class JobDetail {
  /**
   * @param {FeedModel} model
   * @param {Options & {statistics?: (job: Job) => Promise<any>,
   *   view?: (job: Job, since: number) => Promise<import('./job_view.js').Answer>,
   *   taskActions?: import('./running_tasks.js').TaskAction[]}} [options]
   *   statistics and view: the methods `stats` and `job_view` of the master; taskActions: buttons of each running task
   */
  constructor(model, options = {}) {
    this.model = model;
    this.t = options.translate ?? plain;
    this.now = options.now ?? wallNow;
    this.actions = options.actions ?? {};
    this.ask = options.statistics;
    /** @type {Job | null} the last state, also of a job that the feed has dropped */
    this.job = null;
    this.id = "";
    /** @type {any} */
    this.statistics = null;
    this.askedAt_ms = -Infinity;
    this.title = element("h3", "cnb-clip");
    this.bar = progressBar(this.t("Progress"));
    this.line = element("p", "cnb-muted");
    this.facts = element("dl", "cnb-facts");
    this.measured = element("p", "cnb-muted");
    this.prints = element("p", "cnb-muted");
    const kinds = ["is-waiting", "is-shipping", "is-running", "is-fetching"];
    this.timeBar = element(
      "div",
      "cnb-time-bar",
      kinds.map((kind) => element("div", kind)),
    );
    this.timeKeys = kinds.map(() => element("span"));
    const keys = kinds.map((kind, at) =>
      element("span", "", [element("i", `cnb-time-key ${kind}`), this.timeKeys[at]]),
    );
    this.time = element("div", "cnb-time", [
      element("p", "cnb-muted", this.t("Where the time of its tasks went")),
      this.timeBar,
      element("p", "cnb-legend cnb-muted", keys),
    ]);
    this.time.hidden = true;
    this.values = new MeasuredValues(this.t);
    const { actions, t } = this;
    this.view = new JobView(t);
    this.requests = options.view ? new ViewRequests(options.view, (view) => this.#showView(view)) : null;
    this.running = new RunningTasks(model, { translate: t, actions: options.taskActions, now: this.now });
    this.go = button(t("Go to cell"), () => this.job && actions.goToCell?.(this.job), "cnb-small");
    this.cancel = button(t("Cancel"), () => this.job && actions.cancelJob?.(this.job), "cnb-small cnb-cancel");
    this.element = element("div", "cnb-detail", [
      element("div", "cnb-job-head", [
        this.title,
        element("span", "cnb-actions", [
          ...(actions.goToCell ? [this.go] : []),
          ...(actions.cancelJob ? [this.cancel] : []),
        ]),
      ]),
      this.bar,
      this.line,
      this.prints,
      element("div", "cnb-detail-body", [
        this.view.element,
        element("div", "cnb-detail-side", [this.running.element, this.facts, this.time, this.measured]),
      ]),
    ]);
    this.measured.after(this.values.element);
  }

  /** @param {string} id */
  show(id) {
    if (id !== this.id) {
      this.values.show(null);
      this.statistics = null;
      this.askedAt_ms = -Infinity;
      this.job = null;
      this.requests?.begin();
      this.view.clear();
      this.element.classList.remove("has-view");
      this.running.clear();
      this.facts.replaceChildren();
      this.time.hidden = true;
      setText(this.measured, "");
    }
    this.id = id;
    this.update();
  }

  update() {
    const { t } = this;
    this.job = this.model.jobs.get(this.id) ?? this.job;
    const { job } = this;
    this.element.classList.toggle("is-empty", !job);
    if (!job) {
      setText(this.title, t("No job is chosen"));
      return;
    }
    setForeign(this.title, job.name || job.id);
    fillBar(this.bar, job);
    setText(this.line, `${t(jobState(job))} · ${jobLine(job, this.model.now_s(this.now()), t)}`);
    this.go.hidden = !job.cell;
    this.cancel.hidden = job.state === "ended";
    const ended = Math.max(0, job.done - job.cancelled);
    /** @type {[string, string][]} */
    const facts = [
      ["started", clock(job.opened_s + this.model.offset_s)],
      ["ended", job.ended_s === null ? "" : clock(job.ended_s + this.model.offset_s)],
      ["waiting", count(Math.max(0, job.tasks - job.done - job.assigned))],
      ["assigned", count(job.assigned)],
      ["run time", duration(job.run_s)],
      ["run time per task", ended ? duration(job.run_s / ended) : ""],
      ["arguments", bytes(job.in_bytes)],
      ["results", bytes(job.out_bytes)],
      ["client", job.client],
      ["notebook", fileName(job.notebook)],
      ["job", job.id],
    ];
    this.#fillFacts(facts.filter(([, value]) => value));
    this.running.update(job);
    setText(this.prints, printsLine(job, this.model.now_s(this.now()), t));
    this.requests?.poll(job, performance.now());
    this.#ask();
  }

  /** @param {any} view */
  #showView(view) {
    this.view.show(view);
    this.element.classList.add("has-view");
  }

  /** @param {[string, string][]} facts */
  #fillFacts(facts) {
    while (this.facts.children.length > facts.length) this.facts.lastChild?.remove();
    while (this.facts.children.length < facts.length) {
      this.facts.append(element("div", "", [element("dt"), element("dd", "cnb-clip")]));
    }
    facts.forEach(([name, value], at) => {
      setText(this.facts.children[at].children[0], this.t(name));
      setForeign(/** @type {HTMLElement} */ (this.facts.children[at].children[1]), value);
    });
  }

  /** Ask for statistics every few seconds while the job runs, and once after its end. */
  #ask() {
    const { ask, job } = this;
    if (!ask || !job || this.statistics?.isLast || performance.now() - this.askedAt_ms < 3000) return;
    this.askedAt_ms = performance.now();
    ask(job).then(
      (statistics) => {
        if (job.id !== this.id) return;
        this.statistics = { isLast: job.state === "ended" };
        this.#showStatistics(statistics);
      },
      () => {
        // A job that the master has forgotten, or that belongs to others: the figures of the feed stay.
        this.askedAt_ms += 30_000;
      },
    );
  }

  /** @param {any} answer of the method `stats` */
  #showStatistics(answer) {
    const { t } = this;
    const parts = ["waiting", "shipping", "running", "fetching"].map((name) => [name, finite(answer?.[`${name}_s`])]);
    const all = parts.reduce((sum, [, value]) => sum + Number(value), 0);
    const idle = finite(answer?.idle_slot_s) / Math.max(1e-9, finite(answer?.slot_s));
    const facts = [
      finite(answer?.cpu_s) > 0 ? t("CPU time %1", duration(finite(answer.cpu_s))) : "",
      finite(answer?.peak_bytes) > 0 ? t("peak memory %1", bytes(finite(answer.peak_bytes))) : "",
      finite(answer?.slot_s) > 0 ? t("%1 of the slots' time was idle", percent(idle)) : "",
    ];
    setText(this.measured, facts.filter(Boolean).join(" · "));
    this.values.show(answer?.values);
    // A view has its own, which are as its cell shows them.
    if (answer?.errors && !this.job?.view_version) this.#showView({ errors: answer.errors });
    this.time.hidden = all <= 0;
    parts.forEach(([name, value], at) => {
      const share = all > 0 ? Number(value) / all : 0;
      const bar = /** @type {HTMLElement} */ (this.timeBar.children[at]);
      bar.style.width = `${(100 * share).toFixed(2)}%`;
      setText(this.timeKeys[at], `${t(String(name))} ${percent(share)}`);
      this.timeKeys[at].title = duration(Number(value));
    });
  }
}
