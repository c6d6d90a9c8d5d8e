// @ts-check
// The graph of tasks that need results of others: a box for each function, an arrow for results that travel, a table.

import { element, plain, setAttribute, setForeign, setText } from "./dom.js";
import { graphLine, layOut, sortGraphs, sumOf } from "./graph_layout.js";
import { fillBar, progressBar } from "./panels.js";
import { count, visible } from "./text.js";

/** @typedef {import('./graph_layout.js').TaskGraph} TaskGraph */
/** @typedef {import('./graph_layout.js').GraphFunction} GraphFunction */
/** @typedef {import('./dom.js').Translate} Translate */

const SVG = "http://www.w3.org/2000/svg";
const COLUMNS = [
  "Function",
  "tasks",
  "done",
  "running",
  "waiting",
  "blocked",
  "failed",
  "cancelled",
  "needs results of",
];

/** @param {string} tag @param {Record<string, string | number>} attributes @param {string} [content] */
function drawn(tag, attributes, content = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  if (content) made.textContent = content;
  return made;
}

/** @param {GraphFunction} one @param {Translate} t @returns {string} `2 running · 4 blocked` */
export function functionLine(one, t) {
  const parts = [];
  if (one.failed) parts.push(t("%1 failed", count(one.failed)));
  if (one.running) parts.push(t("%1 running", count(one.running)));
  if (one.blocked) parts.push(t("%1 blocked", count(one.blocked)));
  if (one.waiting) parts.push(t("%1 waiting", count(one.waiting)));
  if (one.cancelled) parts.push(t("%1 cancelled", count(one.cancelled)));
  return parts.join(" · ") || t("done");
}

/** @param {GraphFunction} one @returns {string} */
function classOf({ tasks, blocked, done, failed, running }) {
  if (failed) return "is-bad";
  if (running) return "is-running";
  return done >= tasks ? "is-done" : blocked ? "is-blocked" : "";
}

/** @param {TaskGraph} graph @param {number} at @param {Translate} t @returns {string} `load (10), itself (9)` */
export function neededBy({ functions, edges }, at, t) {
  return edges
    .filter(([, target]) => target === at)
    .map(
      ([source, , number]) => `${source === at ? t("itself") : visible(functions[source].name, 60)} (${count(number)})`,
    )
    .join(", ");
}

export class GraphPanel {
  /** @param {import('./feed_model.js').FeedModel} model @param {{translate?: Translate}} [options] */
  constructor(model, options = {}) {
    this.model = model;
    this.t = options.translate ?? plain;
    const { t } = this;
    this.version = -1;
    this.shape = "";
    /** the graph that was chosen; '' for the first one */
    this.chosen = "";
    /** @type {HTMLElement[]} of the functions */
    this.boxes = [];
    this.select = element("select", "cnb-select cnb-graph-select", "", { "aria-label": t("Graph") });
    this.select.addEventListener("change", () => {
      this.chosen = this.select.value;
      this.#show();
    });
    this.line = element("p", "cnb-muted cnb-hint");
    this.svg = drawn("svg", { "aria-hidden": "true" });
    this.picture = element("div", "cnb-graph", "", { role: "img" });
    this.body = element("tbody");
    const header = COLUMNS.map((name) => element("th", "", t(name), { scope: "col" }));
    const table = element("table", "cnb-table", [element("thead", "", [element("tr", "", header)]), this.body]);
    const region = (/** @type {string} */ label, /** @type {Node} */ content) =>
      element("div", "cnb-scroll", [content], { tabindex: "0", role: "region", "aria-label": label });
    this.area = region(t("Drawing of the graph"), this.picture);
    this.area.classList.add("cnb-graph-area");
    this.twin = element("details", "cnb-details", [
      element("summary", "", t("Graph as a table")),
      region(t("Graph as a table"), table),
    ]);
    this.empty = element("p", "cnb-muted", t("No task needs the result of another one."));
    this.element = element("div", "cnb-graphs", [this.empty, this.area, this.line, this.twin]);
    this.observer = new ResizeObserver(() => this.#show());
    this.observer.observe(this.area);
  }

  dispose() {
    this.observer.disconnect();
  }

  update() {
    const { model } = this;
    if (this.version === model.versions.graphs) return;
    this.version = model.versions.graphs;
    const graphs = sortGraphs(model.graphs.values());
    this.select.hidden = graphs.length < 2;
    const options = graphs.map((graph) => {
      const text = [visible(graph.client, 40), graphLine(graph, false)].filter(Boolean).join(": ");
      return element("option", "", visible(text, 80), { value: graph.id });
    });
    // Only what is new is replaced: the list may be open.
    const state = options.map((option) => `${option.value} ${option.textContent}`).join("\n");
    if (this.select.dataset.state !== state) {
      this.select.dataset.state = state;
      this.select.replaceChildren(...options);
      if (model.graphs.has(this.chosen)) this.select.value = this.chosen;
      else this.chosen = "";
    }
    this.#show();
  }

  #show() {
    const { t } = this;
    const graph = this.model.graphs.get(this.select.value);
    this.empty.hidden = Boolean(graph);
    this.area.hidden = this.line.hidden = this.twin.hidden = !graph;
    if (!graph) return;
    const room = this.area.clientWidth || Infinity;
    const names = graph.functions.map((one) => one.name);
    const shape = JSON.stringify([graph.id, room, names, graph.edges.map((edge) => edge.slice(0, 2))]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.#draw(graph, room);
    }
    graph.functions.forEach((one, at) => this.#fill(graph, one, at));
    graph.edges.forEach(([source, target, number], at) => {
      const [line, , label] = this.svg.children[at].children;
      setAttribute(line, "stroke-width", (1.25 + 0.5 * Math.log10(number)).toFixed(2));
      setText(label, count(number));
      const [needs, needed] = [names[target], names[source]].map((name) => visible(name, 60));
      setText(this.svg.children[at].children[3], t("%1 needs %2 results of %3", needs, count(number), needed));
    });
    setAttribute(this.picture, "aria-label", t("Task graph: %1", graphLine(graph)));
    const more = graph.other_edges ? t("%1 more between other functions", count(graph.other_edges)) : "";
    const done = t("%1 of %2 tasks done", count(sumOf(graph, "done")), count(sumOf(graph, "tasks")));
    const numbers = t("A number at an arrow counts the results that tasks need.");
    setText(this.line, [visible(graph.client, 80), done, more, numbers].filter(Boolean).join(" · "));
  }

  /** Make the boxes, arrows and rows of a graph. @param {TaskGraph} graph @param {number} room width that there is */
  #draw(graph, room) {
    const { width, height, nodeWidth, nodes, edges } = layOut(graph.functions.length, graph.edges, room);
    this.svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    this.svg.append(
      ...edges.map(({ path, head, x, y }) => {
        const group = drawn("g", {});
        const label = drawn("text", { x, y });
        group.append(
          drawn("path", { d: path, class: "cnb-graph-line" }),
          drawn("path", { d: head }),
          label,
          drawn("title", {}),
        );
        return group;
      }),
    );
    this.boxes = nodes.map(({ x, y }) => {
      const box = element("div", "cnb-graph-node", [
        element("div", "cnb-graph-head", [
          element("span", "cnb-clip cnb-graph-name"),
          element("span", "cnb-muted cnb-graph-text"),
        ]),
        progressBar(this.t("Progress")),
        element("div", "cnb-clip cnb-muted cnb-graph-text"),
      ]);
      box.style.transform = `translate(${x}px, ${y}px)`;
      box.style.width = `${nodeWidth}px`;
      return box;
    });
    this.picture.style.width = `${width}px`;
    this.picture.style.height = `${height}px`;
    this.picture.replaceChildren(this.svg, ...this.boxes);
    this.body.replaceChildren(
      ...graph.functions.map(() =>
        element("tr", "", [
          element("th", "cnb-clip", "", { scope: "row" }),
          ...COLUMNS.slice(1).map(() => element("td")),
        ]),
      ),
    );
  }

  /** @param {TaskGraph} graph @param {GraphFunction} one @param {number} at */
  #fill(graph, one, at) {
    const box = this.boxes[at];
    const [head, bar, text] = /** @type {HTMLElement[]} */ ([...box.children]);
    const [name, ended] = /** @type {HTMLElement[]} */ ([...head.children]);
    const line = functionLine(one, this.t);
    setAttribute(box, "class", `cnb-graph-node ${classOf(one)}`.trim());
    setForeign(name, one.name);
    setText(ended, `${count(one.done)}/${count(one.tasks)}`);
    setText(text, line);
    setAttribute(text, "title", line);
    const { tasks, done, failed, cancelled, running } = one;
    const job = { tasks, done: done + failed + cancelled, failed, cancelled, assigned: running, state: "" };
    fillBar(bar, /** @type {any} */ (job));
    const [title, ...cells] = /** @type {HTMLElement[]} */ ([...this.body.children[at].children]);
    setForeign(title, one.name);
    const counts = [tasks, done, running, one.waiting, one.blocked, failed, cancelled].map(count);
    [...counts, neededBy(graph, at, this.t)].forEach((value, number) => setText(cells[number], value));
  }
}
