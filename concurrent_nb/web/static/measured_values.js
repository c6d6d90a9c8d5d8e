// @ts-check
// What the tasks of a job have measured by themselves (`concurrent_nb.stats`), as a table.

import { element, plain, setForeign, setText } from "./dom.js";
import { count, finite } from "./text.js";

/** most rows that are shown */
export const SHOWN_MAX = 30;
const COLUMNS = /** @type {const} */ (["count", "average", "minimum", "p50", "p90", "maximum", "total"]);
const TITLES = ["value", "count", "average", "min", "50 %", "90 %", "max", "total"];

/** @param {unknown} value @returns {string} with the four digits that matter, as `%.4g` */
export function amount(value) {
  const number = finite(value);
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) return number.toExponential(3).replace(/\.?0*e/, "e");
  return String(Number(number.toPrecision(size >= 1000 ? 7 : 4)));
}

/** @param {any} values of the method `stats` @returns {string[][]} rows of a table: names may contain anything */
export function rowsOf(values) {
  const all = values && typeof values === "object" ? Object.entries(values) : [];
  return all
    .slice(0, SHOWN_MAX)
    .map(([name, value]) => [
      name,
      ...COLUMNS.map((column) => (column === "count" ? count(finite(value?.count)) : amount(value?.[column]))),
    ]);
}

export class MeasuredValues {
  /** @param {import('./dom.js').Translate} [translate] */
  constructor(translate = plain) {
    this.t = translate;
    this.body = element("tbody");
    this.more = element("p", "cnb-muted");
    const head = TITLES.map((title) => element("th", "", translate(title), { scope: "col" }));
    const table = element("table", "cnb-table", [
      element("caption", "", translate("Measured by its tasks")),
      element("thead", "", [element("tr", "", head)]),
      this.body,
    ]);
    this.element = element("div", "cnb-values", [table, this.more], {
      tabindex: "0",
      role: "group",
      "aria-label": translate("Measured by its tasks"),
    });
    this.element.hidden = true;
  }

  /** @param {any} values of the method `stats`, or null */
  show(values) {
    const rows = rowsOf(values);
    this.element.hidden = !rows.length;
    while (this.body.children.length > rows.length) this.body.lastChild?.remove();
    while (this.body.children.length < rows.length) {
      const cells = TITLES.map((_, at) => (at ? element("td") : element("th", "cnb-clip", "", { scope: "row" })));
      this.body.append(element("tr", "", cells));
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
