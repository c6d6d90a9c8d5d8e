// @ts-check
// Lines over the last minutes: throughput, queue, load, memory, bytes. Drawn by uPlot, which stands in vendor/.

import { element, plain, setText } from "./dom.js";
import { bytes, clock, count, figure } from "./text.js";

/** @typedef {import('./feed_model.js').FeedModel} FeedModel */
/** @typedef {import('./feed_model.js').Column} Column */
/** @typedef {{label: string, column: Column, colour: string, fill?: boolean, dash?: number[]}} Line */
/**
 * @typedef {{title: string, lines: Line[], format: (value: number) => string, unit: string, isBytes?: boolean}} Chart
 */

/** @type {Promise<any> | undefined} */
let loading;

/** Load uPlot once for this page: a classic script, which defines a global. @returns {Promise<any>} */
export function loadPlot() {
  loading ??= new Promise((resolve, reject) => {
    const found = /** @type {any} */ (window).uPlot;
    if (found) {
      resolve(found);
      return;
    }
    const script = document.createElement("script");
    script.src = new URL("./vendor/uPlot.iife.min.js", import.meta.url).href;
    script.addEventListener("load", () => resolve(/** @type {any} */ (window).uPlot));
    script.addEventListener("error", () => reject(new Error(`${script.src} cannot be loaded: the charts are missing`)));
    document.head.append(script);
  });
  return loading;
}

const GREY = "#8a8fa0";

/**
 * The lines of a part, filled, below all that there is of it.
 * @param {[string, Column]} part its label and column
 * @param {[string, Column]} all
 * @param {string} colour of the part
 * @returns {Line[]}
 */
function partOf(part, all, colour) {
  return [
    { label: part[0], column: part[1], colour, fill: true },
    { label: all[0], column: all[1], colour: GREY, dash: [4, 4] },
  ];
}

/** @type {Chart[]} */
export const CHARTS = [
  {
    title: "Throughput",
    unit: "tasks/s",
    format: figure,
    lines: [
      { label: "ended", column: "done_rate", colour: "#0f8a6a", fill: true },
      { label: "failed", column: "failed_rate", colour: "#d13b2e" },
    ],
  },
  {
    title: "Queue",
    unit: "tasks",
    format: count,
    lines: [
      { label: "waiting", column: "waiting", colour: GREY, fill: true },
      { label: "assigned", column: "assigned", colour: "#0f7cc4" },
    ],
  },
  {
    title: "Slots",
    unit: "slots",
    format: count,
    lines: partOf(["busy", "busy"], ["all", "slots"], "#d98e04"),
  },
  {
    title: "CPU load",
    unit: "cores",
    format: figure,
    lines: partOf(["load", "load"], ["cores", "cores"], "#7b5cd6"),
  },
  {
    title: "Memory",
    unit: "",
    format: bytes,
    isBytes: true,
    lines: partOf(["used", "memory_used_bytes"], ["total", "memory_total_bytes"], "#c0588f"),
  },
  {
    title: "Transfer",
    unit: "/s",
    format: bytes,
    isBytes: true,
    lines: [
      { label: "arguments", column: "in_rate", colour: "#0f7cc4" },
      { label: "results", column: "out_rate", colour: "#d98e04" },
    ],
  },
];

const HEIGHT = 128;
const LEAST_SPAN_S = 30;
const MINUTES = [1, 5, 10];

/** Steps of an axis of bytes: powers of two, as their units. */
const BYTE_STEPS = Array.from({ length: 51 }, (_, at) => 2 ** at);
const STEPS = Array.from({ length: 15 }, (_, at) => [1, 2, 5].map((digit) => Number(`${digit}e${at - 2}`))).flat();
/** Those of tasks and slots, of which there are no halves. */
const WHOLE_STEPS = STEPS.filter((step) => step >= 1);

export class Charts {
  /**
   * @param {FeedModel} model
   * @param {{translate?: import('./dom.js').Translate, charts?: Chart[], minutes?: number}} [options]
   */
  constructor(model, options = {}) {
    this.model = model;
    this.t = options.translate ?? plain;
    this.minutes = options.minutes ?? 5;
    this.isPaused = false;
    const span = element("select", "cnb-select", "", { "aria-label": this.t("Time shown in the charts") });
    for (const minutes of MINUTES) {
      span.append(element("option", "", this.t("%1 min", minutes), { value: String(minutes) }));
    }
    span.value = String(this.minutes);
    span.addEventListener("change", () => {
      this.minutes = Number(span.value);
      this.update();
    });
    this.spanSelect = span;
    this.figures = (options.charts ?? CHARTS).map((chart) => this.#figure(chart));
    this.problem = element("p", "cnb-muted");
    this.problem.hidden = true;
    this.element = element("div", "cnb-charts", [...this.figures.map((figure) => figure.root), this.problem]);
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(this.element);
    /** @type {any} */
    this.Plot = null;
    this.theme = "";
    loadPlot().then(
      (Plot) => {
        this.Plot = Plot;
        this.update();
      },
      (error) => {
        this.problem.hidden = false;
        setText(this.problem, String(error.message));
      },
    );
  }

  /** @param {Chart} chart */
  #figure(chart) {
    const values = chart.lines.map((line) => {
      const value = element("strong", "cnb-value");
      const key = element("span", "cnb-line-key");
      key.style.borderTopColor = line.colour;
      if (line.dash) key.style.borderTopStyle = "dashed";
      return { value, label: element("span", "cnb-line", [key, `${this.t(line.label)} `, value]) };
    });
    const unit = chart.unit && chart.unit !== "/s" ? element("span", "cnb-muted", chart.unit) : "";
    const caption = element("figcaption", "", [
      element("span", "cnb-chart-title", this.t(chart.title)),
      unit,
      element(
        "span",
        "cnb-lines",
        values.map((one) => one.label),
      ),
    ]);
    const place = element("div", "cnb-plot", "", {
      role: "img",
      "aria-label": this.t("%1 over the last minutes", this.t(chart.title)),
    });
    return {
      chart,
      place,
      values: values.map((one) => one.value),
      root: element("figure", "cnb-chart", [caption, place]),
      plot: /** @type {any} */ (null),
    };
  }

  /** Show what the model has; call it after each message. */
  update() {
    const { samples } = this.model;
    for (const { chart, values } of this.figures) {
      const suffix = chart.unit === "/s" ? "/s" : "";
      chart.lines.forEach((line, at) => setText(values[at], chart.format(samples.last(line.column)) + suffix));
    }
    if (!this.Plot || this.isPaused || document.hidden || !this.element.clientWidth) return;
    const style = getComputedStyle(this.element);
    const theme =
      ["--cnb-muted", "--cnb-line", "--cnb-bg"].map((name) => style.getPropertyValue(name)).join() + style.fontFamily;
    if (theme !== this.theme) this.#begin(theme);
    const times = /** @type {number[]} */ (samples.columns.wall_s);
    const now_s = times.at(-1);
    if (now_s === undefined) return;
    let first = times.length;
    while (first > 0 && times[first - 1] >= now_s - this.minutes * 60 - 2) first -= 1;
    const x = times.slice(first);
    // A page that was opened a moment ago shows what it has, and not a line at its right edge.
    const span_s = Math.min(this.minutes * 60, Math.max(LEAST_SPAN_S, now_s - times[0]));
    for (const { chart, plot } of this.figures) {
      plot.batch(() => {
        plot.setData([x, ...chart.lines.map((line) => samples.columns[line.column].slice(first))], false);
        plot.setScale("x", { min: now_s - span_s, max: now_s });
      });
    }
  }

  /** @param {string} theme */
  #begin(theme) {
    this.theme = theme;
    const style = getComputedStyle(this.element);
    const muted = style.getPropertyValue("--cnb-muted").trim() || "#666";
    const line = style.getPropertyValue("--cnb-line").trim() || "#ddd";
    const font = `11px ${style.fontFamily}`;
    for (const one of this.figures) {
      one.plot?.destroy();
      const { chart } = one;
      const axis = {
        stroke: muted,
        font,
        grid: { stroke: line, width: 1 },
        ticks: { stroke: line, width: 1, size: 4 },
      };
      one.plot = new this.Plot(
        {
          width: Math.max(120, one.place.clientWidth),
          height: HEIGHT,
          legend: { show: false },
          cursor: { show: false },
          padding: [6, 28, 0, 0],
          scales: {
            x: { time: true },
            y: {
              range: (
                /** @type {any} */ _plot,
                /** @type {number | null} */ _low,
                /** @type {number | null} */ high,
              ) => [0, Math.max(chart.isBytes ? 1024 : 1, (high ?? 0) * 1.08)],
            },
          },
          axes: [
            {
              ...axis,
              space: 80,
              size: 26,
              values: (/** @type {any} */ _plot, /** @type {number[]} */ splits) =>
                splits.map((at) => clock(at).slice(0, at % 60 ? 8 : 5)),
            },
            {
              ...axis,
              space: 30,
              size: chart.isBytes ? 66 : 46,
              incrs: chart.isBytes ? BYTE_STEPS : chart.format === count ? WHOLE_STEPS : STEPS,
              values: (/** @type {any} */ _plot, /** @type {number[]} */ splits) => splits.map(chart.format),
            },
          ],
          series: [
            {},
            ...chart.lines.map((line) => ({
              stroke: line.colour,
              width: 1.5,
              dash: line.dash,
              points: { show: false },
              fill: line.fill ? `${line.colour}2e` : undefined,
            })),
          ],
        },
        [[], ...chart.lines.map(() => [])],
        one.place,
      );
    }
  }

  #resize() {
    for (const { plot, place } of this.figures) {
      const width = Math.max(120, place.clientWidth);
      if (plot && plot.width !== width) plot.setSize({ width, height: HEIGHT });
    }
    this.update();
  }

  dispose() {
    this.observer.disconnect();
    for (const { plot } of this.figures) plot?.destroy();
    this.element.remove();
  }
}
