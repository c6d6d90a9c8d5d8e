// @ts-check
// The running tasks of a job, with the time since their start and what can be done with each.

import { button, element, plain, setForeign, setText } from "./dom.js";
import { count, duration, visibleLines } from "./text.js";

/** @typedef {import('./dom.js').Translate} Translate */
/** @typedef {import('./feed_model.js').FeedModel} FeedModel */
/** @typedef {import('./feed_model.js').Job} Job */
/**
 * @typedef {{label: string, title: string, run: (job: Job, index: number) => Promise<string | void>}} TaskAction
 *   a button of each running task; a text that it returns is shown below the task
 */

/** most tasks that are listed: those that run longest */
const LISTED_MAX = 40;

/** A list that is updated in place, so that the keyboard keeps its button. */
export class RunningTasks {
  /**
   * @param {FeedModel} model
   * @param {{translate?: Translate, actions?: TaskAction[], now: () => number}} options now: seconds since 1970
   */
  constructor(model, options) {
    this.model = model;
    this.t = options.translate ?? plain;
    this.actions = options.actions ?? [];
    this.now = options.now;
    /** @type {Map<string, {row: HTMLElement, time: HTMLElement, result: HTMLElement}>} by index and start */
    this.rows = new Map();
    this.title = element("h4");
    this.list = element("ul", "cnb-tasks", "", { "aria-label": this.t("Running tasks") });
    this.more = element("p", "cnb-muted");
    this.element = element("div", "cnb-running", [this.title, this.list, this.more]);
    this.element.hidden = true;
  }

  clear() {
    this.rows.clear();
    this.list.replaceChildren();
    this.element.hidden = true;
  }

  /** @param {Job} job */
  update(job) {
    const { t } = this;
    const running = this.model.running.filter((task) => task.job === job.id).sort((a, b) => a.started_s - b.started_s);
    const now_s = this.model.now_s(this.now());
    const seen = new Set();
    for (const task of running.slice(0, LISTED_MAX)) {
      const key = `${task.index}/${task.started_s}`;
      seen.add(key);
      const row = this.rows.get(key) ?? this.#make(key, job, task.index, task.slave);
      setText(row.time, duration(Math.max(0, now_s - task.started_s)));
    }
    for (const [key, { row, time, result }] of this.rows) {
      if (seen.has(key)) continue;
      // What was asked about a task stays until it is closed, also when the task has ended.
      if (result.hidden) this.#remove(key);
      else setText(time, t("has ended"));
      row.classList.add("is-over");
    }
    this.element.hidden = !this.rows.size;
    setText(this.title, t("Running tasks: %1", count(running.length)));
    setText(this.more, running.length > LISTED_MAX ? t("and %1 more", count(running.length - LISTED_MAX)) : "");
  }

  /** @param {string} key @param {Job} job @param {number} index @param {string} slave */
  #make(key, job, index, slave) {
    const where = element("span", "cnb-clip cnb-muted cnb-task-slave");
    setForeign(where, slave);
    const time = element("span", "cnb-time");
    const text = element("pre", "cnb-print", "", { tabindex: "0", role: "group", "aria-label": this.t("Answer") });
    const close = button(this.t("Close"), () => (result.hidden = true), "cnb-small");
    const result = element("div", "cnb-task-result", [text, close]);
    result.hidden = true;
    const buttons = this.actions.map((action) => {
      const press = button(action.label, () => void act(), "cnb-small", action.title);
      press.setAttribute("aria-label", this.t("%1: task %2", action.label, index));
      const act = async () => {
        press.disabled = true;
        /** @type {string | void} */
        let answer;
        try {
          answer = await action.run(job, index);
        } catch (error) {
          answer = error instanceof Error ? error.message : String(error);
        }
        press.disabled = false;
        if (typeof answer !== "string") return;
        setText(text, visibleLines(answer));
        result.hidden = false;
      };
      return press;
    });
    const head = element("div", "cnb-task", [
      element("span", "cnb-task-name", this.t("task %1", index)),
      where,
      time,
      element("span", "cnb-actions", buttons),
    ]);
    const row = element("li", "", [head, result]);
    const made = { row, time, result };
    this.rows.set(key, made);
    this.list.append(row);
    return made;
  }

  /** @param {string} key */
  #remove(key) {
    this.rows.get(key)?.row.remove();
    this.rows.delete(key);
  }
}
