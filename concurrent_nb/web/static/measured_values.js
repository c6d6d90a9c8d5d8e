// @ts-check
// What the tasks of a job, or of all jobs, have measured by themselves (`concurrent_nb.stats`), as a table.

import { element, plain, setForeign, setText } from "./dom.js";
import { count, finite } from "./text.js";

/** most rows that are shown */
export const SHOWN_MAX = 30;
const COLUMNS = ["count", "average", "minimum", "p50", "p90", "maximum", "total"];
/** of all jobs together, of which there are no percentiles */
export const SUMMED = ["jobs", "count", "average", "minimum", "maximum", "total"];
const TITLES = { minimum: "min", p50: "50 %", p90: "90 %", maximum: "max" };
/** how long no values of all jobs are asked for after they were, and after an error */
const [ASK_MS, RETRY_MS] = [4000, 30_000];

/** @param {unknown} value @returns {string} with the four digits that matter, as `%.4g` */
export function amount(value) {
  const number = finite(value);
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) return number.toExponential(3).replace(/\.?0*e/, "e");
  return String(Number(number.toPrecision(size >= 1000 ? 7 : 4)));
}

/**
 * @param {any} values of the method `stats` @param {string[]} [columns]
 * @returns {string[][]} rows of a table: names may contain anything
 */
export function rowsOf(values, columns = COLUMNS) {
  const all = values && typeof values === "object" ? Object.entries(values) : [];
  return all
    .slice(0, SHOWN_MAX)
    .map(([name, value]) => [
      name,
      ...columns.map((column) =>
        column === "count" || column === "jobs" ? count(finite(value?.[column])) : amount(value?.[column]),
      ),
    ]);
}

export class MeasuredValues {
  /**
   * @param {import('./dom.js').Translate} [translate]
   * @param {string} [title]
   * @param {string[]} [columns]
   */
  constructor(translate = plain, title = translate("Measured by its tasks"), columns = COLUMNS) {
    this.t = translate;
    this.columns = columns;
    this.body = element("tbody");
    this.more = element("p", "cnb-muted");
    const titles = columns.map((name) => translate(TITLES[/** @type {keyof typeof TITLES} */ (name)] ?? name));
    const head = [translate("value"), ...titles].map((name) => element("th", "", name, { scope: "col" }));
    const table = element("table", "cnb-table", [
      element("caption", "", title),
      element("thead", "", [element("tr", "", head)]),
      this.body,
    ]);
    this.element = element("div", "cnb-values", [table, this.more], {
      tabindex: "0",
      role: "group",
      "aria-label": title,
    });
    this.element.hidden = true;
  }

  /** @param {any} values of the method `stats`, or null */
  show(values) {
    const rows = rowsOf(values, this.columns);
    this.element.hidden = !rows.length;
    while (this.body.children.length > rows.length) this.body.lastChild?.remove();
    while (this.body.children.length < rows.length) {
      const name = element("th", "cnb-clip", "", { scope: "row" });
      this.body.append(element("tr", "", [name, ...this.columns.map(() => element("td"))]));
    }
    rows.forEach((row, at) => {
      const cells = /** @type {HTMLElement[]} */ ([...this.body.children[at].children]);
      setForeign(cells[0], row[0], 80);
      cells.slice(1).forEach((cell, column) => setText(cell, row[column + 1]));
    });
    const left = Object.keys(values ?? {}).length - rows.length;
    setText(this.more, left > 0 ? this.t("and %1 more", count(left)) : "");
  }
}

/** Asks for the values of all jobs, only when the feed says that there are new ones, and not too often. */
export class ValueRequests {
  /**
   * @param {() => Promise<any>} ask the method `stats` without a job
   * @param {(values: any) => void} show
   */
  constructor(ask, show) {
    this.ask = ask;
    this.show = show;
    /** the number of reports when they were asked for last */
    this.version = 0;
    this.dueAt_ms = -Infinity;
  }

  /** @param {number} version the number of reports @param {number} now_ms */
  poll(version, now_ms) {
    if (version === this.version || now_ms < this.dueAt_ms) return;
    this.dueAt_ms = now_ms + ASK_MS;
    this.version = version;
    this.ask().then(
      (answer) => this.show(answer?.values),
      () => {
        // What was seen last stays.
        this.version = 0;
        this.dueAt_ms = now_ms + RETRY_MS;
      },
    );
  }
}

/** What the tasks of the cluster's jobs have measured. */
export class ClusterValues {
  /**
   * @param {import('./feed_model.js').FeedModel} model
   * @param {() => Promise<any>} ask the method `stats` without a job
   * @param {import('./dom.js').Translate} [translate]
   */
  constructor(model, ask, translate = plain) {
    this.model = model;
    const table = new MeasuredValues(translate, translate("Measured by the tasks of the last jobs"), SUMMED);
    this.element = table.element;
    this.requests = new ValueRequests(ask, (values) => table.show(values));
  }

  update() {
    this.requests.poll(this.model.totals.measured, performance.now());
  }
}
